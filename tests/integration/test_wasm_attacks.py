"""Hostile modules: each ends in words, and the engine goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bacalhau_daemon.testing import wait_until
from bacalhau_engines.testing import OUTPUT, Program, Started, local_input, perform, run_request
from bacalhau_engines.wasm import WasmEngine
from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.plugins import Outcome, OutcomeKind
from tests.builders_wasm import (
    fork_server,
    many_functions,
    module,
    play,
    puppet,
    wasm_engine,
    wat,
)

STREAM_BYTES = 1_000_000
OUTPUT_BYTES = 3_000_000


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[WasmEngine]:
    """An engine with small limits; after the attack it is the same fork server, without children, and it works."""
    limits = {"stream_bytes": STREAM_BYTES, "output_bytes": OUTPUT_BYTES, "compile_cpu_s": 1}
    async with wasm_engine(tmp_path, **limits) as engine:
        server = await fork_server(engine)
        yield engine
        assert await fork_server(engine) == server, "the fork server died"
        outcome, printed = await play(engine, tmp_path, puppet("out", "fine"), execution_id="e-after")
        assert (outcome.kind, printed) == (OutcomeKind.EXITED, "fine")
        await wait_until(lambda: not server.children(), what="all children are gone")


async def attack(engine: WasmEngine, tmp_path: Path, program: Program, **request: Any) -> Outcome:
    return (await play(engine, tmp_path, program, **request))[0]


async def test_an_endless_loop_is_ended(engine: WasmEngine, tmp_path: Path) -> None:
    """By the timeout, and its CPU time is told."""
    outcome = await attack(engine, tmp_path, puppet("spin"), timeout_s=0.4)
    assert outcome.kind is OutcomeKind.TIMED_OUT
    assert outcome.cpu_seconds > 0
    assert "ExecutionTimeout" in outcome.hint


async def test_a_loop_at_instantiation_is_ended(engine: WasmEngine, tmp_path: Path) -> None:
    """A start section runs under the same limits as the entry point."""
    text = '(module (func $s (loop br 0)) (start $s) (func (export "_start")))'
    outcome = await attack(engine, tmp_path, module(wat(tmp_path, text)), timeout_s=0.3)
    assert outcome.kind is OutcomeKind.TIMED_OUT


async def test_sleeping_is_no_way_out(engine: WasmEngine, tmp_path: Path) -> None:
    """A guest that waits in the kernel is ended as well."""
    outcome = await attack(engine, tmp_path, puppet("sleep", "60000"), timeout_s=0.3)
    assert outcome.kind is OutcomeKind.TIMED_OUT


async def test_memory_stops_at_the_limit(engine: WasmEngine, tmp_path: Path) -> None:
    """malloc fails, and the guest says so itself."""
    run = run_request(tmp_path, puppet("eat", "0"), memory_bytes=32 * 2**20)
    outcome = await perform(engine, run)
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXITED, 91)
    assert outcome.memory_peak_bytes <= 32 * 2**20


async def test_a_module_that_begins_too_large_does_not_begin(engine: WasmEngine, tmp_path: Path) -> None:
    """The message has both figures."""
    text = '(module (memory 4096) (func (export "_start")))'
    outcome = await attack(engine, tmp_path, module(wat(tmp_path, text)))
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY
    assert "4096 pages" in outcome.message
    assert "Resources.Memory" in outcome.hint


async def test_many_memories_share_one_limit(engine: WasmEngine, tmp_path: Path) -> None:
    """The process's own limit holds where the limit per memory would let ten times as much through."""
    grow = "".join(f"(drop (memory.grow {n} (i32.const 900)))" for n in range(10))
    fill = "".join(f"(memory.fill {n} (i32.const 0) (i32.const 1) (i32.const 58982400))" for n in range(10))
    memories = "(memory 0)" * 10
    text = f'(module {memories} (func (export "_start") {grow} {fill}))'
    outcome = await attack(engine, tmp_path, module(wat(tmp_path, text)))
    assert outcome.failed
    assert outcome.memory_peak_bytes < 2 * 64 * 2**20 + 64 * 2**20


async def test_tables_are_limited(engine: WasmEngine, tmp_path: Path) -> None:
    """Growing a table for ever is refused to the guest."""
    text = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (table $t 1 funcref)
      (func (export "_start")
        (loop (br_if 0 (i32.ne (table.grow $t (ref.null func) (i32.const 100000)) (i32.const -1))))
        (call $exit (i32.const 17))))"""
    outcome = await attack(engine, tmp_path, module(wat(tmp_path, text)))
    assert outcome.exit_code == 17


async def test_endless_recursion_traps(engine: WasmEngine, tmp_path: Path) -> None:
    """The call stack ends, not the process."""
    for name, program in (
        ("puppet", puppet("recurse")),
        ("pure", module(wat(tmp_path, '(module (func $f (export "_start") call $f))'))),
    ):
        outcome = await attack(engine, tmp_path, program, execution_id=f"e-{name}")
        assert (outcome.kind, outcome.exit_code) == (OutcomeKind.SIGNALLED, 1)


async def test_output_without_end_is_cut(engine: WasmEngine, tmp_path: Path) -> None:
    """The run ends, and what is kept is exactly the limit."""
    outcome, printed = await play(engine, tmp_path, puppet("flood", "0"), outputs=())
    assert outcome.kind is OutcomeKind.OVER_LIMIT
    assert "stdout" in outcome.message
    assert len(printed) == STREAM_BYTES


async def test_output_beside_outputs_is_cut_too(engine: WasmEngine, tmp_path: Path) -> None:
    """Where files may grow beyond the streams' limit, the streams are still watched."""
    outcome, printed = await play(engine, tmp_path, puppet("flood", "0"), outputs=(OUTPUT,))
    assert outcome.kind is OutcomeKind.OVER_LIMIT
    assert len(printed) == STREAM_BYTES


@pytest.mark.parametrize("verbs", [("fill", "/out/big", "0"), ("litter", "/out")], ids=["one-file", "many-files"])
async def test_outputs_are_limited(engine: WasmEngine, tmp_path: Path, verbs: tuple[str, ...]) -> None:
    """A file without end and files without end are both stopped."""
    outcome = await attack(engine, tmp_path, puppet(*verbs))
    assert outcome.kind is OutcomeKind.OVER_LIMIT
    assert "Resources.Disk" in outcome.hint


async def test_a_quick_writer_does_not_slip_through(engine: WasmEngine, tmp_path: Path) -> None:
    """What was written is counted once more at the end."""
    verbs = [word for n in range(4) for word in ("fill", f"/out/{n}", "1000000")]
    outcome = await attack(engine, tmp_path, puppet(*verbs))
    assert outcome.kind is OutcomeKind.OVER_LIMIT


async def test_there_is_no_way_out_of_the_file_system(engine: WasmEngine, tmp_path: Path) -> None:
    """Neither dots, nor links of the guest, nor links that lie in an input lead to the host."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    data = tmp_path / "data"
    data.mkdir()
    (data / "absolute").symlink_to(secret)
    (data / "relative").symlink_to("../secret.txt")
    (data / "up").symlink_to("..")
    paths = (
        "/etc/passwd", "../../etc/passwd", "/in/../../secret.txt", "/in/absolute", "/in/relative", "/in/up/secret.txt",
        "/out/../../../secret.txt", "/out/link", "/out/top/etc/passwd", "/proc/self/environ", "/dev/null",
    )  # fmt: skip
    verbs = ["link", "../../../secret.txt", "/out/link", "link", "/", "/out/top"]
    verbs += [word for path in paths for word in ("try-read", path)]
    program = puppet(*verbs, inputs=[local_input(data, "/in")])
    _, printed = await play(engine, tmp_path, program)
    read = [line for line in printed.splitlines() if line.startswith("try-read") and line.endswith("yes")]
    assert read == []


async def test_a_module_below_a_link_is_not_taken(engine: WasmEngine, tmp_path: Path) -> None:
    """A link in an input must not make the host's files modules."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "m.wasm").symlink_to(wat(tmp_path, '(module (func (export "_start")))'))
    program = module(tmp_path / "main.wasm", inputs=[local_input(data, "/in")], EntryModule="/in/m.wasm")
    with pytest.raises(SpecError, match="leads out of its input"):
        await attack(engine, tmp_path, program)


async def test_a_pipe_is_no_module(engine: WasmEngine, tmp_path: Path) -> None:
    """Opening one would wait for ever."""
    data = tmp_path / "data"
    data.mkdir()
    os.mkfifo(data / "m.wasm")
    program = module(data, inputs=[local_input(data, "/in")], EntryModule="/in/m.wasm")
    with pytest.raises(SpecError, match="not a file"):
        await attack(engine, tmp_path, program)


async def test_a_compile_bomb_stops_at_its_limit_and_others_run_on(engine: WasmEngine, tmp_path: Path) -> None:
    """Compiling has a limit of CPU time; a run of a known module meanwhile is not held up."""
    await attack(engine, tmp_path, puppet("out", "warm"), execution_id="e-warm")
    bomb = asyncio.create_task(attack(engine, tmp_path, module(many_functions(tmp_path, 300_000))))
    server = await fork_server(engine)
    await wait_until(server.children, what="the compiler runs")
    outcome, _ = await play(engine, tmp_path, puppet("out", "x"), execution_id="e-beside")
    assert outcome.kind is OutcomeKind.EXITED
    assert not bomb.done()
    with pytest.raises(SpecError, match="CPU time"):
        await bomb


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a WebAssembly module"),
        (b"#!/bin/sh\n", "not a WebAssembly module"),
        (b"(module)", "not a WebAssembly module"),
        (b"\0asm\r\0\1\0", "component"),
        (b"\0asm\2\0\0\0", "unknown version"),
        (b"\0asm\1\0\0\0\x07\x01\x00junk", "not a valid module"),
        (b"\0asm\1\0\0\0" + bytes(range(256)) * 40, "not a valid module"),
    ],
    ids=["empty", "script", "text", "component", "version", "cut", "noise"],
)
async def test_a_bad_module_is_refused(engine: WasmEngine, tmp_path: Path, data: bytes, message: str) -> None:
    """It says what the file is instead, and where it stands."""
    path = tmp_path / "bad.wasm"
    path.write_bytes(data)
    with pytest.raises(SpecError, match=message) as caught:
        await attack(engine, tmp_path, module(path))
    assert caught.value.place == "/app/main.wasm"


async def test_a_child_holds_nothing_but_its_own(engine: WasmEngine, tmp_path: Path) -> None:
    """No descriptor of the daemon or of other runs, no privileges, a system call filter, no daemon's environment."""
    started = [Started(), Started()]
    runs = [run_request(tmp_path, puppet("out", "x", "spin"), execution_id=f"e-{n}") for n in range(2)]
    tasks = [asyncio.create_task(perform(engine, run, mark)) for run, mark in zip(runs, started, strict=True)]
    await wait_until(
        lambda: all(run.stdout_path.exists() and run.stdout_path.read_text() for run in runs), what="both run"
    )
    for child in (await fork_server(engine)).children():
        modes = [link.stat().st_mode for link in Path(f"/proc/{child.pid}/fd").iterdir()]
        assert sum(map(stat.S_ISSOCK, modes)) == 1  # its own, to the fork server
        assert not any(map(stat.S_ISFIFO, modes))
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert "BACALHAU" not in " ".join(child.environ())
        assert psutil.Process(child.pid).nice() > 0
    for run, task in zip(runs, tasks, strict=True):
        await engine.cancel(run.execution_id, 0)
        assert (await task).kind is OutcomeKind.CANCELLED


async def test_a_child_killed_from_outside_is_told_from_other_ends(engine: WasmEngine, tmp_path: Path) -> None:
    """It is neither a timeout nor a cancel, and the message names the signal."""
    started = Started()
    task = asyncio.create_task(perform(engine, run_request(tmp_path, puppet("spin")), started))
    await started.event.wait()
    (child,) = (await fork_server(engine)).children()
    child.kill()
    outcome = await task
    assert outcome.kind is OutcomeKind.SIGNALLED
    assert "SIGKILL" in outcome.message


async def test_a_crashed_child_is_told_from_a_trap(engine: WasmEngine, tmp_path: Path) -> None:
    """SIGSEGV of the process itself, as a bug of the compiler would give."""
    started = Started()
    task = asyncio.create_task(perform(engine, run_request(tmp_path, puppet("sleep", "60000")), started))
    await started.event.wait()
    (child,) = (await fork_server(engine)).children()
    await wait_until(lambda: child.status() == psutil.STATUS_SLEEPING, what="it sleeps")
    child.send_signal(6)
    outcome = await task
    assert outcome.kind is OutcomeKind.SIGNALLED
    assert "SIGABRT" in outcome.message
