"""The fork server: one thread, one loop, no state that a run could damage.

Started by the daemon as `python -m bacalhau_engines.wasm.server FD DIRECTORY PARENT COMPILE_CPU_S`, with one end
of a socket pair. It ends with the daemon (end of the stream, or the kernel's signal), and its children end with it.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import wasmtime

from bacalhau_engines.wasm import child, compile, confine
from bacalhau_engines.wasm.cache import Cache
from bacalhau_engines.wasm.children import IDLE_S, Child, CompileChild, Running, Worker
from bacalhau_engines.wasm.library import Library, Loader
from bacalhau_engines.wasm.runtime import Runtime
from bacalhau_engines.wasm.wire import (
    KILLED_EXIT_CODE,
    NEVER_RAN_EXIT_CODE,
    Ended,
    Frames,
    Kill,
    Load,
    Loaded,
    Message,
    ModuleFile,
    NotLoaded,
    Ready,
    Run,
    frame,
    to_server,
)

OPEN_FILES = 4096
RUNS_PER_WORKER_MAX = 100
RESTING_MAX = 16
PATIENCE_S = 0.005  # a run gets a new worker when none has come free for so long,
LONG_PATIENCE_S = 0.05  # or when it has waited so long itself
HIRE_S = 0.002  # and that only so often: making one takes as long
HANDED_BYTES_MAX = 64 * 1024  # fits into a socket, so it is sent at once; a longer run gets a worker of its own
_READ_BYTES = 256 * 1024
_CPUS = len(os.sched_getaffinity(0))


class Server:
    """Forks a child per run and per compilation, and tells the daemon what became of them."""

    def __init__(self, channel: socket.socket, cache: Cache, compile_cpu_s: int) -> None:
        self._channel, self._cache, self._compile_cpu_s = channel, cache, compile_cpu_s
        self._frames = Frames()
        self._unsent: list[bytes] = []
        self._poll = select.epoll()
        self._poll.register(channel.fileno(), select.EPOLLIN)
        self._children: dict[int, Child] = {}  # by our end of their sockets
        self._resting: list[Worker] = []  # the last one first
        self._waiting: deque[tuple[float, Run]] = deque()  # for a worker, with the time when they came
        self._freed_at = self._hired_at = 0.0  # when a worker was, the last time
        self._generation = 0  # of the library: an older worker does not have all modules
        self._runs: dict[int, Running | Run] = {}  # by id; a Run waits for its modules
        self._looks: list[tuple[float, int, Child]] = []  # heap of (when, tie-break, child)
        self._planned: dict[Child, float] = {}  # when the next look is; what the heap says besides is out of date
        self._count = itertools.count()
        runtime = Runtime()
        self._library = Library(runtime, cache)
        self._loader = Loader(self._library, cache, self._compile)
        self._around = child.Surroundings(
            server_pid=os.getpid(),
            runtime=runtime,
            filter=confine.child_filter(),
            writable_bytes=confine.writable_bytes(),
            resident_bytes=confine.resident_bytes(),
        )

    def serve(self) -> None:
        """Work until the daemon closes its end."""
        while True:
            for descriptor, _ in self._poll.poll(self._idle_s()):
                if descriptor in self._children:
                    self._hear(descriptor)
                elif not self._receive():
                    return
            self._look()
            self._end_waits()
            self._flush()

    def _idle_s(self) -> float:
        """Return how long there is nothing to do; below 0 for ever."""
        due = [self._hire_at()] if self._waiting else []
        due += [self._looks[0][0]] if self._looks else []
        return max(0.0, min(due) - time.monotonic()) if due else -1

    # ── the daemon ──

    def _receive(self) -> bool:
        data = self._channel.recv(_READ_BYTES)
        for body in self._frames.feed(data):
            match to_server.decode(body):
                case Run() as run:
                    self._runs[run.id] = run
                    self._advance(run)
                case Kill(id=id):
                    self._kill(id)
                case Load(module=module):
                    self._loader.want(module, self._send)
        return bool(data)

    def _send(self, message: Message) -> None:
        self._unsent.append(frame(message))
        if isinstance(message, Ended):
            self._runs.pop(message.id, None)

    def _flush(self) -> None:
        """Send what there is to say after a round, at once: each write wakes the daemon."""
        if self._unsent:
            self._channel.sendall(b"".join(self._unsent))
            self._unsent.clear()

    def _kill(self, id: int) -> None:
        match self._runs.get(id):
            case Running() as running:
                running.condemn("cancelled", "")
            case Run():
                self._send(Ended(id=id, kind="cancelled", exit_code=KILLED_EXIT_CODE))
            case None:
                pass

    # ── runs and compilations ──

    def _advance(self, run: Run) -> None:
        """Start a run, or get the first of its modules that is not here yet."""
        if run.id not in self._runs:
            return  # killed while it waited
        missing = next((module for module in run.modules if not self._library.info(module.digest)), None)
        if missing is None:
            self._start(run)
        else:
            self._loader.want(missing, lambda answer: self._module_came(run, answer))

    def _module_came(self, run: Run, answer: Loaded | NotLoaded) -> None:
        if isinstance(answer, Loaded):
            self._advance(run)
        elif run.id in self._runs:
            self._never_ran(run, answer.message, answer.hint)

    def _start(self, run: Run) -> None:
        try:
            self._library.program(run.modules)  # links what can be linked beforehand
        except wasmtime.WasmtimeError as error:
            self._never_ran(run, f"the module cannot be linked: {error}")
            return
        if (worker := self._rested(run)) is not None:
            self._begun(run, worker)
        elif len(self._children) - len(self._resting) < _CPUS:
            self._hire(run)
        else:
            self._waiting.append((time.monotonic(), run))

    def _rested(self, run: Run) -> Worker | None:
        """Give a run to a worker that rests, if one is suitable."""
        if len(message := frame(run)) > HANDED_BYTES_MAX:
            return None
        for worker in reversed(self._resting):
            if worker.suits(run, self._generation):
                self._resting.remove(worker)
                return worker if worker.hand(run, message) else None
        return None

    def _hire(self, run: Run) -> None:
        """Give a run to a new worker."""
        around, library = self._around, self._library
        worker = Worker(run, self._generation, around.resident_bytes, self._send, self._rests)
        try:
            self._fork(worker, lambda channel: child.work(run, library, around, channel))
        except OSError as error:
            self._never_ran(run, f"no process could be started: {error}")
        else:
            self._begun(run, worker)

    def _begun(self, run: Run, worker: Worker) -> None:
        assert worker.running is not None
        self._runs[run.id] = worker.running
        worker.running.started()
        self._plan_look(time.monotonic() + worker.running.first_look_s, worker)

    def _hire_at(self) -> float:
        """Return when the first run that waits gets a new worker, if none comes free."""
        came, _ = self._waiting[0]
        patience = min(max(came, self._freed_at) + PATIENCE_S, came + LONG_PATIENCE_S)
        return max(patience, self._hired_at + HIRE_S)

    def _rests(self, worker: Worker) -> None:
        self._freed_at = time.monotonic()
        if worker.played >= RUNS_PER_WORKER_MAX or worker.generation != self._generation:
            worker.dismiss()
        else:
            self._resting.append(worker)
        if len(self._resting) > RESTING_MAX:
            self._resting.pop(0).dismiss()
        self._plan_look(self._freed_at + IDLE_S, worker)

    def _end_waits(self) -> None:
        """Start what waits for a worker as far as there are some; when it is time, with a new one."""
        while self._waiting:
            _, run = self._waiting[0]
            if run.id not in self._runs:  # killed while it waited
                self._waiting.popleft()
            elif (worker := self._rested(run)) is not None:
                self._waiting.popleft()
                self._begun(run, worker)
            elif (now := time.monotonic()) >= self._hire_at():
                self._waiting.popleft()
                self._hire(run)
                self._hired_at = now
            else:
                return

    def _never_ran(self, run: Run, message: str, hint: str = "") -> None:
        ended = Ended(id=run.id, kind="could-not-run", exit_code=NEVER_RAN_EXIT_CODE, message=message, hint=hint)
        self._send(ended)

    def _compile(self, module: ModuleFile) -> None:
        compiling = CompileChild(module, self._compile_cpu_s, self._compiled)
        around = self._around
        try:
            self._fork(compiling, lambda pipe: compile.play(module, self._cache, self._compile_cpu_s, around, pipe))
        except OSError as error:
            message = f"no process could be started: {error}"
            self._loader.answered(NotLoaded(digest=module.digest, message=message, bad=False))

    def _compiled(self, answer: Loaded | NotLoaded) -> None:
        self._loader.answered(answer)
        if isinstance(answer, Loaded):
            self._generation += 1
            while self._resting:
                self._resting.pop().dismiss()
        gc.collect()
        self._around = msgspec.structs.replace(
            self._around, writable_bytes=confine.writable_bytes(), resident_bytes=confine.resident_bytes()
        )

    # ── processes ──

    def _fork(self, new: Child, play: Callable[[int], NoReturn]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                for descriptor in (ours.fileno(), self._channel.fileno(), self._poll.fileno(), *self._children):
                    os.close(descriptor)
                play(theirs.fileno())
        new.pid, new.channel = pid, ours
        self._children[ours.fileno()] = new
        self._poll.register(ours.fileno(), select.EPOLLIN)
        self._plan_look(time.monotonic() + new.first_look_s, new)

    def _hear(self, descriptor: int) -> None:
        speaking = self._children[descriptor]
        if speaking in self._resting:  # it has ended, or is not to be trusted any more
            self._resting.remove(speaking)
        if data := _read(speaking.channel):
            speaking.received(data)
            return
        del self._children[descriptor], self._planned[speaking]
        self._poll.unregister(descriptor)
        speaking.channel.close()
        _, status, used = os.wait4(speaking.pid, 0)  # its socket is closed: it is all but gone
        speaking.ended(status, used)

    def _look(self) -> None:
        now = time.monotonic()
        while self._looks and self._looks[0][0] <= now:
            when, _, seen = heapq.heappop(self._looks)
            if self._planned.get(seen) != when:
                continue
            if seen in self._resting:
                self._resting.remove(seen)
            if (again := seen.look(now)) is not None:
                self._plan_look(again, seen)

    def _plan_look(self, when: float, seen: Child) -> None:
        self._planned[seen] = when
        heapq.heappush(self._looks, (when, next(self._count), seen))


def _read(channel: socket.socket) -> bytes:
    try:
        return channel.recv(_READ_BYTES)
    except ConnectionResetError:  # it ended without having read what it was given
        return b""


def main() -> None:
    """Run the fork server."""
    descriptor, directory = int(sys.argv[1]), Path(sys.argv[2])
    parent, compile_cpu_s = int(sys.argv[3]), int(sys.argv[4])
    confine.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    confine.lower_oom_score()
    confine.server_limits(OPEN_FILES)
    channel = socket.socket(fileno=descriptor)
    channel.setblocking(True)
    server = Server(channel, Cache(directory), compile_cpu_s)
    confinement = _confine_server()
    gc.disable()  # a collection in a child would touch, and so copy, every page
    gc.freeze()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon has gone: so do we, and our children
        channel.sendall(frame(Ready(pid=os.getpid(), confinement=confinement)))
        server.serve()


def _confine_server() -> str:
    try:
        filter = confine.server_filter()
        if filter is None:
            return f"no system call filter: none is known for {os.uname().machine}"
        filter.install()
    except OSError as error:
        return f"no system call filter: {error}"
    return "seccomp"


if __name__ == "__main__":
    main()
