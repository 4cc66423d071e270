"""`noop`: an engine that runs nothing and does what its parameters say. For tests, benches and simulation.

Parameters (all optional; names compare without case and underscores):

| Name | Meaning |
|---|---|
| `DelayMs` | how long Running takes; default 0: it has ended when it begins |
| `PrepareMs` | how long Preparing takes |
| `ExitCode` | the exit code of a run that ends by itself |
| `Stdout`, `Stderr` | text that the run writes when it begins |
| `OutputBytes` | so many bytes of filler on stdout, after `Stdout` |
| `Files` | `{"<output name>/<path>": "text"}`: written into the results when the run begins |
| `Fail` | a message: preparing or running fails with it |
| `FailAt` | `prepare` or `run` (the default) |
| `Outcome` | how a run that fails ends: `could-not-run` (the default), `signalled`, `out-of-memory`, `over-limit` |

`plan` is the whole behaviour as a pure function, so that the simulator plays it in virtual time.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from bacalhau_protocol.errors import NodeFailed, SpecError
from bacalhau_protocol.models.job import Task
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import Ability, Outcome, OutcomeKind, PluginContext, Progress, RunRequest

VERSION = "1"
DELAY_MS_MAX = 7 * 24 * 3600 * 1000
OUTPUT_BYTES_MAX = 1024**3
_FILLER = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.\n" * 1024
_NAMES = (
    "DelayMs", "PrepareMs", "ExitCode", "Stdout", "Stderr", "OutputBytes", "Files", "Fail", "FailAt", "Outcome"
)  # fmt: skip
_SPELLED = {name.lower(): name for name in _NAMES}
_FAILURES = (OutcomeKind.COULD_NOT_RUN, OutcomeKind.SIGNALLED, OutcomeKind.OUT_OF_MEMORY, OutcomeKind.OVER_LIMIT)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run will do, decided before it begins."""

    prepare_ms: int = 0
    prepare_error: str = ""  # blank: preparing succeeds
    delay_ms: int = 0
    kind: OutcomeKind = OutcomeKind.EXITED
    exit_code: int = 0
    message: str = ""
    stdout: str = ""
    stderr: str = ""
    output_bytes: int = 0
    files: dict[str, str] = {}

    @property
    def writes(self) -> bool:
        """Whether anything lands on disk."""
        return bool(self.stdout or self.stderr or self.output_bytes or self.files)

    def outcome(self, started_at: int, timeout_s: float = 0.0) -> Outcome:
        """Return how a run that began at `started_at` (ns) ends; `Outcome.ended_at` says when."""
        delay_ns = self.delay_ms * 1_000_000
        limit_ns = int(timeout_s * 1e9)
        if 0 < limit_ns < delay_ns:
            return Outcome(kind=OutcomeKind.TIMED_OUT, started_at=started_at, ended_at=started_at + limit_ns)
        return Outcome(
            kind=self.kind,
            exit_code=self.exit_code,
            message=self.message,
            started_at=started_at,
            ended_at=started_at + delay_ns,
        )


_AT_ONCE = Plan()


def plan(values: Mapping[str, Any]) -> Plan:
    """Return what a run with these parameters does.

    Raises
    ------
    SpecError
        naming every parameter that is wrong.
    """
    made, problems = _plan(values)
    if problems:
        raise SpecError("; ".join(problems), place="Engine.Params")
    return made


def _plan(values: Mapping[str, Any]) -> tuple[Plan, list[str]]:
    if not values:
        return _AT_ONCE, []
    found, problems = _named(values)
    reader = _Reader(found, problems)
    message = reader.text("Fail")
    kind = reader.choice("Outcome", _FAILURES)
    at_prepare = reader.choice("FailAt", ("run", "prepare")) == "prepare"
    if not message and {"Outcome", "FailAt"} & found.keys():
        message = "noop was told to fail"
    fails = bool(message)
    made = Plan(
        prepare_ms=reader.integer("PrepareMs", DELAY_MS_MAX),
        prepare_error=message if at_prepare else "",
        delay_ms=reader.integer("DelayMs", DELAY_MS_MAX),
        kind=OutcomeKind(kind) if fails else OutcomeKind.EXITED,
        exit_code=reader.integer("ExitCode", 2**32 - 1),
        message="" if at_prepare else message,
        stdout=reader.text("Stdout"),
        stderr=reader.text("Stderr"),
        output_bytes=reader.integer("OutputBytes", OUTPUT_BYTES_MAX),
        files=reader.files("Files"),
    )
    return made, problems


def _named(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    found: dict[str, Any] = {}
    problems = []
    for key, value in values.items():
        name = _SPELLED.get(key.replace("_", "").lower())
        if name is None:
            near = difflib.get_close_matches(key, _NAMES, n=1, cutoff=0.5)
            problems.append(f"noop: unknown parameter {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        else:
            found[name] = value
    return found, problems


class _Reader:
    """Reads parameters of known names and collects what is wrong."""

    def __init__(self, found: dict[str, Any], problems: list[str]) -> None:
        self.found, self.problems = found, problems

    def integer(self, name: str, maximum: int) -> int:
        value = self.found.get(name, 0)
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # numbers pass through Go as floats
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
            self.problems.append(f"noop: {name} must be a whole number from 0 to {maximum}, not {value!r}")
            return 0
        return value

    def text(self, name: str) -> str:
        value = self.found.get(name, "")
        if isinstance(value, str):
            return value
        self.problems.append(f"noop: {name} must be text, not {value!r}")
        return ""

    def choice(self, name: str, allowed: tuple[str, ...]) -> str:
        value = str(self.found.get(name, allowed[0])).lower()
        if value in allowed:
            return value
        self.problems.append(f"noop: {name} must be one of {', '.join(allowed)}, not {value!r}")
        return allowed[0]

    def files(self, name: str) -> dict[str, str]:
        value = self.found.get(name) or {}
        if not isinstance(value, dict):
            self.problems.append(f"noop: {name} must be a map of path to text")
            return {}
        for path, text in value.items():
            parts = PurePosixPath(path).parts
            if not isinstance(text, str) or len(parts) < 2 or path.startswith("/") or ".." in parts or "\0" in path:
                self.problems.append(f"noop: {name}[{path!r}] must be text under `<output name>/…`")
        return value


class NoopEngine:
    """Plays plans."""

    def __init__(self, context: PluginContext) -> None:
        self._stops: dict[str, asyncio.Event] = {}

    async def ability(self) -> Ability:
        """Always available. A run is nothing but a timer of this process."""
        return Ability(available=True, version=VERSION, in_process=True)

    def check(self, task: Task, resources: Resources) -> list[str]:
        """Look at the parameters."""
        return _plan(task.engine.values)[1] if task.engine else []

    async def prepare(self, run: RunRequest, progress: Progress) -> None:
        """Wait and fail as planned."""
        planned = _planned(run)
        if planned.prepare_ms:
            await asyncio.sleep(planned.prepare_ms / 1000)
        if planned.prepare_error:
            raise NodeFailed(planned.prepare_error)

    async def run(self, run: RunRequest, started: Callable[[], None]) -> Outcome:
        """Write, wait and end as planned."""
        planned = _planned(run)
        outcome = planned.outcome(time.time_ns(), run.timeout_s)
        started()
        if planned.writes:
            await asyncio.to_thread(_write, planned, run)
        if outcome.ended_at <= outcome.started_at:
            return outcome
        stop = self._stops.setdefault(run.execution_id, asyncio.Event())
        try:
            await asyncio.wait_for(stop.wait(), (outcome.ended_at - outcome.started_at) / 1e9)
        except TimeoutError:
            return outcome
        finally:
            self._stops.pop(run.execution_id, None)
        return Outcome(kind=OutcomeKind.CANCELLED, started_at=outcome.started_at, ended_at=time.time_ns())

    async def holds(self, execution_id: str, attempt: int) -> bool:
        """Nothing survives the process."""
        return False

    async def forget(self, execution_id: str, attempt: int) -> None:
        """Nothing is left of a run."""

    async def cancel(self, execution_id: str, grace_s: float) -> None:
        """End the run now."""
        if stop := self._stops.get(execution_id):
            stop.set()

    async def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """Nothing survives the process."""
        return 0

    async def close(self) -> None:
        """Nothing is held open."""


def _planned(run: RunRequest) -> Plan:
    return plan(run.task.engine.values if run.task.engine else {})


def _write(planned: Plan, run: RunRequest) -> None:
    run.execution_dir.mkdir(mode=0o700, exist_ok=True)
    run.results_dir.mkdir(mode=0o700, exist_ok=True)
    with run.stdout_path.open("ab") as file:
        file.write(planned.stdout.encode())
        left = planned.output_bytes
        while left > 0:
            left -= file.write(_FILLER[: min(left, len(_FILLER))])
    with run.stderr_path.open("ab") as file:
        file.write(planned.stderr.encode())
    for path, text in planned.files.items():
        target = run.results_dir / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
