"""Both machines bundle what they say in one breath to a peer of ours; a node's acknowledgements wait for company."""

from __future__ import annotations

import pytest

from bacalhau_daemon.testing import World
from bacalhau_daemon.testing_builders import a_job
from bacalhau_protocol.ncl import bundles, envelope
from bacalhau_protocol.ncl.events import Send
from tests.builders_compute import Pair, execution


def types(send: Send) -> list[str]:
    """Return the types of the messages in one that was sent."""
    return [str(envelope.decode(data).metadata.type) for data, _ in bundles.parts(send.data, send.reply)]


def watched(monkeypatch: pytest.MonkeyPatch, machine: object, end: str) -> list[Send]:
    """Return the list of what a machine sends from now on to subjects that end so; it grows."""
    sent: list[Send] = []
    actions = machine.actions  # type: ignore[attr-defined]

    def watch(now: int) -> list[object]:
        out: list[object] = actions(now)
        sent.extend(one for one in out if isinstance(one, Send) and one.subject.endswith(end))
        return out

    monkeypatch.setattr(machine, "actions", watch)
    return sent


@pytest.mark.parametrize("foreign", [False, True])
def test_an_orchestrator_sends_its_orders_of_one_record_together(
    monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    """To a node of ours; Bacalhau's gets each alone."""
    world = World()
    world.join("n-1", foreign=foreign)
    sent = watched(monkeypatch, world.machine, ".in.msgs")

    world.submit(a_job(count=3))

    assert [types(send) for send in sent] == ([["AskForBid"]] * 3 if foreign else [["AskForBid"] * 3])


@pytest.mark.parametrize("own", [False, True])
def test_a_node_sends_its_reports_of_one_record_together(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    """To an orchestrator of ours, which has welcomed it; Bacalhau's gets each alone."""
    pair = Pair(own=own)
    sent = watched(monkeypatch, pair.node, ".out.msgs")

    pair.ask(execution(1), execution(2))

    assert [types(send) for send in sent] == ([["BidResult"] * 2] if own else [["BidResult"]] * 2)


def test_the_acknowledgement_of_an_order_leaves_with_the_report_of_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the run is short; else after 25 ms, when the machine wants to be asked again."""
    pair = Pair()
    pair.ask(execution(1), execution(2))
    sent = watched(monkeypatch, pair.node, "")

    pair.accept(1)
    assert sent == []
    pair.end(1)
    assert [one.data == bundles.ACK for one in sent] == [True, False]

    sent.clear()
    pair.accept(2)
    assert sent == []
    assert pair.node.next_tick() == pair.now + bundles.HOLD_NS
    pair.wait(0.1)
    assert [one.data for one in sent] == [bundles.ACK]
