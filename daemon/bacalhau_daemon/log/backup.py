"""Backup of a live log to one file, restore, and the full check.

The file is JSON lines: a header, the records byte for byte, and an end line with counts and the SHA-256 of all lines
before it. Records never change, so a backup is consistent without stopping the writer: it ends where the log ended when
it began. `tests/logs/` keeps the logs of all releases in this format.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import msgspec

from bacalhau_daemon.log.records import Chain, LogDamaged, LogTooNew
from bacalhau_daemon.log.sqlite import create
from bacalhau_daemon.log.sqlite_reader import SqliteReader
from bacalhau_protocol.errors import Conflict, NotFound

FORMAT = "bacalhau-log"
VERSION = 1
ANOTHER = "use another backup file; nothing was changed"
NEWER = "restore it with the release that made it, or a newer one; nothing was changed"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line. `attachments` are small files that belong to the log, by name."""

    format: str = FORMAT
    version: int = VERSION
    taken: int  # ns since the epoch
    origin: Chain  # where the chain stands before the first record
    attachments: dict[str, bytes] = {}


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The last line."""

    records: int
    chain: Chain  # where it stands after the last record
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup holds."""

    header: Header
    end: End


class BackupFile:
    """A backup, read once from its start: `header`, then `records()`, then `end`, which is verified."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end: End | None = None
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise NotFound(f"the backup cannot be read: {error.strerror}", place=str(path)) from error
        try:
            self.header, self._total = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> tuple[Header, hashlib._Hash]:
        line = self._file.readline()
        try:
            header = msgspec.json.decode(line, type=Header)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damaged(1, f"this is not a backup: {error}") from error
        if header.format != FORMAT or header.version > VERSION:
            what = f"{header.format!r} version {header.version}"
            raise LogTooNew(f"format {what} is not known", place=str(self.path), hint=NEWER)
        return header, hashlib.sha256(line)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def records(self) -> Iterator[bytes]:
        """Yield the records, verified one by one; at the end the counts and the digest are verified too.

        Raises
        ------
        LogDamaged
            with the line, what was expected and what was found.
        """
        chain, count, line = self.header.origin, 0, b""
        for line in self._file:
            if line.startswith(b'{"records":'):
                break
            data = line.removesuffix(b"\n")
            try:
                chain = chain.verify(data)
            except LogDamaged as error:
                raise self._damaged(count + 2, error.message) from error
            self._total.update(line)
            count += 1
            yield data
        self._finish(line, End(records=count, chain=chain, sha256=self._total.hexdigest()))

    def _finish(self, line: bytes, expected: End) -> None:
        try:
            found = msgspec.json.decode(line, type=End)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damaged(expected.records + 2, f"the end is missing, the file was cut: {error}") from error
        if found != expected:
            raise self._damaged(expected.records + 2, f"expected {expected}, found {found}")
        self.end = found

    def _damaged(self, line: int, message: str) -> LogDamaged:
        return LogDamaged(message, place=f"{self.path}, line {line}", hint=ANOTHER)


def backup(
    log: Path, target: Path, *, attachments: Mapping[str, bytes] | None = None, taken: int | None = None
) -> Manifest:
    """Copy the log at `log`, which may be in use, to the new file `target`, verifying every record on the way.

    `taken` is the time that the header names, by default now.

    Raises
    ------
    Conflict
        when `target` exists.
    LogDamaged
        when the log is damaged; no file is left.
    """
    if target.exists():
        raise Conflict("the file exists", place=str(target), hint="name another one; a backup never overwrites")
    part = target.with_name(target.name + ".part")
    reader = open_reader(log)
    try:
        with part.open("wb") as file:
            header = Header(taken=taken or time.time_ns(), origin=reader.origin, attachments=dict(attachments or {}))
            manifest = _copy(reader, file, header)
            file.flush()
            os.fsync(file.fileno())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
        reader.close()
    return manifest


def _copy(reader: SqliteReader, file: BinaryIO, header: Header) -> Manifest:
    chain, last = header.origin, reader.last()
    total = hashlib.sha256()

    def put(line: bytes) -> None:
        total.update(line)
        file.write(line)

    put(msgspec.json.encode(header) + b"\n")
    for _, data in islice(reader.read(chain.n + 1), last - chain.n):
        chain = chain.verify(data)
        put(data + b"\n")
    end = End(records=chain.n - header.origin.n, chain=chain, sha256=total.hexdigest())
    file.write(msgspec.json.encode(end) + b"\n")
    return Manifest(header=header, end=end)


def restore(source: Path, log: Path) -> Manifest:
    """Make the log at `log` from a backup; what was there is kept beside it, with `.replaced` in its name.

    Nothing is changed unless the whole backup is verified. The caller holds the data directory's lock, and deletes the
    query side afterwards.

    Raises
    ------
    NotFound, LogDamaged, LogTooNew
        about the backup, with the line.
    """
    file = BackupFile(source)
    try:
        create(log, file.header.origin, file.records())
    finally:
        file.close()
    assert file.end is not None
    return Manifest(header=file.header, end=file.end)


def check(log: Path) -> Chain:
    """Verify all of a log, which may be in use, and return where it stands.

    Raises
    ------
    NotFound, LogDamaged, LogTooNew
        with the place.
    """
    reader = open_reader(log)
    try:
        chain = reader.check(limit_bytes=sys.maxsize, limit_records=sys.maxsize)
        reader.check_pages()
        return chain
    finally:
        reader.close()


def open_reader(log: Path) -> SqliteReader:
    """Open a log that must be there."""
    if not log.exists():
        raise NotFound("there is no log", place=str(log), hint="name the data directory of an orchestrator")
    return SqliteReader(log)
