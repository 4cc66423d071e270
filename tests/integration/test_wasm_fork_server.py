"""The fork server: what survives it, what it survives, what it leaves on disk, what it costs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import psutil
import pytest

from bacalhau_daemon.testing import wait_until
from bacalhau_engines.testing import Started, perform, run_request
from bacalhau_engines.wasm.engine import PLANS_MAX
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.plugins import OutcomeKind, RunRequest
from tests.builders_wasm import (
    ROOT,
    fork_server,
    many_functions,
    module,
    play,
    puppet,
    wasm_engine,
    wat,
)


async def test_a_hundred_runs_at_once(tmp_path: Path) -> None:
    """Each has its own output and exit code, and no process is left."""
    async with wasm_engine(tmp_path) as engine:
        runs = [
            run_request(tmp_path, puppet("out", str(n), "sleep", "50", "exit", str(n)), execution_id=f"e-{n}")
            for n in range(100)
        ]
        outcomes = await asyncio.gather(*(perform(engine, run) for run in runs))
        server = await fork_server(engine)
        await wait_until(lambda: not server.children(), what="all children are reaped")
    assert [outcome.exit_code for outcome in outcomes] == list(range(100))
    assert [run.stdout_path.read_text() for run in runs] == [str(n) for n in range(100)]


async def test_its_memory_does_not_grow_with_runs(tmp_path: Path) -> None:
    """150 runs leave it within a megabyte or so, with the same open files."""
    async with wasm_engine(tmp_path) as engine:

        async def some(count: int, name: str) -> None:
            runs = [run_request(tmp_path, puppet("out", "x"), execution_id=f"e-{name}-{n}") for n in range(count)]
            await asyncio.gather(*(perform(engine, run) for run in runs))

        await some(50, "warm")
        server = await fork_server(engine)
        await wait_until(lambda: not server.children(), what="the first are reaped")
        before, files = server.memory_info().rss, server.num_fds()
        await some(150, "many")
        await wait_until(lambda: server.num_fds() == files, what="its descriptors are back to what they were")
        assert server.memory_info().rss - before < 2 * 2**20


async def test_it_is_started_again_after_it_died(tmp_path: Path) -> None:
    """Runs in flight end in words, their processes with it, and the next run works."""
    async with wasm_engine(tmp_path) as engine:
        started = Started()
        task = asyncio.create_task(perform(engine, run_request(tmp_path, puppet("spin")), started))
        await started.event.wait()
        server = await fork_server(engine)
        (child,) = server.children()
        server.kill()
        outcome = await task
        assert outcome.kind is OutcomeKind.COULD_NOT_RUN
        assert "fork server ended" in outcome.message
        assert "try again" in outcome.hint
        await wait_until(lambda: not _alive(child), what="its child died with it")
        again, _ = await play(engine, tmp_path, puppet("exit", "4"), execution_id="e-2")
        assert again.exit_code == 4
        assert await fork_server(engine) != server


async def test_a_compilation_in_flight_is_told_as_well(tmp_path: Path) -> None:
    """`prepare` raises `NodeFailed`: another node, or a later time, may do better."""
    async with wasm_engine(tmp_path) as engine:
        server = await fork_server(engine)
        program = module(many_functions(tmp_path, 300_000))
        task = asyncio.create_task(engine.prepare(run_request(tmp_path, program), lambda *_: None))
        await wait_until(server.children, what="the compiler runs")
        server.kill()
        with pytest.raises(NodeFailed, match="fork server ended"):
            await task


DAEMON = """
import asyncio, sys
from pathlib import Path
from tests.builders_wasm import fork_server, puppet, wasm_engine
from bacalhau_engines.testing import perform, run_request

async def main():
    directory = Path(sys.argv[1])
    async with wasm_engine(directory) as engine:
        run = run_request(directory, puppet("spin"))
        async def tell():
            print((await fork_server(engine)).children()[0].pid, (await fork_server(engine)).pid, flush=True)
        await perform(engine, run, lambda: asyncio.get_running_loop().create_task(tell()))

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: signal.Signals(number).name)
async def test_everything_ends_with_the_daemon(tmp_path: Path, number: int) -> None:
    """However it dies: fork server and endless guest are gone soon after."""
    path = os.pathsep.join(str(ROOT / part) for part in ("daemon", "engines", "."))
    daemon = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DAEMON), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert daemon.stdout
    line = await asyncio.to_thread(daemon.stdout.readline)
    processes = [psutil.Process(int(pid)) for pid in line.split()]
    daemon.send_signal(number)
    daemon.wait(10)
    daemon.stdout.close()
    await wait_until(lambda: not any(_alive(process) for process in processes), what="guest and fork server are gone")


async def test_compiled_code_outlives_the_fork_server(tmp_path: Path) -> None:
    """A second engine on the same directory finds it, and does not write it anew."""
    path = wat(tmp_path, '(module (func (export "_start")))')
    async with wasm_engine(tmp_path) as engine:
        await play(engine, tmp_path, module(path))
    (code,) = tmp_path.glob("plugin/compiled/*/*.cwasm")
    first = code.stat()
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, module(path), execution_id="e-2")
    assert outcome.kind is OutcomeKind.EXITED
    assert code.stat().st_ino == first.st_ino


@pytest.mark.parametrize("damage", ["code", "info", "missing"])
async def test_damaged_code_is_never_run(tmp_path: Path, damage: str) -> None:
    """An entry whose hash does not fit is compiled again."""
    path = wat(tmp_path, '(module (func (export "_start")))')
    async with wasm_engine(tmp_path) as engine:
        await play(engine, tmp_path, module(path))
    (code,) = tmp_path.glob("plugin/compiled/*/*.cwasm")
    match damage:
        case "code":
            data = bytearray(code.read_bytes())
            data[len(data) // 2] ^= 1
            code.write_bytes(data)
        case "info":
            code.with_suffix(".info").write_bytes(b"junk")
        case _:
            code.unlink()
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, module(path), execution_id="e-2")
    assert outcome.kind is OutcomeKind.EXITED


async def test_code_of_another_machine_is_compiled_again(tmp_path: Path) -> None:
    """wasmtime refuses it when it is loaded; the run does not see any of that."""
    path = wat(tmp_path, '(module (func (export "_start")))')
    async with wasm_engine(tmp_path) as engine:
        await play(engine, tmp_path, module(path))
    (code,) = tmp_path.glob("plugin/compiled/*/*.cwasm")
    info = msgspec.msgpack.decode(code.with_suffix(".info").read_bytes())
    code.write_bytes(b"\x7fELF of another kind")
    info["compiled_digest"] = hashlib.sha256(code.read_bytes()).hexdigest()
    code.with_suffix(".info").write_bytes(msgspec.msgpack.encode(info))
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, module(path), execution_id="e-2")
    assert outcome.kind is OutcomeKind.EXITED


async def test_a_changed_file_is_a_new_module(tmp_path: Path) -> None:
    """The same path with other bytes runs the other bytes, even when size and second are the same."""
    text = """(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const %d))))"""
    async with wasm_engine(tmp_path) as engine:
        for code in (5, 6):
            outcome, _ = await play(engine, tmp_path, module(wat(tmp_path, text % code)), execution_id=f"e-{code}")
            assert outcome.exit_code == code


async def test_sweep_removes_what_earlier_daemons_left(tmp_path: Path) -> None:
    """Half-written files and other versions' code go; ours stays."""
    async with wasm_engine(tmp_path) as engine:
        await play(engine, tmp_path, puppet())
        (code,) = tmp_path.glob("plugin/compiled/*/*.cwasm")
        (code.parent / "abc.12.tmp").write_bytes(b"half")
        old = code.parent.parent / "0.1"
        old.mkdir()
        (old / "abc.cwasm").write_bytes(b"old")
        assert await engine.sweep(frozenset()) == 2
        assert await engine.sweep(frozenset()) == 0
        assert code.exists()


async def test_cancel_before_it_has_begun_is_not_lost(tmp_path: Path) -> None:
    """A cancel between the call of `run` and the start of the process ends the run."""
    async with wasm_engine(tmp_path) as engine:
        started = Started()
        task = asyncio.create_task(engine.run(run_request(tmp_path, puppet("spin")), started))
        await asyncio.sleep(0)  # the task has begun and waits for its modules
        await engine.cancel("e-1", 0)
        assert (await task).kind is OutcomeKind.CANCELLED
        assert started.count == 0


async def test_prepared_runs_that_never_come_are_forgotten(tmp_path: Path) -> None:
    """What `prepare` remembers is bounded, and a forgotten run still runs."""
    async with wasm_engine(tmp_path) as engine:
        runs: list[RunRequest] = []
        for n in range(4):
            runs.append(run_request(tmp_path, puppet("exit", str(n)), execution_id=f"e-{n}"))
            await engine.prepare(runs[-1], lambda *_: None)
        assert len(engine._plans) <= PLANS_MAX
        engine._plans.clear()
        assert (await engine.run(runs[2], lambda: None)).exit_code == 2


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
