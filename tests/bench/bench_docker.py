"""The docker engine beside a raw loop over the SDK, in the same run: what it adds to `true`, and four at once."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bacalhau_engines.docker import DockerEngine
from bacalhau_engines.testing import Started, run_request
from tests.bench.floors import p
from tests.builders_docker import IMAGE, api, docker_engine, make_image, missing, shell

SERIAL, ROUNDS = 10, 3  # rounds of both take turns, so that neighbours disturb both alike
PARALLEL, BURST = 4, 24
OVERHEAD_MS, SHARE = 30.0, 0.9
MEMORY_BYTES = 64 * 1024 * 1024


def raw(client: Any) -> float:
    """Run `true` as plainly as the SDK allows; return milliseconds until its output is here, and it is removed."""
    start = time.perf_counter()
    host = client.create_host_config(network_mode="none", mem_limit=MEMORY_BYTES)
    container = client.create_container(IMAGE, ["/bin/sh", "-c", "true"], host_config=host, network_disabled=True)["Id"]
    client.start(container)
    client.wait(container)
    client.logs(container)
    client.remove_container(container)
    return (time.perf_counter() - start) * 1e3


async def ours(engine: DockerEngine, directory: Path, name: str) -> float:
    """Run `true` with everything that a daemon asks for; return milliseconds until it is over and removed."""
    run = run_request(directory, shell("true"), execution_id=name, outputs=(), memory_bytes=MEMORY_BYTES)
    start = time.perf_counter()
    await engine.prepare(run, lambda what, done, total: None)
    outcome = await engine.run(run, Started())
    assert outcome.exit_code == 0, outcome
    await engine.forget(run.execution_id, run.attempt)
    await engine.removed(run.execution_id, run.attempt)
    return (time.perf_counter() - start) * 1e3


async def serial(engine: DockerEngine, client: Any, directory: Path) -> None:
    """One at a time, in turns."""
    raws, engines = [], []
    for turn in range(ROUNDS):
        for n in range(SERIAL):
            raws.append(await asyncio.to_thread(raw, client))
            engines.append(await ours(engine, directory, f"serial-{turn}-{n}"))
    added = statistics.median(engines) - statistics.median(raws)
    print(f"one at a time, p50     raw SDK {p(raws, 50):.0f} ms   engine {p(engines, 50):.0f} ms", end="   ")
    print(f"added {added:+.0f} ms   (target {OVERHEAD_MS:+.0f} ms)")


async def burst(engine: DockerEngine, client: Any, directory: Path) -> None:
    """Four at a time, in turns."""
    rates: tuple[list[float], list[float]] = ([], [])
    with ThreadPoolExecutor(PARALLEL) as pool:
        for turn in range(ROUNDS):
            start = time.perf_counter()
            await asyncio.to_thread(lambda: list(pool.map(lambda _: raw(client), range(BURST))))
            rates[0].append(BURST / (time.perf_counter() - start))
            gate = asyncio.Semaphore(PARALLEL)

            async def gated(n: int, turn: int = turn, gate: asyncio.Semaphore = gate) -> None:
                async with gate:
                    await ours(engine, directory, f"burst-{turn}-{n}")

            start = time.perf_counter()
            await asyncio.gather(*(gated(n) for n in range(BURST)))
            rates[1].append(BURST / (time.perf_counter() - start))
    floor, rate = (statistics.median(found) for found in rates)
    print(f"{PARALLEL} at a time            raw SDK {floor:.1f} runs/s   engine {rate:.1f} runs/s", end="   ")
    print(f"share {rate / floor:.2f}   (target {SHARE})")


async def bench(directory: Path) -> None:
    """Run all of it."""
    client = api()
    async with docker_engine(directory) as engine:
        await ours(engine, directory, "first")
        await asyncio.to_thread(raw, client)
        await serial(engine, client, directory)
        await burst(engine, client, directory)
    client.close()


def main() -> None:
    """Print the figures."""
    if why := missing():
        print(f"needs docker, so this was NOT measured: {why}")
        return
    make_image()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(bench(Path(directory)))
