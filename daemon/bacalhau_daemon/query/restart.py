"""A start: is the query side a copy of this log, what was live, and what has the log beyond that.

::

    log = SqliteLog(path)                    # verified, see `log/sqlite.py`
    store = QueryStore(query_path)
    restored = catch_up(store, log)          # afterwards rows, state and log end at the same record

A query side that is missing is built the same way, from the first record on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.log.base import LogReader
from bacalhau_daemon.log.records import RESTORE, Chain, LogDamaged, digest
from bacalhau_daemon.query.reader import Loaded, QueryReader
from bacalhau_daemon.query.store import QueryStore, remove

EVENTS_PER_BATCH = 2000  # written in one transaction while catching up
REBUILD = (
    "restore a backup with `bacalhau-daemon restore FILE`; if this log is the right one, `bacalhau-daemon rebuild`"
)


def catch_up(store: QueryStore, log: LogReader, *, progress: Callable[[int], None] | None = None) -> Restored:
    """Load what is live, fold the log's tail, write its rows; return the state at the log's end.

    `progress` is called with the number of the newest record written, now and then.

    Raises
    ------
    LogDamaged, LogTooNew
        when the query side is not a copy of this log, or cannot be read, or the tail cannot be folded: refuse to lead.
    """
    check(store, log)
    restored = _load(store, log)
    batch: list[Project] = []
    events = 0
    for _, data in log.read(restored.chain.n + 1):
        batch.append(restored.add(data))
        events += len(batch[-1].record.events)
        if events >= EVENTS_PER_BATCH:
            store.apply(batch)
            batch, events = [], 0
            if progress is not None:
                progress(store.chain.n)
    store.apply(batch)
    return restored


def _load(store: QueryStore, log: LogReader) -> Restored:
    reader = QueryReader(store.path, log)
    try:
        return restore(reader.load())
    except (sqlite3.DatabaseError, ValueError) as error:
        hint = "`bacalhau-daemon rebuild` makes it anew from the log"
        raise LogDamaged(f"the query side cannot be read: {error}", place=str(store.path), hint=hint) from error
    finally:
        reader.close()


def restore(loaded: Loaded) -> Restored:
    """Make the state of what was loaded."""
    return Restored(
        chain=loaded.chain,
        cluster=loaded.cluster,
        jobs=loaded.jobs,
        executions=loaded.executions,
        nodes=loaded.nodes,
        credentials=loaded.credentials,
    )


def rebuild(path: Path, log: LogReader, *, progress: Callable[[int], None] | None = None) -> Chain:
    """Make the query side anew from a log that nobody writes; return where it stands.

    Raises
    ------
    LogDamaged
        when the log's beginning was trimmed: only the query side has what came of it. Nothing is changed.
    """
    if log.origin.n:
        raise LogDamaged(
            f"the log begins with record {log.origin.n + 1}, so the query side cannot be built from it",
            place=str(path),
            hint="keep the query side, or restore a backup from before the trim",
        )
    remove(path)
    store = QueryStore(path)
    try:
        return catch_up(store, log, progress=progress).chain
    finally:
        store.close()


def check(store: QueryStore, log: LogReader) -> None:
    """Check that the rows come from this log. Raises `LogDamaged` with both sides of the difference."""
    chain, origin = store.chain, log.origin
    if chain.n < origin.n:
        found = f"the query side ends with record {chain.n}, but the log begins with record {origin.n + 1}"
        raise LogDamaged(found, place=str(store.path), hint=RESTORE)
    if chain.n == 0:
        return
    if chain.n > log.last():
        found = f"the query side has seen record {chain.n}, but the log ends with record {log.last()}"
        raise LogDamaged(f"{found}: it lost its end, or is another log", place=str(store.path), hint=REBUILD)
    hash_in_log = origin.hash if chain.n == origin.n else digest(next(log.read(chain.n))[1])
    if hash_in_log != chain.hash:
        found = f"the query side has seen record {chain.n} with hash {chain.hash}, in the log it has {hash_in_log}"
        raise LogDamaged(f"{found}: this is another log", place=str(store.path), hint=REBUILD)
