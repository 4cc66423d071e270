"""Result trees as `.tar.gz`, laid out as Bacalhau does: `.`, `stdout`, `stderr`, `exitCode`, NAME/…

Links are stored as links and never followed, so a job cannot have the node's own files packed.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from bacalhau_daemon.compute import manifest, tree
from bacalhau_protocol.errors import NotFound
from bacalhau_protocol.plugins import Progress

COMPRESSION = 3  # results are written once and read once: speed counts more than the last per cent
_DIRECTORY_MODE = 0o755


def pack(root: Path, target: Path, progress: Progress) -> int:
    """Write the archive of a tree and return its size in bytes. Blocking; `target` appears when it is complete.

    Raises `NodeFailed` when the tree is too deep or has too many entries.
    """
    half = target.with_name(f".{target.name}")
    total, done = manifest.total_bytes(root), 0
    try:
        with half.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=COMPRESSION) as archive:
                for info, path in _members(root):
                    _add(archive, root, info, path)
                    done += info.size
                    progress(info.name, done, total)
            file.flush()
            os.fsync(file.fileno())
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)
    return target.stat().st_size


def _members(root: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield each entry with its path in the tree; every directory comes before what is in it."""
    known: set[str] = {"."}
    yield _directory("."), ""
    for entry in manifest.listed(root):
        path = PurePosixPath(entry.path)
        parents = [str(parent) for parent in reversed(path.parents)]
        for name in [*parents, *([str(path)] if entry.path.endswith("/") else [])]:
            if name not in known:
                known.add(name)
                yield _directory(name), ""
        if not entry.path.endswith("/"):
            info = tarfile.TarInfo(str(path))
            info.mode, info.size = entry.mode, entry.size
            if entry.link:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
            yield info, entry.path


def _directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, _DIRECTORY_MODE
    return info


def _add(archive: tarfile.TarFile, root: Path, info: tarfile.TarInfo, path: str) -> None:
    if not path or info.issym():
        archive.addfile(info)
        return
    try:
        descriptor = tree.open_file(root, path)
    except NotFound:
        return  # replaced by a link after it was listed
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        info.mtime, info.size = int(status.st_mtime), status.st_size
        archive.addfile(info, file)
