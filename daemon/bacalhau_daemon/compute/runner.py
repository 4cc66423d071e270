"""Running executions: one task per execution, from its inputs to its report.

::

    Preparing                      Running          ║ outcome.json ║ Publishing        report
    inputs (all at once) → engine.prepare → engine.run ═══════════════► publisher.publish → RunEnded

Each phase has a limit of its own; the execution's time-out counts Running only. Whatever happens, exactly one
`RunEnded` is given for each `start`, and one for each `cancel` of what is not here. A cancellation holds from the
moment it is asked for, also while the run is about to begin: the engine is told again and again until the run is over.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import structlog
from msgspec import structs

from bacalhau_daemon.compute import layout, preparing
from bacalhau_daemon.compute.abilities import Plugins
from bacalhau_daemon.compute.disk import Disk
from bacalhau_daemon.core import compute_bid, compute_reports
from bacalhau_daemon.core.compute_actions import StartRun
from bacalhau_daemon.core.compute_reports import Failure, Phase
from bacalhau_daemon.core.compute_rules import RunEnded
from bacalhau_protocol import errors
from bacalhau_protocol.models import times
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.plugins import Ability, Engine, Outcome, OutcomeKind, PreparedInput, RunRequest

PREPARING, RUNNING, PUBLISHING = "Preparing", "Running", "Publishing"
LIMITS_S = {PREPARING: 6 * 3600.0, PUBLISHING: 6 * 3600.0}  # that of Running is the job's
CANCEL_GRACE_S, CANCEL_REPEAT_S = 5.0, 1.0
CANCEL_GIVE_UP_S = 20.0  # then the task that waits for the engine is cancelled
TIMEOUT_SLACK_S = 5.0  # engines enforce the time-out themselves and get so much to do it
GUARD_S = 5.0  # between looks at all runs: whether they keep their limits
PROGRESS_S = 0.25
NATS = "nats"

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TOPICS = {
    PREPARING: compute_reports.PREPARING,
    RUNNING: compute_reports.RUNNING,
    PUBLISHING: compute_reports.PUBLISHING,
}
log = structlog.get_logger(__name__)


class Progressed(msgspec.Struct, frozen=True):
    """What an execution does now."""

    execution_id: str
    job_id: str
    phase: str
    since: int
    what: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


class Listener(msgspec.Struct, frozen=True):
    """Who is told: of phases and progress, of the ends of streams, and (once per execution) of the end."""

    progressed: Callable[[Progressed], None]
    tail: Callable[[str, layout.Ending], None]
    ended: Callable[[RunEnded], None]


class Run:
    """One execution in hand."""

    def __init__(self, action: StartRun, root: Path) -> None:
        self.action = action
        self.id = action.execution.id
        self.directory = root / self.id  # its id was checked to be one path element
        assert isinstance(action.execution.job, Job), "an execution is started with its job"
        self.job: Job = action.execution.job
        self.task: asyncio.Task[RunEnded] | None = None
        self.phases: list[Phase] = []
        self.entered_s = time.monotonic()  # when the last of them began here, by a clock that never jumps
        self.prepared: list[tuple[str, PreparedInput]] = []  # with the kind of their storage
        self.cancelled = False
        self.engine: Engine | None = None  # while it runs
        self.request: RunRequest | None = None  # what the engine got
        self.stopping: asyncio.Task[None] | None = None
        self.limit: Outcome | None = None  # why we stopped it, if the engine does not say
        self.overdue = ""  # why we gave up preparing or publishing
        self.left_behind: Engine | None = None  # it keeps something of the run until it is told that the end is on disk
        self.let_go = False  # we end, the run goes on without us

    @property
    def phase(self) -> str:
        """Where it is."""
        return self.phases[-1].name if self.phases else PREPARING


class Runner:
    """All executions of a node. `environ` is the node's own environment, for values that are forwarded."""

    def __init__(
        self,
        root: Path,
        plugins: Plugins,
        listener: Listener,
        *,
        env_allowed: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root.resolve()  # an engine follows no link
        self.plugins = plugins
        self.listener = listener
        self.env_allowed, self.environ = env_allowed, environ or {}
        self.disk = Disk()
        self._runs: dict[str, Run] = {}
        self._guard: asyncio.TimerHandle | None = None
        self._stopped = False

    def __contains__(self, execution_id: str) -> bool:
        return execution_id in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    # ── orders ────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, action: StartRun) -> None:
        """Begin; `RunEnded` follows."""
        run = Run(action, self.root)
        assert run.id not in self._runs, "the machine starts an execution once"
        self._runs[run.id] = run
        if self._guard is None:
            self._guard = asyncio.get_running_loop().call_later(GUARD_S, self._look)
        run.task = asyncio.create_task(self._supervise(run), name=f"execution {run.id}")
        run.task.add_done_callback(lambda task: self._over(run, task))

    def cancel(self, execution_id: str, attempt: int) -> None:
        """Stop an execution in whatever it does; what is not here has stopped."""
        run = self._runs.get(execution_id)
        if run is None:
            self.listener.ended(RunEnded(id=execution_id, attempt=attempt, cancelled=True))
            return
        run.cancelled = True
        if run.engine is not None:
            self._stop_engine(run, run.engine)
        elif run.task is not None:
            run.task.cancel()

    async def stop(self, grace_s: float) -> None:
        """Let what runs come to its end for a while, then stop it; but what outlives us is left alone.

        Every other `RunEnded` has been given afterwards.
        """
        for wait_s, then in ((grace_s, self.cancel), (CANCEL_GIVE_UP_S + CANCEL_REPEAT_S, None)):
            ending = [run for run in self._runs.values() if not self._outlives(run)]
            if ending:
                await asyncio.wait([run.task for run in ending if run.task], timeout=wait_s)
            for run in ending if then else ():
                if run.id in self._runs and not self._outlives(run):
                    self.cancel(run.id, run.action.attempt)
        self._stopped = True

    def _outlives(self, run: Run) -> bool:
        """Whether a run goes on without us, and is found by the next daemon."""
        running = run.phase == RUNNING and run.engine is not None and not run.cancelled
        return running and self.plugins.engines.ability(run.job.task.engine).reattaches

    # ── one execution ─────────────────────────────────────────────────────────────────────────────────────────────

    def _over(self, run: Run, task: asyncio.Task[RunEnded]) -> None:
        del self._runs[run.id]
        if run.stopping is not None:
            run.stopping.cancel()
        if run.let_go:
            return
        never_begun = RunEnded(id=run.id, attempt=run.action.attempt, cancelled=True)
        self.listener.ended(never_begun if task.cancelled() else task.result())

    async def _supervise(self, run: Run) -> RunEnded:
        """Run it and say how it ended, whatever happens."""
        try:
            return await self._run(run)
        except asyncio.CancelledError:
            if run.overdue and not run.cancelled:
                return _failed(run, compute_reports.failure(errors.NodeFailed(run.overdue), _TOPICS[run.phase]))
            run.let_go = self._stopped and not run.cancelled
            return RunEnded(id=run.id, attempt=run.action.attempt, cancelled=True, phases=tuple(run.phases))
        except errors.BacalhauError as error:
            topic = compute_reports.INPUTS if isinstance(error, errors.InputFailed) else _TOPICS[run.phase]
            return _failed(run, compute_reports.failure(error, topic))
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_FULL:
                return await self._make_room(run, error)
            log.exception("execution.broke", execution=run.id)
            words = f"internal error: {type(error).__name__}: {error}"
            return _failed(run, Failure(message=words, topic=_TOPICS[run.phase], code=errors.Internal.code))
        finally:
            if not run.let_go:
                await self._tidy(run)

    async def _tidy(self, run: Run) -> None:
        """Let go of what was held for a run that is over."""
        if run.left_behind is not None:
            await run.left_behind.forget(run.id, run.action.attempt)
        if run.prepared or compute_bid.inputs(run.job.task):
            await asyncio.shield(preparing.release(self, run))

    async def _make_room(self, run: Run, error: OSError) -> RunEnded:
        """Give up a run that has filled the disk, and what it wrote: else its end could not be recorded either."""
        log.warning("execution.filled_disk", execution=run.id, error=str(error))
        await asyncio.to_thread(layout.start_over, run.directory)
        words = f"the node's disk is full: {os.strerror(error.errno or 0)}"
        hint = "what the run had written was removed; ask for more disk, or write less"
        return _failed(run, Failure(message=words, topic=_TOPICS[run.phase], hint=hint, code=errors.NodeFailed.code))

    async def _run(self, run: Run) -> RunEnded:
        engine = self.plugins.engines.get(run.job.task.engine)
        ability = self.plugins.engines.ability(run.job.task.engine)
        record, held = None, False
        if run.action.resumed:
            run.left_behind = engine if ability.reattaches else None  # whatever comes first, a cancellation too
            record = await asyncio.to_thread(layout.read_outcome, run.directory, run.action.attempt)
            if record is None and not ability.reattaches:
                return RunEnded(id=run.id, attempt=run.action.attempt, lost=True)
            held = record is None and await engine.holds(run.id, run.action.attempt)
        if record is not None:
            request = preparing.request(self, run, ())
            run.phases = list(record.phases)
            ending = await asyncio.to_thread(layout.ending, request.execution_dir, record)
        else:
            request = preparing.request(self, run, ()) if held else await self._prepare(run, engine, ability)
            run.left_behind = engine if ability.reattaches else None
            outcome = await self._execute(run, engine, request)
            record = layout.OutcomeRecord(attempt=request.attempt, outcome=outcome, phases=tuple(run.phases))
            ending = await self._finish(ability, request, record)
        self.listener.tail(run.id, ending)
        if record.outcome.failed:
            if run.cancelled:
                raise asyncio.CancelledError
            return _failed(run, _why(record.outcome, request.timeout_s))
        result = await self._publish(run, request)
        phases = tuple(run.phases)
        details = record.outcome.details
        return RunEnded(
            id=run.id, attempt=run.action.attempt, output=ending.output, result=result, phases=phases, details=details
        )

    async def _prepare(self, run: Run, engine: Engine, ability: Ability) -> RunRequest:
        self.enter(run, PREPARING)
        return await preparing.prepare(self, run, engine, ability)

    async def _execute(self, run: Run, engine: Engine, request: RunRequest) -> Outcome:
        run.engine, run.request = engine, request
        try:
            outcome = await engine.run(request, lambda: self.enter(run, RUNNING))
        except asyncio.CancelledError:
            if run.limit is None or run.cancelled:
                raise
            outcome = run.limit  # the engine did not react; the run is killed
        finally:
            run.engine = None
        if run.limit is not None and outcome.kind is OutcomeKind.CANCELLED:
            limit = run.limit
            return structs.replace(outcome, kind=limit.kind, message=limit.message, hint=limit.hint)
        return outcome

    def _stop_engine(self, run: Run, engine: Engine) -> None:
        if run.stopping is None:
            run.stopping = asyncio.create_task(self._insist(run, engine), name=f"stop {run.id}")

    async def _insist(self, run: Run, engine: Engine) -> None:
        """Tell the engine until the run is over: one that is about to begin may not know of it yet."""
        deadline = time.monotonic() + CANCEL_GIVE_UP_S
        while run.engine is not None and time.monotonic() < deadline:
            try:
                await engine.cancel(run.id, CANCEL_GRACE_S)
            except Exception as error:
                log.warning("execution.cancel_failed", execution=run.id, error=repr(error))
            await asyncio.sleep(CANCEL_REPEAT_S)
        if run.engine is not None and run.task is not None:
            log.warning("execution.cancel_ignored", execution=run.id, after_s=CANCEL_GIVE_UP_S)
            run.task.cancel()

    async def _finish(self, ability: Ability, request: RunRequest, record: layout.OutcomeRecord) -> layout.Ending:
        if ability.in_process and layout.is_absent(request.execution_dir):
            return layout.bare_ending(record)
        if ability.reattaches:  # it is synchronised to the disk
            return await asyncio.to_thread(layout.finish, request.execution_dir, record, durable=True)
        return await self.disk.do(layout.finish, request.execution_dir, record, durable=False)

    async def _publish(self, run: Run, request: RunRequest) -> SpecConfig:
        config = run.job.task.publisher
        if config is None or not config.kind:
            if not run.action.keep_results:
                return SpecConfig()
            config = SpecConfig(type=NATS)
        self.enter(run, PUBLISHING)
        publisher = self.plugins.publishers.get(config)
        return (await publisher.publish(request, self.progress(run))).result

    # ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """Look whether all runs keep their limits, and again later while there are any."""
        self._guard = asyncio.get_running_loop().call_later(GUARD_S, self._look) if self._runs else None
        now = time.monotonic()
        for run in self._runs.values():
            if run.phases:
                self._look_at(run, now - run.entered_s)

    def _look_at(self, run: Run, took_s: float) -> None:
        """Stop a run that has been in its phase for so long, if that is over a limit."""
        limit_s = LIMITS_S.get(run.phase)
        if run.engine is None:
            if limit_s is not None and took_s > limit_s and not run.overdue and run.task is not None:
                run.overdue = f"{run.phase} took longer than {limit_s:g} s"
                run.task.cancel()
        elif run.phase == RUNNING and run.request is not None and run.limit is None:
            run.limit = _over_limit(run.request, took_s)
            if run.limit is not None:
                self._stop_engine(run, run.engine)

    # ── phases ────────────────────────────────────────────────────────────────────────────────────────────────────

    def enter(self, run: Run, phase: str) -> None:
        """Note that a phase begins."""
        run.phases.append(Phase(phase, time.time_ns()))
        run.entered_s = time.monotonic()
        self.listener.progressed(Progressed(run.id, run.job.id, phase, run.phases[-1].at))

    def progress(self, run: Run) -> Callable[[str, int, int], None]:
        """Return a progress function that may be called from any thread, as often as one likes."""
        loop, last = asyncio.get_running_loop(), 0.0

        def progress(what: str, done: int, total: int) -> None:
            nonlocal last
            if (now := time.monotonic()) - last < PROGRESS_S:
                return
            last = now
            phase = run.phases[-1]
            told = Progressed(run.id, run.job.id, phase.name, phase.at, what, done, total)
            loop.call_soon_threadsafe(self.listener.progressed, told)

        return progress


def _failed(run: Run, why: Failure) -> RunEnded:
    return RunEnded(id=run.id, attempt=run.action.attempt, failure=why, phases=tuple(run.phases))


def _over_limit(request: RunRequest, ran_s: float) -> Outcome | None:
    """Return the limit that an engine should have kept and did not."""
    if request.timeout_s and ran_s > request.timeout_s + TIMEOUT_SLACK_S:
        return Outcome(kind=OutcomeKind.TIMED_OUT)
    for path in (request.stdout_path, request.stderr_path):
        try:
            size = os.lstat(path).st_size
        except OSError:
            continue
        if size > layout.STREAM_BYTES_MAX:
            words = f"{path.name} is larger than {layout.STREAM_BYTES_MAX} bytes"
            return Outcome(kind=OutcomeKind.OVER_LIMIT, message=words, hint="write large output into a result path")
    return None


def _why(outcome: Outcome, timeout_s: float) -> Failure:
    """Return a failed outcome in words."""
    message, hint, code = outcome.message, outcome.hint, errors.ApplicationFailed.code
    match outcome.kind:
        case OutcomeKind.TIMED_OUT:
            message = f"Execution timed out after {times.format_duration(int(timeout_s * 1e9))}"
            hint = hint or "raise the job's execution time-out, or give it more resources"
        case OutcomeKind.OUT_OF_MEMORY:
            message = message or "memory limit exceeded"
            hint = hint or "raise the task's memory"
        case OutcomeKind.CANCELLED:
            message, code = message or "the run was stopped on its node", errors.NodeFailed.code
        case OutcomeKind.COULD_NOT_RUN:
            message, code = message or "the run could not begin", errors.NodeFailed.code
        case _:
            message = message or f"the run was ended: {outcome.kind}"
    details = {"Outcome": str(outcome.kind), "ExitCode": str(outcome.exit_code), **outcome.details}
    return Failure(message=message, topic=compute_reports.RUNNING, hint=hint, code=code, details=details)
