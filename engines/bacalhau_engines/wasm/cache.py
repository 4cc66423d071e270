"""Compiled modules on disk, by the sha256 of their source.

::

    <root>/<wasmtime version>/<digest>.cwasm     native code, mapped into memory by the fork server
    <root>/<wasmtime version>/<digest>.info      ModuleInfo, with the sha256 of the code

Native code is trusted as much as the daemon's own: the directory is private, an entry is used only after its hash has
been checked, and the newest file of the pair is the info, so that half an entry is never found.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bacalhau_engines.wasm.wire import ModuleInfo

CACHE_BYTES_MAX = 1024**3
_info = msgspec.msgpack.Decoder(ModuleInfo)


class Cache:
    """The entries of one version of wasmtime; several processes may use them at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def code(self, digest: str) -> Path:
        """Return where the code of a module lies, if it is there."""
        return self.directory / f"{digest}.cwasm"

    def find(self, digest: str) -> ModuleInfo | None:
        """Return a whole and verified entry, or None; a damaged one is removed."""
        try:
            info = _info.decode(self._info_path(digest).read_bytes())
            with self.code(digest).open("rb") as file:
                intact = hashlib.file_digest(file, "sha256").hexdigest() == info.compiled_digest
        except (OSError, msgspec.MsgspecError):
            return None
        if not intact:
            self.remove(digest)
            return None
        os.utime(self.code(digest))  # the least recently used go first
        return info

    def store(self, digest: str, code: bytes, info: ModuleInfo) -> None:
        """Add an entry, then drop old ones until the cache is within its size. Raises `OSError`."""
        _write(self.code(digest), code)
        _write(self._info_path(digest), msgspec.msgpack.encode(info))
        self._trim(keep=digest)

    def remove(self, digest: str) -> None:
        """Drop an entry if it is there."""
        self._info_path(digest).unlink(missing_ok=True)
        self.code(digest).unlink(missing_ok=True)

    def _info_path(self, digest: str) -> Path:
        return self.directory / f"{digest}.info"

    def _trim(self, keep: str) -> None:
        entries = sorted(_entries(self.directory), reverse=True)
        used = 0
        for _, size, digest in entries:
            used += size
            if used > CACHE_BYTES_MAX and digest != keep:
                self.remove(digest)


def sweep(root: Path, version: str) -> int:
    """Remove half-written files and the entries of other versions; return how many files went."""
    removed = 0
    for path in root.glob("*/*"):
        if path.parent.name != version or path.suffix == ".tmp":
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _entries(directory: Path) -> Iterator[tuple[float, int, str]]:
    for path in directory.glob("*.cwasm"):
        try:
            status = path.stat()
        except OSError:
            continue
        yield status.st_mtime, status.st_size, path.stem


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
