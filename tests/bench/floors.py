"""Floors: what the parts of a job's way cost on this machine by themselves, measured in the same run."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nats

from bacalhau_daemon.orchestrator.nats_server import find_server

APPENDS, ROUND_TRIPS, NEW_DIRECTORIES = 400, 1000, 200
RECORD_BYTES = 2_000


def p(values: list[float], percent: int) -> float:
    """Return a percentile of some measurements."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def durable_append_ms(directory: Path) -> float:
    """Return the median milliseconds of one commit of a 2 kB row in SQLite (WAL, FULL) under this directory."""
    with tempfile.TemporaryDirectory(dir=directory) as where:
        database = sqlite3.connect(Path(where) / "floor.db", isolation_level=None)
        database.execute("pragma journal_mode=wal")
        database.execute("pragma synchronous=full")
        database.execute("create table log (n integer primary key, data blob)")
        took = []
        for _ in range(APPENDS):
            start = time.perf_counter()
            database.execute("insert into log (data) values (?)", (b"x" * RECORD_BYTES,))
            took.append((time.perf_counter() - start) * 1e3)
        database.close()
    return statistics.median(took)


def new_directories_ms(directory: Path) -> float:
    """Return the median milliseconds of two new directories, one in the other, with a small file.

    ext4 passes over the inodes that were freed in the last five minutes, one by one: after many files were removed, as
    by an earlier run of a benchmark, this takes several times as long, and so does every run that leaves results.
    """
    took = []
    with tempfile.TemporaryDirectory(dir=directory) as where:
        for number in range(NEW_DIRECTORIES):
            start = time.perf_counter()
            inner = Path(where) / str(number) / "results"
            inner.mkdir(parents=True)
            (inner / "file").write_bytes(b"x")
            took.append((time.perf_counter() - start) * 1e3)
    return statistics.median(took)


@contextmanager
def bare_server() -> Iterator[str]:
    """Run a nats-server without any of ours, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [find_server(), "-a", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.005)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def round_trip_ms() -> float:
    """Return the median milliseconds of a 2 kB request and its answer between two connections of a bare server."""
    with bare_server() as address:
        server, client = await nats.connect(address), await nats.connect(address)

        async def answer(message: object) -> None:
            await message.respond(b"x" * 200)  # type: ignore[attr-defined]

        await server.subscribe("floor", cb=answer)
        await server.flush()
        while True:  # nats-py's flush may overtake the subscription
            try:
                await client.request("floor", b"", timeout=5)
                break
            except nats.errors.NoRespondersError:
                await asyncio.sleep(0.01)
        took = []
        for _ in range(ROUND_TRIPS):
            start = time.perf_counter()
            await client.request("floor", b"x" * RECORD_BYTES, timeout=5)
            took.append((time.perf_counter() - start) * 1e3)
        await client.close()
        await server.close()
    return statistics.median(took)


def measure(directory: Path) -> tuple[float, float]:
    """Return (durable append, NATS round trip) in milliseconds."""
    return durable_append_ms(directory), asyncio.run(round_trip_ms())
