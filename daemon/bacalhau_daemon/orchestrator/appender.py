"""The thread that appends to the log: SQLite blocks. One append is in flight at most, because the machine says so."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable

from bacalhau_daemon.log.base import Log, Outcome


class Appender:
    """Appends to the log in a thread of its own. `settled` gets each outcome, `failed` what must end the process."""

    def __init__(self, store: Log, settled: Callable[[Outcome], None], failed: Callable[[BaseException], None]) -> None:
        self._store, self._settled, self._failed = store, settled, failed
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def append(self, expected: int, record: bytes) -> None:
        """Begin to append; the outcome comes later, on the loop."""
        self._inbox.put((expected, record))

    def _run(self) -> None:
        while (work := self._inbox.get()) is not None:
            try:
                outcome = self._store.append(*work)
            except BaseException as error:
                self._loop.call_soon_threadsafe(self._failed, error)
            else:
                self._loop.call_soon_threadsafe(self._settled, outcome)

    def close(self) -> None:
        """Wait for the append in hand."""
        self._inbox.put(None)
        self._thread.join()
