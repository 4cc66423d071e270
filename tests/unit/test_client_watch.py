"""Watching a job: from now until its end, through outages, with a last word that is complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.testing import QUICK, FakeOrchestrator
from bacalhau_protocol.client.watch import EXIT_FAILED, EXIT_STOPPED, JobUpdate, watch_job
from bacalhau_protocol.models.states import ComputeStateType, JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


async def test_a_watch_ends_with_the_job(fake: FakeOrchestrator) -> None:
    """Every state is seen, the last update has the exit code."""
    job = fake.add_job("a")
    states: list[str] = []
    update: JobUpdate | None = None

    async for update in watch_job(fake.client(), "a"):
        states.append(update.state)
        if update.state == "Pending" and not update.executions:
            execution = fake.place(job)
        elif update.state == "Pending":
            fake.run(execution)
        elif update.state == "Running":
            fake.finish(execution, exit_code=3)

    assert update is not None
    assert update.ended
    assert states[-1] == "Completed"
    assert [row.exit_code for row in update.executions] == [3]
    assert update.exit_status == 3


async def test_a_job_that_has_ended_is_one_update(fake: FakeOrchestrator) -> None:
    """Watching what is over says how it ended."""
    job = fake.add_job()
    fake.finish(fake.place(job))

    updates = [update async for update in watch_job(fake.client(), job)]

    assert [update.state for update in updates] == ["Completed"]
    assert updates[0].exit_status == 0


async def test_phases_are_seen(fake: FakeOrchestrator) -> None:
    """What an execution does comes over the feed, with bytes."""
    job = fake.add_job()
    execution = fake.place(job)
    watch = watch_job(fake.client(), job)
    await anext(watch)

    fake.set_phase(execution, "Preparing", "image", 5, 10)
    update = await anext(watch)

    phase = update.executions[0].phase
    assert phase is not None
    assert (phase.name, phase.what, phase.done_bytes, phase.total_bytes) == ("Preparing", "image", 5, 10)
    await watch.aclose()


async def test_a_lost_end_is_found_when_the_feed_is_interrupted(fake: FakeOrchestrator) -> None:
    """Rows that never came are asked for as soon as a tick shows the interruption."""
    job = fake.add_job()
    execution = fake.place(job)
    client = fake.client()
    watch = watch_job(client, job)
    await anext(watch)
    await fake.tick()

    fake.lose_rows = True
    fake.finish(execution)
    client.interruptions += 1
    await fake.tick()
    updates = [update async for update in watch]

    assert updates[-1].ended


async def test_an_end_that_was_told_before_the_watch_listened_is_found(fake: FakeOrchestrator) -> None:
    """The row is gone and the answer was older; the first tick makes it ask for one that has seen what was told."""
    execution = fake.place(fake.add_job("a"))
    watch = watch_job(fake.client(), "a")
    assert not (await anext(watch)).ended

    fake.lose_rows = True
    fake.finish(execution)
    await fake.tick()

    assert [update async for update in watch][-1].ended
    assert fake.requests[-1][2][m.AT_LEAST] == str(fake.seq)


async def test_a_silent_orchestrator_is_waited_for(fake: FakeOrchestrator) -> None:
    """Updates say that they may be old; the watch goes on when ticks are back."""
    job = fake.add_job()
    client = fake.client(timing=msgspec.structs.replace(QUICK, tick_missing_s=0.02))
    watch = watch_job(client, job)
    assert (await anext(watch)).connected

    assert not (await anext(watch)).connected
    fake.refuse = [errors.Unavailable("not yet")] * 3
    await fake.tick()
    assert (await anext(watch)).connected
    await watch.aclose()


@pytest.mark.parametrize(
    ("state", "status"),
    [(JobStateType.FAILED, EXIT_FAILED), (JobStateType.STOPPED, EXIT_STOPPED), (JobStateType.COMPLETED, 0)],
)
async def test_exit_status_follows_the_state(fake: FakeOrchestrator, state: JobStateType, status: int) -> None:
    """Failed and stopped jobs have statuses of their own."""
    job = fake.add_job()
    fake.set_job(job, state)

    (update,) = [update async for update in watch_job(fake.client(), job)]

    assert update.exit_status == status


async def test_exit_status_is_of_the_first_program_that_did_not_succeed(fake: FakeOrchestrator) -> None:
    """By partition; one that was replaced, or whose code is unknown (-1), does not count; what is too large is 255."""
    job = fake.add_job(count=4)
    fake.set_execution(fake.place(job, partition=0), ComputeStateType.FAILED, "node lost")
    fake.finish(fake.place(job, partition=0))
    fake.finish(fake.place(job, partition=1), exit_code=-1)
    fake.finish(fake.place(job, partition=3), exit_code=7)
    fake.finish(fake.place(job, partition=2), exit_code=0xFFFF_FFFF)

    (update,) = [update async for update in watch_job(fake.client(), job)]

    assert update.exit_status == 255


async def test_an_unknown_job_is_an_error(fake: FakeOrchestrator) -> None:
    """There is nothing to watch."""
    with pytest.raises(errors.NotFound):
        await anext(watch_job(fake.client(), "nope"))


async def test_a_watch_can_be_cancelled(fake: FakeOrchestrator) -> None:
    """It leaves no subscription behind."""
    job = fake.add_job()
    client = fake.client()

    async def forever() -> None:
        async for _ in watch_job(client, job):
            pass

    task = asyncio.create_task(forever())
    while not fake.broker.of(client.bus):  # type: ignore[arg-type]
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert fake.broker.of(client.bus) == []  # type: ignore[arg-type]
