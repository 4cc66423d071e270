"""The threads beside the loop: one appends to the log, one writes the query side, a few read it.

SQLite blocks, so nothing of it runs on the loop. Appends are one at a time because the machine asks for one at a time.
What the machine hands over for the query side is gathered for 20 ms and written in one transaction. Look-ups that come
while another batch of them is being answered wait for the next batch, and go together.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.requests import Found, Lookup
from bacalhau_daemon.log.base import Log, Outcome
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.log.sqlite_reader import SqliteReader
from bacalhau_daemon.query.reader import QueryReader
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol import errors

T = TypeVar("T")

GATHER_S = 0.02
READERS = 3
RETRY_S = 0.5  # of the query side, when its disk is full
READS_WAITING_MAX = 4096
LOOKUPS_PER_BATCH_MAX = 256

log = structlog.get_logger(__name__)


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


class Projector:
    """Writes the query side. `applied` gets the position after each transaction."""

    def __init__(
        self, store: QueryStore, applied: Callable[[Chain], None], failed: Callable[[BaseException], None]
    ) -> None:
        self._store, self._applied, self._failed = store, applied, failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="query-write")
        self._waiting: list[Project] = []
        self._writer: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.position = store.chain.event

    def offer(self, project: Project) -> None:
        """Have a record written soon."""
        self._waiting.append(project)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="query-write")

    async def reached(self, event: int, timeout_s: float) -> None:
        """Wait until event number `event` is in the rows. Raises `TimedOut`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.position < event:
                    await self._moved.wait()
        except TimeoutError as error:
            raise errors.TimedOut(
                f"the query side is at {self.position}, not yet at {event}", hint="try again in a moment"
            ) from error

    async def close(self) -> None:
        """Write what waits, and end."""
        if self._writer is not None:
            await self._writer
        self._thread.shutdown()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(GATHER_S)
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                chain = await loop.run_in_executor(self._thread, self._store.apply, batch)
            except sqlite3.OperationalError as error:
                self._waiting = batch + self._waiting
                log.error("query_side.not_written", error=str(error), again_in_s=RETRY_S)
                await asyncio.sleep(RETRY_S)
                continue
            except Exception as error:
                self._failed(error)
                break
            self.position = chain.event
            self._applied(chain)
            moved, self._moved = self._moved, asyncio.Event()
            moved.set()
        self._writer = None


class Readers:
    """A few threads, each with its own view of the query side and the log."""

    def __init__(self, query_path: Path, log_path: Path) -> None:
        self._paths = query_path, log_path
        self._mine = threading.local()
        self._open: list[tuple[QueryReader, SqliteReader]] = []
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="query-read")
        self._waiting = 0
        self._lookups: list[tuple[Lookup, asyncio.Future[Found]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def read(self, question: Callable[[QueryReader], T]) -> T:
        """Put a question in a thread. Raises `Busy` when too many wait."""
        if self._waiting >= READS_WAITING_MAX:
            raise errors.Busy(f"{self._waiting} reads wait already", hint="try again in a moment")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: question(self._reader()))
        except OverflowError as error:
            raise errors.UsageError("a number in the request is too large") from error
        finally:
            self._waiting -= 1

    async def lookup(self, question: Lookup) -> Found:
        """Answer a look-up; those that come together are answered together."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._lookups.append((question, future))
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer_lookups(), name="lookups")
        return await future

    async def _answer_lookups(self) -> None:
        while self._lookups:
            batch, self._lookups = self._lookups[:LOOKUPS_PER_BATCH_MAX], self._lookups[LOOKUPS_PER_BATCH_MAX:]
            questions = [question for question, _ in batch]
            try:
                found = await self.read(lambda reader, questions=questions: [reader.lookup(one) for one in questions])  # type: ignore[misc]
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(one)
        self._answering = None

    def _reader(self) -> QueryReader:
        reader: QueryReader | None = getattr(self._mine, "reader", None)
        if reader is None:
            query_path, log_path = self._paths
            records = SqliteReader(log_path)
            reader = self._mine.reader = QueryReader(query_path, records)
            self._open.append((reader, records))
        return reader

    def close(self) -> None:
        """End the threads, close the files."""
        self._pool.shutdown(cancel_futures=True)
        for reader, records in self._open:
            reader.close()
            records.close()
