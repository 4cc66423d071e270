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


def some_seed_fails(*kinds: type[BaseException], saying: tuple[str, ...]) -> None:
    """Play seeds until one fails as one of these kinds with one of these words; the test fails when none does."""
    other: list[str] = []
    for seed in SEEDS:
        try:
            storm(seed, seconds=40, jobs=25, calm_seconds=120)
        except kinds as error:
            if any(words in str(error) for words in saying):
                return
            other.append(str(error))
    pytest.fail(f"no seed saw the planted bug; failures of other kinds: {other}")


def test_a_lying_disk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss: a disk that says stored and does not store. The log is shorter than what was acknowledged."""
    honest = MemoryLog.append

    def lie(self: MemoryLog, expected: int, record: bytes) -> Any:
        if b"JobSubmitted" in record and expected % 13 == 0 and self.last() == expected:
            return Stored(expected + 1)
        return honest(self, expected, record)

    monkeypatch.setattr(MemoryLog, "append", lie)

    some_seed_fails(LogDamaged, saying=("the tail was lost",))


def test_a_forgotten_request_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicate: without the first answers, a repeated submission makes a second job."""
    look = Rows.lookup
    monkeypatch.setattr(Rows, "lookup", lambda self, question: replace(look(self, question), answer=b""))
    monkeypatch.setattr(Recall, "answer", lambda self, key: None)

    some_seed_fails(Wrong, saying=("was acknowledged as", "was answered with"))


def test_an_over_committed_node_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over-commit: a scheduler and a node that both forget what runs already."""
    use_of = Slot.set_use
    monkeypatch.setattr(Slot, "set_use", lambda self, use: use_of(self, NodeUse()))
    monkeypatch.setattr(compute_bid, "free", lambda offer, state: offer.capacity)

    some_seed_fails(Wrong, Broken, saying=("was given", "over-committed"))


def test_a_node_that_forgets_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicate: a node that does not remember what it has finished runs a repeated order once more."""
    monkeypatch.setattr(Finished, "__contains__", lambda self, execution_id: False)

    some_seed_fails(Wrong, saying=("more than once",))


def test_a_report_that_is_never_sent_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stuck: a node that keeps its reports to itself. Nothing ever ends."""
    monkeypatch.setattr(ComputeSession, "report", lambda self, report, *, seq, tag, now: [])

    some_seed_fails(Wrong, saying=("never", "is not done"))
