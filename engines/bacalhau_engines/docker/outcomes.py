"""How a container's end is told: exit code, signal, memory, limits and dockerd's own restarts kept apart. Pure mostly.

dockerd gives one number. From 129 on it is a shell's way of saying "killed by signal N - 128", and so are read those of
signals that kill by themselves; a program that ends with such a number on purpose looks the same.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import msgspec

from bacalhau_engines.docker.life import Ended
from bacalhau_engines.docker.watch import Usage
from bacalhau_protocol.plugins import Outcome, OutcomeKind

NEVER_RAN_EXIT_CODE = 125  # as the docker command says it
KILLED_EXIT_CODE = 137
INIT_FAILED = (126, 127)
_INIT_SAYS = "[FATAL tini"
_DEADLY = frozenset({
    signal.SIGILL, signal.SIGTRAP, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGKILL, signal.SIGSEGV,
    signal.SIGPIPE, signal.SIGTERM, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSYS,
})  # fmt: skip
_BY_RESTART = frozenset({137, 143, 255})  # 255: dockerd was not there to see it
_RESTART_SLACK_NS = 3 * 10**9
_STDERR_LOOKED_AT_BYTES = 64 * 1024


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What else is known of a run that has ended."""

    reason: Outcome | None = None  # why we ended it
    memory_bytes: int = 0
    usage: Usage = Usage()
    image: str = ""
    init_error: str = ""  # what process 1 said when it could not start the program
    interrupted_until: int = 0  # dockerd was away until then (ns)


def stopped(kind: OutcomeKind, message: str = "", hint: str = "") -> Outcome:
    """Return the outcome of a run that we end, or that never began."""
    now = time.time_ns()
    return Outcome(kind=kind, exit_code=KILLED_EXIT_CODE, message=message, hint=hint, started_at=now, ended_at=now)


def too_much(stream: str, limit: int) -> Outcome:
    """Return the outcome of a run that printed more than is allowed."""
    words = f"{stream} is larger than {amount(limit)}"
    return stopped(OutcomeKind.OVER_LIMIT, words, "write large output into a result path")


def too_much_disk(size: int, limit: int) -> Outcome:
    """Return the outcome of a run that wrote more than it was given."""
    words = f"disk limit exceeded: container and outputs took {amount(size)}, {amount(limit)} are allowed"
    return stopped(OutcomeKind.OVER_LIMIT, words, "ask for more with Resources.Disk")


def never_ran(message: str, hint: str, asked_at: int, exit_code: int = NEVER_RAN_EXIT_CODE) -> Outcome:
    """Return the outcome of a run that could not begin."""
    return Outcome(
        kind=OutcomeKind.COULD_NOT_RUN,
        exit_code=exit_code,
        message=message,
        hint=hint,
        started_at=asked_at,
        ended_at=time.time_ns(),
    )


def amount(size_bytes: int) -> str:
    """Return a size as its owner wrote it, most likely: in MiB when it is whole, else in MB."""
    return f"{size_bytes // 1024**2} MiB" if size_bytes % 1024**2 == 0 else f"{size_bytes / 1e6:.1f} MB"


def outcome(ended: Ended, context: Context) -> Outcome:
    """Return how a container ended, with its times and what it used."""
    said = _said(ended, context)
    peak = context.usage.memory_peak_bytes
    if said.kind is OutcomeKind.OUT_OF_MEMORY:
        peak = max(peak, context.memory_bytes)
    return msgspec.structs.replace(
        said,
        exit_code=ended.exit_code,
        started_at=ended.started_at,
        ended_at=ended.ended_at,
        cpu_seconds=context.usage.cpu_seconds,
        memory_peak_bytes=peak,
        details={"Image": context.image} if context.image else {},
    )


def _said(ended: Ended, context: Context) -> Outcome:
    if context.reason is not None:
        return context.reason
    if ended.out_of_memory:
        words = f"memory limit exceeded: {amount(context.memory_bytes)}"
        return Outcome(kind=OutcomeKind.OUT_OF_MEMORY, message=words, hint="ask for more with Resources.Memory")
    if context.init_error:
        words = f"the container could not start: {context.init_error}"
        hint = "does the image have this program? look at Entrypoint and Parameters"
        return Outcome(kind=OutcomeKind.COULD_NOT_RUN, message=words, hint=hint)
    if ended.exit_code in _BY_RESTART and ended.ended_at <= context.interrupted_until + _RESTART_SLACK_NS:
        words = "dockerd stopped or restarted, and ended the container"
        hint = 'with "live-restore": true in its daemon.json, dockerd lets containers run on'
        return Outcome(kind=OutcomeKind.COULD_NOT_RUN, message=words, hint=hint)
    if (number := ended.exit_code - 128) in _DEADLY:
        name = signal.Signals(number).name
        hint = "it may also have ended with this code by itself"
        return Outcome(kind=OutcomeKind.SIGNALLED, message=f"killed by signal {number} ({name})", hint=hint)
    return Outcome(kind=OutcomeKind.EXITED)


def init_error(stderr_path: Path) -> str:
    """Return what process 1 said when it could not start the task's program; blank when it did start it."""
    try:
        with stderr_path.open("rb") as file:
            lines = file.read(_STDERR_LOOKED_AT_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return ""
    said = [line for line in lines if line.startswith(_INIT_SAYS)]
    return said[-1].partition("] ")[2] if said and lines[-1] == said[-1] else ""
