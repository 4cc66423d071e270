"""The query side on the event loop: nothing blocks it, reads can wait for a position, failures are told."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.requests import Lookup
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.query import service
from bacalhau_daemon.query.reader import QueryReader
from bacalhau_daemon.query.service import Query
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol.api.messages import HistoryQuery, JobQuery, JobRef
from bacalhau_protocol.errors import Busy, Internal, TimedOut
from tests.builders_query import Cluster, job_spec, life

WAIT_S = 20


class Disk(QueryStore):
    """A store whose writes fail with these errors first, and that counts its transactions."""

    def __init__(self, path: Path, failures: Iterable[Exception] = ()) -> None:
        super().__init__(path)
        self.failures = list(failures)
        self.writes: list[int] = []

    def apply(self, projects: Iterable[Project]) -> Chain:
        if self.failures:
            raise self.failures.pop(0)
        batch = list(projects)
        self.writes.append(len(batch))
        return super().apply(batch)


def failure(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("planned")
    error.sqlite_errorcode = code
    return error


class Running:
    """A cluster, its query side, and what it reported."""

    def __init__(self, path: Path) -> None:
        self.cluster = Cluster()
        self.store = Disk(path)
        self.applied: list[int] = []
        self.query = Query(self.store, QueryReader(path, self.cluster.log), on_applied=self.applied.append)

    def hand_over(self) -> int:
        """Hand over what the cluster has done; return its position."""
        for project in self.cluster.take():
            self.query.project(project)
        return self.cluster.chain.event


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(tmp_path / "query.db")
    yield running
    await running.query.close()


def run_jobs(cluster: Cluster, number: int) -> None:
    first = cluster.state.next_j
    for j in range(first, first + number):
        for events in life(j, j, job_spec(j)):
            cluster.put(*events)


async def test_a_read_can_wait_for_a_position(running: Running) -> None:
    """After `wait_applied` every question sees at least that event."""
    run_jobs(running.cluster, 5)
    position = running.hand_over()
    await running.query.wait_applied(position, WAIT_S)
    query = running.query
    assert query.position == position
    assert (await query.jobs(JobQuery())).total == 5
    assert (await query.job(JobRef(job=job_spec(3).id))).job.id == job_spec(3).id
    assert len((await query.executions(JobRef(job=job_spec(3).id))).executions) == 1
    assert len((await query.history(HistoryQuery(job=job_spec(3).id))).items) == 6
    assert await query.counts() == {"Completed": 5}
    assert (await query.load()).chain == running.cluster.chain
    found = [query.lookup(Lookup(user="a", ref=job_spec(j).id, namespace="default")) for j in (1, 2, 9)]
    assert [one.job is not None for one in found] == [True, True, False]
    assert {one.as_of for one in found} == {position}


async def test_a_position_that_is_not_reached_times_out(running: Running) -> None:
    """The error says how far the rows are."""
    position = running.hand_over()
    await running.query.wait_applied(position, WAIT_S)
    with pytest.raises(TimedOut, match=f"event 99 is not in the rows after 0.01 s; they are at {position}"):
        await running.query.wait_applied(99, 0.01)


async def test_records_are_gathered(running: Running) -> None:
    """Many records become few transactions, and progress is reported in order."""
    run_jobs(running.cluster, 200)
    await running.query.wait_applied(running.hand_over(), WAIT_S)
    assert sum(running.store.writes) == 601
    assert len(running.store.writes) < 30
    assert max(running.store.writes) <= service.GATHER_RECORDS_MAX
    assert running.applied == sorted(set(running.applied))
    assert running.applied[-1] == running.cluster.chain.event


async def test_closing_writes_what_was_handed_over(tmp_path: Path) -> None:
    """Nothing that was taken is dropped by a clean stop."""
    running = Running(tmp_path / "query.db")
    run_jobs(running.cluster, 20)
    running.hand_over()
    await running.query.close()
    store = QueryStore(tmp_path / "query.db")
    assert store.chain == running.cluster.chain
    store.close()


async def test_a_full_disk_is_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same batch is tried again until there is room."""
    monkeypatch.setattr(service, "RETRY_S", 0.01)
    running.store.failures += [failure(sqlite3.SQLITE_FULL)] * 3
    run_jobs(running.cluster, 1)
    await running.query.wait_applied(running.hand_over(), WAIT_S)
    assert running.store.failures == []
    assert running.query.failed == ""


async def test_closing_on_a_full_disk_does_not_wait_for_room(tmp_path: Path) -> None:
    """What is missing is folded from the log at the next start."""
    running = Running(tmp_path / "query.db")
    running.store.failures += [failure(sqlite3.SQLITE_FULL)] * 1000
    running.hand_over()
    async with asyncio.timeout(WAIT_S):
        await running.query.close()


async def test_any_other_failure_is_told(running: Running) -> None:
    """Those who wait hear it, with what to do; the log has everything."""
    waiting = asyncio.ensure_future(running.query.wait_applied(1000, WAIT_S))
    await asyncio.sleep(0)
    running.store.failures.append(failure(sqlite3.SQLITE_IOERR))
    running.hand_over()
    with pytest.raises(Internal, match="the query side has stopped: OperationalError: planned") as caught:
        await waiting
    assert "rebuild" in caught.value.hint
    assert running.query.failed


async def test_a_writer_that_falls_behind_holds_its_caller_back(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`room` returns at once, or as soon as enough is written."""
    await running.query.room()
    monkeypatch.setattr(service, "WAITING_MAX", 10)
    run_jobs(running.cluster, 50)
    position = running.hand_over()
    await running.query.room()
    assert running.query._waiting <= 10
    await running.query.wait_applied(position, WAIT_S)


async def test_too_many_questions_are_told_to_come_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on what waits, so that a flood of reads cannot fill the memory."""
    monkeypatch.setattr(service, "QUESTIONS_MAX", 2)
    answers = await asyncio.gather(*(running.query.counts() for _ in range(4)), return_exceptions=True)
    assert [isinstance(answer, Busy) for answer in answers] == [False, False, True, True]
    assert await running.query.counts() == {}
