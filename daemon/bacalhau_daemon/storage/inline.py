"""`inline`: data inside the job file, as a `data:` URL.

`application/gzip` is a tar archive, compressed, and becomes a directory; anything else becomes one file. Archives are
hostile until shown otherwise: names may not leave the directory, only directories and regular files are made (links and
devices are left out, as Bacalhau does), and sizes and counts are bounded while unpacking, not by what a header claims.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import gzip
import io
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec

from bacalhau_daemon.storage import params
from bacalhau_protocol.archives import CheckedTarInfo
from bacalhau_protocol.errors import BacalhauError, InputFailed, SpecError
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig
from bacalhau_protocol.plugins import Ability, PluginContext, PreparedInput, Progress

ARCHIVE_TYPE = "application/gzip"
FILE_BYTES_MAX = 10 * 1024 * 1024  # of one file in an archive; Bacalhau's own limit
ARCHIVE_BYTES_MAX = 256 * 1024 * 1024  # of all files together
ARCHIVE_ENTRIES_MAX = 10_000
_COPY_BYTES = 256 * 1024


class _Data(msgspec.Struct, frozen=True):
    media_type: str
    content: bytes


class InlineStorage:
    """Writes inline data into the execution's directory."""

    def __init__(self, context: PluginContext) -> None:
        pass

    async def ability(self) -> Ability:
        """Always available."""
        return Ability(available=True)

    def check(self, source: SpecConfig) -> list[str]:
        """Look at the parameters and the head of the URL; the content is decoded when it is prepared."""
        return _read(source)[1]

    async def size(self, source: InputSource, job: Job, partition: int) -> int:
        """Return the bytes on disk: exact for a file, for an archive what its compressor recorded."""
        data = _decode(source)
        if data.media_type != ARCHIVE_TYPE:
            return len(data.content)
        return int.from_bytes(data.content[-4:], "little") if len(data.content) >= 18 else 0

    async def prepare(
        self, source: InputSource, job: Job, partition: int, into: Path, progress: Progress
    ) -> PreparedInput:
        """Write the file, or unpack the archive."""
        data = _decode(source)
        path, size = await asyncio.to_thread(_write, data, into)
        progress(source.target, size, size)
        return PreparedInput(source=source, path=path, target=source.target, size_bytes=size)

    async def release(self, prepared: PreparedInput) -> None:
        """Remove what was written."""
        await asyncio.to_thread(_remove, prepared.path)


def _read(source: SpecConfig) -> tuple[str, list[str]]:
    found, problems = params.read(source, ("URL",))
    url = params.text(source, found, "URL", problems)
    if url and (not url.startswith("data:") or "," not in url):
        problems.append(f"{source.type}: 'URL' must be a data URL, `data:[type][;base64],…`, not {url[:40]!r}")
    return url, problems


def _decode(source: InputSource) -> _Data:
    url, problems = _read(source.source or SpecConfig(type="inline"))
    if problems:
        raise SpecError("; ".join(problems), place=source.target)
    head, _, body = url[len("data:") :].partition(",")
    media_type, *options = [part.strip().lower() for part in head.split(";")]
    content = unquote_to_bytes(body)
    if "base64" in options:
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error as error:
            raise SpecError(f"inline data is not valid base64: {error}", place=source.target) from error
    return _Data(media_type, content)


def _write(data: _Data, into: Path) -> tuple[Path, int]:
    """Write under `into`, which is this input's alone: what fails is removed, what a crash leaves goes with it."""
    archive = data.media_type == ARCHIVE_TYPE
    path = into / ("tree" if archive else "content")
    try:
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        if archive:
            path.mkdir(mode=0o700)
            return path, _unpack(data.content, path)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            return path, file.write(data.content)
    except BacalhauError:
        _remove(path)
        raise
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        _remove(path)
        raise InputFailed(f"inline data cannot be unpacked: {error}") from error


def _unpack(content: bytes, root: Path) -> int:
    total = entries = 0
    with (
        gzip.open(io.BytesIO(content)) as stream,
        tarfile.open(fileobj=stream, mode="r|", tarinfo=CheckedTarInfo) as archive,
    ):
        for entry in archive:
            entries += 1
            if entries > ARCHIVE_ENTRIES_MAX:
                raise InputFailed(f"archive has more than {ARCHIVE_ENTRIES_MAX} entries")
            path = root / _safe_name(entry.name)
            if entry.isdir():
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif entry.isreg():
                if entry.size > FILE_BYTES_MAX:
                    raise InputFailed(f"file is larger than {FILE_BYTES_MAX} bytes", place=entry.name)
                total += entry.size
                if total > ARCHIVE_BYTES_MAX:
                    raise InputFailed(f"archive holds more than {ARCHIVE_BYTES_MAX} bytes")
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _copy(archive, entry, path)
    return total


def _copy(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: Path) -> None:
    """Write one file. No entry ever makes a link, so no parent of `path` can be one."""
    source = archive.extractfile(entry)
    assert source is not None, "a regular file has content"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600 | (entry.mode & 0o100)), "wb") as target:
        shutil.copyfileobj(source, target, _COPY_BYTES)


def _safe_name(name: str) -> str:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in parts:
        raise InputFailed("archive holds a name that leaves its directory", place=name)
    return "/".join(parts)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
