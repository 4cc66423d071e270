"""Downloads in the background: taken up after a cut, never twice at a time, with words about how they went."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.transport.memory import MemoryBroker
from bacalhau_tui.data import downloads as module
from bacalhau_tui.data.downloads import Download, Downloads, State, Wanted

BIG = bytes(range(256)) * 4096  # a megabyte


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeOrchestrator]:
    monkeypatch.setattr(module, "PAUSE_MIN_S", 0.001)
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


class Bench:
    """Downloads of one job with two executions, on a client whose link can be cut."""

    def __init__(self, fake: FakeOrchestrator, directory: Path) -> None:
        self.fake, self.directory = fake, directory
        self.client = fake.client()
        self.linked = True
        self.woken = asyncio.Event()
        self.downloads = Downloads(self.require, self.wake)
        self.job = fake.add_job("work", count=2)
        self.executions = [fake.place(self.job, f"n-{at}", partition=at) for at in range(2)]
        for execution in self.executions:
            fake.nodes.write(execution, stdout=b"said\n")
            fake.finish(execution, files={"out/big": FakeFile(BIG), "out/small.csv": FakeFile(b"a,b\n")})

    def require(self) -> Client:
        if not self.linked:
            raise errors.Unavailable("not connected: cut")
        return self.client

    def wake(self) -> None:
        self.woken.set()

    def start(self, *paths: str, execution: str = "", directory: str = "here") -> str:
        wanted = Wanted(
            job=self.job,
            namespace="default",
            execution=execution,
            paths=paths,
            directory=self.directory / directory,
        )
        return self.downloads.start(wanted)

    async def until(self, key: str, condition: Callable[[Download], object]) -> Download:
        async with asyncio.timeout(10):
            while True:
                self.woken.clear()
                row = self.downloads.rows.get(key)
                if row is not None and condition(row):
                    return row
                await self.woken.wait()

    async def ended(self, key: str) -> Download:
        return await self.until(key, lambda row: not row.live)


@pytest.fixture
async def bench(fake: FakeOrchestrator, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(fake, tmp_path)
    yield made
    await made.downloads.close()
    await made.client.close()


async def test_all_of_a_job(bench: Bench) -> None:
    """Each execution into a directory of its own; every byte is there and counted."""
    row = await bench.ended(bench.start())

    assert (row.state, row.done_bytes) == (State.DONE, 2 * (len(BIG) + 4 + 5 + 1))
    assert "10 files" in row.words
    assert "hashes checked" in row.words
    assert [path.read_bytes() == BIG for path in sorted(bench.directory.glob("here/*/out/big"))] == [True, True]
    assert bench.downloads.summary == ""


async def test_only_what_is_chosen(bench: Bench) -> None:
    """One file, or a directory with all below it."""
    execution = bench.executions[0]
    await bench.ended(bench.start("stdout", execution=execution, directory="one"))
    await bench.ended(bench.start("out/", execution=execution, directory="two"))
    wrong = await bench.ended(bench.start("nowhere", execution=execution))

    assert [path.name for path in (bench.directory / "one").rglob("*")] == ["stdout"]
    assert sorted(path.name for path in (bench.directory / "two").rglob("*")) == ["big", "out", "small.csv"]
    assert (wrong.state, "no 'nowhere'" in wrong.words) == (State.FAILED, True)


async def test_a_cut_line_is_waited_for_and_only_the_rest_is_fetched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state says so meanwhile; what was here is not asked for again."""
    execution = bench.executions[0]
    await bench.ended(bench.start("out/big", execution=execution))
    bench.linked = False
    key = bench.start(execution=execution)
    row = await bench.until(key, lambda row: row.state is State.BROKEN)
    assert "not connected" in row.words
    assert bench.downloads.summary == "1 download line lost"
    bench.fake.nodes.requests.clear()
    bench.linked = True
    row = await bench.ended(key)

    assert row.state is State.DONE
    assert f"{1.0:.0f} MB were here" in row.words or "were here" in row.words
    assert not any(getattr(request, "path", "") == "out/big" for _, request in bench.fake.nodes.requests)


async def test_stopped_and_taken_up(bench: Bench) -> None:
    """A stopped download stays in the list; started again, it is the same one and goes on."""
    bench.fake.nodes.silent = {"n-0", "n-1"}
    key = bench.start()
    await bench.until(key, lambda row: row.state is State.RUNNING)
    bench.downloads.stop(key)
    assert (await bench.ended(key)).state is State.STOPPED
    bench.fake.nodes.silent = set()
    assert bench.start() == key
    assert (await bench.ended(key)).state is State.DONE
    bench.downloads.again(key)
    assert "were here" in (await bench.ended(key)).words


async def test_the_same_is_not_fetched_twice_at_a_time(bench: Bench) -> None:
    """A second start joins the first; others wait for their turn."""
    bench.fake.nodes.silent = {"n-0"}
    keys = [bench.start(execution=bench.executions[0], directory=f"d{at}") for at in range(3)]

    assert bench.start(execution=bench.executions[0], directory="d0") == keys[0]
    await bench.until(keys[0], lambda row: row.state is State.RUNNING)
    assert bench.downloads.rows.get(keys[2]).state is State.WAITING  # type: ignore[union-attr]
    assert bench.downloads.summary.startswith("3 downloads")


async def test_what_is_in_the_way_is_said(bench: Bench) -> None:
    """Files with other content are not replaced; a directory that cannot be made is told; both are the end of it."""
    ended: list[Download] = []
    bench.downloads.on_end = ended.append
    (bench.directory / "file").write_text("")
    (bench.directory / "here").mkdir()
    (bench.directory / "here" / "stdout").write_text("other")

    conflict = await bench.ended(bench.start("stdout", execution=bench.executions[0]))
    blocked = await bench.ended(bench.start("stdout", execution=bench.executions[0], directory="file"))

    assert (conflict.state, blocked.state) == (State.FAILED, State.FAILED)
    assert "already there, with other content" in conflict.words
    assert (bench.directory / "here" / "stdout").read_text() == "other"
    assert [row.key for row in ended] == [conflict.key, blocked.key]


async def test_damaged_chunks_are_asked_for_again(bench: Bench) -> None:
    """What comes damaged is never written."""
    bench.fake.nodes.damage = 2
    row = await bench.ended(bench.start("out/big", execution=bench.executions[0]))

    assert row.state is State.DONE
    assert (bench.directory / "here" / "out" / "big").read_bytes() == BIG
