"""The files of a run on this machine: looked at, and opened to whoever a container runs as. Blocks."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from bacalhau_engines.docker import create
from bacalhau_engines.docker.streams import Sink
from bacalhau_protocol.plugins import RunRequest

MOUNTS = Path("/proc/self/mountinfo")
OUTPUT_MODE = 0o777  # in a directory that only the daemon can enter


def mount_points() -> tuple[str, ...]:
    """Return where file systems are mounted on this machine; nothing where the kernel does not say."""
    if not MOUNTS.exists():
        return ()
    return create.mount_points_of(MOUNTS.read_text())


def stream_sizes(run: RunRequest) -> tuple[int, int]:
    """Return how long stdout and stderr are."""
    return _size(run.stdout_path), _size(run.stderr_path)


def sinks(run: RunRequest, labels: dict[str, str], limit: int) -> tuple[Sink, Sink]:
    """Open stdout and stderr of a run whose container has these labels."""
    return (
        Sink(run.stdout_path, int(labels.get(create.STDOUT_FROM) or 0), limit),
        Sink(run.stderr_path, int(labels.get(create.STDERR_FROM) or 0), limit),
    )


def open_up(run: RunRequest) -> None:
    """Let a container write outputs and read copies of inputs, whoever it runs as: its root has no privileges."""
    for output in run.outputs:
        os.chmod(run.results_dir / output.name, OUTPUT_MODE)  # noqa: PTH101
    for item in run.inputs:
        if item.path.is_relative_to(run.execution_dir):
            _open_to_all(item.path)


def _open_to_all(path: Path) -> None:
    if not path.is_dir():
        _add_mode(str(path), 0o444)
        return
    for directory, _, files in os.walk(path):
        _add_mode(directory, 0o555)
        for name in files:
            _add_mode(os.path.join(directory, name), 0o444)  # noqa: PTH118 (a tree may be large)


def _add_mode(path: str, bits: int) -> None:
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISLNK(mode) and mode & bits != bits:
            os.chmod(path, stat.S_IMODE(mode) | bits)  # noqa: PTH101


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0
