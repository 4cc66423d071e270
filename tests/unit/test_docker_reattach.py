"""What a node does for an engine whose runs outlive it: they are found, left alone, and forgotten in the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.compute import layout
from bacalhau_daemon.testing import wait_until
from bacalhau_engines.noop import NoopEngine
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.plugins import Ability, Outcome, OutcomeKind, Progress, RunRequest
from tests.builders_compute import execution
from tests.builders_node import Orchestrator, Site, cluster
from tests.unit.test_compute_node import inline


class World:
    """Runs that go on without any daemon, by execution; the engine of each daemon talks to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.there: dict[str, asyncio.Event] = {}  # set: it has ended
        self.prepared: list[int] = []  # how many inputs each time
        self.ran: list[int] = []
        self.forgotten: list[bool] = []  # whether the outcome was on disk

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Have noop engines behave so."""
        for name, method in (
            ("ability", self.ability),
            ("prepare", self.prepare),
            ("run", self.run),
            ("holds", self.holds),
            ("forget", self.forget),
        ):
            patch.setattr(NoopEngine, name, _bound(method))

    async def ability(self) -> Ability:
        return Ability(available=True, version="1", reattaches=True)

    async def prepare(self, run: RunRequest, progress: Progress) -> None:
        self.prepared.append(len(run.inputs))

    async def run(self, run: RunRequest, started: Callable[[], None]) -> Outcome:
        self.ran.append(len(run.inputs))
        begun = time.time_ns()
        ended = self.there.setdefault(run.execution_id, asyncio.Event())
        started()
        await ended.wait()
        details = {"Image": "x@sha256:1"}
        return Outcome(kind=OutcomeKind.EXITED, started_at=begun, ended_at=time.time_ns(), details=details)

    async def holds(self, execution_id: str, attempt: int) -> bool:
        return execution_id in self.there

    async def forget(self, execution_id: str, attempt: int) -> None:
        self.forgotten.append(layout.read_outcome(self.root / execution_id, attempt) is not None)


def _bound(method: Any) -> Any:
    async def call(_: NoopEngine, *arguments: Any) -> Any:
        return await method(*arguments)

    return call


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path / "executions")
    made.install(monkeypatch)
    return made


@pytest.fixture
async def pair(tmp_path: Path, world: World) -> AsyncIterator[tuple[Site, Orchestrator]]:
    async with cluster(tmp_path) as pair:
        yield pair


def with_input() -> Execution:
    made = execution(1, cpu=0.1)
    assert isinstance(made.job, Job)
    task = msgspec.structs.replace(made.job.task, input_sources=(inline("data"),))
    return msgspec.structs.replace(made, job=msgspec.structs.replace(made.job, tasks=(task,)))


async def begin(orchestrator: Orchestrator, world: World) -> None:
    await orchestrator.say(ncl.ask_for_bid(with_input()))
    await orchestrator.report("e-1")
    await orchestrator.say(ncl.BidAccepted(execution_id="e-1"))
    await wait_until(lambda: world.ran, what="it runs")


async def test_its_end_is_on_disk_before_it_is_forgotten(pair: tuple[Site, Orchestrator], world: World) -> None:
    """And what the engine found worth keeping stands in the report."""
    _, orchestrator = pair
    await begin(orchestrator, world)
    world.there["e-1"].set()
    result = await orchestrator.report("e-1", 2)
    assert isinstance(result, ncl.RunResult)
    assert result.events
    assert isinstance(result.events[0].details, dict)
    assert result.events[0].details["Image"] == "x@sha256:1"
    assert world.forgotten == [True]


@pytest.mark.parametrize("how", ["crash", "stop"])
async def test_a_run_is_found_by_the_next_daemon(pair: tuple[Site, Orchestrator], world: World, how: str) -> None:
    """After a crash and after a stop in good order; its inputs are neither prepared again nor removed beneath it."""
    site, orchestrator = pair
    await begin(orchestrator, world)
    data = site.root / "e-1" / "inputs" / "0"
    assert data.exists()
    await (site.crash() if how == "crash" else site.stop())
    if how == "stop":
        await _let_go("execution")
    assert data.exists() or how == "crash"
    await site.start()
    await wait_until(lambda: len(world.ran) == 2, what="it is found")
    world.there["e-1"].set()
    result = await orchestrator.report("e-1", 2)
    assert isinstance(result, ncl.RunResult)
    assert (world.prepared, world.ran) == ([1], [1, 0])


async def test_a_run_of_which_nothing_is_left_begins_anew(pair: tuple[Site, Orchestrator], world: World) -> None:
    """Its attempt never started its container: it is prepared again, with inputs, and runs."""
    site, orchestrator = pair
    await begin(orchestrator, world)
    await site.crash()
    world.there.clear()
    await site.start()
    await wait_until(lambda: len(world.ran) == 2, what="it begins again")
    world.there["e-1"].set()
    assert isinstance(await orchestrator.report("e-1", 2), ncl.RunResult)
    assert (world.prepared, world.ran) == ([1, 1], [1, 1])


async def test_a_run_that_is_cancelled_while_it_is_looked_for_is_forgotten(
    pair: tuple[Site, Orchestrator], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it stays, although nobody has found it yet."""
    site, orchestrator = pair
    await begin(orchestrator, world)
    await site.crash()
    world.forgotten.clear()
    looking = asyncio.Event()

    async def holds(*_: object) -> bool:
        looking.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    monkeypatch.setattr(NoopEngine, "holds", holds)
    await site.start()
    await wait_until(looking.is_set, what="it is looked for")
    await orchestrator.say(ncl.CancelExecution(execution_id="e-1"))
    await wait_until(lambda: world.forgotten, what="it is forgotten")


async def _let_go(prefix: str) -> None:
    """End tasks as the end of their loop would."""
    tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith(prefix)]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
