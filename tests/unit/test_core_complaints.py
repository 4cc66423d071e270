"""What is wrong with what a node sends is said in the daemon's log: which node, where, what; and never without end."""

from __future__ import annotations

import pytest
import structlog

from bacalhau_daemon.core.actions import Complain
from bacalhau_daemon.core.complaints import EVERY_NS, WINDOWS_MAX, WORDS_CHARACTERS_MAX, Complaints
from bacalhau_daemon.orchestrator.driver import complain
from bacalhau_daemon.testing import SECOND, World
from bacalhau_protocol.ncl import envelope, messages, subjects
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.transport.base import Message
from tests.unit.test_ncl_malformed import MALFORMED

REPORTS = subjects.subject("n-1", Plane.OUT_MSGS)
REQUESTS = subjects.subject("n-1", Plane.OUT_CTRL)


@pytest.fixture
def world() -> World:
    """A world with a node."""
    world = World()
    world.join("n-1")
    return world


def say(world: World, subject: str, data: bytes) -> None:
    """Have a node send anything."""
    world.machine.message(Message(subject, data, "_R.n-1.77"), world.now)
    world.run()


def complaints(world: World) -> list[Complain]:
    """Return what was said in the log, and forget it."""
    found = [action for action in world.actions if isinstance(action, Complain)]
    world.actions.clear()
    return found


@pytest.mark.parametrize("subject", [REPORTS, REQUESTS])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_message_that_cannot_be_read_is_an_error_in_the_log(world: World, name: str, subject: str) -> None:
    """Rubbish, wrong checksums, null elements, ten megabytes: it names node, subject and what was wrong."""
    say(world, subject, MALFORMED[name])

    (complaint,) = complaints(world)
    assert (complaint.event, complaint.who, complaint.details["subject"]) == ("node.message_unreadable", "n-1", subject)
    assert complaint.words.startswith("failed to deserialize message ")
    assert len(complaint.words) <= WORDS_CHARACTERS_MAX
    assert world.machine.link.counters["Malformed"] == 1


def test_the_words_say_what_was_wrong_and_of_which_type(world: World) -> None:
    """With the place inside the message."""
    say(world, REPORTS, MALFORMED["null elements"])
    (complaint,) = complaints(world)

    assert complaint.details["type"] == "RunResult"
    assert complaint.words.endswith("Expected `object`, got `null` - at `$.Events[0]`")


def test_it_is_written_as_an_error_with_all_its_fields(world: World) -> None:
    """What was only not wanted is a warning."""
    say(world, REPORTS, MALFORMED["bad checksum"])
    report = messages.HeartbeatRequest(node_id="n-1")
    say(world, REPORTS, envelope.encode(envelope.metadata(report, source="n-1", now=world.now), report))
    with structlog.testing.capture_logs() as logs:
        for complaint in complaints(world):
            complain(complaint)

    assert logs == [
        {
            "log_level": "error",
            "event": "node.message_unreadable",
            "node": "n-1",
            "subject": REPORTS,
            "type": "",
            "reason": "failed to deserialize message envelope: bad message: CRC check failed",
            "more": 0,
        },
        {
            "log_level": "warning",
            "event": "node.message_ignored",
            "node": "n-1",
            "subject": REPORTS,
            "reason": f"transport.HeartbeatRequest does not belong on {REPORTS}",
            "more": 0,
        },
    ]


def test_a_node_that_floods_gets_a_line_in_ten_seconds_with_the_number_of_the_others(world: World) -> None:
    """And nothing more when it has stopped."""
    for _ in range(500):
        say(world, REPORTS, MALFORMED["no JSON"])
    assert [one.more for one in complaints(world)] == [0]

    world.advance(9)
    assert complaints(world) == []
    world.advance(2)
    assert [one.more for one in complaints(world)] == [498]
    world.advance(60)
    assert complaints(world) == []

    say(world, REPORTS, MALFORMED["no JSON"])
    assert [one.more for one in complaints(world)] == [0]


def test_one_nodes_flood_does_not_silence_another(world: World) -> None:
    """Nor the other kinds of complaint about itself."""
    for _ in range(3):
        say(world, REPORTS, MALFORMED["no JSON"])
    say(world, "bacalhau.x.v1.n-2.out.phase", b"{")
    say(world, REPORTS, b"")
    world.machine.message(Message(REPORTS, b"", "_R.n-2.77"), world.now)
    world.run()

    said = [(one.event, one.who) for one in complaints(world)]
    assert said == [
        ("node.message_unreadable", "n-1"),
        ("node.message_unreadable", "n-2"),
        ("node.message_ignored", "n-1"),
    ]


def test_what_a_refused_handshake_lacks_is_said(world: World) -> None:
    """The node is told; so is whoever reads the orchestrator's log."""
    say(world, REQUESTS, b"x")
    complaints(world)
    world.infos["n-2"] = world.infos["n-1"]
    world.join("n-2")

    (complaint,) = complaints(world)
    assert complaint.who == "n-2"
    assert "names node 'n-1', its subject another one" in complaint.words


def test_many_nodes_at_once_share_a_line() -> None:
    """So that names which a hostile node makes up neither fill memory nor the disk."""
    said = Complaints()
    for number in range(10 * WINDOWS_MAX):
        said.add("node.message_ignored", f"n-{number}", "no", 0)
    now = said.take(0)
    later = said.take(EVERY_NS)

    assert len(now) == WINDOWS_MAX + 1
    assert [one.more for one in later] == [9 * WINDOWS_MAX - 2]
    assert said.take(EVERY_NS + 100 * SECOND) == []
