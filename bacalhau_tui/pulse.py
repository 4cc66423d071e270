"""Gathers wake-ups: however often it is woken, it beats at most so many times a second, and never without a wake-up.

Over a slow line a beat that repaints the whole screen is dear, so beats have a budget of bytes and wait while it is
overdrawn: however much changes, an untouched screen costs no more than that. What a key does costs the budget nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

BYTES_PER_S = 4_000
BURST_BYTES = 8_000
"""The budget when nothing was written for a while: a full screen, so that what was opened comes at once."""

WAIT_MAX_S = 2.0
"""However overdrawn the budget is, what changed is shown within this time."""


class Budget:
    """Bytes that may be written: `bytes_per_s`, saved up to `burst_bytes`."""

    def __init__(
        self,
        bytes_per_s: float = BYTES_PER_S,
        burst_bytes: float = BURST_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clock` gives seconds."""
        self._rate, self._burst, self._clock = bytes_per_s, burst_bytes, clock
        self._left, self._at = burst_bytes, clock()
        self.paying = False  # whether what is written now is a beat's doing

    def spend(self, size_bytes: int) -> None:
        """Take note of what was written."""
        if self.paying:
            self._refill()
            self._left -= size_bytes

    def wait_s(self) -> float:
        """Return for how long nothing should be written."""
        self._refill()
        return min(WAIT_MAX_S, max(0.0, -self._left / self._rate))

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now


class Pulse:
    """Calls `beat` on the event loop: at once, then at most once per `interval_s` and within a budget."""

    def __init__(self, beat: Callable[[], object], interval_s: float, budget: Budget | None = None) -> None:
        self.interval_s = interval_s
        self.budget = Budget() if budget is None else budget
        self._beat = beat
        self._last = float("-inf")
        self._due: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Have it beat soon. May be called from any task of the loop, as often as you like."""
        if self._due is None:
            loop = asyncio.get_running_loop()
            now = loop.time()
            self._due = loop.call_at(max(now + self.budget.wait_s(), self._last + self.interval_s), self._run)

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
        self.budget.paying = True
        self._beat()
