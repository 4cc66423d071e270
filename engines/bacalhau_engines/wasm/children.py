"""The fork server's view of its children: what they said, what became of them, and when to look at them again."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bacalhau_engines.wasm import child, usage
from bacalhau_engines.wasm.wire import (
    KILLED_EXIT_CODE,
    Ended,
    Frames,
    Kind,
    Loaded,
    Message,
    ModuleFile,
    NotLoaded,
    Report,
    Run,
    Started,
    from_server,
)

WALL_FACTOR = 4  # a compilation may take so much longer than its CPU time: it shares the machine
WATCH_S = 0.2  # between two looks at what a run writes
IDLE_S = 1.0  # a worker without work is sent away
HANDED_ON_BYTES_MAX = (
    64 * 1024
)  # a longer run gets a process of its own: what fits into a socket is sent without waiting
WALK_S = 0.02  # while a look at the outputs has not come to its end
_STEPS = 8  # of `usage.walk` in one look: a few milliseconds at most
_TIMEOUT_HINT = "raise Timeouts.ExecutionTimeout, or split the work"
_DISK_HINT = "ask for more with Resources.Disk"
_Verdict = tuple[Kind, str, str]  # kind, message, hint
_report = msgspec.msgpack.Decoder(Report)


class Child:
    """A process at the other end of a socket, until that is closed."""

    pid: int
    channel: socket.socket
    first_look_s: float  # after its start

    def received(self, data: bytes) -> None:
        """Take bytes from its socket."""
        raise NotImplementedError

    def ended(self, status: int, used: resource.struct_rusage) -> None:
        """Take its wait status: it is gone."""
        raise NotImplementedError

    def look(self, now: float) -> float | None:
        """See whether it keeps its limits; return when to look again (monotonic seconds), None for never."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it; the socket's end says when that has happened."""
        os.kill(self.pid, signal.SIGKILL)  # not yet waited for, so the number is still its own


class CompileChild(Child):
    """Compiles one module."""

    def __init__(self, module: ModuleFile, cpu_s: int, answered: Callable[[Loaded | NotLoaded], None]) -> None:
        self._module, self._cpu_s, self._answered = module, cpu_s, answered
        self._frames = Frames()
        self._answer: Loaded | NotLoaded | None = None
        self.first_look_s = cpu_s * WALL_FACTOR

    def received(self, data: bytes) -> None:
        """Take the answer, in pieces."""
        try:
            for body in self._frames.feed(data):
                message = from_server.decode(body)
                if isinstance(message, Loaded | NotLoaded) and message.digest == self._module.digest:
                    self._answer = message
        except ValueError:  # a compiler that a module has taken over may say anything
            self.kill()

    def ended(self, status: int, used: resource.struct_rusage) -> None:
        """Hand on the answer, or say why there is none."""
        self._answered(self._answer or self._silent(status))

    def look(self, now: float) -> float | None:
        """End it: it has had its time."""
        self.kill()
        return None

    def _silent(self, status: int) -> NotLoaded:
        name = signal_name(status)
        if name in ("SIGXCPU", "SIGKILL"):
            message = f"compiling took more than {self._cpu_s} s of CPU time, or {self._cpu_s * WALL_FACTOR} s"
        else:
            message = f"the compiler crashed ({name or status}), or needed more memory than it may have"
        return NotLoaded(digest=self._module.digest, message=message, hint="split the module, or build it smaller")


class Worker(Child):
    """Plays guests of one owner and with the same limits, one after another, for as long as each ends in order."""

    def __init__(
        self,
        run: Run,
        generation: int,
        base_bytes: int,
        send: Callable[[Message], None],
        rests: Callable[[Worker], None],
    ) -> None:
        self.owner, self.bounds, self.generation = run.owner, child.Bounds.of(run), generation
        self.played = 0
        self._base_bytes, self._send, self._rests = base_bytes, send, rests
        self._cpu_s = 0.0  # of the runs that are over
        self._dismissed = False
        self.running: Running | None = Running(run, send, self.kill)
        self.first_look_s = self.running.first_look_s

    def suits(self, run: Run, generation: int) -> bool:
        """Whether it may play this guest, and has its modules."""
        return self.owner == run.owner and self.generation == generation and self.bounds == child.Bounds.of(run)

    def hand(self, run: Run, message: bytes) -> bool:
        """Give it another run while it rests; False when it does not take it, and then it is on its end."""
        assert self.running is None, "one at a time"
        try:
            taken = self.channel.send(message, socket.MSG_DONTWAIT) == len(message)
        except OSError:
            taken = False
        if taken:
            self.running = Running(run, self._send, self.kill)
        else:
            self.kill()
        return taken

    def dismiss(self) -> None:
        """Let it end."""
        self._dismissed = True
        with contextlib.suppress(OSError):  # it has gone already
            self.channel.shutdown(socket.SHUT_WR)

    def received(self, data: bytes) -> None:
        """Take the report and pass it on at once."""
        running = self.running
        if running is None:  # a process that a guest has taken over may say anything at any time
            self.kill()
        elif (report := running.received(data)) is not None:
            self.played += 1
            self._cpu_s += report.cpu_seconds
            if report.again:
                self.running = None
                self._rests(self)

    def ended(self, status: int, used: resource.struct_rusage) -> None:
        """Say how its run ended, unless it did so itself."""
        if self.running is not None:
            peak = max(0, used.ru_maxrss * 1024 - self._base_bytes)
            self.running.died(status, used.ru_utime + used.ru_stime - self._cpu_s, peak)

    def look(self, now: float) -> float | None:
        """Compare its run with the limits; send it away when it has none, and end it when it does not go."""
        if self.running is not None and not self.running.reported:
            return self.running.look(now)
        if self.running is not None or self._dismissed:
            self.kill()
            return None
        self.dismiss()
        return now + IDLE_S


class Running:
    """One run, from its start to what is said of its end."""

    def __init__(self, run: Run, send: Callable[[Message], None], kill: Callable[[], None]) -> None:
        self.run = run
        self._send, self._kill = send, kill
        self._started_at = time.time_ns()
        self._deadline = time.monotonic() + run.timeout_s if run.timeout_s else math.inf
        self.first_look_s = min(WATCH_S, run.timeout_s or WATCH_S)
        self.reported = False
        self._verdict: _Verdict | None = None
        self._walk: Iterator[int] | None = None

    def started(self) -> None:
        """Tell the daemon."""
        self._send(Started(id=self.run.id, at=self._started_at))

    def received(self, data: bytes) -> Report | None:
        """Take the report; None when that is none, or comes too late."""
        if self.reported or self._verdict:
            return None
        try:
            report = _report.decode(data)  # it is short, so it is whole
        except ValueError:  # a process that its guest has taken over may say anything
            self.condemn("signalled", "the process of the run reported nonsense")
            return None
        self.reported = True
        self._end(report)
        return report

    def died(self, status: int, cpu_s: float, memory_peak_bytes: int) -> None:
        """Say how it ended, unless that was reported."""
        if self.reported:
            return
        kind, message, hint = self._verdict or self._died(status)
        self._cut_streams()
        report = Report(
            kind=kind,
            exit_code=128 + os.WTERMSIG(status) if kind == "signalled" else KILLED_EXIT_CODE,
            message=message,
            hint=hint,
            cpu_seconds=cpu_s,
            memory_peak_bytes=memory_peak_bytes,
        )
        self._end(report)

    def condemn(self, kind: Kind, message: str, hint: str = "") -> None:
        """Kill it for this reason, unless there was one before."""
        if self._verdict is None and not self.reported:
            self._verdict = kind, message, hint
            self._kill()

    def look(self, now: float) -> float | None:
        """Compare time, streams and outputs with their limits; return when to look again."""
        if now >= self._deadline:
            self.condemn("timed-out", f"the program ran for {self.run.timeout_s:g} s and was ended", _TIMEOUT_HINT)
        else:
            self._watch_streams()
            self._watch_outputs()
        if self._verdict is not None or self.reported:
            return None
        return min(now + (WATCH_S if self._walk is None else WALK_S), self._deadline)

    def _watch_streams(self) -> None:
        limit = self.run.stream_limit
        for name, path in (("stdout", self.run.stdout), ("stderr", self.run.stderr)):
            if _size(path) > limit:
                self.condemn("over-limit", child.over_stream(name, limit))

    def _watch_outputs(self) -> None:
        limit = self.run.output_limit
        if not (self.run.outputs and limit):
            return
        walk = self._walk = self._walk or usage.walk(self.run.outputs)
        for _ in range(_STEPS):
            if (size := next(walk, None)) is None:
                self._walk = None
                return
            if size > limit:
                self.condemn("over-limit", child.over_outputs(size, limit), _DISK_HINT)
                return

    def _died(self, status: int) -> _Verdict:
        name = signal_name(status)
        match name:
            case "":
                return "signalled", "the process of the run ended without a word", "this may be a bug of wasmtime"
            case "SIGXFSZ":
                for stream, path in (("stdout", self.run.stdout), ("stderr", self.run.stderr)):
                    if _size(path) >= self.run.stream_limit:
                        return "over-limit", child.over_stream(stream, self.run.stream_limit), ""
                return "over-limit", f"a file grew beyond {self.run.output_limit} bytes", _DISK_HINT
            case "SIGKILL":
                hint = "the kernel does that when the machine runs out of memory"
                return "signalled", "the run was killed from outside (SIGKILL)", hint
            case _:
                return "signalled", f"the process of the run crashed ({name})", "this may be a bug of wasmtime"

    def _cut_streams(self) -> None:
        for path in (self.run.stdout, self.run.stderr):
            if _size(path) > self.run.stream_limit:
                os.truncate(path, self.run.stream_limit)

    def _end(self, report: Report) -> None:
        self._send(
            Ended(
                id=self.run.id,
                kind=report.kind,
                exit_code=report.exit_code,
                message=report.message,
                hint=report.hint,
                started_at=self._started_at,
                ended_at=time.time_ns(),
                cpu_seconds=report.cpu_seconds,
                memory_peak_bytes=report.memory_peak_bytes,
            )
        )


def signal_name(status: int) -> str:
    """Return the name of the signal in a wait status; blank when there was none."""
    if not os.WIFSIGNALED(status):
        return ""
    try:
        return signal.Signals(os.WTERMSIG(status)).name
    except ValueError:  # a real-time signal
        return f"signal {os.WTERMSIG(status)}"


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
