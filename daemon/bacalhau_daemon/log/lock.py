"""One process per data directory: an flock whose descriptor nats-server inherits, so that an orphan keeps it too."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from bacalhau_protocol.errors import Conflict

LOCK_FILE = "lock"
RETRY_S = 0.05


class DataLock:
    """A held lock on a data directory. The descriptor is inheritable: pass `fileno()` in `pass_fds`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, data_dir: Path, *, wait_s: float = 2.0) -> DataLock:
        """Lock a data directory, which is made if missing; a predecessor's children get `wait_s` to end.

        Raises
        ------
        Conflict
            when another process holds it; names its pid.
        """
        data_dir.mkdir(parents=True, exist_ok=True)
        path = data_dir / LOCK_FILE
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    os.close(descriptor)
                    raise _refusal(data_dir, holder) from None
            time.sleep(RETRY_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        os.set_inheritable(descriptor, True)
        return cls(path, descriptor)

    def fileno(self) -> int:
        """The locked descriptor."""
        return self._descriptor

    def release(self) -> None:
        """Let go; a child that inherited the descriptor still holds the lock."""
        os.close(self._descriptor)


def _refusal(data_dir: Path, holder: str) -> Conflict:
    if holder.isdigit() and not Path(f"/proc/{holder}").exists():
        message = f"process {holder}, which used this data directory, is gone, but a process that it started still runs"
        hint = "end the left-over nats-server, or wait until it has ended"
    else:
        message = f"process {holder or '(unknown)'} uses this data directory"
        hint = "end that daemon first, or give this one another --data-dir"
    return Conflict(message, place=str(data_dir), hint=hint, pid=holder)
