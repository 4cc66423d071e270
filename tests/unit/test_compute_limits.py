"""What a run may take on its node: time in each phase, bytes of its streams, patience with its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bacalhau_daemon.compute import layout, runner
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.plugins import Outcome, RunRequest
from tests.builders_node import Orchestrator, Site, cluster, noop

Pair = tuple[Site, Orchestrator]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with cluster(tmp_path) as pair:
        yield pair


async def test_a_stream_over_its_limit_ends_the_run(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its engine does not look: the disk is the node's."""
    monkeypatch.setattr(layout, "STREAM_BYTES_MAX", 1000)
    monkeypatch.setattr(runner, "GUARD_S", 0.05)
    site, orchestrator = pair
    report = await orchestrator.run(noop(OutputBytes=5000, DelayMs=60_000))
    assert isinstance(report, ncl.ComputeError)
    assert report.events
    assert report.events[0].message == "stdout is larger than 1000 bytes"
    assert (site.root / "e-1/results/stdout").stat().st_size == 1000


@pytest.mark.parametrize("phase", [runner.PREPARING, runner.PUBLISHING])
async def test_preparing_and_publishing_have_a_limit(pair: Pair, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """What hangs there ends the execution with words, and the next one runs."""
    site, orchestrator = pair

    async def hangs(*_: object) -> None:
        await asyncio.Event().wait()

    member = (
        site.plugins.engines.members["noop"] if phase == runner.PREPARING else site.plugins.publishers.members["nats"]
    )
    with monkeypatch.context() as patched:
        patched.setattr(runner, "GUARD_S", 0.02)
        patched.setitem(runner.LIMITS_S, phase, 0.1)
        patched.setattr(member, "prepare" if phase == runner.PREPARING else "publish", hangs)
        report = await orchestrator.run(noop(1))
    assert isinstance(report, ncl.ComputeError)
    assert report.events is not None
    assert f"{phase} took longer than 0.1 s" in report.events[0].message
    assert isinstance(await orchestrator.run(noop(2)), ncl.RunResult)


async def test_the_limit_of_preparing_is_not_one_of_the_engine(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine does before its run begins is its own affair: it was given its time-out."""
    site, orchestrator = pair
    engine = site.plugins.engines.members["noop"]
    run, look_at = engine.run, runner.Runner._look_at
    looked: list[str] = []

    def look(self: runner.Runner, one: runner.Run, took_s: float) -> None:
        look_at(self, one, took_s)
        looked.append(one.phase)

    async def slow(request: RunRequest, started: Callable[[], None]) -> Outcome:
        await wait_until(lambda: len(looked) > 2)
        return await run(request, started)

    monkeypatch.setattr(runner, "GUARD_S", 0.02)
    monkeypatch.setitem(runner.LIMITS_S, runner.PREPARING, 0.0)
    monkeypatch.setattr(runner.Runner, "_look_at", look)
    monkeypatch.setattr(engine, "run", slow)
    assert isinstance(await orchestrator.run(noop(1)), ncl.RunResult)
    assert set(looked) == {runner.PREPARING}


async def test_an_engine_that_does_not_let_go_is_left(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the cancelled execution is over, whatever its engine does."""
    monkeypatch.setattr(runner, "CANCEL_REPEAT_S", 0.01)
    monkeypatch.setattr(runner, "CANCEL_GIVE_UP_S", 0.1)
    site, orchestrator = pair
    engine = site.plugins.engines.members["noop"]
    told: list[str] = []

    async def deaf(execution_id: str, grace_s: float) -> None:
        told.append(execution_id)

    monkeypatch.setattr(engine, "cancel", deaf)
    await orchestrator.say(ncl.ask_for_bid(noop(1, DelayMs=60_000)))
    await orchestrator.report("e-1")
    await orchestrator.say(ncl.BidAccepted(execution_id="e-1"))
    await wait_until(lambda: site.node.runner and len(site.node.runner))
    await orchestrator.say(ncl.CancelExecution(execution_id="e-1"))
    await wait_until(lambda: not site.node.machine.state.runs)
    assert len(told) > 1, "it is told again and again"
