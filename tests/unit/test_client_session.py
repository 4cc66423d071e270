"""A session keeps the store true: through outages, lost rows, other leaders; the last rows stay on the screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.logs import LogPiece
from bacalhau_protocol.client.testing import QUICK, FakeOrchestrator
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker, MemoryBus
from bacalhau_tui.data import session as session_module
from bacalhau_tui.data.detail import JobDetail
from bacalhau_tui.data.loglines import LogBuffer
from bacalhau_tui.data.session import LinkState, Session
from bacalhau_tui.data.store import Store


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeOrchestrator]:
    monkeypatch.setattr(session_module, "RELOAD_PAUSE_S", 0.005)
    monkeypatch.setattr(session_module, "REFUSED_RETRY_S", 0.005)
    monkeypatch.setattr(session_module, "RETRY_MIN_S", 0.001)
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


class Watched:
    """A session whose wake-ups can be waited for."""

    def __init__(self, fake: FakeOrchestrator, *, refusals: list[errors.BacalhauError] | None = None) -> None:
        self.store = Store()
        self.states: list[LinkState] = []
        self._woken = asyncio.Event()
        self.session = Session(self._connect, self.store, wake=self._wake)
        self.changes = self.store.jobs.changes(self._woken.set)
        self._fake, self._refusals = fake, refusals or []

    async def _connect(self, session: Session) -> Client:
        if self._refusals:
            raise self._refusals.pop(0)
        return self._fake.client(timing=msgspec.structs.replace(QUICK, tick_missing_s=0.05))

    def _wake(self) -> None:
        if not self.states or self.states[-1] is not self.session.link.state:
            self.states.append(self.session.link.state)
        self._woken.set()

    async def until(self, condition: Callable[[], bool], *, ticking: bool = True) -> None:
        """Wait for a condition while the orchestrator ticks."""
        async with asyncio.timeout(30):
            while not condition():
                self.changes.take(0)
                self._woken.clear()
                if ticking:
                    await self._fake.tick()
                try:
                    await asyncio.wait_for(self._woken.wait(), 0.01)
                except TimeoutError:
                    pass

    @property
    def live(self) -> bool:
        return self.session.link.state is LinkState.LIVE


@pytest.fixture
async def watched(fake: FakeOrchestrator) -> AsyncIterator[Watched]:
    watched = Watched(fake)
    yield watched
    await watched.session.close()


async def test_the_store_fills_and_follows(fake: FakeOrchestrator, watched: Watched) -> None:
    """What is there is loaded, what comes is followed."""
    old = fake.add_job("old")
    fake.add_node("n-1")
    watched.session.start()
    await watched.until(lambda: watched.live)
    assert old in watched.store.jobs
    assert "n-1" in watched.store.nodes

    new = fake.add_job("new")
    fake.set_job(old, JobStateType.FAILED)
    fake.add_node("n-1", connection="DISCONNECTED")
    await watched.until(lambda: new in watched.store.jobs and watched.store.nodes.get("n-1") == fake.node_states["n-1"])

    assert watched.store.jobs.get(old) == fake.job_row(old)


async def test_more_jobs_than_a_page(fake: FakeOrchestrator, watched: Watched) -> None:
    """All pages are loaded."""
    for number in range(2_100):
        fake.add_job(f"job-{number}")
    watched.session.start()

    await watched.until(lambda: watched.live)

    assert len(watched.store.jobs) == 2_100


async def test_lost_rows_are_asked_for(fake: FakeOrchestrator, watched: Watched) -> None:
    """After a hole the store equals a fresh start, field by field."""
    jobs = [fake.add_job(f"job-{number}") for number in range(5)]
    watched.session.start()
    await watched.until(lambda: watched.live)

    fake.lose_rows = True
    for job in jobs:
        fake.set_job(job, JobStateType.COMPLETED)
    del fake.jobs[jobs[0]]
    fake.lose_rows = False

    await watched.until(lambda: watched.store.jobs.rows() == {job: fake.job_row(job) for job in jobs[1:]})


async def test_silence_keeps_the_rows_and_says_since_when(fake: FakeOrchestrator, watched: Watched) -> None:
    """Without ticks the rows stay, stale; writing is refused; with ticks it goes on by itself."""
    job = fake.add_job()
    watched.session.start()
    await watched.until(lambda: watched.live)

    await watched.until(lambda: watched.session.link.state is LinkState.STALE, ticking=False)
    assert job in watched.store.jobs
    with pytest.raises(errors.Unavailable, match="silent"):
        watched.session.require()
    await watched.until(lambda: watched.live)

    assert watched.session.require() is watched.session.client


async def test_a_cut_link_is_down_until_it_is_back(fake: FakeOrchestrator, watched: Watched) -> None:
    """The link's own word comes first; while down, `since` does not move; back, what was missed is there."""
    watched.session.start()
    await watched.until(lambda: watched.live)
    client = watched.session.client
    assert client is not None
    bus = client.bus
    assert isinstance(bus, MemoryBus)

    bus.cut()
    client.interruptions += 1
    watched.session.on_link(False, errors.Unavailable("the connection ended", hint="is it running?"))
    down = watched.session.link
    job = fake.add_job("meanwhile")
    await asyncio.sleep(0)
    bus.heal()
    watched.session.on_link(True, None)
    await watched.until(lambda: job in watched.store.jobs)

    assert (down.state, down.reason, down.hint) == (LinkState.DOWN, "the connection ended", "is it running?")
    await watched.until(lambda: watched.live)


async def test_it_connects_when_it_can(fake: FakeOrchestrator) -> None:
    """Nobody there, then a credential that is refused, then it works: each is said."""
    watched = Watched(fake, refusals=[errors.Unavailable("nobody"), errors.Unauthenticated("revoked")])
    watched.session.start()

    await watched.until(lambda: watched.live)
    await watched.session.close()

    assert watched.states[:2] == [LinkState.DOWN, LinkState.REFUSED]


# ── one job ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def seen(detail: JobDetail, condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


async def test_a_job_s_detail_follows_and_loads_on_demand(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Executions are followed; history, explanation, specification and files come when asked, and go stale."""
    fake.add_node("n-1")
    job = fake.add_job("a")
    detail = JobDetail(fake.client(), "a")
    detail.start()
    await seen(detail, lambda: detail.update is not None)
    for part in ("why", "history", "spec"):
        await detail.load(part)
    assert detail.why is not None
    assert [item.event.message for item in detail.history] == ["Job submitted"]
    assert detail.job is not None
    assert detail.stale == {"results"}

    execution = fake.place(job)
    fake.nodes.write(execution, stdout=b"hello\n")
    fake.finish(execution, files={"out/a": FakeFile(b"x")})
    await seen(detail, lambda: detail.update is not None and detail.update.ended)
    assert "history" in detail.stale
    await detail.load("history")
    await detail.load("results")

    assert detail.executions.ids() == [execution]
    assert len(detail.history) == len(fake.history)
    assert [file.path for file in detail.results[0].files] == ["exitCode", "out/a", "stderr", "stdout"]
    await detail.close()


async def test_a_job_s_log_is_followed_into_the_buffer(fake: FakeOrchestrator) -> None:
    """Lines of all executions, with their sources; the end is noted."""
    job = fake.add_job("a", count=2)
    executions = [fake.place(job, f"n-{number}", partition=number) for number in range(2)]
    detail = JobDetail(fake.client(), "a")
    detail.start()
    await seen(detail, lambda: detail.update is not None)
    detail.follow_log()
    for number, execution in enumerate(executions):
        fake.nodes.write(execution, stdout=b"out %d\nno end" % number, stderr=b"\x1b[31merr\x1b[0m\x1b[2J\n")
        fake.finish(execution, exit_code=number)
    await seen(detail, lambda: detail.log_end is not None)
    await detail.close()

    lines = list(detail.log.lines(0, detail.log.end))
    assert sorted(line.text for line in lines if not line.stderr) == ["no end", "no end", "out 0", "out 1"]
    assert [line.text for line in lines if line.stderr] == ["err\\e[2J"] * 2
    assert {detail.log.sources[line.source][1] for line in lines} == {"n-0", "n-1"}


async def test_a_job_that_is_not_there(fake: FakeOrchestrator) -> None:
    """The error stands where the job would."""
    detail = JobDetail(fake.client(), "nope")
    detail.start()
    await seen(detail, lambda: detail.error is not None)
    await detail.close()

    assert isinstance(detail.error, errors.NotFound)


def test_the_log_buffer_is_bounded_and_numbers_stay() -> None:
    """Old lines go in blocks; a line keeps its number; a search goes slice by slice, both ways."""
    buffer = LogBuffer(lines_max=100)
    data = b"".join(b"line %d\n" % number for number in range(150))

    buffer.feed([LogPiece(execution_id="e", node_id="n", partition=0, stream="stdout", data=data, at=1)])

    assert (buffer.first, buffer.end, len(buffer)) == (50, 150, 100)
    last, gone = buffer.line(149), buffer.line(49)
    assert last is not None
    assert last.text == "line 149"
    assert gone is None
    assert buffer.search("LINE 7", 0) == (70, 71)
    assert buffer.search("line 7", 149, forward=False) == (79, 78)
    assert buffer.search("nothing", 50) == (None, 150)
    buffer.clear()
    assert (buffer.first, len(buffer)) == (150, 0)
