"""Reading and checking a log file; `sqlite.SqliteLog` writes it.

Beside the file lies `…-tip`: number and hash of the newest record, written after each commit and not synced. It can
only be behind the log, so a log that ends before it has lost its tail.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bacalhau_daemon.log.records import RESTORE, Chain, LogDamaged, LogTooNew, head

FORMAT = 1
BUSY_TIMEOUT_S = 5.0
READ_BATCH = 64  # records fetched at a time
VERIFY_AT_START_BYTES = 64 * 1024 * 1024
VERIFY_AT_START_RECORDS = 20_000  # a quarter of a second, whichever comes first


class Tip(msgspec.Struct, frozen=True):
    """The newest record as the tip file names it."""

    n: int
    hash: str


def tip_path(path: Path) -> Path:
    """Return where the tip of the log at `path` is kept."""
    return path.with_name(path.name + "-tip")


def read_tip(path: Path) -> Tip | None:
    """Return the tip; None when there is none or a power cut left rubbish in it: it proves nothing then."""
    try:
        return msgspec.json.decode(tip_path(path).read_bytes(), type=Tip)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


class SqliteReader:
    """A read-only view with a connection of its own."""

    def __init__(self, path: Path) -> None:
        if path.stat().st_size == 0:  # SQLite would delete the write-ahead log
            raise LogDamaged("it is empty", place=str(path), hint=RESTORE)
        self.path = path
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_S,
            check_same_thread=False,
        )
        self._db.text_factory = bytes  # a flipped bit can make text of a record: the bytes are the same

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    @property
    def origin(self) -> Chain:
        """Where the chain stands before the oldest record kept."""
        return msgspec.json.decode(self._meta("origin"), type=Chain)

    def last(self) -> int:
        """Return the number of the newest record."""
        row = self._db.execute("SELECT max(n) FROM records").fetchone()
        return self.origin.n if row[0] is None else int(row[0])

    def read(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield records from number `start` on."""
        n = max(start, self.origin.n + 1)
        while True:
            try:
                rows = self._db.execute(
                    "SELECT n, data FROM records WHERE n >= ? ORDER BY n LIMIT ?", (n, READ_BATCH)
                ).fetchall()
            except sqlite3.Error as error:
                raise self._damaged(error, f"record {n}") from error
            for found, data in rows:
                if found != n:
                    raise LogDamaged(f"expected record {n}, found record {found}", place=self._place(n), hint=RESTORE)
                yield n, data
                n += 1
            if len(rows) < READ_BATCH:
                return

    def holding(self, event: int) -> tuple[int, bytes] | None:
        """Return number and bytes of the record that holds an event."""
        row = self._db.execute(
            "SELECT n, data FROM records WHERE event <= ? ORDER BY event DESC LIMIT 1", (event,)
        ).fetchone()
        if row is None:
            return None
        found = head(row[1], place=self._place(row[0]))
        if found.first_event <= event <= found.last_event:
            return row[0], row[1]
        if found.last_event < event and found.n == self.last():
            return None
        raise LogDamaged(f"the index finds it for event {event}", place=self._place(row[0]), hint=RESTORE)

    def check(self, *, limit_bytes: int = VERIFY_AT_START_BYTES, limit_records: int = VERIFY_AT_START_RECORDS) -> Chain:
        """Check format, count, gaps, the tail against the tip file, and the chain of the newest records.

        About as many bytes or records are verified as the limits say, the newest; the rest is for the scrub. Returns
        where the chain stands at the end.

        Raises
        ------
        LogDamaged
            with the place, what was expected and what was found.
        LogTooNew
            when the file has a format that this release does not know.
        """
        try:
            self._check()
            return self._verify_recent(limit_bytes, limit_records)
        except (sqlite3.Error, ValueError) as error:
            raise self._damaged(error, "file") from error

    def _check(self) -> None:
        if (found := self._meta("format")) != str(FORMAT):
            raise LogTooNew(f"log format {found} is not known", place=str(self.path), hint=RESTORE)
        origin = self.origin
        (count,) = self._db.execute("SELECT count(*) FROM records").fetchone()
        (first,) = self._db.execute("SELECT min(n) FROM records").fetchone()
        (last,) = self._db.execute("SELECT max(n) FROM records").fetchone()
        if count and (first != origin.n + 1 or last != origin.n + count):
            expected = f"{origin.n + 1} to {origin.n + count}"
            raise LogDamaged(
                f"expected {count} records numbered {expected}, found {first} to {last}",
                place=str(self.path),
                hint=RESTORE,
            )
        self._check_tail(last or origin.n)

    def _check_tail(self, last: int) -> None:
        if (tip := read_tip(self.path)) is None:
            return
        if last < tip.n:
            raise LogDamaged(
                f"records {last + 1} to {tip.n} were acknowledged and are missing: the tail was lost",
                place=self._place(last + 1),
                hint=RESTORE,
            )
        if (found := self.chain_at(tip.n).hash) != tip.hash:
            raise LogDamaged(
                f"expected its hash to be {tip.hash}, found {found}", place=self._place(tip.n), hint=RESTORE
            )

    def check_pages(self) -> None:
        """Let SQLite check all its pages and indexes. Raises `LogDamaged`. Reads the whole file."""
        try:
            (found,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error, "file") from error
        if found != b"ok":
            raise LogDamaged(found.decode(errors="replace"), place=str(self.path), hint=RESTORE)

    def chain_at(self, n: int) -> Chain:
        """Return where the chain stands after record `n`, from that record alone.

        Raises
        ------
        LogDamaged
            when there is no such record, or its bytes are not one.
        """
        if n == (origin := self.origin).n:
            return origin
        row = self._db.execute("SELECT data FROM records WHERE n = ?", (n,)).fetchone()
        if row is None:
            raise LogDamaged("it is missing", place=self._place(n), hint=RESTORE)
        found = head(row[0], place=self._place(n))
        return Chain(found.cluster, n - 1, found.prev, found.first_event - 1).verify(row[0])

    def verify(self, chain: Chain | None = None) -> Iterator[Chain]:
        """Verify the chain record by record, from `chain` (default: the oldest kept) to the newest; a scrub's step.

        Raises
        ------
        LogDamaged
            with the record's number, what was expected and what was found.
        """
        chain = chain or self.origin
        try:
            for _, data in self.read(chain.n + 1):
                chain = chain.verify(data)
                yield chain
        except LogDamaged as error:
            raise LogDamaged(error.message, place=f"{self.path}, record {chain.n + 1}", hint=error.hint) from error

    def _verify_recent(self, limit_bytes: int, limit_records: int) -> Chain:
        n = self.last()
        sizes = self._db.execute("SELECT length(data) FROM records ORDER BY n DESC LIMIT ?", (limit_records,))
        for (size_bytes,) in sizes:
            if limit_bytes <= 0:
                break
            limit_bytes -= size_bytes
            n -= 1
        start = self.chain_at(n)
        end = deque(self.verify(start), maxlen=1)
        return end[0] if end else start

    def _meta(self, key: str) -> str:
        try:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._damaged(error, f"entry {key!r}") from error
        if row is None:
            raise LogDamaged(f"its entry {key!r} is missing", place=str(self.path), hint=RESTORE)
        return bytes(row[0]).decode()

    def _place(self, n: int) -> str:
        return f"{self.path}, record {n}"

    def _damaged(self, error: Exception, what: str) -> LogDamaged:
        return LogDamaged(f"it cannot be read: {error}", place=f"{self.path}, {what}", hint=RESTORE)
