"""The orchestrator as a process: exit status, locks, kill -9, a damaged log, backup and restore."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_daemon.orchestrator import credential_files
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.job import Job, SpecConfig, Task

JOB = Job(name="hello", type="batch", tasks=(Task(name="main", engine=SpecConfig(type="noop")),))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[DevStack]:
    """Give a directory for daemons."""
    with DevStack(tmp_path) as made:
        yield made


def run(stack: DevStack, daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a subcommand of the daemon on a data directory."""
    return subprocess.run(
        [sys.executable, "-m", "bacalhau_daemon", *arguments, "--data-dir", str(daemon.data_dir)],
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def submit(daemon: Daemon, name: str = "hello") -> str:
    """Submit a job; return its id."""
    async with connected(daemon) as client:
        return (await client.submit_job(Job(name=name, type=JOB.type, tasks=JOB.tasks))).job_id


async def listed(daemon: Daemon) -> set[str]:
    """Return the ids of all jobs."""
    async with connected(daemon) as client:
        return {row.id for row in (await client.list_jobs()).jobs}


class connected:  # noqa: N801  reads like a function
    """The admin's client."""

    def __init__(self, daemon: Daemon) -> None:
        credential = credential_files.read_admin(daemon.data_dir)
        assert credential is not None
        self._credential = credential

    async def __aenter__(self) -> Client:
        self._client = await Client.connect(self._credential)
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


def server_pids(daemon: Daemon) -> set[int]:
    """Return the processes that a daemon has started."""
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text()
    return {int(pid) for pid in children.split()}


def is_running(pid: int) -> bool:
    """Whether the process is there and not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_says_when_it_is_ready_and_ends_in_good_order(stack: DevStack) -> None:
    """`ready.json` has what others need, and goes; the exit status is 0, nothing is left running."""
    daemon = stack.orchestrator()
    ready = json.loads((daemon.data_dir / "ready.json").read_text())
    servers = server_pids(daemon)

    assert ready["roles"] == ["orchestrator"]
    assert ready["address"].startswith("nats://127.0.0.1:")
    assert servers
    assert daemon.stop() == 0
    assert not (daemon.data_dir / "ready.json").exists()
    assert not any(map(is_running, servers))


def test_a_second_orchestrator_on_the_same_data_is_refused(stack: DevStack) -> None:
    """It ends with status 7 and names the process that has the directory; the first goes on."""
    first = stack.orchestrator()
    second = stack.daemon("orchestrator", "--orchestrator", "--listen", "127.0.0.1:0")
    second.log_path = second.log_path.with_name("second.log")
    ready = (first.data_dir / "ready.json").read_text()
    second.start()

    assert second.wait() == 7
    assert f"process {first.process.pid} uses this data directory" in second.log_tail()
    assert first.running
    (first.data_dir / "ready.json").write_text(ready)


async def test_what_was_acknowledged_survives_kill_9(stack: DevStack) -> None:
    """Killed without warning, the server dies too; the next start finds every job, on the same address."""
    daemon = stack.orchestrator()
    address = daemon.ready()["address"]
    jobs = {await submit(daemon, f"job-{number}") for number in range(5)}
    servers = server_pids(daemon)
    daemon.kill()
    await wait_until(lambda: not any(map(is_running, servers)))

    daemon.start().ready()

    assert daemon.ready()["address"] == address
    assert await listed(daemon) == jobs


async def test_a_damaged_log_is_refused_and_a_backup_brings_it_back(stack: DevStack) -> None:
    """A flipped bit is named with its place, the process ends with a status; `restore` makes the cluster again."""
    daemon = stack.orchestrator()
    job = await submit(daemon)
    backup = stack.directory / "backup"
    assert "records of cluster" in run(stack, daemon, "backup", str(backup)).stdout
    await submit(daemon, "later")
    daemon.stop()
    log = daemon.data_dir / "orchestrator/log.db"
    flip_a_bit(log)

    daemon.start()
    assert daemon.wait() != 0
    assert "log.db, record" in daemon.log_tail()
    assert run(stack, daemon, "check").returncode != 0

    restored = run(stack, daemon, "restore", str(backup))
    assert restored.returncode == 0, restored.stderr
    assert "unbroken" in run(stack, daemon, "check").stdout
    daemon.start().ready()
    assert await listed(daemon) == {job}


def flip_a_bit(log: Path) -> None:
    """Change one byte of record 2."""
    database = sqlite3.connect(log)
    data = bytearray(database.execute("SELECT data FROM records WHERE n = 2").fetchone()[0])
    data[len(data) // 2] ^= 1
    database.execute("UPDATE records SET data = ? WHERE n = 2", (bytes(data),))
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


async def test_the_query_side_can_be_made_anew(stack: DevStack) -> None:
    """`rebuild` refuses while the daemon runs; afterwards everything is there again. A lost file is made anew too."""
    daemon = stack.orchestrator()
    job = await submit(daemon)
    busy = run(stack, daemon, "rebuild")
    assert (busy.returncode, "uses this data directory" in busy.stderr) == (7, True)
    daemon.stop()

    assert "records read" in run(stack, daemon, "rebuild").stdout
    daemon.start().ready()
    assert await listed(daemon) == {job}
    daemon.stop()

    for path in (daemon.data_dir / "orchestrator").glob("query.db*"):
        path.unlink()
    daemon.start().ready()
    assert await listed(daemon) == {job}


def test_impossible_settings_are_said_before_anything_starts(stack: DevStack) -> None:
    """A wrong flag is a usage error; a port in use says which, and what to do."""
    daemon = stack.orchestrator()
    port = daemon.ready()["address"].rpartition(":")[2]
    other = stack.daemon("other")

    assert run(stack, other, "--orchestrator", "--listen", "nonsense").returncode == 2
    taken = run(stack, other, "--orchestrator", "--listen", f"127.0.0.1:{port}")
    assert taken.returncode == 6
    assert f"127.0.0.1:{port}: cannot listen: address already in use" in taken.stderr
    assert "--listen" in taken.stderr
    other.data_dir.parent.joinpath("file").write_text("")
    other.data_dir = other.data_dir.parent / "file"
    unusable = run(stack, other, "--orchestrator")
    assert unusable.returncode == 2
    assert f"{other.data_dir}: the data directory cannot be used: File exists" in unusable.stderr
    assert run(stack, stack.daemon("third"), "check").returncode == 4
