"""What a worker does, a child of the fork server: it confines itself and plays guests, one after another."""

from __future__ import annotations

import os
import re
import time
from typing import NoReturn

import msgspec
import wasmtime

from bacalhau_engines.wasm import confine, usage
from bacalhau_engines.wasm.library import Library
from bacalhau_engines.wasm.native import Instance, Store
from bacalhau_engines.wasm.runtime import WASM_STACK_BYTES, Program, Runtime
from bacalhau_engines.wasm.wire import KILLED_EXIT_CODE, NEVER_RAN_EXIT_CODE, Frames, Report, Run, to_server

MEMORY_MARGIN_BYTES = 64 * 1024 * 1024  # beside the guest's memory: stacks, tables, wasmtime's own
TABLE_ELEMENTS_MAX = 1_000_000
INSTANCES_MAX = 64
NICENESS = 5  # the daemon and its heartbeats go first
MESSAGE_BYTES = 3000  # a report is short enough to be written and read whole
_READ_BYTES = 64 * 1024
_NEARLY = 7 / 8
_TRAP_MARK = "wasm trap: "
_FRAME = re.compile(r"^ +\d+: +(0x[0-9a-f]+) - (?:<unknown>!)?(.+)$", re.MULTILINE)
FRAMES_MAX = 8


class Surroundings(msgspec.Struct, frozen=True):
    """What the fork server hands to every child."""

    server_pid: int
    runtime: Runtime
    filter: confine.Filter | None
    writable_bytes: int  # of the server, at the fork
    resident_bytes: int


class Bounds(msgspec.Struct, frozen=True):
    """The limits of a process: set once, before its first guest, and never raised."""

    memory: int  # bytes of the guests' memory
    file: int  # bytes of the largest file; 0: none

    @classmethod
    def of(cls, run: Run) -> Bounds:
        """Return what a run asks for."""
        if run.outputs and not run.output_limit:
            return cls(run.memory_limit, 0)
        return cls(run.memory_limit, max(run.stream_limit, run.output_limit if run.outputs else 0))


def work(first: Run, library: Library, around: Surroundings, channel: int) -> NoReturn:
    """Play the guest, and those that come through `channel` while it asks for more; a `Report` follows each."""
    frames = Frames()
    try:
        _confine(first, around)
        run: Run | None = first
        while run is not None:
            report = _play(run, library.program(run.modules), around.runtime)
            os.write(channel, msgspec.msgpack.encode(report))
            run = _next(channel, frames) if report.again else None
    except BaseException as error:  # whatever it is, it must not reach the fork server's loop
        report = Report(
            kind="could-not-run",
            exit_code=NEVER_RAN_EXIT_CODE,
            message=_cut(f"the wasm engine failed: {type(error).__name__}: {error}"),
        )
        os.write(channel, msgspec.msgpack.encode(report))
    finally:
        os._exit(0)


def _confine(run: Run, around: Surroundings) -> None:
    confine.die_with(around.server_pid)
    bounds = Bounds.of(run)
    confine.child_limits(
        data_bytes=around.writable_bytes + bounds.memory + MEMORY_MARGIN_BYTES,
        file_bytes=bounds.file,
    )
    os.nice(NICENESS)
    if around.filter is not None:
        around.filter.install()


def _next(channel: int, frames: Frames) -> Run | None:
    for descriptor in (1, 2):
        _redirect(os.devnull, descriptor)  # nothing of the last run is held while we wait
    while data := os.read(channel, _READ_BYTES):
        if bodies := list(frames.feed(data)):  # one at a time
            message = to_server.decode(bodies[0])
            assert isinstance(message, Run)
            return message
    return None


def _play(run: Run, program: Program, runtime: Runtime) -> Report:
    """Run one guest. It can be followed by another when it ended in order and all that it was can be given back."""
    began = time.process_time()
    _redirect(run.stdout, 1)
    _redirect(run.stderr, 2)
    store = Store(
        runtime.engine, memory_bytes=run.memory_limit, table_elements=TABLE_ELEMENTS_MAX, instances=INSTANCES_MAX
    )
    store.set_wasi(run.argv, run.env, [(it.host, it.guest, it.writable) for it in run.preopens])
    guest = _Guest(run, store)
    report = guest.play(program, runtime)
    if over := _over_limit(run):
        report = Report(kind="over-limit", exit_code=KILLED_EXIT_CODE, message=over)
    again = report.kind == "exited" and program[-1].linked is not None  # else it is the linker that knows of it
    report = msgspec.structs.replace(
        report,
        again=again,
        message=_cut(report.message),
        cpu_seconds=time.process_time() - began,
        memory_peak_bytes=guest.memory_bytes(),
    )
    if again:
        store.close()
    return report


class _Guest:
    def __init__(self, run: Run, store: Store) -> None:
        self.run, self.store = run, store
        self.instance: Instance = 0

    def play(self, program: Program, runtime: Runtime) -> Report:
        """Instantiate the program and call the entry point."""
        runtime.exit.code = None
        try:
            self._call(program, runtime)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            if runtime.exit.code is not None:
                return Report(kind="exited", exit_code=runtime.exit.code)
            if isinstance(error, wasmtime.Trap):
                return _trapped(error, self.memory_bytes(), self.run.memory_limit)
            return _not_started(str(error), self.run.memory_limit)
        return Report(kind="exited")

    def _call(self, program: Program, runtime: Runtime) -> None:
        entry_point = self.run.entry_point
        for step in program:
            if step.linked:
                self.instance = self.store.instantiate_linked(step.linked)
            else:
                self.instance = self.store.instantiate(
                    runtime.linker, step.module, step.names
                )  # the linker is ours alone
            if step.initialize:
                self.store.call(self.instance, "_initialize")
        if not (program[-1].initialize and entry_point == "_initialize"):
            self.store.call(self.instance, entry_point)

    def memory_bytes(self) -> int:
        """Return how large the guest's memory is: it never shrinks, so that is also its peak."""
        return self.store.memory_bytes(self.instance) if self.instance else 0


def _over_limit(run: Run) -> str:
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if os.fstat(descriptor).st_size > run.stream_limit:
            return over_stream(name, run.stream_limit)
    if run.outputs and run.output_limit and (size := usage.total(run.outputs)) > run.output_limit:
        return over_outputs(size, run.output_limit)
    return ""


def over_stream(name: str, limit: int) -> str:
    """Say that a stream grew too long."""
    return f"{name} is longer than {limit} bytes, the most that is kept"


def over_outputs(size: int, limit: int) -> str:
    """Say that the outputs grew too large."""
    return f"the outputs take {size} bytes on disk, the limit is {limit}"


def _redirect(path: str, descriptor: int) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    os.dup2(opened, descriptor)
    os.close(opened)


def _trapped(trap: wasmtime.Trap, memory: int, limit: int) -> Report:
    text = str(trap)
    reason = text.rpartition(_TRAP_MARK)[2].strip() if _TRAP_MARK in text else text.strip()
    frames = [f"{name} ({place})" for place, name in _FRAME.findall(text)[:FRAMES_MAX]]
    hint = ""
    if "call stack" in reason:
        hint = f"the call stack holds {WASM_STACK_BYTES} bytes: look for endless recursion"
    elif memory >= limit * _NEARLY:
        hint = f"its memory had grown to {memory} bytes of the {limit} that it may have: try a larger Resources.Memory"
    return Report(
        kind="signalled",
        exit_code=1,
        message="the program trapped: " + "\n  at ".join([reason, *frames]),
        hint=hint,
    )


def _not_started(text: str, limit: int) -> Report:
    if "exceeds memory limits" in text:
        return Report(
            kind="out-of-memory",
            exit_code=NEVER_RAN_EXIT_CODE,
            message=f"the module cannot start: {text.strip()} ({limit} bytes)",
            hint="ask for more with Resources.Memory",
        )
    return Report(
        kind="could-not-run", exit_code=NEVER_RAN_EXIT_CODE, message=f"the module cannot start: {text.strip()}"
    )


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= MESSAGE_BYTES else data[:MESSAGE_BYTES].decode(errors="ignore") + "…"
