"""What is kept of ended executions, and for how long: bounded by age and by bytes, oldest first out.

A pass looks at directories (or files) whose owner says that they may go. When the disk has less free than the
watermark, it goes on removing until there is room again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bacalhau_daemon.compute import tree

KEEP_S_DEFAULT = 7 * 24 * 3600.0
BYTES_MAX_DEFAULT = 50 * 1024**3
MIN_FREE_BYTES, MIN_FREE_SHARE = 256 * 1024**2, 0.02


class Limits(msgspec.Struct, frozen=True):
    """`keep_s` and `bytes_max`: whichever is reached first."""

    keep_s: float = KEEP_S_DEFAULT
    bytes_max: int = BYTES_MAX_DEFAULT


class Disk(msgspec.Struct, frozen=True):
    """A file system now."""

    free_bytes: int
    total_bytes: int

    @property
    def min_free_bytes(self) -> int:
        """Below this no new work is taken."""
        return min(MIN_FREE_BYTES, int(self.total_bytes * MIN_FREE_SHARE))

    @property
    def low(self) -> bool:
        """Whether the watermark is passed."""
        return self.free_bytes < self.min_free_bytes


def disk(path: Path) -> Disk:
    """Measure the file system that holds a path."""
    usage = shutil.disk_usage(path)
    return Disk(usage.free, usage.total)


class _Kept(msgspec.Struct, frozen=True, order=True):
    modified_s: float
    name: str
    size_bytes: int


def choose(kept: Iterable[_Kept], limits: Limits, now_s: float, short_bytes: int) -> list[str]:
    """Return what goes, oldest first. `short_bytes` must come free whatever the limits say."""
    ordered = sorted(kept)
    excess = max(sum(item.size_bytes for item in ordered) - limits.bytes_max, short_bytes)
    gone = []
    for item in ordered:
        if excess <= 0 and item.modified_s >= now_s - limits.keep_s:
            break
        excess -= item.size_bytes
        gone.append(item.name)
    return gone


def prune_executions(root: Path, may_go: Callable[[str], bool], limits: Limits, now_s: float) -> list[str]:
    """Remove directories of ended executions; return their names. Blocking: call it in a thread."""
    kept = [
        _Kept(item.stat(follow_symlinks=False).st_mtime, item.name, tree.total_bytes(Path(item.path)))
        for item in _listed(root)
        if may_go(item.name)
    ]
    state = disk(root)
    gone = choose(kept, limits, now_s, state.min_free_bytes - state.free_bytes)
    for name in gone:
        remove(root / name)
    return gone


def prune_files(directory: Path, pattern: str, limits: Limits, now_s: float) -> list[str]:
    """Remove files of one directory by the same rule."""
    kept = []
    for path in directory.glob(pattern):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        kept.append(_Kept(status.st_mtime, path.name, status.st_size))
    gone = choose(kept, limits, now_s, 0)
    for name in gone:
        (directory / name).unlink(missing_ok=True)
    return gone


def remove(directory: Path) -> None:
    """Remove a directory whatever its modes are: first out of its place, so that it is never half there."""
    doomed = directory.with_name(f".gone-{directory.name}")
    try:
        directory.rename(doomed)
    except FileNotFoundError:
        return
    except OSError:
        doomed = directory
    shutil.rmtree(doomed, onerror=_open_up)


def sweep_removed(root: Path) -> None:
    """Finish removals that a crash interrupted."""
    for item in _listed(root, hidden=True):
        if item.name.startswith(".gone-"):
            shutil.rmtree(item.path, onerror=_open_up)


def _listed(root: Path, *, hidden: bool = False) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as scan:
            return [item for item in scan if item.is_dir(follow_symlinks=False) and item.name.startswith(".") == hidden]
    except FileNotFoundError:
        return []


def _open_up(function: Callable[[str], object], path: str, _error: object) -> None:
    """A job may have taken the modes away from its own directories: give them back and try once more."""
    parent = Path(path).parent
    try:
        parent.chmod(0o700)
        if not Path(path).is_symlink():
            Path(path).chmod(0o700)
        if function is os.rmdir or function is os.unlink:
            function(path)
        else:
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # it stays; the next pass tries again
