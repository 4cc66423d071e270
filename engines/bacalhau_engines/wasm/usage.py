"""How much a directory tree takes on disk, counted in small steps."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence

ENTRY_BYTES = 4096
"""The least that an entry counts: empty files and directories take room too, and so a limit bounds their number."""
_STEP = 256


def walk(directories: Sequence[str]) -> Iterator[int]:
    """Yield the bytes counted so far after every few entries, and the sum at the end.

    Follows no links, counts holes of sparse files as nothing, and skips what disappears under its hands.
    """
    total, seen = 0, 0
    waiting = list(directories)
    while waiting:
        try:
            entries = os.scandir(waiting.pop())
        except OSError:
            continue
        with entries:
            for entry in entries:
                total += _size(entry)
                seen += 1
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                if seen % _STEP == 0:
                    yield total
    yield total


def total(directories: Sequence[str]) -> int:
    """Return the sum at once."""
    (last,) = deque(walk(directories), maxlen=1)
    return last


def _size(entry: os.DirEntry[str]) -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return ENTRY_BYTES
    whole_blocks = -(-status.st_size // ENTRY_BYTES) * ENTRY_BYTES
    return max(ENTRY_BYTES, min(status.st_blocks * 512, whole_blocks))
