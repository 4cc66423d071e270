"""The log in one SQLite file: WAL, `synchronous=FULL`, compare-and-swap inside the transaction."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import NoReturn

import msgspec

from bacalhau_daemon.files import sync_directory
from bacalhau_daemon.log.base import Fenced, Outcome, Stored, Unavailable
from bacalhau_daemon.log.records import RESTORE, Chain, LogDamaged, digest, head
from bacalhau_daemon.log.space import measure
from bacalhau_daemon.log.sqlite_reader import BUSY_TIMEOUT_S, FORMAT, SqliteReader, Tip, read_tip, tip_path

CHECKPOINT_BYTES = 4 * 1024 * 1024  # of the write-ahead log
PAGE_OVERHEAD_BYTES = 3 * 4096  # what an append writes beside the record: parts of pages, the index
WAL_KEPT_BYTES = 64 * 1024 * 1024
TRIM_BATCH = 256  # records deleted per transaction, so that appends never wait long
TIP_BYTES = 128

SIDECARS = ("", "-wal", "-shm", "-tip")  # the files of a log

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE records (n INTEGER PRIMARY KEY, event INTEGER NOT NULL, data BLOB NOT NULL)",
    "CREATE UNIQUE INDEX records_event ON records (event)",
)

_NOT_STORED = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process holds the file locked",
    sqlite3.SQLITE_IOERR_WRITE: "the disk refused the write",
    sqlite3.SQLITE_IOERR_SHMSIZE: "the disk is full",
    sqlite3.SQLITE_IOERR_SHMMAP: "the disk is full",
}
"""Errors after which nothing was stored and the same connection goes on. All others stop the process: after a failed
fsync, above all, the kernel has dropped the pages, and a second try would report success."""


def why_not_stored(error: sqlite3.Error) -> str:
    """Return the reason for an error after which the same connection goes on; blank for any other error."""
    code = getattr(error, "sqlite_errorcode", 0)
    return _NOT_STORED.get(code) or _NOT_STORED.get(code & 0xFF, "")


class SqliteLog(SqliteReader):
    """The log, open for writing. One process holds it (see `lock`), one thread uses it; others use a `SqliteReader`."""

    def __init__(self, path: Path) -> None:
        """Open, or create, and check (`SqliteReader.check`).

        Raises
        ------
        LogDamaged, LogTooNew
            and leaves the file as it is.
        """
        if not path.exists():
            if (lost := read_tip(path)) is not None and lost.n:
                raise LogDamaged(f"it is gone; it held {lost.n} records", place=str(path), hint=RESTORE)
            create(path)
        super().__init__(path)
        self._dead: LogDamaged | None = None
        self._tip = self.check()  # before anything may write
        self._tip_file = os.open(tip_path(path), os.O_RDWR | os.O_CREAT, 0o600)
        self._unmerged_bytes = 0
        self._writer = _connect(path)
        self._checkpoint("TRUNCATE")  # what was read back is now surely on the disk
        self._note_tip()

    @property
    def tip(self) -> Chain:
        """Where the chain stands after the newest record."""
        return self._tip

    def close(self) -> None:
        """Close; the write-ahead log is merged into the file."""
        super().close()
        self._writer.close()
        os.close(self._tip_file)

    def append(self, expected: int, record: bytes) -> Outcome:
        """Store a record; see `base.Log`."""
        if self._dead is not None:
            raise self._dead
        outcome = self._write(lambda: self._append(expected, record))
        if isinstance(outcome, Stored) and outcome.n > self._tip.n:
            found = head(record)
            self._tip = Chain(found.cluster, found.n, digest(record), found.last_event)
            self._note_tip()
            self._unmerged_bytes += len(record) + PAGE_OVERHEAD_BYTES
            if self._unmerged_bytes >= CHECKPOINT_BYTES:
                self._checkpoint("PASSIVE")
        return outcome

    def trim(self, before: int) -> None:
        """Forget the records below `before`, a few per transaction."""
        end = min(before, self.last()) - 1
        while (gone := self.origin.n) < end:
            step = partial(self._trim, min(gone + TRIM_BATCH, end))
            if isinstance(self._write(step), Unavailable):
                return  # the disk is full; the next trim goes on here
        self._checkpoint("PASSIVE")

    def _write(self, work: Callable[[], Outcome]) -> Outcome:
        """Run `work` in a transaction that is kept only if it stored something."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            outcome = work()
            self._writer.execute("COMMIT" if isinstance(outcome, Stored) else "ROLLBACK")
            return outcome
        except sqlite3.Error as error:
            return self._failed(error)
        finally:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _append(self, expected: int, record: bytes) -> Outcome:
        row = self._writer.execute("SELECT max(n) FROM records").fetchone()
        last = self.origin.n if row[0] is None else row[0]
        if last < expected:
            self._die(f"record {expected} was acknowledged, but the log ends at {last}: the tail was lost")
        if last > expected:
            return self._again(expected + 1, record)
        found = head(record)
        assert found.n == expected + 1, f"record {found.n} cannot follow {expected}"
        tip = self._tip if self._tip.n == last else self.chain_at(last)
        if found.prev != tip.hash:
            return Fenced(f"record {last} is not the one that this writer knows: another writer lives")
        self._writer.execute("INSERT INTO records VALUES (?, ?, ?)", (found.n, found.first_event, record))
        return Stored(found.n)

    def _again(self, n: int, record: bytes) -> Outcome:
        row = self._writer.execute("SELECT data FROM records WHERE n = ?", (n,)).fetchone()
        if row is not None and row[0] == record:
            return Stored(n)
        return Fenced(f"record {n} was written by another writer")

    def _trim(self, upto: int) -> Outcome:
        origin = msgspec.json.encode(self.chain_at(upto)).decode()
        self._writer.execute("UPDATE meta SET value = ? WHERE key = 'origin'", (origin,))
        self._writer.execute("DELETE FROM records WHERE n <= ?", (upto,))
        return Stored(upto)

    def _failed(self, error: sqlite3.Error) -> Unavailable:
        reason = why_not_stored(error)
        if not reason:
            self._die(f"the disk failed: {error} ({getattr(error, 'sqlite_errorname', 'no code')})")
        return Unavailable(f"{reason}: {measure(self.path.parent).reason}")

    def _die(self, message: str) -> NoReturn:
        """Refuse everything from now on."""
        self._dead = LogDamaged(
            message, place=str(self.path), hint="end the process, check the disk, and start again; nothing is retried"
        )
        raise self._dead

    def _checkpoint(self, mode: str) -> None:
        """Move pages into the file. Not left to SQLite: a failure there would look like a failed COMMIT."""
        try:
            self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
            self._unmerged_bytes = 0
        except sqlite3.Error as error:
            self._failed(error)  # a full disk: the write-ahead log keeps it, and the next append tries again

    def _note_tip(self) -> None:
        tip = msgspec.json.encode(Tip(self._tip.n, self._tip.hash))
        try:
            os.pwrite(self._tip_file, tip.ljust(TIP_BYTES), 0)
        except OSError:
            pass  # a full disk: an older tip is a weaker witness, not a wrong one


def create(path: Path, origin: Chain | None = None, records: Iterable[bytes] = ()) -> Chain:
    """Make a log that starts after `origin` and holds `records`, each verified; return where it stands.

    It is complete or not there at all. A log that was there is kept beside it, with `.replaced` in its name.
    """
    new = path.with_name(path.name + "-new")
    _unlink(new)
    database = _connect(new)
    try:
        start = chain = origin or Chain()
        database.execute("BEGIN")
        for statement in _SCHEMA:
            database.execute(statement)
        meta = [("format", str(FORMAT)), ("origin", msgspec.json.encode(start).decode())]
        database.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        for data in records:
            first, chain = chain.event + 1, chain.verify(data)
            database.execute("INSERT INTO records VALUES (?, ?, ?)", (chain.n, first, data))
        database.execute("COMMIT")
    except BaseException:
        database.close()
        _unlink(new)
        raise
    database.close()
    _retire(path)
    new.rename(path)
    tip_path(path).write_bytes(msgspec.json.encode(Tip(chain.n, chain.hash)))
    sync_directory(path.parent)
    return chain


def _unlink(path: Path) -> None:
    for end in SIDECARS:
        path.with_name(path.name + end).unlink(missing_ok=True)


def _retire(path: Path) -> None:
    """Move a log that is replaced out of the way; nothing is deleted."""
    kept = next(name for number in count(1) if not (name := path.with_name(f"{path.name}.replaced-{number}")).exists())
    for end in SIDECARS:
        old = path.with_name(path.name + end)
        if old.exists():
            old.rename(kept.with_name(kept.name + end))


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    database.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")
    return database
