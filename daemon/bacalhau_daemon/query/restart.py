"""A start: is the query side a copy of this log, what was live, and what has the log beyond that.

::

    log = SqliteLog(path)                    # verified, see `log/sqlite.py`
    store = QueryStore(query_path)
    restored = catch_up(store, log)          # afterwards rows, state and log end at the same record

A query side that is missing is built the same way, from the first record on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.log.base import LogReader
from bacalhau_daemon.log.records import Chain, digest
from bacalhau_daemon.query.reader import Loaded, QueryReader
from bacalhau_daemon.query.store import QueryStore, remove
from bacalhau_protocol.errors import Conflict

EVENTS_PER_BATCH = 2000  # written in one transaction while catching up
REBUILD = "if the log is the right one, run `bacalhau-daemon rebuild`: it makes the query side anew from the log"


def catch_up(store: QueryStore, log: LogReader, *, progress: Callable[[int], None] | None = None) -> Restored:
    """Load what is live, fold the log's tail, write its rows; return the state at the log's end.

    `progress` is called with the number of the newest record written, now and then.

    Raises
    ------
    Conflict
        when the query side is not a copy of this log: refuse to lead.
    LogDamaged, LogTooNew
        when the tail cannot be folded.
    """
    check(store, log)
    reader = QueryReader(store.path, log)
    try:
        restored = restore(reader.load())
    finally:
        reader.close()
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
    Conflict
        when the log was trimmed: its beginning is gone, and only the query side has what came of it.
    """
    if log.origin.n:
        raise Conflict(
            f"the log begins with record {log.origin.n + 1}, so the query side cannot be built from it",
            place=str(path),
            hint="restore both from a backup",
        )
    remove(path)
    store = QueryStore(path)
    try:
        return catch_up(store, log, progress=progress).chain
    finally:
        store.close()


def check(store: QueryStore, log: LogReader) -> None:
    """Check that the rows come from this log. Raises `Conflict` with both sides of the difference."""
    chain, origin = store.chain, log.origin
    if chain.n < origin.n:
        found = f"the query side ends with record {chain.n}, but the log begins with record {origin.n + 1}"
        raise Conflict(found, place=str(store.path), hint="restore both from a backup")
    if chain.n == 0:
        return
    if chain.n > log.last():
        found = f"the query side has seen record {chain.n}, but the log ends with record {log.last()}"
        raise Conflict(f"{found}: this is another log, or one that lost its end", place=str(store.path), hint=REBUILD)
    hash_in_log = origin.hash if chain.n == origin.n else digest(next(log.read(chain.n))[1])
    if hash_in_log != chain.hash:
        found = f"the query side has seen record {chain.n} with hash {chain.hash}, in the log it has {hash_in_log}"
        raise Conflict(f"{found}: this is another log", place=str(store.path), hint=REBUILD)
