"""The list of an execution's results with a hash of each file: made once, when the run is over, and kept beside them.

`manifest.json` lies in the execution's directory, not in the result tree, so that a job cannot write it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bacalhau_daemon.compute import tree
from bacalhau_protocol.api.messages import FileEntry
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.plugins import Progress

NAME = "manifest.json"
RESULTS = "results"
ENTRIES_MAX = 1_000_000
PLACE_MAX = 200  # characters of a path in an error

_DECODER = msgspec.json.Decoder(list[FileEntry])


def listed(results_dir: Path) -> Iterator[tree.Entry]:
    """Yield what is in the tree, in order; an absent tree is empty.

    Raises
    ------
    NodeFailed
        when it is too deep, has too many entries, or a path that nobody could ask for: results are complete or refused.
    """
    for count, entry in enumerate(tree.walk(results_dir)):
        if count >= ENTRIES_MAX:
            hint = "let the job write fewer files, or one archive"
            raise NodeFailed(
                f"the results have more than {ENTRIES_MAX} entries", place=entry.path[:PLACE_MAX], hint=hint
            )
        if len(entry.path) > tree.PATH_LENGTH_MAX:
            words = f"the results have a path of {len(entry.path)} characters, the limit is {tree.PATH_LENGTH_MAX}"
            hint = "let the job write shorter names, or one archive"
            raise NodeFailed(words, place=entry.path[:PLACE_MAX], hint=hint)
        yield entry


def total_bytes(results_dir: Path) -> int:
    """Return the size of all files of the tree, if it can be listed. Blocking. Raises as `listed` does."""
    return sum(entry.size for entry in listed(results_dir))


def build(results_dir: Path, progress: Progress | None = None) -> list[FileEntry]:
    """Hash every file of the tree. Blocking: call it in a thread. Raises as `listed` does."""
    found: list[FileEntry] = []
    total = total_bytes(results_dir) if progress else 0
    done = 0
    for entry in listed(results_dir):
        found.append(describe(results_dir, entry))
        done += entry.size
        if progress:
            progress(entry.path, done, total)
    return found


def describe(results_dir: Path, entry: tree.Entry, *, hashed: bool = True) -> FileEntry:
    """Return what travels of one entry."""
    digest = ""
    if hashed and entry.is_file:
        descriptor = tree.open_file(results_dir, entry.path)
        try:
            digest = tree.sha256(descriptor, entry.size)
        finally:
            os.close(descriptor)
    return FileEntry(path=entry.path, size=entry.size, mode=entry.mode, sha256=digest, link=entry.link)


def write(execution_dir: Path, entries: list[FileEntry]) -> None:
    """Keep the list; a crash leaves the old one or none."""
    half = execution_dir / f".{NAME}"
    half.write_bytes(msgspec.json.encode(entries))
    half.replace(execution_dir / NAME)


def make(execution_dir: Path, progress: Progress | None = None) -> list[FileEntry]:
    """Build the list of an execution's results and keep it."""
    entries = build(execution_dir / RESULTS, progress)
    write(execution_dir, entries)
    return entries


def read(execution_dir: Path) -> list[FileEntry] | None:
    """Return the list, None when there is none (or it cannot be read, so that it is made anew)."""
    try:
        return _DECODER.decode((execution_dir / NAME).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
