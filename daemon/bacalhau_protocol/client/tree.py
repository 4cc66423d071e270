"""Writing other people's file trees into a directory of ours: nothing may land, or point, outside of it.

Names come from nodes and archives. A name that leads out is refused; a link that points out is left out and reported.
Links are made after all files, and no path is ever followed through a link, so a tree cannot open a door for its own
later parts. A file appears under its name only when it is whole (written as a part, then renamed).
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from pathlib import Path

from bacalhau_protocol import errors

PART_PREFIX, PART_SUFFIX = ".bacalhau-", ".part"
PATH_LENGTH_MAX, DEPTH_MAX = 4096, 128
HASH_CHUNK_BYTES = 1024 * 1024


def safe_parts(path: str) -> tuple[str, ...]:
    """Return the parts of a relative path. Raises `NodeFailed` when it is not a plain one."""
    parts = tuple(path.removesuffix("/").split("/"))
    plain = all(part not in ("", ".", "..") and "\0" not in part for part in parts)
    if not plain or len(path) > PATH_LENGTH_MAX or len(parts) > DEPTH_MAX:
        raise errors.NodeFailed(
            f"the result names a path that is not plain: {path[:200]!r}",
            hint="nothing was written there; the node or the archive is broken or hostile",
        )
    return parts


def stays_inside(path: str, link: str) -> bool:
    """Whether a link at `path` (relative to the tree) that says `link` points into the tree."""
    if not link or link.startswith("/") or "\0" in link:
        return False
    end = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    return end != ".." and not end.startswith("../")


class Tree:
    """One directory that is written into. Methods block: call them in a thread."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()

    def path_of(self, path: str) -> Path:
        """Return where a file goes, its directories made. Raises `Conflict` when something else is in the way."""
        parts = safe_parts(path)
        place = self.root
        for part in parts[:-1]:
            place /= part
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise errors.Conflict(f"{place} is in the way, it is not a directory", hint="choose another directory")
            place.mkdir(exist_ok=True)
        return place / parts[-1]

    def make_directory(self, path: str) -> None:
        """Make an empty directory."""
        place = self.path_of(path)
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise errors.Conflict(f"{place} is in the way, it is not a directory", hint="choose another directory")
        place.mkdir(exist_ok=True)

    def make_link(self, path: str, link: str) -> bool:
        """Make a symbolic link if it points into the tree; return whether."""
        if not stays_inside(path, link):
            return False
        place = self.path_of(path)
        if place.is_symlink() and str(place.readlink()) == link:
            return True
        if place.is_symlink() or place.exists():
            raise errors.Conflict(f"{place} is already there", hint="choose another directory, or --overwrite")
        place.symlink_to(link)
        return True

    def has(self, path: str, size_bytes: int, sha256: str) -> bool:
        """Whether the file is there already, with this content."""
        place = self.path_of(path)
        if place.is_symlink() or not place.is_file() or place.stat().st_size != size_bytes:
            return False
        with place.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256

    def is_free(self, path: str) -> bool:
        """Whether nothing has this name yet."""
        place = self.path_of(path)
        return not place.is_symlink() and not place.exists()

    def remove_file(self, path: str) -> None:
        """Remove a file or link."""
        self.path_of(path).unlink(missing_ok=True)


class Part:
    """A file that is not whole yet: what is on disk is a beginning of it, and its running hash is known."""

    def __init__(self, place: Path, identity: str) -> None:
        """`identity` says which content this becomes (path and hash): a part of another content is not taken up."""
        name = hashlib.sha256(identity.encode()).hexdigest()[:24]
        self.place = place
        self.path = place.parent / f"{PART_PREFIX}{name}{PART_SUFFIX}"
        self.size_bytes = 0
        self._digest = hashlib.sha256()
        self._descriptor = -1

    def open(self, size_max: int) -> int:
        """Open or take up; return how many bytes are there already."""
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(self._descriptor).st_size > size_max:
            os.ftruncate(self._descriptor, 0)
        while chunk := os.read(self._descriptor, HASH_CHUNK_BYTES):
            self._digest.update(chunk)
            self.size_bytes += len(chunk)
        return self.size_bytes

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._digest.update(data)
        self.size_bytes += len(data)

    @property
    def sha256(self) -> str:
        """The hash of what is there."""
        return self._digest.hexdigest()

    def restart(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest, self.size_bytes = hashlib.sha256(), 0

    def finish(self, mode: int) -> None:
        """Make it the whole file, under its name. Not synced: the next run checks the hash of what is there anyway."""
        os.fchmod(self._descriptor, (mode & 0o777) | 0o600)
        self.close()
        self.path.replace(self.place)

    def close(self) -> None:
        """Close; what is there stays for the next time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
