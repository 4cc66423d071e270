"""Where appends happen: small ones on the loop while the disk is quick, the others in a thread.

A change of threads and back costs as much as a quick append, and nothing can be decided meanwhile anyhow. One append is
in flight at most, because the machine says so. Everything else that is done to the log while it is in use is done in
the thread as well, so that it has one user at a time.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from bacalhau_daemon.log.base import Log, Outcome
from bacalhau_daemon.log.pace import Pace

QUICK_BYTES = 256 * 1024  # a larger record takes longer, and there is more to read meanwhile

T = TypeVar("T")
Then = Callable[[], None]
"""What is to be called on the loop."""


class Appender:
    """Appends to the log. `settled` gets each outcome, on the loop; `failed` what must end the process."""

    def __init__(self, store: Log, settled: Callable[[Outcome], None], failed: Callable[[BaseException], None]) -> None:
        self._store, self._settled, self._failed = store, settled, failed
        self._loop = asyncio.get_running_loop()
        self._pace = Pace()
        self._waiting = 0  # for the thread, or in its hands
        self._inbox: queue.SimpleQueue[Callable[[], Then] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def append(self, expected: int, record: bytes) -> None:
        """Append; the outcome comes at once or later."""
        if self._pace.quick and not self._waiting and len(record) <= QUICK_BYTES:
            with self._pace:
                then = self._append(expected, record)
            then()
        else:
            self._hand_over(partial(self._append, expected, record))

    async def do(self, work: Callable[[Log], T]) -> T:
        """Do something else with the log, in the thread."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._hand_over(partial(_outcome, partial(work, self._store), future))
        return await asyncio.shield(future)

    def _append(self, expected: int, record: bytes) -> Then:
        """Append here and now; return what is to be called on the loop."""
        try:
            outcome = self._store.append(expected, record)
        except BaseException as error:
            failure = error
            return lambda: self._failed(failure)
        return lambda: self._settled(outcome)

    def _hand_over(self, work: Callable[[], Then]) -> None:
        self._waiting += 1
        self._inbox.put(work)

    def _run(self) -> None:
        while (work := self._inbox.get()) is not None:
            self._loop.call_soon_threadsafe(self._done, work())

    def _done(self, then: Then) -> None:
        self._waiting -= 1
        then()

    def close(self) -> None:
        """Wait for what is in hand."""
        self._inbox.put(None)
        self._thread.join()


def _outcome(work: Callable[[], T], future: asyncio.Future[T]) -> Then:
    """Do it; return how its future gets the outcome."""
    try:
        result = work()
    except Exception as error:
        failure = error
        return lambda: future.set_exception(failure)
    return lambda: future.set_result(result)
