"""Preparing an execution: its directories, its environment, its inputs, and what its engine needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from bacalhau_daemon.compute import layout
from bacalhau_daemon.core import compute_bid, compute_env
from bacalhau_protocol.models.job import TimeoutConfig
from bacalhau_protocol.models.states import JobType
from bacalhau_protocol.plugins import Ability, Engine, PreparedInput, Progress, RunRequest

if TYPE_CHECKING:
    from bacalhau_daemon.compute.runner import Run, Runner

_TIMED = frozenset({JobType.BATCH, JobType.OPS})
log = structlog.get_logger(__name__)


def request(runner: Runner, run: Run, inputs: tuple[PreparedInput, ...]) -> RunRequest:
    """Return everything that an engine gets. Raises `NodeFailed` when the environment cannot be resolved any more."""
    execution, job = run.action.execution, run.job
    return RunRequest(
        execution_id=execution.id,
        attempt=run.action.attempt,
        job=job,
        resources=run.action.resources,
        env=compute_env.build(execution, runner.env_allowed, runner.environ),
        inputs=inputs,
        outputs=tuple(job.task.result_paths or ()),
        execution_dir=run.directory,
        timeout_s=_timeout_s(run),
    )


async def prepare(runner: Runner, run: Run, engine: Engine, ability: Ability) -> RunRequest:
    """Prepare everything. The inputs come all at once; beside them the engine, if it does not want them first."""
    bare = request(runner, run, ())
    sources = compute_bid.inputs(run.job.task)
    if not ability.in_process or bare.outputs or sources:
        if bare.attempt > 1:
            await asyncio.to_thread(layout.start_over, bare.execution_dir)
        await runner.disk.do(layout.create, bare.execution_dir, bare.outputs)
    progress = runner.progress(run)
    if ability.inputs_first or not sources:
        complete = request(runner, run, await _inputs(runner, run, progress)) if sources else bare
        await engine.prepare(complete, progress)
        return complete
    inputs, _ = await _together(_inputs(runner, run, progress), engine.prepare(bare, progress))
    return request(runner, run, inputs)


async def release(runner: Runner, run: Run) -> None:
    """Undo what the storages did, each whatever the others say. Copies go with their directory."""
    directory = run.directory
    copies = len(run.prepared) < len(compute_bid.inputs(run.job.task))  # what failed may have left some
    for kind, one in run.prepared:
        if str(one.path).startswith(f"{directory}/"):
            copies = True
            continue
        try:
            await runner.plugins.storages.members[kind].release(one)
        except Exception as error:
            log.warning("input.not_released", storage=kind, path=str(one.path), error=repr(error))
    if copies:  # who knows how many
        await asyncio.to_thread(layout.remove_inputs, directory)
    else:
        await runner.disk.do(layout.remove_inputs, directory)


async def _inputs(runner: Runner, run: Run, progress: Progress) -> tuple[PreparedInput, ...]:
    """Prepare all inputs at once; when one fails the others are given up."""
    sources = compute_bid.inputs(run.job.task)
    sizes = [(0, 0)] * len(sources)

    async def one(number: int) -> PreparedInput:
        source = sources[number]
        assert source.source is not None, "it was looked at"
        storage = runner.plugins.storages.get(source.source)
        into = layout.input_dir(run.directory, number)
        partition = run.action.execution.partition_index or 0
        prepared = await storage.prepare(source, run.job, partition, into, _part(number, sizes, progress))
        run.prepared.append((source.source.kind, prepared))
        return prepared

    prepared = await _together(*(one(number) for number in range(len(sources))))
    return tuple(prepared)


def _part(number: int, sizes: list[tuple[int, int]], progress: Progress) -> Callable[[str, int, int], None]:
    """Return the progress of one input, added to that of the others. The total is unknown while one of them is."""

    def part(what: str, done: int, total: int) -> None:
        sizes[number] = done, total
        whole = 0 if any(total == 0 and done for done, total in sizes) else sum(total for _, total in sizes)
        progress(what, sum(done for done, _ in sizes), whole)

    return part


async def _together(*work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run all, give up the others when one fails, and raise the first failure itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors_:
        raise errors_.exceptions[0] from None
    return [task.result() for task in tasks]


def _timeout_s(run: Run) -> float:
    """Return the execution's time-out: of batch and ops jobs; the total one when there is no other."""
    timeouts = run.job.task.timeouts
    if run.job.type not in _TIMED or not isinstance(timeouts, TimeoutConfig):
        return 0.0
    return float(timeouts.execution or timeouts.total)
