"""What the end-to-end tests ask of a cluster, over the client library."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bacalhau_daemon.devstack import Daemon
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api.tokens import decode_credential
from bacalhau_protocol.client.client import Client, OnRetry, Timing
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.states import ComputeStateType, JobStateType

PATIENT = Timing(read_s=60, write_s=120, attempt_s=2)
IN_FLIGHT = 64
POLL_S = 0.05


@asynccontextmanager
async def client_of(
    orchestrator: Daemon, timing: Timing = PATIENT, on_retry: OnRetry | None = None
) -> AsyncIterator[Client]:
    """Connect as the administrator that the first start made."""
    path = orchestrator.data_dir / "admin.json"
    client = await Client.connect(decode_credential(path.read_bytes(), str(path)), timing=timing, on_retry=on_retry)
    try:
        yield client
    finally:
        await client.close()


def noop(**params: object) -> Job:
    """Return a batch job for the no-op engine."""
    return Job(type="batch", tasks=(Task(name="main", engine=SpecConfig(type="noop", params=params or {})),))


async def submit_many(client: Client, count: int, job: Job, on_ack: Callable[[int], None]) -> dict[str, str]:
    """Submit the same job many times, each with a Request-Id of its own; return job ids by Request-Id.

    `on_ack` is told after each acknowledgement how many there have been.
    """
    acknowledged: dict[str, str] = {}
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(number: int) -> None:
        async with gate:
            request_id = f"request-{number}"
            answer = await client.submit_job(job, request_id=request_id)
            acknowledged[request_id] = answer.job_id
            on_ack(len(acknowledged))

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return acknowledged


async def all_jobs(client: Client) -> list[m.JobRow]:
    """Return every job of the cluster, page by page."""
    rows: list[m.JobRow] = []
    page = ""
    while True:
        answer = await client.list_jobs(m.JobQuery(limit=m.PAGE_ROWS_MAX, page=page))
        rows += answer.jobs
        page = answer.next_page
        if not page:
            return rows


async def all_ended(client: Client, timeout_s: float = 180) -> list[m.JobRow]:
    """Wait until every job has ended and return them; a time-out says what is still going on."""
    rows: list[m.JobRow] = []
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                rows = await all_jobs(client)
                if rows and all(JobStateType(row.state).terminal for row in rows):
                    return rows
                await pause()
    except TimeoutError:
        states = Counter(row.state for row in rows)
        open_rows = [row for row in rows if not JobStateType(row.state).terminal]
        raise AssertionError(f"after {timeout_s} s: {states}; for instance {open_rows[:3]}") from None


async def pause() -> None:
    """Let a little time pass between two looks at a condition that has a deadline."""
    await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=POLL_S)


async def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 30) -> None:
    """Wait until a condition holds; a time-out says what was waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            while not condition():
                await pause()
    except TimeoutError:
        raise AssertionError(f"within {timeout_s:g} s it has not come true that {what}") from None


async def wait_for(condition: Callable[[], Awaitable[object]], what: str, timeout_s: float = 30) -> None:
    """Wait until what has to be asked for holds; a time-out says what was waited for."""
    try:
        async with asyncio.timeout(timeout_s):
            while not await condition():
                await pause()
    except TimeoutError:
        raise AssertionError(f"within {timeout_s:g} s it has not come true that {what}") from None


async def ended(client: Client, job_id: str, timeout_s: float = 60) -> m.JobFull:
    """Wait until a job has ended and return it."""
    full: m.JobFull | None = None
    try:
        async with asyncio.timeout(timeout_s):
            while full is None or not JobStateType(full.job.state.state_type).terminal:
                full = await client.get_job(job_id)
                await pause()
    except TimeoutError:
        raise AssertionError(f"job {job_id} has not ended within {timeout_s:g} s: {full}") from None
    return full


async def nothing_is_lost(client: Client, acknowledged: dict[str, str], *, unsure: int = 0) -> None:
    """Wait until all jobs have ended; check that they are those acknowledged, and that each succeeded exactly once.

    `unsure` says how many requests were given up without an answer: so many jobs more may be there.
    """
    rows = await all_ended(client)
    ids = {row.id for row in rows}
    assert ids >= set(acknowledged.values())
    assert len(ids) <= len(acknowledged) + unsure
    assert len(set(acknowledged.values())) == len(acknowledged), "each Request-Id made one job"
    assert {JobStateType.COMPLETED} == {JobStateType(row.state) for row in rows}
    for row in rows:
        assert successes((await client.get_job(row.id)).executions) == {0: 1}, row.id


def successes(executions: list[Execution]) -> Counter[int]:
    """Return how many executions of each partition completed."""
    return Counter(
        (one.partition_index if isinstance(one.partition_index, int) else 0)
        for one in executions
        if one.compute_state.state_type is ComputeStateType.COMPLETED
    )
