"""What a job left in its outputs, made harmless before anyone looks at it.

A job may fill its outputs with anything that a file system holds: links that lead out, pipes and sockets on which a
reader hangs, programs that run as their owner. Readers of results follow no links anyway (the daemon walks trees name
by name); here such things are taken away and said, so that a person who opens the directory is safe too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

NOTES_MAX = 20
DEPTH_MAX = 128
MODE = 0o755
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def settle(results_dir: Path, names: Sequence[str]) -> list[str]:
    """Remove what leads out of the outputs and what is neither file nor directory; return it in words. Blocks."""
    notes: list[str] = []
    for name in names:
        try:
            top = os.open(results_dir / name, _DIRECTORY)
        except OSError:
            continue
        try:
            with contextlib.suppress(OSError):
                os.fchmod(top, MODE)  # it was open to whoever the container ran as
            for note in _clean(top, (name,)):
                if len(notes) < NOTES_MAX:
                    notes.append(note)
        finally:
            os.close(top)
    return notes


def _clean(directory: int, parts: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(directory) as scan:
        names = [entry.name for entry in scan]
    for name in names:
        path = "/".join((*parts, name))
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                yield from _enter(directory, name, parts)
            elif words := _leaf(directory, name, info, len(parts) - 1):
                yield f"{path} {words}"
        except OSError as error:
            yield f"{path} could not be looked at by the node: {error.strerror}"


def _leaf(directory: int, name: str, info: os.stat_result, depth: int) -> str:
    if stat.S_ISLNK(info.st_mode):
        target = os.readlink(name, dir_fd=directory)
        if not leads_out(target, depth):
            return ""
        os.unlink(name, dir_fd=directory)
        return f"was a link out of its output, to {target[:200]!r}: removed"
    if not stat.S_ISREG(info.st_mode):
        os.unlink(name, dir_fd=directory)
        return "was neither a file nor a directory: removed"
    if info.st_mode & (stat.S_ISUID | stat.S_ISGID):
        _lower(directory, name)
        return "was to run as its owner: it is a plain file now"
    return ""


def _enter(directory: int, name: str, parts: tuple[str, ...]) -> Iterator[str]:
    if len(parts) > DEPTH_MAX:
        yield f"{'/'.join((*parts, name))} lies deeper than {DEPTH_MAX} directories: not looked at"
        return
    child = os.open(name, _DIRECTORY, dir_fd=directory)
    try:
        yield from _clean(child, (*parts, name))
    finally:
        os.close(child)


def leads_out(target: str, depth: int) -> bool:
    """Whether a link in a directory `depth` levels below its output may point anywhere else than into that output.

    A `..` behind a name counts as leading out: the name may be a link itself, and the step up begins where that ends.
    """
    if target.startswith("/"):
        return True
    level, named = depth, False
    for part in target.split("/"):
        if part == "..":
            level -= 1
            if named or level < 0:
                return True
        elif part not in ("", "."):
            named = True
    return False


def _lower(directory: int, name: str) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.fchmod(file, stat.S_IMODE(os.fstat(file).st_mode) & 0o777)
    finally:
        os.close(file)
