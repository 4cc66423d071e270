"""The thread that appends to the log: SQLite blocks. One append is in flight at most, because the machine says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from bacalhau_daemon.log.base import Log, Outcome


class Appender:
    """Appends to the log in a thread of its own. `settled` gets each outcome, `failed` what must end the process."""

    def __init__(self, store: Log, settled: Callable[[Outcome], None], failed: Callable[[BaseException], None]) -> None:
        self._store, self._settled, self._failed = store, settled, failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log")

    def append(self, expected: int, record: bytes) -> None:
        """Begin to append; the outcome comes later, on the loop."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._store.append, expected, record)
        future.add_done_callback(self._done)

    def _done(self, future: asyncio.Future[Outcome]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._settled(future.result())
        else:
            self._failed(error)

    def close(self) -> None:
        """Wait for the append in hand."""
        self._thread.shutdown()
