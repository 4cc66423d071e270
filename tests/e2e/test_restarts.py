"""Daemons that are stopped and started in good order, and a log that has lost its end."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from tests.e2e.cluster import all_jobs, client_of, noop, nothing_is_lost, submit_many

JOBS = 100


@pytest.mark.timeout(300)
async def test_restarts_in_good_order_lose_nothing(stack: DevStack, port: int) -> None:
    """Both daemons are stopped (SIGTERM) and started in turn while jobs are submitted: each job succeeds once."""
    daemons = [stack.orchestrator(listen=f"127.0.0.1:{port}"), stack.compute("node-1")]
    restarts: asyncio.Queue[Daemon] = asyncio.Queue()
    statuses: list[int] = []

    def acknowledged(so_far: int) -> None:
        if so_far in (20, 60):
            restarts.put_nowait(daemons[so_far // 60])

    async def restart() -> None:
        for _ in range(len(daemons)):
            daemon = await restarts.get()
            statuses.append(await asyncio.to_thread(daemon.stop))
            await asyncio.to_thread(lambda started: started.start().ready(), daemon)

    async with client_of(daemons[0]) as client:
        async with asyncio.TaskGroup() as group:
            group.create_task(restart())
            submitting = group.create_task(submit_many(client, JOBS, noop(delay_ms=100), acknowledged))
        await nothing_is_lost(client, submitting.result())

    assert statuses == [0, 0]


def run(stack: DevStack, daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a subcommand of the daemon on a data directory."""
    command = [sys.executable, "-m", "bacalhau_daemon", *arguments, "--data-dir", str(daemon.data_dir)]
    return subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=60)


def cut_tail(log: Path) -> int:
    """Delete the newest record, as a disk does that has lied; return its number."""
    database = sqlite3.connect(log)
    (last,) = database.execute("SELECT max(n) FROM records").fetchone()
    database.execute("DELETE FROM records WHERE n = ?", (last,))
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return int(last)


async def test_a_log_without_its_tail_is_refused_and_a_backup_brings_it_back(stack: DevStack) -> None:
    """The start says from which record on it is gone; after `restore` the jobs of the backup are there."""
    daemon = stack.hybrid()
    async with client_of(daemon) as client:
        await nothing_is_lost(client, await submit_many(client, 5, noop(), lambda _: None))
    backup = stack.directory / "backup"
    assert "records of cluster" in run(stack, daemon, "backup", str(backup)).stdout
    async with client_of(daemon) as client:
        saved = {row.id for row in await all_jobs(client)}
        await client.submit_job(noop())
    daemon.stop()
    last = cut_tail(daemon.data_dir / "orchestrator/log.db")

    daemon.start()
    assert daemon.wait() == 8
    said = daemon.log_tail(5)
    assert f"{daemon.data_dir / 'orchestrator/log.db'}, record {last}" in said
    assert "restore" in said
    assert run(stack, daemon, "check").returncode == 8

    assert run(stack, daemon, "restore", str(backup)).returncode == 0
    daemon.start().ready()
    async with client_of(daemon) as client:
        assert {row.id for row in await all_jobs(client)} == saved
