"""The wasm engine alone: what a run costs, warm and cold, one at a time and 64 at once, next to a bare fork."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bacalhau_engines.testing import Started, run_request
from bacalhau_engines.wasm import WasmEngine
from tests.bench.floors import p
from tests.builders_wasm import EXAMPLES, fork_server, module, wasm_engine

SERIAL, BURST, IN_FLIGHT, COLD = 300, 1500, 64, 20
TARGET_MS, TARGET_PER_S = 3.0, 300


def bare_fork_ms() -> float:
    """Return the median milliseconds to fork this process, and to see the child end at once."""
    took = []
    for _ in range(SERIAL):
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


async def one(engine: WasmEngine, directory: Path, path: Path, name: str) -> tuple[float, float]:
    """Prepare and run once; return the milliseconds of each."""
    run = run_request(directory, module(path, Parameters=["x"]), execution_id=name, outputs=())
    start = time.perf_counter()
    await engine.prepare(run, lambda what, done, total: None)
    prepared = time.perf_counter()
    outcome = await engine.run(run, Started())
    assert outcome.exit_code == 0, outcome
    return (prepared - start) * 1e3, (time.perf_counter() - prepared) * 1e3


async def serial(engine: WasmEngine, directory: Path) -> None:
    """Runs of a module that the fork server holds, one after another."""
    took = [await one(engine, directory, EXAMPLES / "hello.wasm", f"serial-{n}") for n in range(SERIAL)]
    prepare, run = ([pair[place] for pair in took] for place in (0, 1))
    print(f"warm, one at a time    prepare p50 {p(prepare, 50):.2f} ms p99 {p(prepare, 99):.2f} ms")
    print(
        f"                           run p50 {p(run, 50):.2f} ms p99 {p(run, 99):.2f} ms   (target {TARGET_MS} ms p50)"
    )


async def cold(engine: WasmEngine, directory: Path) -> None:
    """Runs of modules that have never been seen: each is compiled first."""
    source = (EXAMPLES / "wordcount.wasm").read_bytes()
    took = []
    for n in range(COLD):
        path = directory / f"cold-{n}.wasm"
        name = f"unique-{n:04}".encode()
        path.write_bytes(source + b"\0" + bytes([len(name) + 2, 1]) + b"x" + name)  # a custom section
        start = time.perf_counter()
        run = run_request(directory, module(path), execution_id=f"cold-{n}", outputs=())
        await engine.prepare(run, lambda what, done, total: None)
        took.append((time.perf_counter() - start) * 1e3)
    print(f"cold ({len(source) // 1024} kB to compile)  prepare p50 {p(took, 50):.1f} ms max {max(took):.1f} ms")


async def burst(engine: WasmEngine, directory: Path, server: psutil.Process) -> None:
    """Many at once."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def gated(n: int) -> float:
        async with gate:
            return sum(await one(engine, directory, EXAMPLES / "hello.wasm", f"burst-{n}"))

    before, daemon_before, start = server.cpu_times(), time.process_time(), time.perf_counter()
    took = await asyncio.gather(*(gated(n) for n in range(BURST)))
    wall_s, daemon_s = time.perf_counter() - start, time.process_time() - daemon_before
    after = server.cpu_times()
    own = after.user + after.system - before.user - before.system
    children = after.children_user + after.children_system - before.children_user - before.children_system
    rate, median = BURST / wall_s, p(took, 50)
    print(f"{IN_FLIGHT} in flight           {rate:.0f} runs/s   (target {TARGET_PER_S})   p50 {median:.0f} ms")
    parts = ((daemon_s, "daemon"), (own, "fork server"), (children, "children"))
    print("CPU per run            " + "   ".join(f"{name} {seconds / BURST * 1e3:.2f} ms" for seconds, name in parts))


async def bench(directory: Path) -> None:
    """Run all of it."""
    async with wasm_engine(directory) as engine:
        start = time.perf_counter()
        server = await fork_server(engine)
        print(f"fork server ready in   {(time.perf_counter() - start) * 1e3:.0f} ms")
        await one(engine, directory, EXAMPLES / "hello.wasm", "first")
        await serial(engine, directory)
        await cold(engine, directory)
        await burst(engine, directory, server)
        memory = server.memory_full_info()
        print(f"fork server memory     {memory.rss / 1e6:.1f} MB resident, {memory.uss / 1e6:.1f} MB of its own")


def main() -> None:
    """Print the figures."""
    print(f"floor: a bare fork     {bare_fork_ms():.2f} ms (of this process, {os.cpu_count()} CPUs, {sys.platform})")
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(bench(Path(directory)))
