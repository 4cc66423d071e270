"""The last part of each execution's log, kept by the orchestrator so that it survives the node.

What is short travels with the report of the run, is in the history, and is not here (`Accesses.kept_log`).

Apart from the log of records: losing it loses no job. Bounded: at most 64 kB per execution, and in all as many bytes
as the settings say; the oldest go first. Blocking: call it in a thread.
"""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import KeptLog, LogTail

TAIL_BYTES_MAX = 64 * 1024  # of one execution, both streams together
MESSAGE_BYTES_MAX = 4 * TAIL_BYTES_MAX

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tail (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, execution TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, log BLOB NOT NULL
)
"""


class KeptLogs:
    """The store, in a file of its own."""

    def __init__(self, path: Path, total_bytes_max: int) -> None:
        self._total_max = total_bytes_max
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(_SCHEMA)
        self._total: int = self._db.execute("SELECT coalesce(sum(size), 0) FROM tail").fetchone()[0]

    def put(self, data: bytes) -> None:
        """Keep a `LogTail` (JSON); a second one of the same execution replaces the first.

        Raises
        ------
        UsageError
            when it is not one, or too large.
        """
        if len(data) > MESSAGE_BYTES_MAX:
            raise errors.UsageError(f"a log tail of {len(data)} bytes is over the limit of {MESSAGE_BYTES_MAX}")
        try:
            tail = msgspec.json.decode(data, type=LogTail)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise errors.UsageError(f"not a log tail: {error}") from error
        log = msgspec.msgpack.encode(cut(tail.log))
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._forget("execution = ?", tail.execution_id)
            self._db.execute(
                "INSERT INTO tail (execution, size, log) VALUES (?, ?, ?)", (tail.execution_id, len(log), log)
            )
            self._total += len(log)
            while self._total > self._total_max:
                self._forget("seq = (SELECT min(seq) FROM tail)")

    def _forget(self, which: str, *values: str) -> None:
        for (size,) in self._db.execute(f"DELETE FROM tail WHERE {which} RETURNING size", values).fetchall():  # noqa: S608  # our own words
            self._total -= size

    def get(self, execution: str) -> KeptLog | None:
        """Return what is kept of an execution's log; `execution` is a whole id."""
        with self._lock:
            row = self._db.execute("SELECT log FROM tail WHERE execution = ?", (execution,)).fetchone()
        return msgspec.msgpack.decode(row[0], type=KeptLog) if row else None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()


def cut(log: KeptLog) -> KeptLog:
    """Return the end of a log, within the limit; a short stream leaves its room to the other."""
    half = TAIL_BYTES_MAX // 2
    stdout_room = max(half, TAIL_BYTES_MAX - len(log.stderr))
    stderr_room = max(half, TAIL_BYTES_MAX - len(log.stdout))
    stdout_cut, stderr_cut = max(0, len(log.stdout) - stdout_room), max(0, len(log.stderr) - stderr_room)
    return KeptLog(
        stdout=log.stdout[stdout_cut:],
        stderr=log.stderr[stderr_cut:],
        stdout_offset=log.stdout_offset + stdout_cut,
        stderr_offset=log.stderr_offset + stderr_cut,
    )
