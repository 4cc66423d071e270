"""Verifies the whole log while the orchestrator serves: once after the start, then once a day.

A start verifies the newest records only; a bit that flips in an old one is found here, and ends the process before
anything builds on it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from bacalhau_daemon.log.scrub import scrub

EVERY_S = 24 * 3600.0

log = structlog.get_logger(__name__)


class Scrubbing:
    """Runs until closed; `failed` is told of damage."""

    def __init__(self, path: Path, failed: Callable[[BaseException], None], *, every_s: float = EVERY_S) -> None:
        self._path, self._failed, self._every_s = path, failed, every_s
        self._stop = threading.Event()  # for the thread
        self._stopping = asyncio.Event()  # for the pause
        self._task = asyncio.create_task(self._run(), name="scrub")

    async def close(self) -> None:
        """Stop at the next record."""
        self._stop.set()
        self._stopping.set()
        await self._task

    async def _run(self) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                end = await asyncio.to_thread(scrub, self._path, self._stop)
            except Exception as error:
                self._failed(error)
                return
            if end is None:
                return
            log.info("log.verified", records=end.n, took_s=round(time.monotonic() - started, 1))
            try:
                async with asyncio.timeout(self._every_s):
                    await self._stopping.wait()
            except TimeoutError:
                continue
