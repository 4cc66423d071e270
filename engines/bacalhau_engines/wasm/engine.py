"""The engine that the daemon talks to."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_engines.wasm import cache, filesystem, modules, spec
from bacalhau_engines.wasm.forkserver import ForkServer
from bacalhau_engines.wasm.wire import KILLED_EXIT_CODE, NEVER_RAN_EXIT_CODE, Ended, ModuleFile, Preopen, Run
from bacalhau_protocol.errors import BacalhauError, NodeFailed, SpecError, UsageError
from bacalhau_protocol.models.job import Task
from bacalhau_protocol.models.resources import Resources, ResourcesConfig
from bacalhau_protocol.plugins import Ability, Outcome, OutcomeKind, PluginContext, Progress, RunRequest

PLANS_MAX = 1024  # prepared and not yet run; an older one is made again when it runs
_OWN_ROOT = "inputs/wasm-root"  # the daemon removes `inputs` when the run is over

_Key = tuple[str, int]  # execution id, attempt


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings `[engines.wasm]`."""

    stream_bytes: int = 1024**3  # of stdout and of stderr, each
    output_bytes: int = 8 * 1024**3  # of all outputs of a task that does not say how much disk it wants
    compile_cpu_s: int = 60  # of CPU time to compile one module


class _Plan(msgspec.Struct, frozen=True):
    """Everything that preparing found out."""

    spec: spec.WasmSpec
    modules: tuple[ModuleFile, ...]
    preopens: tuple[Preopen, ...]
    outputs: tuple[str, ...]


class _Active:
    """A run in flight."""

    def __init__(self) -> None:
        self.id = 0  # of the fork server; 0 before it knows of the run
        self.cancelled = False
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()


class WasmEngine:
    """Runs WebAssembly modules in processes of their own."""

    def __init__(self, context: PluginContext) -> None:
        self._limits = _limits(context.settings)
        self._version = metadata.version("wasmtime")
        self._cache_root = context.data_dir / "compiled"
        self._server = ForkServer(self._cache_root / self._version, self._limits.compile_cpu_s)
        self._shared_roots = context.data_dir / "roots"
        self._digests = modules.Digests()
        self._plans: OrderedDict[_Key, _Plan] = OrderedDict()
        self._active: dict[_Key, _Active] = {}

    async def ability(self) -> Ability:
        """Start the fork server if it is down, and say how that went."""
        if sys.platform != "linux":
            return Ability(available=False, reason=f"the wasm engine needs Linux, this is {sys.platform}")
        try:
            await self._server.start()
        except NodeFailed as error:
            return Ability(available=False, reason=error.message, version=self._version)
        ready = self._server.ready
        if ready is None:
            return Ability(available=False, reason="the wasm fork server has just ended", version=self._version)
        details = {
            "fork_server_pid": str(ready.pid),
            "fork_server_resident_bytes": str(_resident_bytes(ready.pid)),
            "confinement": ready.confinement,
        }
        return Ability(available=True, version=self._version, details=details)

    def check(self, task: Task, resources: Resources) -> list[str]:
        """Look at the parameters, memory, GPUs and network."""
        return spec.check(task, resources)

    async def prepare(self, run: RunRequest, progress: Progress) -> None:
        """Find and compile the modules, and lay out the guest's files."""
        progress("compile", 0, 0)
        plan = await self._make_plan(run)
        while len(self._plans) >= PLANS_MAX:
            self._plans.popitem(last=False)
        self._plans[run.execution_id, run.attempt] = plan

    async def run(self, run: RunRequest, started: Callable[[], None]) -> Outcome:
        """Run in a child of the fork server; a second call for the same run waits for the first."""
        key = run.execution_id, run.attempt
        if other := self._active.get(key):
            return await self._join(other)
        active = self._active[key] = _Active()
        outcome = _cancelled()  # for those who wait along, if our caller is cancelled
        try:
            outcome = await self._run(key, run, active, started)
            return outcome
        finally:
            active.done.set_result(outcome)
            del self._active[key]

    async def _join(self, other: _Active) -> Outcome:
        try:
            return await asyncio.shield(other.done)
        except asyncio.CancelledError:
            self._cancel(other)
            raise

    async def holds(self, execution_id: str, attempt: int) -> bool:
        """Nothing survives the fork server."""
        return False

    async def forget(self, execution_id: str, attempt: int) -> None:
        """Nothing is left of a run."""

    async def cancel(self, execution_id: str, grace_s: float) -> None:
        """Kill the run at once: a guest has no signals, so a grace would only be a delay."""
        for (id, _), active in list(self._active.items()):
            if id == execution_id:
                self._cancel(active)

    async def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """Drop half-written cache files. Old runs there are none: they ended with their fork server."""
        return await asyncio.to_thread(cache.sweep, self._cache_root, self._version)

    async def close(self) -> None:
        """End the fork server and every run with it."""
        await self._server.close()

    def _cancel(self, active: _Active) -> None:
        active.cancelled = True
        if active.id:
            self._server.kill(active.id)

    async def _make_plan(self, run: RunRequest) -> _Plan:
        read, problems = spec.read(run.task.engine.values if run.task.engine else {})
        if problems:
            raise SpecError("; ".join(problems), place="Engine.Params")
        while True:
            made = await self._look(read, run)
            if isinstance(made, _Plan):
                return made
            try:
                await self._server.load(made.file)
            except BacalhauError as error:
                error.place = error.place or made.path
                raise

    async def _look(self, read: spec.WasmSpec, run: RunRequest) -> _Plan | modules.Missing:
        if all(one.near for one in run.inputs):
            with contextlib.suppress(modules.Unread):
                return self._plan(read, run, near=True)
        return await asyncio.to_thread(self._plan, read, run, near=False)

    def _plan(self, read: spec.WasmSpec, run: RunRequest, *, near: bool) -> _Plan | modules.Missing:
        """Find the modules and lay out the files: everything that blocks, in one go."""
        if bad := [name for name, value in run.env.items() if "\0" in name + value or "=" in name]:
            words = f"the variable {bad[0]!r} cannot be passed on: it holds a NUL, or its name an '='"
            raise SpecError(words, place="Env")
        found = modules.gather(read, run.inputs, self._server.known, self._digests, read=not near)
        if isinstance(found, modules.Missing):
            return found
        layout = filesystem.plan(run.inputs, run.outputs, run.results_dir, found.paths)
        if near and layout.files:
            raise modules.Unread  # they may have to be copied
        try:
            preopens = filesystem.stage(layout, run.execution_dir / _OWN_ROOT, self._shared_roots)
        except OSError as error:
            raise NodeFailed(f"the run's files cannot be laid out: {error}") from error
        return _Plan(read, found.files, preopens, layout.outputs)

    async def _run(self, key: _Key, run: RunRequest, active: _Active, started: Callable[[], None]) -> Outcome:
        began = time.time_ns()
        try:
            plan = self._plans.pop(key, None) or await self._make_plan(run)
            await self._server.start()
        except BacalhauError as error:
            return Outcome(
                kind=OutcomeKind.COULD_NOT_RUN,
                exit_code=NEVER_RAN_EXIT_CODE,
                message=str(error),
                hint=error.hint,
                started_at=began,
                ended_at=time.time_ns(),
            )
        if active.cancelled:
            return _cancelled()
        active.id = self._server.new_id()
        return _outcome(await self._server.run(self._request(active.id, run, plan), started))

    def _request(self, id: int, run: RunRequest, plan: _Plan) -> Run:
        asked = run.task.resources
        says_disk = isinstance(asked, ResourcesConfig) and asked.disk.strip() and run.resources.disk
        return Run(
            id=id,
            modules=plan.modules,
            entry_point=plan.spec.entry_point,
            argv=("", *plan.spec.parameters),
            env=tuple(sorted(run.env.items())),
            preopens=plan.preopens,
            stdout=str(run.stdout_path),
            stderr=str(run.stderr_path),
            owner=run.job.namespace,
            outputs=plan.outputs,
            memory_limit=min(run.resources.memory or spec.MEMORY_MAX_BYTES, spec.MEMORY_MAX_BYTES),
            output_limit=run.resources.disk if says_disk else self._limits.output_bytes,
            stream_limit=self._limits.stream_bytes,
            timeout_s=run.timeout_s,
        )


def _cancelled() -> Outcome:
    now = time.time_ns()
    return Outcome(kind=OutcomeKind.CANCELLED, exit_code=KILLED_EXIT_CODE, started_at=now, ended_at=now)


def _outcome(ended: Ended) -> Outcome:
    return Outcome(
        kind=OutcomeKind(ended.kind),
        exit_code=ended.exit_code,
        message=ended.message,
        hint=ended.hint,
        started_at=ended.started_at,
        ended_at=ended.ended_at,
        cpu_seconds=ended.cpu_seconds,
        memory_peak_bytes=ended.memory_peak_bytes,
    )


def _limits(settings: dict[str, Any]) -> Limits:
    try:
        return msgspec.convert(settings, Limits)
    except msgspec.ValidationError as error:
        near = next(
            (n for name in settings for n in difflib.get_close_matches(name, Limits.__struct_fields__, n=1)), ""
        )
        raise UsageError(
            f"[engines.wasm]: {error}",
            hint=f"did you mean {near!r}?" if near else f"known: {', '.join(Limits.__struct_fields__)}",
        ) from error


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0
