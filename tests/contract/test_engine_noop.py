"""`noop` does what its parameters say, as a pure plan and as an engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from bacalhau_engines.noop import NoopEngine, plan
from bacalhau_protocol.errors import NodeFailed, SpecError
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import OutcomeKind, PluginContext, RunRequest


def request(tmp_path: Path, timeout_s: float = 0, **params: Any) -> RunRequest:
    task = Task(name="main", engine=SpecConfig(type="noop", params=params))
    return RunRequest(
        execution_id="e-1", attempt=1, job=Job(id="j-1", tasks=(task,)), resources=Resources(), env={}, inputs=(),
        outputs=(), execution_dir=tmp_path / "e-1", timeout_s=timeout_s,
    )  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> NoopEngine:
    return NoopEngine(PluginContext(node_id="n-1", data_dir=tmp_path))


def test_no_parameters_complete_at_once() -> None:
    """Exit code 0, no time."""
    outcome = plan({}).outcome(started_at=100)
    assert (outcome.kind, outcome.exit_code, outcome.ended_at) == (OutcomeKind.EXITED, 0, 100)


@pytest.mark.parametrize(
    ("params", "kind", "exit_code", "took_ms"),
    [
        ({"DelayMs": 5, "ExitCode": 3}, OutcomeKind.EXITED, 3, 5),
        ({"delay_ms": 5.0}, OutcomeKind.EXITED, 0, 5),
        ({"Fail": "broken"}, OutcomeKind.COULD_NOT_RUN, 0, 0),
        ({"Fail": "killed", "Outcome": "signalled", "DelayMs": 1}, OutcomeKind.SIGNALLED, 0, 1),
        ({"Outcome": "out-of-memory"}, OutcomeKind.OUT_OF_MEMORY, 0, 0),
        ({"DelayMs": 10_000}, OutcomeKind.TIMED_OUT, 0, 2_000),
    ],
)
def test_the_plan_is_the_whole_behaviour(
    params: dict[str, Any], kind: OutcomeKind, exit_code: int, took_ms: int
) -> None:
    """Without a clock, so that it can be played in virtual time."""
    outcome = plan(params).outcome(started_at=0, timeout_s=2)
    assert (outcome.kind, outcome.exit_code, outcome.ended_at) == (kind, exit_code, took_ms * 1_000_000)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"DelyMs": 1}, "DelayMs"),
        ({"DelayMs": -1}, "DelayMs"),
        ({"DelayMs": "soon"}, "DelayMs"),
        ({"ExitCode": True}, "ExitCode"),
        ({"Stdout": 1}, "Stdout"),
        ({"Outcome": "exploded"}, "out-of-memory"),
        ({"FailAt": "publish"}, "prepare"),
        ({"Files": {"../x": ""}}, "Files"),
        ({"Files": {"stdout": ""}}, "Files"),
        ({"Files": 1}, "Files"),
    ],
)
def test_wrong_parameters_are_named(engine: NoopEngine, params: dict[str, Any], words: str) -> None:
    """By `check` and by `plan` alike."""
    task = Task(engine=SpecConfig(type="noop", params=params))
    assert words in engine.check(task, Resources())[0]
    with pytest.raises(SpecError, match=words):
        plan(params)


async def test_it_writes_only_when_told_to(engine: NoopEngine, tmp_path: Path) -> None:
    """A bare run touches no disk."""
    await engine.run(request(tmp_path), lambda: None)
    assert not (tmp_path / "e-1").exists()

    run = request(tmp_path, Stdout="out\n", Stderr="err\n", OutputBytes=70_000, Files={"outputs/a/b": "text"})
    outcome = await engine.run(run, lambda: None)
    assert outcome.kind is OutcomeKind.EXITED
    assert run.stdout_path.read_bytes().startswith(b"out\n0123")
    assert run.stdout_path.stat().st_size == 70_004
    assert run.stderr_path.read_text() == "err\n"
    assert (run.results_dir / "outputs/a/b").read_text() == "text"


async def test_cancel_ends_a_run(engine: NoopEngine, tmp_path: Path) -> None:
    """At once; ids it does not know are ignored."""
    started = asyncio.Event()
    running = asyncio.create_task(engine.run(request(tmp_path, DelayMs=60_000), started.set))
    await started.wait()
    await engine.cancel("e-unknown", 1)
    await engine.cancel("e-1", 1)
    assert (await running).kind is OutcomeKind.CANCELLED


async def test_preparing_fails_as_planned(engine: NoopEngine, tmp_path: Path) -> None:
    """With the message given."""
    with pytest.raises(NodeFailed, match="no such image"):
        await engine.prepare(request(tmp_path, Fail="no such image", FailAt="prepare"), lambda *_: None)
