"""The query side's file: one thread writes it, from what the machine hands over; others read it (`reader`).

It is a copy, so `synchronous=NORMAL` is enough and it may be deleted: it is built again from the log. Everything that
a batch changes is one transaction together with `chain`, which says up to which record it has got, and by whose hash.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.query import rows
from bacalhau_daemon.query.batch import Batch, NewSpec

BUSY_TIMEOUT_S = 5.0
CHECKPOINT_PAGES = 8000  # of the write-ahead log, 32 MB: a page that is written often is copied once
CACHE_KB = 4 * 1024  # per connection: more costs memory and saves no CPU (measured)
REQUESTS_KEPT_NS = 24 * 3600 * 1_000_000_000
PRUNE_EVERY_NS = 60 * 1_000_000_000
PRUNE_BATCH = 1000  # old Request-Ids looked at per transaction

_UNUSABLE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR})
"""Errors of a file that is damaged, or has no such table: it is a copy, so it is made anew from the log."""


class QueryStore:
    """The writing half. `chain` is where it has got to."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. One of another format, or one that cannot be read, is made anew."""
        self.path = path
        self._db, self.chain = _open(path)
        self._pruned_at = 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def apply(self, projects: Iterable[Project]) -> Chain:
        """Write what records changed, in order and in one transaction; return where the query side stands now.

        Raises
        ------
        sqlite3.Error
            when nothing was written; the same call may be repeated if the disk was full.
        """
        batch = Batch()
        for project in projects:
            batch.add(project)
        if batch.newest is None:
            return self.chain
        chain = batch.chain
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._write(batch, chain)
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self.chain = chain
        return chain

    def _write(self, batch: Batch, chain: Chain) -> None:
        db = self._db
        self._write_jobs(batch)
        executions, gone = batch.executions, batch.gone_executions
        db.executemany(
            rows.INSERT_EXECUTION, [rows.execution_row(one, live=x not in gone) for x, one in executions.items()]
        )
        db.executemany("UPDATE executions SET live = 0 WHERE x = ?", [(x,) for x in gone if x not in executions])
        db.executemany("INSERT OR REPLACE INTO history VALUES (?, ?)", batch.history)
        db.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?)", batch.requests)
        entities = [("node", key, rows.entity_body(one)) for key, one in batch.nodes.items()]
        entities += [("credential", key, rows.entity_body(one)) for key, one in batch.credentials.items()]
        entities.append(("cluster", "", rows.entity_body(batch.cluster)))
        db.executemany("INSERT OR REPLACE INTO entities VALUES (?, ?, ?)", entities)
        db.executemany(
            "DELETE FROM entities WHERE kind = 'credential' AND key = ?", [(key,) for key in batch.gone_credentials]
        )
        db.execute("UPDATE meta SET value = ? WHERE key = 'chain'", (msgspec.json.encode(chain),))
        assert batch.newest is not None
        self._prune(batch.newest.record.at)

    def _write_jobs(self, batch: Batch) -> None:
        spec_of: dict[int, int] = {}  # j → key of its newest version
        for new in batch.specs:
            before = self._end_version(new, spec_of.get(new.j, 0)) if new.version > 1 else 0
            self._db.execute("INSERT INTO specs (seq, before, spec) VALUES (?, ?, ?)", (new.seq, before, new.spec))
            spec_of[new.j] = new.seq
        jobs, gone = batch.jobs, batch.gone_jobs
        self._db.executemany(
            rows.INSERT_JOB, [rows.new_job_row(jobs[j], seq, live=j not in gone) for j, seq in spec_of.items()]
        )
        self._db.executemany(
            rows.UPDATE_JOB, [rows.job_row(one, live=j not in gone) for j, one in jobs.items() if j not in spec_of]
        )
        self._db.executemany("UPDATE jobs SET live = 0 WHERE j = ?", [(j,) for j in gone if j not in jobs])

    def _end_version(self, new: NewSpec, before: int) -> int:
        """Keep how a job's last version ended; return that version's key."""
        row = self._db.execute("SELECT spec, body FROM jobs WHERE j = ?", (new.j,)).fetchone()
        before = before or row[0]
        self._db.execute("UPDATE specs SET last = ? WHERE seq = ?", (new.last or row[1], before))
        return before

    def _prune(self, now: int) -> None:
        """Forget Request-Ids that are too old to matter; they lie in the order of time."""
        if now < self._pruned_at + PRUNE_EVERY_NS:
            return
        rows = self._db.execute("SELECT seq, at FROM requests ORDER BY seq LIMIT ?", (PRUNE_BATCH,)).fetchall()
        old = [(seq,) for seq, at in rows if at < now - REQUESTS_KEPT_NS]
        self._db.executemany("DELETE FROM requests WHERE seq = ?", old)
        if len(old) < PRUNE_BATCH:
            self._pruned_at = now


def _open(path: Path) -> tuple[sqlite3.Connection, Chain]:
    if path.exists():
        try:
            return _open_existing(path)
        except sqlite3.Error as error:
            if error.sqlite_errorcode & 0xFF not in _UNUSABLE:
                raise
        except (KeyError, ValueError):
            pass  # of another format
    remove(path)
    database = connect(path)
    database.execute("BEGIN")
    for statement in rows.SCHEMA:
        database.execute(statement)
    meta = [("format", str(rows.FORMAT).encode()), ("chain", msgspec.json.encode(Chain()))]
    database.executemany("INSERT INTO meta VALUES (?, ?)", meta)
    database.execute("COMMIT")
    return database, Chain()


def _open_existing(path: Path) -> tuple[sqlite3.Connection, Chain]:
    database = connect(path)
    try:
        meta = dict(database.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("format") != str(rows.FORMAT).encode():
            raise ValueError("another format")
        return database, msgspec.json.decode(meta["chain"], type=Chain)
    except BaseException:
        database.close()
        raise


def remove(path: Path) -> None:
    """Delete the file; it is built again from the log."""
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection for writing."""
    database = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    database.execute(f"PRAGMA cache_size=-{CACHE_KB}")
    return database
