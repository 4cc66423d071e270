"""A client's requests: carried out once, repeated until the deadline, errors as they were."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.fake_answers import ANSWERS
from bacalhau_protocol.client.testing import QUICK, FakeOrchestrator
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker

IMPATIENT = msgspec.structs.replace(QUICK, read_s=0.05, write_s=0.05, attempt_s=0.02)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


def a_job(name: str = "hello") -> Job:
    return Job(name=name, type="batch", count=1, tasks=(Task(name="main", engine=SpecConfig(type="noop")),))


async def test_a_job_is_submitted_and_read_back(fake: FakeOrchestrator) -> None:
    """What was submitted can be asked for by id, by the start of the id and by name."""
    client = fake.client()

    submitted = await client.submit_job(a_job())

    assert (await client.get_job(submitted.job_id)).job.name == "hello"
    assert (await client.get_job(submitted.job_id[:10])).job.id == submitted.job_id
    assert (await client.get_job("hello")).job.id == submitted.job_id


async def test_a_write_whose_answer_is_lost_is_repeated_with_its_id(fake: FakeOrchestrator) -> None:
    """The repeat carries the same Request-Id, so there is one job and the client gets the first answer."""
    client = fake.client(timing=msgspec.structs.replace(QUICK, attempt_s=0.05))
    fake.ignore = 1

    submitted = await client.submit_job(a_job())

    assert list(fake.jobs) == [submitted.job_id]
    ((_, _, headers),) = fake.requests
    assert headers[m.REQUEST_ID]
    assert int(headers[m.DEADLINE]) > 0


async def test_two_writes_have_two_ids(fake: FakeOrchestrator) -> None:
    """Each call is a request of its own, unless the caller names it."""
    client = fake.client()

    first = await client.submit_job(a_job())
    second = await client.submit_job(a_job())
    named = await client.submit_job(a_job(), request_id="r-1")
    again = await client.submit_job(a_job(), request_id="r-1")

    assert len({first.job_id, second.job_id, named.job_id}) == 3
    assert again == named


@pytest.mark.parametrize("passing", [errors.Busy("full"), errors.Unavailable("no leader"), errors.TimedOut("slow")])
async def test_what_may_pass_is_tried_again(fake: FakeOrchestrator, passing: errors.BacalhauError) -> None:
    """Busy, Unavailable and TimedOut are not the end, for reads and writes."""
    told: list[str] = []
    client = fake.client()
    client.on_retry = lambda error, pause_s: told.append(error.code)
    fake.refuse = [passing, passing]

    await client.submit_job(a_job())

    assert told == [passing.code, passing.code]


async def test_an_error_is_rebuilt_with_everything_it_said(fake: FakeOrchestrator) -> None:
    """Class, message, hint, place and details are those of the orchestrator; it is not tried again."""
    fake.refuse = [errors.SpecError("bad count", hint="use 1", place="job.yaml:3", field="Count")]

    with pytest.raises(errors.SpecError) as raised:
        await fake.client().submit_job(a_job())

    assert (raised.value.hint, raised.value.place, raised.value.details) == ("use 1", "job.yaml:3", {"field": "Count"})
    assert fake.requests == []


async def test_nobody_answers_until_the_deadline() -> None:
    """Without an orchestrator the last failure is raised, with the number of tries."""
    client = FakeOrchestrator(MemoryBroker()).client(timing=IMPATIENT)

    with pytest.raises(errors.Unavailable, match=r"nobody answers \(tried \d+ times in 0.05 s\)"):
        await client.cluster_info()


async def test_a_deadline_without_an_answer_says_so(fake: FakeOrchestrator) -> None:
    """A write that nobody confirms ends as TimedOut: it may or may not have been done."""
    fake.ignore = 100

    with pytest.raises(errors.TimedOut):
        await fake.client(timing=IMPATIENT).submit_job(a_job())

    assert len(fake.jobs) == 1


async def test_a_clock_that_is_behind_does_not_matter(fake: FakeOrchestrator) -> None:
    """Refused as too late, the client says its deadline again by the orchestrator's clock, now and later."""
    client = fake.client()
    hours_ahead = time.time_ns() + 5 * 3600 * 10**9
    fake.refuse = [errors.TimedOut("the deadline had passed; nothing was done", now=hours_ahead)]

    await client.submit_job(a_job())
    await client.submit_job(a_job())

    assert all(int(headers[m.DEADLINE]) > hours_ahead for _, _, headers in fake.requests)
    assert len(fake.requests) == 2


async def test_reads_after_a_write_ask_for_its_position(fake: FakeOrchestrator) -> None:
    """A client sees what it did: its reads carry At-Least, its first read before any write does not."""
    client = fake.client()
    await client.list_jobs()
    await client.submit_job(a_job())
    await client.list_jobs()

    assert [headers.get(m.AT_LEAST) for _, _, headers in fake.requests] == [None, None, str(fake.seq)]


async def test_a_read_only_client_sends_no_writes(fake: FakeOrchestrator) -> None:
    """The profile's guard holds in the client, whatever a screen lets through."""
    client = fake.client(read_only=True)

    with pytest.raises(errors.Forbidden, match="read-only"):
        await client.submit_job(a_job())

    assert fake.requests == []


async def test_an_answer_that_cannot_be_read_is_our_bug(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A malformed answer raises Internal and names the verb."""
    client = fake.client()

    async def garbage(*_: object, **__: object) -> object:
        return Message("", b'{"Jobs": 3}')

    monkeypatch.setattr(client.bus, "request", garbage)

    with pytest.raises(errors.Internal, match=r"job\.list"):
        await client.list_jobs()


def test_every_verb_has_a_fake_answer() -> None:
    """The double covers the whole table of verbs."""
    assert set(ANSWERS) == set(m.VERBS)
