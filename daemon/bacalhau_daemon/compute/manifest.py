"""The list of an execution's results with a hash of each file: made once, when the run is over, and kept beside them.

`manifest.json` lies in the execution's directory, not in the result tree, so that a job cannot write it.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from bacalhau_daemon.compute import tree
from bacalhau_protocol.api.messages import FileEntry
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.plugins import Progress

NAME = "manifest.json"
RESULTS = "results"
ENTRIES_MAX = 1_000_000

_DECODER = msgspec.json.Decoder(list[FileEntry])


def build(results_dir: Path, progress: Progress | None = None) -> list[FileEntry]:
    """Hash every file of the tree. Blocking: call it in a thread. An absent tree gives an empty list.

    Raises `NodeFailed` when it is too deep or has too many entries: results are complete or refused.
    """
    found: list[FileEntry] = []
    total = tree.total_bytes(results_dir) if progress else 0
    done = 0
    for entry in tree.walk(results_dir):
        if len(found) >= ENTRIES_MAX:
            hint = "let the job write fewer files, or one archive"
            raise NodeFailed(f"the results have more than {ENTRIES_MAX} entries", place=entry.path, hint=hint)
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
