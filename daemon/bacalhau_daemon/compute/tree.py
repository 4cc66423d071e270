"""Walking and reading a result tree that a hostile job may have written.

Every step goes from an open directory to a name in it, without following links, so no path leads out of the tree, and a
link planted while we look is never followed. Links are reported as links. Sockets, pipes and devices are left out.
Order is by path elements, so that a walk can be taken up after any path.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bacalhau_protocol.client.tree import DEPTH_MAX
from bacalhau_protocol.errors import NodeFailed, NotFound, UsageError

PATH_LENGTH_MAX = 4096
HASH_CHUNK_BYTES = 1024 * 1024
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(msgspec.Struct, frozen=True):
    """A regular file, a link (`link` is its target) or an empty directory (`path` ends in `/`)."""

    path: str
    size: int
    mode: int
    link: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it has content."""
        return not self.link and not self.path.endswith("/")


def walk(root: Path, after: str = "", *, whole: bool = True) -> Iterator[Entry]:
    """Yield what is in the tree, in order, beginning behind the path `after`. An absent tree is empty.

    Raises
    ------
    NodeFailed
        when directories are nested too deep; not `whole` leaves those out instead.
    """
    try:
        top = os.open(root, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        yield from _walk(top, (), tuple(after.rstrip("/").split("/")) if after else (), whole)
    finally:
        os.close(top)


def _walk(directory: int, parents: tuple[str, ...], after: tuple[str, ...], whole: bool) -> Iterator[Entry]:
    with os.scandir(directory) as scan:
        found = sorted(scan, key=lambda entry: show(entry.name))
    for item in found:
        parts = (*parents, show(item.name))
        if parts < after[: len(parts)]:
            continue
        try:
            info = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                yield from _walk_into(directory, item.name, parts, after, info, whole=whole)
            elif parts > after:
                yield from _leaf(directory, item.name, parts, info)
        except FileNotFoundError:
            continue  # removed while we look: the run is not over yet


def _walk_into(
    parent: int, name: str, parts: tuple[str, ...], after: tuple[str, ...], info: os.stat_result, *, whole: bool
) -> Iterator[Entry]:
    if len(parts) >= DEPTH_MAX:
        if not whole:
            return
        hint = "let the job write a flatter tree, or one archive"
        words = f"the results have directories nested {DEPTH_MAX} deep or more, too deep to be kept"
        raise NodeFailed(words, place="/".join(parts), hint=hint)
    child = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        empty = True
        for entry in _walk(child, parts, after, whole):
            empty = False
            yield entry
        if empty and parts > after and not os.listdir(child):  # noqa: PTH208 (a descriptor)
            yield Entry("/".join(parts) + "/", 0, stat.S_IMODE(info.st_mode))
    finally:
        os.close(child)


def _leaf(parent: int, name: str, parts: tuple[str, ...], info: os.stat_result) -> Iterator[Entry]:
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISREG(info.st_mode):
        yield Entry("/".join(parts), info.st_size, mode)
    elif stat.S_ISLNK(info.st_mode):
        yield Entry("/".join(parts), 0, mode, show(os.readlink(name, dir_fd=parent)))


def open_file(root: Path, path: str) -> int:
    """Open a regular file of the tree for reading; the caller closes the descriptor.

    Raises
    ------
    UsageError
        when the path is not a plain relative one.
    NotFound
        when there is no such regular file; a link on the way or at the end is "no such file".
    """
    parts = path.split("/")
    if not path or len(path) > PATH_LENGTH_MAX or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise UsageError("path must be relative, with no `.` or `..` in it", place=path[:200])
    try:
        directory = os.open(root, _DIRECTORY)
        try:
            for part in parts[:-1]:
                child = _open_at(part, _DIRECTORY, directory)
                os.close(directory)
                directory = child
            descriptor = _open_at(parts[-1], _FILE, directory)
        finally:
            os.close(directory)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
            raise NotFound("no such file in the results", place=path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotFound("not a regular file", place=path)
    return descriptor


def sha256(descriptor: int, size: int) -> str:
    """Return the hexadecimal hash of the first `size` bytes of an open file."""
    digest, offset = hashlib.sha256(), 0
    while offset < size and (chunk := os.pread(descriptor, min(HASH_CHUNK_BYTES, size - offset), offset)):
        digest.update(chunk)
        offset += len(chunk)
    return digest.hexdigest()


def total_bytes(root: Path) -> int:
    """Return the size of all files of the tree, without those that lie too deep to be kept."""
    return sum(entry.size for entry in walk(root, whole=False))


def show(name: str) -> str:
    """Return a file name as text that can travel: bytes that are not UTF-8 become `%XX`."""
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", name)


def _open_at(part: str, flags: int, directory: int) -> int:
    try:
        return os.open(part, flags, dir_fd=directory)
    except FileNotFoundError:
        if "%" not in part:
            raise
        raw = re.sub(rb"%([89A-F][0-9A-F])", lambda match: bytes([int(match[1], 16)]), part.encode())
        return os.open(raw, flags, dir_fd=directory)
