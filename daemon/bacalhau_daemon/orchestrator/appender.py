"""Where appends happen: small ones on the loop while the disk is quick, the others in a thread.

A change of threads and back costs as much as a quick append, and nothing can be decided meanwhile anyhow. One append is
in flight at most, because the machine says so.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

from bacalhau_daemon.log.base import Log, Outcome

QUICK_BYTES = 16 * 1024  # a larger record takes longer, and there is more to read meanwhile
QUICK_S = 0.003
"""After an append that took longer the next goes to the thread, until one there was quick: at most one holds us up."""


class Appender:
    """Appends to the log. `settled` gets each outcome, on the loop; `failed` what must end the process."""

    def __init__(self, store: Log, settled: Callable[[Outcome], None], failed: Callable[[BaseException], None]) -> None:
        self._store, self._settled, self._failed = store, settled, failed
        self._loop = asyncio.get_running_loop()
        self._quick = True
        self._inbox: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def append(self, expected: int, record: bytes) -> None:
        """Append; the outcome comes at once or later."""
        if self._quick and len(record) <= QUICK_BYTES:
            self._append(expected, record)()
        else:
            self._inbox.put((expected, record))

    def _append(self, expected: int, record: bytes) -> Callable[[], None]:
        """Append here and now; return what is to be called on the loop."""
        started = time.perf_counter()
        try:
            outcome = self._store.append(expected, record)
        except BaseException as error:
            failure = error
            return lambda: self._failed(failure)
        self._quick = time.perf_counter() - started < QUICK_S
        return lambda: self._settled(outcome)

    def _run(self) -> None:
        while (work := self._inbox.get()) is not None:
            self._loop.call_soon_threadsafe(self._append(*work))

    def close(self) -> None:
        """Wait for the append in hand."""
        self._inbox.put(None)
        self._thread.join()
