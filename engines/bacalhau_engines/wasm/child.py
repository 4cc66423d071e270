"""What a forked child does: confine itself, run one guest, say how it ended, end."""

from __future__ import annotations

import os
import re
import time
from typing import NoReturn

import msgspec
import wasmtime

from bacalhau_engines.wasm import confine, usage
from bacalhau_engines.wasm.native import Instance, Store
from bacalhau_engines.wasm.runtime import WASM_STACK_BYTES, Program, Runtime
from bacalhau_engines.wasm.wire import KILLED_EXIT_CODE, NEVER_RAN_EXIT_CODE, Report, Run

MEMORY_MARGIN_BYTES = 64 * 1024 * 1024  # beside the guest's memory: stacks, tables, wasmtime's own
TABLE_ELEMENTS_MAX = 1_000_000
INSTANCES_MAX = 64
NICENESS = 5  # the daemon and its heartbeats go first
MESSAGE_BYTES = 3000  # a report stays below PIPE_BUF, so that it is written and read whole
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


def play(run: Run, program: Program, around: Surroundings, pipe: int) -> NoReturn:
    """Run the guest and end the process; a `Report` goes into `pipe` unless something kills us first."""
    try:
        child = _Child(run, around, pipe)
        child.confine()
        child.execute(program)
    except BaseException as error:  # whatever it is, it must not reach the fork server's loop
        report = Report(
            kind="could-not-run",
            exit_code=NEVER_RAN_EXIT_CODE,
            message=_cut(f"the wasm engine failed: {type(error).__name__}: {error}"),
        )
        os.write(pipe, msgspec.msgpack.encode(report))
    finally:
        os._exit(0)


class _Child:
    def __init__(self, run: Run, around: Surroundings, pipe: int) -> None:
        self.run, self.around, self.pipe = run, around, pipe
        self.store: Store | None = None
        self.instance: Instance = 0

    def confine(self) -> None:
        run, around = self.run, self.around
        confine.die_with(around.server_pid)
        _redirect(run.stdout, 1)
        _redirect(run.stderr, 2)
        bounded = not run.outputs or run.output_limit
        confine.child_limits(
            data_bytes=around.writable_bytes + run.memory_limit + MEMORY_MARGIN_BYTES,
            file_bytes=max(run.stream_limit, run.output_limit if run.outputs else 0) if bounded else 0,
        )
        os.nice(NICENESS)
        if around.filter is not None:
            around.filter.install()

    def execute(self, program: Program) -> NoReturn:
        run, runtime = self.run, self.around.runtime
        runtime.exit.handler = lambda code: self.end(Report(kind="exited", exit_code=code))
        store = self.store = Store(
            runtime.engine,
            memory_bytes=run.memory_limit,
            table_elements=TABLE_ELEMENTS_MAX,
            instances=INSTANCES_MAX,
        )
        store.set_wasi(run.argv, run.env, [(it.host, it.guest, it.writable) for it in run.preopens])
        try:
            for step in program:
                if step.linked:
                    self.instance = store.instantiate_linked(step.linked)
                else:
                    self.instance = store.instantiate(
                        runtime.linker, step.module, step.names
                    )  # ours alone since the fork
                if step.initialize:
                    store.call(self.instance, "_initialize")
            if not (program[-1].initialize and run.entry_point == "_initialize"):
                store.call(self.instance, run.entry_point)
        except wasmtime.Trap as trap:
            self.end(_trapped(trap, self.memory_bytes(), run.memory_limit))
        except wasmtime.WasmtimeError as error:
            self.end(_not_started(str(error), run.memory_limit))
        self.end(Report(kind="exited"))

    def end(self, report: Report) -> NoReturn:
        """Hand in the report, corrected where a limit was passed, and end."""
        if over := self._over_limit():
            report = Report(kind="over-limit", exit_code=KILLED_EXIT_CODE, message=over)
        report = msgspec.structs.replace(
            report,
            message=_cut(report.message),
            cpu_seconds=time.process_time(),
            memory_peak_bytes=self.memory_bytes(),
        )
        os.write(self.pipe, msgspec.msgpack.encode(report))
        os._exit(0)

    def memory_bytes(self) -> int:
        """Return how large the guest's memory is: it never shrinks, so that is also its peak."""
        return self.store.memory_bytes(self.instance) if self.store and self.instance else 0

    def _over_limit(self) -> str:
        run = self.run
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
