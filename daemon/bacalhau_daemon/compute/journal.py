"""The node's journal: one writer, in a thread of its own; small appends happen on the loop while the disk is quick."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from bacalhau_daemon.core.compute_events import CODEC
from bacalhau_daemon.core.compute_fold import fold_record
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_daemon.log.base import Log, Outcome
from bacalhau_daemon.log.records import Chain
from bacalhau_protocol import errors

T = TypeVar("T")

QUICK_S, QUICK_BYTES = 0.003, 16 * 1024
"""After an append that took longer the next goes to the thread, until one there was quick; larger ones always do."""


class Loaded(msgspec.Struct, frozen=True):
    """The journal, folded."""

    state: ComputeState
    chain: Chain
    size_bytes: int


class Journal:
    """A log port behind one thread. `open_log` is called in that thread.

    A change of threads and back costs as much as a quick append (see `orchestrator/appender.py`).
    """

    def __init__(self, node: str, open_log: Callable[[], Log]) -> None:
        self._node = node
        self._open = open_log
        self._log: Log | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal")
        self._in_thread = 0  # calls that the thread has not finished
        self._quick = True  # whether the last append was

    async def load(self) -> Loaded:
        """Open at the first call; read and fold everything.

        Raises
        ------
        LogDamaged, LogTooNew
            when the journal cannot be trusted.
        UsageError
            when it is another node's.
        """
        return await self._do(self._load)

    async def append(self, expected: int, data: bytes) -> Outcome:
        """Append a record."""
        if self._quick and not self._in_thread and len(data) <= QUICK_BYTES:
            return self._append(expected, data)
        return await self._do(lambda: self._append(expected, data))

    def _append(self, expected: int, data: bytes) -> Outcome:
        assert self._log is not None, "loaded first"
        started = time.perf_counter()
        outcome = self._log.append(expected, data)
        self._quick = time.perf_counter() - started < QUICK_S
        return outcome

    async def trim(self, before: int) -> None:
        """Forget records."""
        log = self._log
        assert log is not None, "loaded first"
        await self._do(lambda: log.trim(before))

    async def close(self) -> None:
        """Close the file and end the thread."""
        close = getattr(self._log, "close", None)
        if close is not None:
            await self._do(close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        self._in_thread += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._in_thread -= 1

    def _load(self) -> Loaded:
        if self._log is None:
            self._log = self._open()
        log = self._log
        state, chain, size = ComputeState(), log.origin, 0
        for _, data in log.read(1):
            chain = chain.verify(data)
            fold_record(state, CODEC.decode(data))
            size += len(data)
        state.event = chain.event
        owner = chain.cluster.removeprefix("node ")
        if owner and owner != self._node:
            raise errors.UsageError(
                f"this data directory belongs to node {owner!r}, not to {self._node!r}",
                hint="give each node a data directory of its own; delete this one if its node never ran anything",
            )
        return Loaded(state, chain, size)


def sqlite(path: Path) -> Callable[[], Log]:
    """Return how to open the journal file."""

    def open_log() -> Log:
        from bacalhau_daemon.log.sqlite import SqliteLog  # noqa: PLC0415  tests do without

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return SqliteLog(path)

    return open_log
