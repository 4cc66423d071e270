"""The query side for the event loop: a thread that writes, a thread that reads, and nothing that blocks the loop.

What the machine hands over is written at once when nothing was written just now, else gathered for a while: an entity
that changes three times is written once. Whoever waits for a position (`wait_applied`) ends the gathering. On a full
disk it waits and tries again; `room` holds its caller back meanwhile. Any other failure ends the writing: `failed` has
the words.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.requests import Found, Lookup
from bacalhau_daemon.log.sqlite import why_not_stored
from bacalhau_daemon.query.reader import Loaded, QueryReader
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.errors import Busy, Internal, TimedOut

GATHER_S = 0.25
GATHER_RECORDS_MAX = 256  # per transaction
WAITING_MAX = 4096  # records handed over and not yet written, before `room` waits
RETRY_S = 0.5  # after a full disk
QUESTIONS_MAX = 256  # asked and not yet answered
REBUILD = "stop the daemon and run `bacalhau-daemon rebuild`; the log has everything"

P = ParamSpec("P")
T = TypeVar("T")


class Query:
    """The running query side; made and used on one event loop. It closes the store and the log reader."""

    def __init__(
        self, store: QueryStore, reader: QueryReader, *, on_applied: Callable[[int], None] | None = None
    ) -> None:
        """Start. `on_applied` is called on the loop with the number of the newest event that is in the rows."""
        self.position = store.chain.event
        self.failed = ""
        self._loop = asyncio.get_running_loop()
        self._store, self._reader, self._on_applied = store, reader, on_applied
        self._finder = reader.twin()  # of the loop itself
        self._gathered: list[Project] = []
        self._handed_over = 0.0  # when last
        self._timer: asyncio.TimerHandle | None = None
        self._inbox: queue.SimpleQueue[list[Project] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._waiting = self._questions = 0
        self._moved = asyncio.Event()  # set, and replaced, when something was written or writing has failed
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="query-read")
        self._writer = threading.Thread(target=self._write, name="query-write", daemon=True)
        self._writer.start()

    async def close(self) -> None:
        """Write what was handed over, if the disk lets us, then stop."""
        self._stopping.set()
        self._hand_over()
        self._inbox.put(None)
        await asyncio.to_thread(self._writer.join)
        await asyncio.to_thread(self._pool.shutdown)
        self._reader.close()
        self._finder.close()
        self._store.close()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def project(self, project: Project) -> None:
        """Take what a stored record changed. Returns at once; see `room`."""
        self._waiting += 1
        self._gathered.append(project)
        if len(self._gathered) >= GATHER_RECORDS_MAX:
            self._hand_over()
        elif self._timer is None:
            wait_s = self._handed_over + GATHER_S - self._loop.time()
            if wait_s > 0:
                self._timer = self._loop.call_later(wait_s, self._hand_over)
            else:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give what was gathered to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._gathered:
            self._inbox.put(self._gathered)
            self._gathered = []
            self._handed_over = self._loop.time()

    @property
    def has_room(self) -> bool:
        """Whether `room` would not wait."""
        return self._waiting <= WAITING_MAX

    async def room(self) -> None:
        """Wait until few enough records wait to be written. Raises `Internal` when writing has failed."""
        while not self.has_room:
            await self._move()

    async def wait_applied(self, position: int, timeout_s: float) -> None:
        """Wait until event number `position` is in the rows. Raises `TimedOut`, or `Internal` if it never will be."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < position:
                    self._hand_over()
                    await self._move()
        except TimeoutError:
            reached = f"event {position} is not in the rows after {timeout_s:g} s; they are at {self.position}"
            raise TimedOut(reached, hint="try again in a moment") from None

    async def _move(self) -> None:
        if self.failed:
            raise Internal(f"the query side has stopped: {self.failed}", place=str(self._store.path), hint=REBUILD)
        await self._moved.wait()

    def _write(self) -> None:
        """Run in the writing thread."""
        while (batch := self._inbox.get()) is not None:
            try:
                event = self._apply(batch)
            except Exception as error:
                self._loop.call_soon_threadsafe(self._fail, f"{type(error).__name__}: {error}")
                return
            self._loop.call_soon_threadsafe(self._applied, len(batch), event)

    def _apply(self, batch: Sequence[Project]) -> int:
        while True:
            try:
                return self._store.apply(batch).event
            except sqlite3.Error as error:
                if not why_not_stored(error) or self._stopping.wait(RETRY_S):
                    raise

    def _applied(self, records: int, event: int) -> None:
        self._waiting -= records
        self.position = event
        self._wake()
        if self._on_applied is not None:
            self._on_applied(event)

    def _fail(self, words: str) -> None:
        self.failed = words
        self._wake()

    def _wake(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def jobs(self, query: m.JobQuery) -> m.JobPage:
        """See `QueryReader.jobs`."""
        return await self._ask(self._reader.jobs, query)

    async def job(self, ref: m.JobRef) -> m.JobFull:
        """See `QueryReader.job`."""
        return await self._ask(self._reader.job, ref)

    async def executions(self, ref: m.JobRef) -> m.ExecutionPage:
        """See `QueryReader.executions`."""
        return await self._ask(self._reader.executions, ref)

    async def history(self, query: m.HistoryQuery) -> m.HistoryPage:
        """See `QueryReader.history`."""
        return await self._ask(self._reader.history, query)

    async def counts(self, namespace: str = "") -> dict[str, int]:
        """See `QueryReader.counts`."""
        return await self._ask(self._reader.counts, namespace)

    def lookup(self, question: Lookup) -> Found:
        """Answer what the machine must know, here and now; see `QueryReader.lookup`."""
        try:
            return self._finder.lookup(question)
        except sqlite3.Error as error:
            raise self._unreadable(error) from error

    async def load(self) -> Loaded:
        """See `QueryReader.load`."""
        return await self._ask(self._reader.load)

    async def _ask(self, question: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._questions >= QUESTIONS_MAX:
            raise Busy(f"{QUESTIONS_MAX} questions wait for the query side", hint="try again in a moment")
        self._questions += 1
        try:
            return await self._loop.run_in_executor(self._pool, lambda: question(*args, **kwargs))
        except sqlite3.Error as error:
            raise self._unreadable(error) from error
        finally:
            self._questions -= 1

    def _unreadable(self, error: sqlite3.Error) -> Internal:
        return Internal(f"the query side cannot be read: {error}", place=str(self._store.path), hint=REBUILD)
