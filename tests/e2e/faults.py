"""What the tests do to daemons: kill, freeze, fill their disk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import Daemon

MEGABYTE = 1024 * 1024
BLOCK_BYTES = 64 * 1024


def nats_of(daemon: Daemon) -> int:
    """Return the process id of a daemon's nats-server, 0 when it has none now."""
    parent = daemon.process.pid
    for thread in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in thread.read_text().split():
            with contextlib.suppress(FileNotFoundError):
                if Path(f"/proc/{child}/comm").read_text().strip() == "nats-server":
                    return int(child)
    return 0


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop a process (SIGSTOP), and let it go on at the end if it still lives."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class SmallDisk:
    """A mounted tmpfs of some megabytes, with ballast that takes its space away and gives it back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    @classmethod
    def mount(cls, path: Path, size_bytes: int = 24 * MEGABYTE) -> SmallDisk:
        """Mount it; skips the test where that is not allowed."""
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "bacalhau-test", str(path)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"cannot mount a tmpfs here, so this was NOT tested: {done.stderr.strip()}")
        return cls(path)

    @property
    def free_bytes(self) -> int:
        """How much is free."""
        disk = os.statvfs(self.path)
        return disk.f_bavail * disk.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all space but `leave_bytes`."""
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while (wanted := self.free_bytes - leave_bytes) > 0:
                    file.write(b"\0" * min(wanted, BLOCK_BYTES))
            except OSError:  # somebody else took the last of it
                return

    def relieve(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Unmount, also when something is still open."""
        subprocess.run(["umount", "-l", str(self.path)], check=True)
