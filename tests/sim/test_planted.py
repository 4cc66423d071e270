"""The simulator finds bugs: each test plants one in the production code and the simulator must see it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from bacalhau_daemon.core import compute_bid
from bacalhau_daemon.core.compute_state import Finished
from bacalhau_daemon.core.invariants import Broken
from bacalhau_daemon.core.recall import Recall
from bacalhau_daemon.core.scheduling.slot import Slot
from bacalhau_daemon.core.state import NodeUse
from bacalhau_daemon.log.base import Stored
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.log.records import LogDamaged
from bacalhau_protocol.ncl.compute import ComputeSession
from tests.sim.rows import Rows
from tests.sim.world import Wrong, storm

SEEDS = range(30)


def words_of_the_first_failure(*kinds: type[BaseException]) -> str:
    """Play seeds until one fails as one of these kinds; return what it says."""
    for seed in SEEDS:
        try:
            storm(seed, seconds=40, jobs=25, calm_seconds=120)
        except kinds as error:
            return str(error)
    pytest.fail("no seed saw the planted bug")


def test_a_lying_disk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss: a disk that says stored and does not store. The log is shorter than what was acknowledged."""
    honest = MemoryLog.append

    def lie(self: MemoryLog, expected: int, record: bytes) -> Any:
        if b"JobSubmitted" in record and expected % 13 == 0 and self.last() == expected:
            return Stored(expected + 1)
        return honest(self, expected, record)

    monkeypatch.setattr(MemoryLog, "append", lie)

    assert "the tail was lost" in words_of_the_first_failure(LogDamaged)


def test_a_forgotten_request_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicate: without the first answers, a repeated submission makes a second job."""
    look = Rows.lookup
    monkeypatch.setattr(Rows, "lookup", lambda self, question: replace(look(self, question), answer=b""))
    monkeypatch.setattr(Recall, "answer", lambda self, key: None)

    words = words_of_the_first_failure(Wrong)

    assert "was acknowledged as" in words or "was answered with" in words


def test_an_over_committed_node_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over-commit: a scheduler and a node that both forget what runs already."""
    use_of = Slot.set_use
    monkeypatch.setattr(Slot, "set_use", lambda self, use: use_of(self, NodeUse()))
    monkeypatch.setattr(compute_bid, "free", lambda offer, state: offer.capacity)

    words = words_of_the_first_failure(Wrong, Broken)

    assert "was given" in words or "over-committed" in words


def test_a_node_that_forgets_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicate: a node that does not remember what it has finished runs a repeated order once more."""
    monkeypatch.setattr(Finished, "__contains__", lambda self, execution_id: False)

    assert "more than once" in words_of_the_first_failure(Wrong)


def test_a_report_that_is_never_sent_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stuck: a node that keeps its reports to itself. Nothing ever ends."""
    monkeypatch.setattr(ComputeSession, "report", lambda self, report, *, seq, tag, now: [])

    words = words_of_the_first_failure(Wrong)

    assert "never" in words or "is not done" in words
