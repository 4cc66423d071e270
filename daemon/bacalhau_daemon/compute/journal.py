"""The node's journal: read and folded at the start, then appended to, by one user at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from bacalhau_daemon.core.compute_events import CODEC
from bacalhau_daemon.core.compute_fold import fold_record
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_daemon.log.appender import Appender
from bacalhau_daemon.log.base import Log, Outcome
from bacalhau_daemon.log.records import Chain
from bacalhau_protocol import errors


class Loaded(msgspec.Struct, frozen=True):
    """The journal, folded."""

    state: ComputeState
    chain: Chain
    size_bytes: int


class Journal:
    """A log port and its one user (`log/appender.py`). `open_log` is called in a thread."""

    def __init__(self, node: str, open_log: Callable[[], Log]) -> None:
        self._node = node
        self._open = open_log
        self._log: Log | None = None
        self._appender: Appender | None = None
        self._settled: Callable[[Outcome], None] | None = None
        self._failed: Callable[[BaseException], None] | None = None

    async def load(self) -> Loaded:
        """Open at the first call; read and fold everything.

        Raises
        ------
        LogDamaged, LogTooNew
            when the journal cannot be trusted.
        UsageError
            when it is another node's.
        """
        if self._appender is None:
            self._log = await asyncio.to_thread(self._open)
            self._appender = Appender(self._log, self._on_settled, self._on_failed)
        return await self._appender.do(partial(_load, self._node))

    def listen(self, settled: Callable[[Outcome], None], failed: Callable[[BaseException], None]) -> None:
        """Say who gets the outcomes of appends, and what must end the process."""
        self._settled, self._failed = settled, failed

    def append(self, expected: int, data: bytes) -> None:
        """Append a record; the outcome comes at once or later."""
        assert self._appender is not None, "loaded first"
        self._appender.append(expected, data)

    async def trim(self, before: int) -> None:
        """Forget records."""
        assert self._appender is not None, "loaded first"
        await self._appender.do(lambda log: log.trim(before))

    def _on_settled(self, outcome: Outcome) -> None:
        assert self._settled is not None, "who appends listens"
        self._settled(outcome)

    def _on_failed(self, error: BaseException) -> None:
        assert self._failed is not None, "who appends listens"
        self._failed(error)

    async def close(self) -> None:
        """Close the file and end the thread; again: nothing."""
        appender, self._appender = self._appender, None
        if appender is not None:
            await asyncio.to_thread(appender.close)
        close = getattr(self._log, "close", None)
        self._log = None
        if close is not None:
            await asyncio.to_thread(close)


def _load(node: str, log: Log) -> Loaded:
    state, chain, size = ComputeState(), log.origin, 0
    for _, data in log.read(1):
        chain = chain.verify(data)
        fold_record(state, CODEC.decode(data))
        size += len(data)
    state.event = chain.event
    owner = chain.cluster.removeprefix("node ")
    if owner and owner != node:
        raise errors.UsageError(
            f"this data directory belongs to node {owner!r}, not to {node!r}",
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
