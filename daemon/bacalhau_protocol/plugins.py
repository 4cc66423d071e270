"""Contracts of engines, storages and publishers, and how they are found (entry points).

Groups: `bacalhau.engines`, `bacalhau.storages`, `bacalhau.publishers`; the name is the `Type` string in lower case;
the value is a class that takes one `PluginContext`. Built-ins register in the same way as foreign ones.
Nothing is imported before it is used: `names` lists without importing, `load` imports exactly one.

All methods are called on the daemon's event loop and must not block it: blocking work goes into a thread or a process.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import InputSource, Job, ResultPath, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources

ENGINES, STORAGES, PUBLISHERS = "bacalhau.engines", "bacalhau.storages", "bacalhau.publishers"

Progress = Callable[[str, int, int], None]
"""`progress(what, done_bytes, total_bytes)`; total 0 means unknown. Cheap: call it as often as you like."""


class PluginContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a plug-in may know of its node."""

    node_id: str
    data_dir: Path  # the plug-in's own directory: created, private (0700), survives restarts
    settings: dict[
        str, Any
    ] = {}  # the table `[engines.NAME]`, `[storages.NAME]` or `[publishers.NAME]` of the settings


class Ability(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a plug-in can work here, now. Asked at start and every 10 s; an answer is never kept for ever."""

    available: bool
    reason: str = ""  # why not, in words
    version: str = ""
    details: dict[str, str] = {}
    # Of engines only:
    reattaches: bool = False  # a run outlives the daemon, and `run` of the same execution and attempt finds it
    in_process: bool = False  # a run is nothing outside of this process; `run` makes the directories that it needs
    inputs_first: bool = True  # `prepare` wants the inputs; False: it goes on beside them and is given none


class OutcomeKind(enum.StrEnum):
    """How a run ended."""

    EXITED = "exited"  # the program ended by itself; `exit_code` says how
    SIGNALLED = "signalled"  # killed by a signal that we did not send; `message` names it
    OUT_OF_MEMORY = "out-of-memory"
    OVER_LIMIT = "over-limit"  # output or another limit, named in `message`
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"
    COULD_NOT_RUN = "could-not-run"  # no such entry point, bad module, container cannot start


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run: written to the outcome file before anything of the run is removed. Times: epoch ns."""

    kind: OutcomeKind
    exit_code: int = 0
    message: str = ""
    hint: str = ""
    started_at: int = 0
    ended_at: int = 0
    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0
    details: dict[str, str] = {}  # what else is worth keeping in the history, the digest of an image for instance

    @property
    def failed(self) -> bool:
        """Whether the execution failed. A non-zero exit code is a completed execution, as in Bacalhau."""
        return self.kind is not OutcomeKind.EXITED


class PreparedInput(msgspec.Struct, frozen=True, kw_only=True):
    """An input, ready on this machine."""

    source: InputSource
    path: Path  # a file or a directory; no part of it is a link
    target: str  # where the task sees it
    read_only: bool = True
    size_bytes: int = 0
    near: bool = False  # on a disk of this machine that answered quickly: a look at it needs no thread

    def real_path(self) -> str:
        """Return the path for an engine that is about to use it; no link is followed a second time.

        Raises
        ------
        InputFailed
            when a link was put in its place since the storage looked: it may lead to what is not allowed.
        """
        return real_path(self.path, self.target)


def real_path(path: Path, target: str) -> str:
    """Return the path as text; raises `InputFailed` when a part of it is a link. `target` names the input."""
    text = os.path.abspath(path)  # noqa: PTH100 (follows no link)
    if os.path.realpath(text) != text:
        hint = "another job or user of this machine put a link there; run the job again when that is gone"
        raise errors.InputFailed(f"the path of input {target} changed while it was prepared", place=text, hint=hint)
    return text


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an engine gets for one execution."""

    execution_id: str
    attempt: int  # 1, 2, …: part of container and process names, so that a late start is never taken for a new one
    job: Job
    resources: Resources  # what was allocated; limits are enforced on these
    env: dict[str, str]  # complete: the task's own, resolved, and Bacalhau's
    inputs: tuple[PreparedInput, ...]
    outputs: tuple[ResultPath, ...]
    execution_dir: (
        Path  # `results/` in it is the result tree: stdout, stderr, exitCode, NAME/…; scratch space otherwise
    )
    timeout_s: float  # 0: none. Counts the Running phase only

    @property
    def task(self) -> Task:
        """The one task."""
        return self.job.task

    @property
    def results_dir(self) -> Path:
        """The result tree. The daemon has created it, and one empty directory per output in it."""
        return self.execution_dir / "results"

    @property
    def stdout_path(self) -> Path:
        """The engine appends the task's standard output here while it runs; logs are read from here."""
        return self.results_dir / "stdout"

    @property
    def stderr_path(self) -> Path:
        """The engine appends the task's standard error here while it runs."""
        return self.results_dir / "stderr"


@runtime_checkable
class Engine(Protocol):
    """Runs tasks. One instance per daemon."""

    def __init__(self, context: PluginContext) -> None: ...

    async def ability(self) -> Ability:
        """Say whether tasks can run here now."""
        ...

    def check(self, task: Task, resources: Resources) -> list[str]:
        """Return why this task cannot run here (parameters, limits), in words; empty when it can. Cheap, no I/O."""
        ...

    async def prepare(self, run: RunRequest, progress: Progress) -> None:
        """Fetch and compile what the run needs (image, module). Raises `NodeFailed`, `InputFailed` or `SpecError`."""
        ...

    async def run(self, run: RunRequest, started: Callable[[], None]) -> Outcome:
        """Run to the end and say how it ended; call `started` once, when the task's own code begins.

        Writes stdout and stderr into the files of the request. Never raises for what the task does. When the
        awaiting task is cancelled, the run is killed and `CancelledError` passes on. Idempotent by execution and
        attempt: a run of this name that is still there after a restart of the daemon is found and waited for.
        """
        ...

    async def holds(self, execution_id: str, attempt: int) -> bool:
        """Whether a run that an earlier daemon began, or its end, is still there. Asked of engines that reattach.

        If so, `run` is called without `prepare` and without inputs, and finds it.
        """
        ...

    async def forget(self, execution_id: str, attempt: int) -> None:
        """The outcome is on disk: what was left to be found can go. Asked of engines that reattach; returns soon."""
        ...

    async def cancel(self, execution_id: str, grace_s: float) -> None:
        """Ask the run to stop, kill it after the grace; `run` then returns `CANCELLED`. Unknown ids are ignored."""
        ...

    async def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """Remove what earlier daemons left behind, except these (execution, attempt); return how many."""
        ...

    async def close(self) -> None:
        """Release what `run` and `prepare` hold open. Runs end with it; of engines that reattach they go on."""
        ...


@runtime_checkable
class Storage(Protocol):
    """Prepares inputs."""

    def __init__(self, context: PluginContext) -> None: ...

    async def ability(self) -> Ability:
        """Say whether inputs of this kind can be prepared here now."""
        ...

    def check(self, source: SpecConfig) -> list[str]:
        """Return what is wrong with these parameters, in words. Cheap, no I/O."""
        ...

    async def size(self, source: InputSource, job: Job, partition: int) -> int:
        """Return how many bytes preparing would need on disk (0: nothing, or unknown). Has a deadline of the caller."""
        ...

    async def prepare(
        self, source: InputSource, job: Job, partition: int, into: Path, progress: Progress
    ) -> PreparedInput:
        """Make the input available, if copied in the directory `into`, which may have to be made with its parents.

        Raises `InputFailed`, `SpecError`; leaves no half file.
        """
        ...

    async def release(self, prepared: PreparedInput) -> None:
        """Undo `prepare`; what lies under the execution's directory is removed by the daemon anyway."""
        ...


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """Where results went."""

    result: SpecConfig
    size_bytes: int = 0


@runtime_checkable
class Publisher(Protocol):
    """Puts a result tree where people can fetch it."""

    def __init__(self, context: PluginContext) -> None: ...

    async def ability(self) -> Ability:
        """Say whether results can be published from here now."""
        ...

    def check(self, publisher: SpecConfig) -> list[str]:
        """Return what is wrong with these parameters, in words. Cheap, no I/O."""
        ...

    async def publish(self, run: RunRequest, progress: Progress) -> Published:
        """Publish `run.results_dir`. Raises `NodeFailed`. Idempotent by execution."""
        ...

    async def close(self) -> None:
        """Release what it holds open (a server's socket, for instance)."""
        ...


def run_output(stdout: str, stdout_cut: bool, stderr: str, stderr_cut: bool, outcome: Outcome) -> RunOutput:
    """Build the result object that travels in `RunResult`."""
    return RunOutput(
        stdout=stdout,
        stdout_truncated=stdout_cut,
        stderr=stderr,
        stderr_truncated=stderr_cut,
        exit_code=outcome.exit_code,
        error_message=outcome.message if outcome.failed else "",
    )


def names(group: str) -> list[str]:
    """Return what is installed in a group, sorted, without importing any of it."""
    return sorted(entry.name for entry in metadata.entry_points(group=group))


def load(group: str, name: str, context: PluginContext) -> Engine | Storage | Publisher:
    """Import and build one plug-in.

    Raises
    ------
    NotFound
        when nothing of that name is installed; lists what is.
    NodeFailed
        when it cannot be imported or built; the daemon goes on without it.
    """
    for entry in metadata.entry_points(group=group):
        if entry.name == name:
            try:
                return cast("Engine | Storage | Publisher", entry.load()(context))
            except Exception as error:
                raise errors.NodeFailed(f"plug-in {name!r} of {group} cannot be used: {error}") from error
    raise errors.NotFound(f"no plug-in {name!r} in {group}", hint=f"installed: {', '.join(names(group)) or 'none'}")
