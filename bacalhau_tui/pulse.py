"""Gathers wake-ups: however often it is woken, it beats at most so many times a second, and never without a wake-up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Pulse:
    """Calls `beat` on the event loop, the first time at once, then at most once per `interval_s`."""

    def __init__(self, beat: Callable[[], object], interval_s: float) -> None:
        self.interval_s = interval_s
        self._beat = beat
        self._last = float("-inf")
        self._due: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Have it beat soon. May be called from any task of the loop, as often as you like."""
        if self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_at(max(loop.time(), self._last + self.interval_s), self._run)

    @property
    def resting(self) -> bool:
        """Whether nothing waits for the next beat."""
        return self._due is None

    def stop(self) -> None:
        """Beat no more until woken again."""
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _run(self) -> None:
        self._due = None
        self._last = asyncio.get_running_loop().time()
        self._beat()
