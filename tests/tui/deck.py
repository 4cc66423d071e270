"""The screens on a cluster in memory: what tests drive and look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from textual import events
from textual.pilot import Pilot

from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.testing import QUICK, FakeOrchestrator
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker
from bacalhau_tui.app import ClusterApp
from bacalhau_tui.data.drafts import STATE_DIR
from bacalhau_tui.data.session import LinkState, Session
from bacalhau_tui.data.settings import Profile, Settings, TuiSettings

TRUECOLOR = {"COLORTERM": "truecolor"}
PATIENCE_S = 10.0
TICK_S = 0.05


def settings(config_dir: Path, *, read_only: bool = False, **tui: object) -> Settings:
    """Return settings that look at nothing of this machine."""
    return Settings(
        config_dir=config_dir,
        profile_name="lab",
        profile=Profile(read_only=read_only),
        profiles={},
        tui=msgspec.convert({"theme": "dark", **tui}, TuiSettings),
    )


HOPS = 3
_NAMES = {
    ":": "colon",
    "/": "slash",
    "-": "minus",
    "&": "ampersand",
    "?": "question_mark",
    "!": "exclamation_mark",
    "<": "less_than_sign",
    ">": "greater_than_sign",
    "*": "asterisk",
    "+": "plus",
}


class Deck:
    """A running app with its fake cluster."""

    def __init__(self, app: ClusterApp, fake: FakeOrchestrator, pilot: Pilot[int]) -> None:
        self.app, self.fake, self.pilot = app, fake, pilot

    @property
    def text(self) -> str:
        """What is on the screen, line by line, without colours."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)

    @property
    def words(self) -> str:
        """The same, without line ends and wide blanks."""
        return " ".join(self.text.split())

    @property
    def screen(self) -> str:
        """The name of the screen in front."""
        return type(self.app.screen).__name__

    async def press(self, *keys: str) -> None:
        """Type keys, one after another; return when each has been dealt with."""
        for key in keys:
            await self.press_at_once(key)

    async def press_at_once(self, *keys: str) -> None:
        """Type keys that come in one read; return when they have been dealt with."""
        for key in keys:
            name = _NAMES.get(key, key)
            character = key if len(key) == 1 else " " if key == "space" else None
            self.app.post_message(events.Key(name, character))
        # From the app down to the focus, up again, and what that made others do. Pilot's own `press` waits for the
        # process to idle instead: forty milliseconds a key, and longer on a busy machine.
        hops = 0
        while hops < HOPS or self.app.typed.busy:
            done = asyncio.Event()
            self.app.call_later(done.set)
            await done.wait()
            await self.pilot._wait_for_screen()
            hops += 1

    async def type(self, text: str) -> None:
        """Type text."""
        await self.press(*("space" if character == " " else character for character in text))

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; when it does not come, fail with what is on the screen."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    await self.pilot.pause(0.01)
        except TimeoutError:
            raise AssertionError(f"it did not come to that; on the screen is\n{self.text}") from None

    async def shows(self, *words: str) -> None:
        """Wait until all these words are on the screen."""
        await self.until(lambda: all(word in self.text for word in words))

    async def settle(self) -> None:
        """Wait until nothing is about to change."""
        await self.pilot.pause()
        await self.until(lambda: self.app.pulse.resting)
        await self.pilot.pause()


@asynccontextmanager
async def running(
    fake: FakeOrchestrator,
    config_dir: Path,
    *,
    size: tuple[int, int] = (80, 24),
    live: bool = True,
    connect: Callable[[Session], object] | None = None,
    environment: dict[str, str] | None = None,
    read_only: bool = False,
    **tui: object,
) -> AsyncIterator[Deck]:
    """Run the app; by default until it is connected and has its rows."""

    async def connected(session: Session) -> Client:
        return fake.client(timing=msgspec.structs.replace(QUICK, tick_missing_s=8 * TICK_S), read_only=read_only)

    app = ClusterApp(
        settings(config_dir, read_only=read_only, **tui),
        connected if connect is None else connect,  # type: ignore[arg-type]
        clock=lambda: fake.now,
        environment={STATE_DIR: str(config_dir / "state"), **(TRUECOLOR if environment is None else environment)},
    )
    app.pulse.interval_s = 0.01
    ticking = asyncio.create_task(_tick(fake))
    try:
        async with app.run_test(size=size) as pilot:
            deck = Deck(app, fake, pilot)
            if live:
                await deck.until(lambda: app.session.link.state is LinkState.LIVE)
                await deck.settle()
            yield deck
    finally:
        ticking.cancel()


async def _tick(fake: FakeOrchestrator) -> None:
    """Let the feed tick; `fake.silent_feed` stops it."""
    pause = asyncio.Event()
    while True:
        if not getattr(fake, "silent_feed", False):
            await fake.tick()
        try:
            async with asyncio.timeout(TICK_S):
                await pause.wait()
        except TimeoutError:
            continue


async def a_fake() -> FakeOrchestrator:
    """Start an orchestrator in memory with nothing in it."""
    return await FakeOrchestrator(MemoryBroker()).start()


def a_job(name: str, *, engine: str = "wasm", count: int = 1) -> Job:
    """Return a small job."""
    return Job(name=name, type="batch", count=count, tasks=(Task(name="main", engine=SpecConfig(type=engine)),))


def a_day(fake: FakeOrchestrator) -> dict[str, str]:
    """Let a cluster have something of everything; return the jobs' ids by name."""
    for number, zone in enumerate(("eu", "eu", "us")):
        fake.add_node(f"n-{number:08x}-0000-4000-8000-000000000000", cpu=4.0 + number, zone=zone)
    fake.add_node("n-gone", connection="DISCONNECTED", zone="us")
    nodes = list(fake.node_states)
    jobs = {
        name: fake.add_job(job=a_job(name, count=2)) for name in ("done", "failed", "stopped", "running", "waiting")
    }
    for partition in range(2):
        done = fake.place(jobs["done"], nodes[partition], partition=partition)
        fake.nodes.write(done, stdout=b"line 1 of %d\nline 2 of %d\n" % (partition, partition), stderr=b"careful\n")
        fake.run(done)
        fake.finish(
            done, files={"out/words.csv": FakeFile(b"word,count\nthe,12\nof,7\n"), "out/a.json": FakeFile(b'{"a":1}')}
        )
    broken = fake.place(jobs["failed"], nodes[0])
    fake.run(broken)
    fake.fail(broken, "the program was killed: out of memory (limit 512 MB)")
    fake.set_job(jobs["stopped"], JobStateType.STOPPED, "not needed any more")
    busy = fake.place(jobs["running"], nodes[1])
    fake.run(busy)
    fake.set_phase(busy, "Running")
    preparing = fake.place(jobs["running"], nodes[2], partition=1)
    fake.set_phase(preparing, "Preparing", "image", 12_000_000, 80_000_000)
    fake.set_job(jobs["waiting"], JobStateType.QUEUED, "not enough nodes: none has a GPU")
    return jobs
