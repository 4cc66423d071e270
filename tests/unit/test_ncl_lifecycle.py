"""The lifecycles of NCL are literal tables: what is not in them raises and changes nothing."""

from __future__ import annotations

import pytest

from bacalhau_protocol.ncl.deadlines import Deadlines
from bacalhau_protocol.ncl.lifecycle import (
    COMPUTE,
    NODE,
    ComputeSignal,
    ComputeState,
    IllegalTransition,
    NodeSignal,
    NodeState,
    step,
)
from tests.builders_ncl import START, compute, connected


def test_every_state_has_a_row_and_is_reached() -> None:
    """Nothing in the tables is dead."""
    assert set(COMPUTE) == set(ComputeState)
    assert set(NODE) == set(NodeState)
    assert {state for row in COMPUTE.values() for state in row.values()} == set(ComputeState)
    assert {state for row in NODE.values() for state in row.values()} == set(NodeState)
    assert {signal for row in COMPUTE.values() for signal in row} == set(ComputeSignal)
    assert {signal for row in NODE.values() for signal in row} == set(NodeSignal)


def test_link_and_owner_may_speak_in_every_state() -> None:
    """Connections break and daemons stop whenever they like."""
    for row in COMPUTE.values():
        assert {ComputeSignal.LINK_UP, ComputeSignal.LINK_DOWN, ComputeSignal.LEAVE} <= set(row)


@pytest.mark.parametrize(
    ("state", "signal"),
    [(state, signal) for state, row in COMPUTE.items() for signal in ComputeSignal if signal not in row],
)
def test_illegal_pairs_raise(state: ComputeState, signal: ComputeSignal) -> None:
    """The error names state and signal."""
    with pytest.raises(IllegalTransition, match=rf"{signal.name} .* not legal in state {state.name}"):
        step(COMPUTE, state, signal)


def test_a_node_that_is_gone_stays_gone() -> None:
    """Its session is over for good."""
    for signal in NodeSignal:
        with pytest.raises(IllegalTransition):
            step(NODE, NodeState.GONE, signal)


def test_leaving_twice_and_early_is_harmless() -> None:
    """A session that never opened closes at once; a closed one stays closed."""
    session = compute()

    assert [type(output).__name__ for output in session.leave(START)] == ["SessionClosed"]
    assert session.leave(START) == []
    assert session.link_up(START) == []
    assert session.link_down(START) == []
    assert session.tick(START + 10**12) == []
    assert session.next_tick() is None
    assert session.state is ComputeState.CLOSED


def test_a_cut_link_ends_every_state_in_offline() -> None:
    """Except that a session which was leaving has left."""
    session = connected()
    session.link_down(START)
    assert session.state is ComputeState.OFFLINE
    assert session.next_tick() is None

    session = connected()
    session.leave(START)
    assert [type(output).__name__ for output in session.link_down(START)] == ["SessionClosed"]


def test_deadlines_come_up_in_order_and_once() -> None:
    """Moving one earlier counts, moving one later does not, a discarded one is silent."""
    deadlines = Deadlines()
    deadlines.not_later("a", 10)
    deadlines.not_later("b", 20)
    deadlines.not_later("b", 5)
    deadlines.not_later("a", 30)
    deadlines.not_later("c", 7)
    deadlines.discard("c")

    assert deadlines.soonest() == 5
    assert deadlines.pop_due(4) == []
    assert deadlines.pop_due(25) == ["b", "a"]
    assert deadlines.pop_due(100) == []
    assert deadlines.soonest() is None
