"""One process per data directory, and the mark below which the disk counts as full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_daemon.log.lock import DataLock
from bacalhau_daemon.log.space import MIN_FREE_BYTES, Space, measure
from bacalhau_protocol.errors import Conflict


def test_a_second_process_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    """The refusal names the holder, the directory and what to do."""
    lock = DataLock.acquire(tmp_path / "data")
    with pytest.raises(Conflict, match=f"process {os.getpid()} uses this data directory") as caught:
        DataLock.acquire(tmp_path / "data", wait_s=0)
    assert caught.value.place == str(tmp_path / "data")
    assert "--data-dir" in caught.value.hint
    lock.release()
    DataLock.acquire(tmp_path / "data", wait_s=0).release()


def test_a_child_that_outlives_its_parent_keeps_the_lock(tmp_path: Path) -> None:
    """nats-server inherits the descriptor: left over after kill -9 of the daemon, it still keeps a second one out."""
    lock = DataLock.acquire(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    lock.release()
    try:
        with pytest.raises(Conflict):
            DataLock.acquire(tmp_path, wait_s=0)
        dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        (tmp_path / "lock").write_bytes(dead.stdout)
        with pytest.raises(Conflict, match="is gone, but a process that it started still runs"):
            DataLock.acquire(tmp_path, wait_s=0)
    finally:
        child.communicate(b"\n")
    DataLock.acquire(tmp_path, wait_s=0).release()


def test_the_lock_waits_for_a_predecessor_to_end(tmp_path: Path) -> None:
    """A daemon that is started right after its predecessor was killed does not trip over what is still ending."""
    lock = DataLock.acquire(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    lock.release()
    assert child.stdin is not None
    child.stdin.close()
    DataLock.acquire(tmp_path, wait_s=20).release()
    child.wait()


def test_low_space_is_said_with_path_and_figures(tmp_path: Path) -> None:
    """The mark is a number or the smaller of 256 MB and 2 % of the disk."""
    found = measure(tmp_path)
    assert 0 < found.min_free_bytes <= MIN_FREE_BYTES
    assert not measure(tmp_path, min_free_bytes=0).low
    full = Space("/data", 100_000_000, 256_000_000)
    assert full.low
    assert full.reason == "the disk of /data has 100.0 MB free, 256.0 MB are needed"
