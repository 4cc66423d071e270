"""The log in memory: whatever the plan does, what was acknowledged stays, and a patient writer gets through."""

from __future__ import annotations

import pytest

from bacalhau_daemon.log.base import Stored, Unavailable, Unknown
from bacalhau_daemon.log.memory import Fault, MemoryLog, Plan
from bacalhau_daemon.log.records import Chain
from tests.builders_log import fill, sealed

RATES: dict[Fault, float] = {fault: 0.12 for fault in Fault if fault is not Fault.NONE}


def append_until_known(log: MemoryLog, expected: int, data: bytes) -> bool:
    """Do as the loop does: the same bytes until it is known; whether they were stored."""
    while isinstance(outcome := log.append(expected, data), Unknown):
        pass
    assert isinstance(outcome, Stored | Unavailable), outcome
    return isinstance(outcome, Stored)


@pytest.mark.parametrize("seed", range(30))
def test_a_writer_that_repeats_the_same_bytes_gets_through(seed: int) -> None:
    """With every fault and a crash now and then, the log holds exactly what was acknowledged, in order."""
    log, chain, written = MemoryLog(Plan(seed, RATES)), Chain(), []
    for number in range(60):
        if number % 20 == 19:
            log.append(chain.n, sealed(chain, "in flight at the crash")[0])
            log.crash()
            for _, data in log.read(chain.n + 1):  # what the next leader finds, it takes over
                chain = chain.verify(data)
                written.append(data)
        data, after = sealed(chain, f"note {number}")
        if append_until_known(log, chain.n, data):
            chain = after
            written.append(data)
    assert [data for _, data in log.read(1)] == written
    assert sum(log.faults.values()) > 60


def test_the_same_seed_gives_the_same_faults() -> None:
    """A run can be repeated."""
    draws = [[plan.draw() for _ in range(100)] for plan in (Plan(4, RATES), Plan(4, RATES), Plan(5, RATES))]
    assert draws[0] == draws[1] != draws[2]
    assert set(draws[0]) == set(Fault)


def test_a_late_record_never_overwrites_the_one_that_took_its_place() -> None:
    """What arrives after another record got its number is dropped, as compare-and-swap wants it."""
    log = MemoryLog()
    chain = fill(log, 2)
    log.plan = Plan(0, {Fault.LATE: 1.0})
    late, _ = sealed(chain, "late")
    assert isinstance(log.append(2, late), Unknown)
    log.plan = Plan()
    other, _ = sealed(chain, "other")
    assert log.append(2, other) == Stored(3)
    log.deliver()
    assert [data for _, data in log.read(3)] == [other]


def test_a_late_record_arrives_by_itself() -> None:
    """`deliver` lets it arrive; the writer's repetition is then Stored without a second copy."""
    log = MemoryLog(Plan(0, {Fault.LATE: 1.0}))
    data, _ = sealed(Chain())
    log.append(0, data)
    assert log.last() == 0
    log.deliver()
    assert log.last() == 1
    log.plan = Plan()
    assert log.append(0, data) == Stored(1)
    assert log.last() == 1


def crashed_in_doubt(seed: int) -> MemoryLog:
    """Three records, then one whose append was never answered, then a crash."""
    log = MemoryLog(Plan(seed))
    chain = fill(log, 3)
    log.plan = Plan(seed, {Fault.UNANSWERED: 1.0})
    log.append(3, sealed(chain)[0])
    log.crash()
    return log


def test_a_crash_keeps_what_was_acknowledged() -> None:
    """Of the rest a part may be gone, never from the middle."""
    kept = set()
    for seed in range(40):
        log = crashed_in_doubt(seed)
        kept.add(log.last())
    assert kept == {3, 4}


def test_what_a_new_process_has_read_is_kept() -> None:
    """Nobody knew that it was stored, but it was there and others have relied on it: the next crash keeps it."""
    for seed in range(40):
        log = crashed_in_doubt(seed)
        log.reopen()
        read = log.last()
        log.crash()
        assert log.last() == read


def test_a_full_disk_refuses_until_there_is_space() -> None:
    """`full` is a switch that the simulator holds."""
    log = MemoryLog()
    chain = fill(log, 1)
    log.full = True
    assert log.append(1, sealed(chain)[0]) == Unavailable("the disk is full")
    log.full = False
    assert log.append(1, sealed(chain)[0]) == Stored(2)
