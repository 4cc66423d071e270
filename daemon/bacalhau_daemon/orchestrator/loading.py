"""From files to state: opens log and query side, checks that they belong together, and folds what the rows lack.

Blocking: call it before the loop runs, or in a thread.
"""

from __future__ import annotations

import time
from pathlib import Path

import structlog

from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.log.base import LogReader
from bacalhau_daemon.log.sqlite import SqliteLog
from bacalhau_daemon.query.restart import catch_up
from bacalhau_daemon.query.store import QueryStore

SAY_EVERY_S = 2.0

log = structlog.get_logger(__name__)


def log_path(data_dir: Path) -> Path:
    """Return where the log lies."""
    return data_dir / "orchestrator" / "log.db"


def query_path(data_dir: Path) -> Path:
    """Return where the query side lies."""
    return data_dir / "orchestrator" / "query.db"


class _Progress:
    """Says now and then how far catching up has got, when it takes long."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._said = time.monotonic()

    def __call__(self, record: int) -> None:
        if time.monotonic() - self._said > SAY_EVERY_S:
            self._said = time.monotonic()
            log.info("query_side.catching_up", record=record, of=self._end)


class Opened:
    """An open log, an open query side that has all of it, and the state."""

    def __init__(self, data_dir: Path) -> None:
        """Open and catch up. Raises `LogDamaged` or `LogTooNew`; then nothing is left open."""
        log_path(data_dir).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.log = SqliteLog(log_path(data_dir))
        try:
            self.store = QueryStore(query_path(data_dir))
            try:
                self.restored = catch_up(self.store, self.log, progress=_Progress(self.log.tip.n))
            except BaseException:
                self.store.close()
                raise
        except BaseException:
            self.log.close()
            raise


def fold_tail(restored: Restored, records: LogReader) -> Restored:
    """Fold what the log has beyond a state; the rows are somebody else's."""
    for _, data in records.read(restored.chain.n + 1):
        restored.add(data)
    return restored
