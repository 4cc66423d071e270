"""The contract of engines as a test suite: derive from `EngineContract`, say how your engine is told what to do.

::

    class TestMyEngine(EngineContract):
        kit = MyKit()

A kit turns a `Behaviour` into a task of its engine. What an engine cannot do is said once, in the kit's flags; the
tests for it are skipped.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from bacalhau_protocol.errors import BacalhauError
from bacalhau_protocol.models.job import InputSource, Job, ResultPath, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import (
    Engine,
    Outcome,
    OutcomeKind,
    PluginContext,
    PreparedInput,
    RunRequest,
)

PATIENCE_S = 30.0
MEMORY_BYTES = 64 * 1024 * 1024
OUTPUT = ResultPath(name="out", path="/out")


class Behaviour(msgspec.Struct, frozen=True, kw_only=True):
    """What a task does, in this order; then it ends with `exit_code`, unless it goes on for ever."""

    stdout: str = ""
    stderr: str = ""
    print_env: str = ""  # the value of this variable, and a newline, on stdout
    print_input: str = ""  # this file of the task's world on stdout
    files: Mapping[str, str] = {}  # below the output `out`
    eat_memory: bool = False  # takes memory until there is no more, and then ends with a code that is not 0
    endless: bool = False
    exit_code: int = 0


class Program(msgspec.Struct, frozen=True):
    """A task's engine, and the inputs that it needs for itself."""

    engine: SpecConfig
    inputs: tuple[PreparedInput, ...] = ()


class EngineKit(abc.ABC):
    """How the suite talks to one engine."""

    exit_code_max: ClassVar[int] = 255
    has_world: ClassVar[bool] = True  # tasks see environment and inputs
    limits_memory: ClassVar[bool] = True
    joins: ClassVar[bool] = True  # a second `run` of a run in flight waits for the first

    @abc.abstractmethod
    def create(self, context: PluginContext) -> Engine:
        """Build the engine."""

    @abc.abstractmethod
    def program(self, behaviour: Behaviour) -> Program:
        """Return a task that behaves so."""

    @abc.abstractmethod
    def broken(self) -> Program:
        """Return a task that `prepare` or `run` must refuse."""

    def processes(self, engine: Engine) -> Sequence[int]:
        """Return the processes that belong to runs of this engine now."""
        return ()


class Started:
    """Counts the calls of `started`, and lets a test wait for the first."""

    def __init__(self) -> None:
        self.count = 0
        self.event = asyncio.Event()

    def __call__(self) -> None:
        """Be called by the engine."""
        self.count += 1
        self.event.set()


def run_request(
    directory: Path,
    program: Program,
    *,
    execution_id: str = "e-1",
    attempt: int = 1,
    inputs: Sequence[PreparedInput] = (),
    outputs: Sequence[ResultPath] = (OUTPUT,),
    env: Mapping[str, str] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    timeout_s: float = 0.0,
    namespace: str = "default",
) -> RunRequest:
    """Build what a daemon hands to an engine: directories made, inputs prepared."""
    execution_dir = directory / execution_id
    (execution_dir / "results").mkdir(parents=True, exist_ok=True)
    for output in outputs:
        (execution_dir / "results" / output.name).mkdir(exist_ok=True)
    prepared = (*program.inputs, *inputs)
    task = Task(
        name="main",
        engine=program.engine,
        input_sources=tuple(item.source for item in prepared),
        result_paths=tuple(outputs),
    )
    return RunRequest(
        execution_id=execution_id,
        attempt=attempt,
        job=Job(id="j-1", name="contract", namespace=namespace, type="batch", count=1, tasks=(task,)),
        resources=Resources(cpu=1, memory=memory_bytes),
        env=dict(env or {}),
        inputs=prepared,
        outputs=tuple(outputs),
        execution_dir=execution_dir,
        timeout_s=timeout_s,
    )


def local_input(path: Path, target: str) -> PreparedInput:
    """Return a file or a directory of this machine as a prepared input."""
    source = InputSource(source=SpecConfig(type="local", params={"SourcePath": str(path)}), target=target)
    return PreparedInput(source=source, path=path, target=target)


async def perform(engine: Engine, run: RunRequest, started: Started | None = None) -> Outcome:
    """Prepare and run, within the suite's patience."""
    async with asyncio.timeout(PATIENCE_S):
        await engine.prepare(run, lambda what, done, total: None)
        outcome = await engine.run(run, started or Started())
        await engine.forget(run.execution_id, run.attempt)
        return outcome


class EngineContract:
    """What every engine keeps. Derive, and set `kit`."""

    kit: ClassVar[EngineKit]

    @pytest.fixture
    async def engine(self, tmp_path: Path) -> AsyncIterator[Engine]:
        """An engine with a directory of its own; after the test nothing of its runs may be alive."""
        data_dir = tmp_path / "plugin"
        data_dir.mkdir(mode=0o700)
        engine = self.kit.create(PluginContext(node_id="n-test", data_dir=data_dir))
        yield engine
        await engine.close()
        assert not self.kit.processes(engine), "processes of runs outlive the engine"

    def behaving(self, tmp_path: Path, behaviour: Behaviour, **request: object) -> RunRequest:
        """Return a request for a task that behaves so."""
        return run_request(tmp_path, self.kit.program(behaviour), **request)  # type: ignore[arg-type]

    async def started_endless(
        self, engine: Engine, tmp_path: Path, **request: object
    ) -> tuple[RunRequest, asyncio.Task[Outcome]]:
        """Start a task that never ends, and wait until its own code runs."""
        run, started = self.behaving(tmp_path, Behaviour(endless=True), **request), Started()
        task = asyncio.create_task(perform(engine, run, started))
        async with asyncio.timeout(PATIENCE_S):
            await started.event.wait()
        return run, task

    async def test_the_engine_can_work_here(self, engine: Engine) -> None:
        """`ability` says yes, with a version, and no reason against it."""
        ability = await engine.ability()
        assert ability.available, ability.reason
        assert ability.version
        assert not ability.reason

    async def test_check_accepts_what_runs_and_names_what_cannot(self, engine: Engine, tmp_path: Path) -> None:
        """`check` is empty for a good task, and says words for one with an unknown parameter."""
        task = self.behaving(tmp_path, Behaviour(stdout="x")).task
        assert engine.check(task, Resources(cpu=1, memory=MEMORY_BYTES)) == []
        assert task.engine
        wrong = msgspec.structs.replace(
            task, engine=SpecConfig(type=task.engine.type, params={**task.engine.values, "Entripoint": "x"})
        )
        problems = engine.check(wrong, Resources())
        assert any("Entripoint" in problem for problem in problems)

    async def test_a_run_ends_with_its_streams_and_times(self, engine: Engine, tmp_path: Path) -> None:
        """Exit code 0, both streams in their files, `started` once, times in order."""
        run, started = self.behaving(tmp_path, Behaviour(stdout="to out\n", stderr="to err\n")), Started()
        outcome = await perform(engine, run, started)
        assert (outcome.kind, outcome.exit_code, outcome.failed) == (OutcomeKind.EXITED, 0, False)
        assert run.stdout_path.read_text() == "to out\n"
        assert run.stderr_path.read_text() == "to err\n"
        assert started.count == 1
        assert 0 < outcome.started_at <= outcome.ended_at

    async def test_streams_are_appended_to(self, engine: Engine, tmp_path: Path) -> None:
        """What is in the files already stays: readers of logs keep their place."""
        run = self.behaving(tmp_path, Behaviour(stdout="second\n"))
        run.stdout_path.write_text("first\n")
        await perform(engine, run)
        assert run.stdout_path.read_text() == "first\nsecond\n"

    async def test_an_exit_code_is_not_a_failure(self, engine: Engine, tmp_path: Path) -> None:
        """Every exit code arrives as it is, and the execution has completed."""
        for code in (1, 125, 126, 127, 255, self.kit.exit_code_max):
            run = self.behaving(tmp_path, Behaviour(exit_code=code), execution_id=f"e-{code}")
            outcome = await perform(engine, run)
            assert (outcome.exit_code, outcome.failed) == (code, False)

    async def test_outputs_land_in_the_results(self, engine: Engine, tmp_path: Path) -> None:
        """A file below an output lies under `results/NAME`."""
        run = self.behaving(tmp_path, Behaviour(files={"deep/er.txt": "text"}))
        await perform(engine, run)
        assert (run.results_dir / "out" / "deep" / "er.txt").read_text() == "text"

    async def test_environment_reaches_the_task(self, engine: Engine, tmp_path: Path) -> None:
        """Variables come through byte for byte, and nothing of the daemon's own environment does."""
        if not self.kit.has_world:
            pytest.skip("this engine's tasks see nothing")
        value = "a = b; ü $HOME"
        run = self.behaving(tmp_path, Behaviour(print_env="COLOUR"), env={"COLOUR": value})
        await perform(engine, run)
        assert run.stdout_path.read_text() == value + "\n"

    async def test_inputs_reach_the_task(self, engine: Engine, tmp_path: Path) -> None:
        """A file input and a file in a directory input can be read at their targets."""
        if not self.kit.has_world:
            pytest.skip("this engine's tasks see nothing")
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.txt").write_text("hello")
        for target, shown in (("/data", "/data/a.txt"), ("/some/file.txt", "/some/file.txt")):
            path = tmp_path / "in" if target == "/data" else tmp_path / "in" / "a.txt"
            run = self.behaving(
                tmp_path,
                Behaviour(print_input=shown),
                inputs=[local_input(path, target)],
                execution_id="e" + target.replace("/", "-").replace(".", "-"),
            )
            await perform(engine, run)
            assert run.stdout_path.read_text() == "hello"

    async def test_cancel_ends_a_run(self, engine: Engine, tmp_path: Path) -> None:
        """`run` returns `CANCELLED`, soon; cancelling again, or something unknown, does nothing."""
        run, task = await self.started_endless(engine, tmp_path)
        await engine.cancel("e-unknown", 0.0)
        await engine.cancel(run.execution_id, 0.0)
        await engine.cancel(run.execution_id, 0.0)
        outcome = await task
        assert (outcome.kind, outcome.failed) == (OutcomeKind.CANCELLED, True)
        await engine.cancel(run.execution_id, 0.0)

    async def test_cancel_ends_one_run_only(self, engine: Engine, tmp_path: Path) -> None:
        """Another run goes on."""
        first, ending = await self.started_endless(engine, tmp_path, execution_id="e-1")
        second, going = await self.started_endless(engine, tmp_path, execution_id="e-2")
        await engine.cancel(first.execution_id, 0.0)
        assert (await ending).kind is OutcomeKind.CANCELLED
        assert not going.done()
        await engine.cancel(second.execution_id, 0.0)
        assert (await going).kind is OutcomeKind.CANCELLED

    async def test_a_cancelled_caller_takes_the_run_along(self, engine: Engine, tmp_path: Path) -> None:
        """`CancelledError` passes on, and nothing of the run is left."""
        _, task = await self.started_endless(engine, tmp_path)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not self.kit.processes(engine)

    async def test_the_timeout_counts_and_is_named(self, engine: Engine, tmp_path: Path) -> None:
        """A run that takes longer ends as `TIMED_OUT`, not before its time."""
        run = self.behaving(tmp_path, Behaviour(endless=True), timeout_s=0.3)
        outcome = await perform(engine, run)
        assert (outcome.kind, outcome.failed) == (OutcomeKind.TIMED_OUT, True)
        assert outcome.ended_at - outcome.started_at >= 0.3e9

    async def test_a_second_run_of_the_same_joins_the_first(self, engine: Engine, tmp_path: Path) -> None:
        """The same execution and attempt runs once; both callers get its outcome."""
        if not self.kit.joins:
            pytest.skip("this engine's runs are nothing that could be joined")
        run, first = await self.started_endless(engine, tmp_path)
        second = asyncio.create_task(engine.run(run, Started()))
        await asyncio.sleep(0)
        await engine.cancel(run.execution_id, 0.0)
        assert await first == await second

    async def test_a_broken_task_is_refused_in_words(self, engine: Engine, tmp_path: Path) -> None:
        """`prepare` raises what happened, or `run` returns it; the next task runs."""
        try:
            outcome = await perform(engine, run_request(tmp_path, self.kit.broken()))
        except BacalhauError as error:
            assert error.message  # noqa: PT017
        else:
            assert outcome.failed
            assert outcome.message
        run = self.behaving(tmp_path, Behaviour(stdout="fine"), execution_id="e-2")
        assert not (await perform(engine, run)).failed

    async def test_runs_go_on_beside_each_other(self, engine: Engine, tmp_path: Path) -> None:
        """Many at once, each with its own output and exit code."""
        runs = [
            self.behaving(tmp_path, Behaviour(stdout=f"{n}\n", exit_code=n), execution_id=f"e-{n}") for n in range(20)
        ]
        outcomes = await asyncio.gather(*(perform(engine, run) for run in runs))
        assert [outcome.exit_code for outcome in outcomes] == list(range(20))
        assert [run.stdout_path.read_text() for run in runs] == [f"{n}\n" for n in range(20)]

    async def test_memory_is_limited(self, engine: Engine, tmp_path: Path) -> None:
        """A task that takes all it can get does not succeed, and does not get more than it was allotted."""
        if not self.kit.limits_memory:
            pytest.skip("this engine's tasks take no memory")
        run = self.behaving(tmp_path, Behaviour(eat_memory=True), memory_bytes=MEMORY_BYTES)
        outcome = await perform(engine, run)
        assert outcome.failed or outcome.exit_code != 0
        assert outcome.memory_peak_bytes <= MEMORY_BYTES * 1.5

    async def test_sweep_keeps_what_runs(self, engine: Engine, tmp_path: Path) -> None:
        """Sweeping removes nothing that it is told to keep."""
        run, task = await self.started_endless(engine, tmp_path)
        assert await engine.sweep(frozenset({(run.execution_id, run.attempt)})) >= 0
        assert not task.done()
        await engine.cancel(run.execution_id, 0.0)
        await task

    async def test_close_ends_what_is_still_there(self, engine: Engine, tmp_path: Path) -> None:
        """After `close` no run goes on; closing twice is harmless."""
        _, task = await self.started_endless(engine, tmp_path)
        await engine.close()
        if self.kit.processes(engine):
            pytest.fail("a process outlived close")
        task.cancel()
        await asyncio.wait([task])
        await engine.close()
