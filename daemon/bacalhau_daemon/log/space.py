"""Free space on the log's disk, and the mark below which submissions are refused."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

MIN_FREE_BYTES = 256 * 1024 * 1024
MIN_FREE_FRACTION = 0.02


class Space(msgspec.Struct, frozen=True):
    """What is free on the disk that holds `path`, and how much must be."""

    path: str
    free_bytes: int
    min_free_bytes: int

    @property
    def low(self) -> bool:
        """Whether new work must be refused; what frees resources still passes."""
        return self.free_bytes < self.min_free_bytes

    @property
    def reason(self) -> str:
        """Say it in words, with path and figures."""
        return f"the disk of {self.path} has {_mb(self.free_bytes)} free, {_mb(self.min_free_bytes)} are needed"


def measure(path: Path, *, min_free_bytes: int | None = None) -> Space:
    """Measure; the mark is 256 MB or 2 % of the disk, whichever is smaller, unless one is given."""
    disk = os.statvfs(path)
    if min_free_bytes is None:
        min_free_bytes = min(MIN_FREE_BYTES, int(disk.f_blocks * disk.f_frsize * MIN_FREE_FRACTION))
    return Space(str(path), disk.f_bavail * disk.f_frsize, min_free_bytes)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
