"""The feed notices whatever it may have missed."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from bacalhau_protocol.api import subjects
from bacalhau_protocol.client.feed import AskAgain, Changed, Feed, FeedEvent, Heard, Silent
from bacalhau_protocol.client.testing import QUICK, FakeOrchestrator
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker

ALL_JOBS = subjects.feed("*", "job", ">")


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


async def some(feed: Feed, count: int) -> list[FeedEvent]:
    return [await anext(feed) for _ in range(count)]


async def test_changes_come_in_order(fake: FakeOrchestrator) -> None:
    """A row arrives with its namespace, its key and its number."""
    async with Feed(fake.client(), [ALL_JOBS], whole=True) as feed:
        job = fake.add_job("a", namespace="lab")
        fake.set_job(job, JobStateType.RUNNING)

        first, second = await some(feed, 2)

    assert isinstance(first, Changed)
    assert isinstance(second, Changed)
    assert (first.namespace, first.key, first.row["State"]) == ("lab", job, "Pending")
    assert second.seq > first.seq


async def test_an_execution_names_its_job(fake: FakeOrchestrator) -> None:
    """One subscription follows all executions of a job."""
    job = fake.add_job()
    async with Feed(fake.client(), [subjects.feed("default", "execution", job, "*")], whole=False) as feed:
        execution = fake.place(job)

        (event,) = await some(feed, 1)

    assert isinstance(event, Changed)
    assert (event.kind, event.parent, event.key) == ("execution", job, execution)


async def test_a_hole_between_rows_is_seen(fake: FakeOrchestrator) -> None:
    """A row whose predecessor never came makes the reader ask again."""
    job = fake.add_job()
    async with Feed(fake.client(), [ALL_JOBS], whole=True) as feed:
        feed.asked("job", fake.seq)
        fake.lose_rows = True
        fake.set_job(job, JobStateType.RUNNING)
        fake.lose_rows = False
        fake.set_job(job, JobStateType.COMPLETED)

        events = await some(feed, 2)

    assert isinstance(events[0], AskAgain)
    assert events[0].kind == "job"
    assert isinstance(events[1], Changed)


async def test_a_hole_at_the_end_is_seen_by_the_second_tick(fake: FakeOrchestrator) -> None:
    """A tick promises a number; if the next tick comes and the row has not, the reader asks again, once."""
    job = fake.add_job()
    async with Feed(fake.client(), [ALL_JOBS], whole=True) as feed:
        feed.asked("job", fake.seq)
        fake.lose_rows = True
        fake.set_job(job, JobStateType.RUNNING)
        await fake.tick()
        await fake.tick()

        (event,) = await some(feed, 1)
        await fake.tick()
        fake.lose_rows = False
        fake.set_job(job, JobStateType.COMPLETED)
        (after,) = await some(feed, 1)

    assert isinstance(event, AskAgain)
    assert isinstance(after, Changed)


async def test_other_namespaces_do_not_matter(fake: FakeOrchestrator) -> None:
    """Whoever follows one namespace is not troubled by numbers of another."""
    async with Feed(fake.client(), [subjects.feed("lab", "job", ">")], whole=True) as feed:
        feed.asked("job", fake.seq)
        fake.add_job("elsewhere")
        await fake.tick()
        await fake.tick()
        job = fake.add_job("here", namespace="lab")

        (event,) = await some(feed, 1)

    assert isinstance(event, Changed)
    assert event.key == job


async def test_ticks_that_stop_are_silence(fake: FakeOrchestrator) -> None:
    """Silence is said once; when ticks come back, so is that, and that changes may have been missed."""
    client = fake.client(timing=msgspec.structs.replace(QUICK, tick_missing_s=0.02))
    async with Feed(client, [ALL_JOBS], whole=True) as feed:
        (silent,) = await some(feed, 1)
        await fake.tick()
        heard, again = await some(feed, 2)

    assert isinstance(silent, Silent)
    assert isinstance(heard, Heard)
    assert isinstance(again, AskAgain)


async def test_a_new_term_and_an_interruption_make_it_ask_again(fake: FakeOrchestrator) -> None:
    """Another leader, or a link that was away between two ticks, may have cost changes."""
    client = fake.client()
    async with Feed(client, [ALL_JOBS], whole=True) as feed:
        await fake.tick()
        fake.term = 2
        await fake.tick()
        (new_term,) = await some(feed, 1)
        client.interruptions += 1
        await fake.tick()
        (interrupted,) = await some(feed, 1)

    assert isinstance(new_term, AskAgain)
    assert "leads" in new_term.reason
    assert isinstance(interrupted, AskAgain)
    assert "interrupted" in interrupted.reason


async def test_rubbish_on_the_feed_is_not_ignored(fake: FakeOrchestrator) -> None:
    """What cannot be read may have been a change."""
    client = fake.client()
    async with Feed(client, [ALL_JOBS], whole=True) as feed:
        await client.bus.publish(subjects.feed("default", "job", "j-1"), b"{")
        (event,) = await some(feed, 1)

    assert isinstance(event, AskAgain)
