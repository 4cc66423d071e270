"""Whether the disk is quick, so that short work on it is done on the loop; a change of threads costs as much.

Only what was done on the loop says so: in a thread the wait for the interpreter's lock would be measured along. And
only work that waited for something: what took long because others had the processor says nothing of the disk.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

QUICK_S = 0.005  # of work; longer work holds the loop up
HELD_UP_SHARE, HELD_UP_S = 0.05, 0.02  # so much of the time, and beyond that so much at once, it may be held up
SLOW_FOR_S = 0.5  # when that is used up, threads do the work for so long


def waits() -> int:
    """Return how often this thread has given the processor away because it had to wait."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class Pace:
    """Quick until the loop was held up too long, or too often, and again after a while."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter, waits: Callable[[], int] = waits) -> None:
        self._clock, self._waits = clock, waits
        self._slow_until = 0.0
        self._held_up_s, self._ended = 0.0, clock()
        self._began, self._waited = 0.0, 0

    @property
    def quick(self) -> bool:
        """Whether the next piece of work is worth doing on the loop."""
        return self._clock() >= self._slow_until

    def __enter__(self) -> None:
        self._began, self._waited = self._clock(), self._waits()

    def __exit__(self, *_: object) -> None:
        now = self._clock()
        took = now - self._began
        if took > QUICK_S and self._waits() != self._waited:
            forgiven = (now - self._ended) * HELD_UP_SHARE
            self._held_up_s, self._ended = max(self._held_up_s - forgiven, 0.0) + took, now
            if self._held_up_s > HELD_UP_S:
                self._held_up_s, self._slow_until = 0.0, now + SLOW_FOR_S
