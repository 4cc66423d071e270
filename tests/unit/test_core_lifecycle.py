"""The tables of lifecycles: legal moves, and what happens with the others."""

from __future__ import annotations

import enum
import itertools
from pathlib import Path

import pytest

from bacalhau_daemon.core import lifecycle
from bacalhau_daemon.core.lifecycle import TABLES, Impossible, Table, advance, may
from bacalhau_daemon.core.state import Status
from bacalhau_protocol.models.states import JobStateType

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lifecycles.md"
MOVES = {
    "Job": lifecycle.JobMove,
    "Execution": lifecycle.ExecutionMove,
    "Node: connection": lifecycle.NodeMove,
    "Node: membership": lifecycle.MemberMove,
}
STATES = {name: {state for state in table if state is not None} for name, table in TABLES.items()}


def test_the_page_is_what_the_tables_say() -> None:
    """docs/lifecycles.md is rendered from the tables; write it anew with `lifecycle.render()` when they change."""
    assert PAGE.read_text() == lifecycle.render()


@pytest.mark.parametrize("name", TABLES)
def test_every_move_leads_to_a_state_of_its_table(name: str) -> None:
    """There is no way out of a table."""
    assert {new for moves in TABLES[name].values() for new in moves.values()} <= STATES[name]


@pytest.mark.parametrize("name", TABLES)
def test_a_pair_that_is_not_in_the_table_is_impossible(name: str) -> None:
    """It raises and says what, from where; `may` says so without raising."""
    table: Table[enum.StrEnum, enum.StrEnum] = TABLES[name]
    for state, move in itertools.product(table, MOVES[name]):
        if move in table[state]:
            assert may(table, state, move)
            assert table[state][move] == advance(table, state, move)
        else:
            assert not may(table, state, move)
            with pytest.raises(Impossible, match=f"e-1: cannot {move} from {state or 'nothing'}"):
                advance(table, state, move, "e-1")


def test_every_state_is_in_its_table() -> None:
    """Nothing that a log may hold is missing."""
    assert set(Status) == STATES["Execution"]
    assert set(JobStateType) - {JobStateType.UNDEFINED} == STATES["Job"]


def test_only_a_new_submission_leads_out_of_the_end_of_a_job() -> None:
    """A finished job stays as it is, until somebody submits a new version."""
    for state in STATES["Job"]:
        assert isinstance(state, JobStateType)
        if state.terminal:
            assert {lifecycle.JobMove.SUBMIT} == set(lifecycle.JOB[state])
