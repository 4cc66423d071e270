"""From files to state: opens log and query side, checks that they belong together, and folds what the rows lack.

Blocking: call it before the loop runs, or in a thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.log.base import LogReader
from bacalhau_daemon.log.records import Chain, LogDamaged
from bacalhau_daemon.log.sqlite import SqliteLog
from bacalhau_daemon.log.sqlite_reader import SqliteReader
from bacalhau_daemon.query.reader import Loaded, QueryReader
from bacalhau_daemon.query.store import QueryStore

RECORDS_PER_TRANSACTION = 256
SAY_EVERY_S = 2.0
REBUILD = "bacalhau-daemon rebuild makes the query side anew from the log"

log = structlog.get_logger(__name__)


def log_path(data_dir: Path) -> Path:
    """Return where the log lies."""
    return data_dir / "orchestrator" / "log.db"


def query_path(data_dir: Path) -> Path:
    """Return where the query side lies."""
    return data_dir / "orchestrator" / "query.db"


def query_files(data_dir: Path) -> list[Path]:
    """Return all files of the query side."""
    path = query_path(data_dir)
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]


class Opened:
    """An open log, an open query side that has all of it, and the state."""

    def __init__(self, data_dir: Path) -> None:
        """Open and catch up. Raises `LogDamaged` or `LogTooNew`; then nothing is left open."""
        log_path(data_dir).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log = SqliteLog(log_path(data_dir))
        try:
            self.store = QueryStore(query_path(data_dir))
            try:
                self.restored = catch_up(self.store, self.log, self.log.tip)
            except BaseException:
                self.store.close()
                raise
        except BaseException:
            self.log.close()
            raise


def catch_up(store: QueryStore, records: SqliteReader, tip: Chain) -> Restored:
    """Bring the query side up to the log's end; return the state there."""
    _check_together(store.chain, records, tip)
    reader = QueryReader(store.path, records)
    try:
        restored = restored_from(reader.load())
    finally:
        reader.close()
    said, first = time.monotonic(), store.chain.n
    batch = []
    for n, data in records.read(first + 1):
        batch.append(restored.add(data))
        if len(batch) >= RECORDS_PER_TRANSACTION:
            store.apply(batch)
            batch = []
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            log.info("query_side.catching_up", record=n, of=tip.n)
    store.apply(batch)
    return restored


def restored_from(loaded: Loaded) -> Restored:
    """Return the state that the query side holds."""
    return Restored(
        chain=loaded.chain,
        cluster=loaded.cluster,
        jobs=loaded.jobs,
        executions=loaded.executions,
        nodes=loaded.nodes,
        credentials=loaded.credentials,
    )


def fold_tail(restored: Restored, records: LogReader) -> Restored:
    """Fold what the log has beyond a state; the rows are somebody else's."""
    for _, data in records.read(restored.chain.n + 1):
        restored.add(data)
    return restored


def _check_together(rows: Chain, records: SqliteReader, tip: Chain) -> None:
    """Refuse to lead with a query side that knows another log. It is a copy: it can be made again."""
    place = str(records.path)
    if rows.n > tip.n:
        raise LogDamaged(
            f"the log ends at record {tip.n}, but the query side has seen record {rows.n}: its tail was lost, "
            "or another log was put in its place",
            place=place,
            hint=f"restore a backup; if this log is the right one, {REBUILD}",
        )
    if rows.n < records.origin.n:
        if rows.n == 0 and records.origin.n == 0:
            return
        raise LogDamaged(
            f"the log begins after record {records.origin.n}, and the query side has only seen record {rows.n}",
            place=place,
            hint="restore a backup",
        )
    if rows.n and records.chain_at(rows.n).hash != rows.hash:
        raise LogDamaged(
            f"record {rows.n} of the log is not the one that the query side has seen",
            place=place,
            hint=f"restore a backup; if this log is the right one, {REBUILD}",
        )
