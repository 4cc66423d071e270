"""Virtual time: a heap of what happens when. The only source of time and order in a simulated cluster."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

SECOND = 1_000_000_000
MILLI = 1_000_000
NEVER = 1 << 62
TURN_NS = MILLI // 10  # a turn of a process' event loop
START = 1_800_000_000 * SECOND  # a fixed moment, so that runs can be compared


class Clock:
    """`at` plans, `run` lets time pass. Things of the same moment happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = START
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._planned = 0

    @property
    def steps(self) -> int:
        """How much has happened; what happens now counts."""
        return self._planned - len(self._heap)

    def at(self, when: int, do: Callable[..., None], *arguments: Any) -> None:
        """Plan something for a moment; a moment that has passed means now."""
        self._planned += 1
        heappush(self._heap, (when if when > self.now else self.now, self._planned, do, arguments))

    def after(self, wait: int, do: Callable[..., None], *arguments: Any) -> None:
        """Plan something for later."""
        self.at(self.now + wait, do, *arguments)

    def run(self, until: int) -> None:
        """Let time pass up to a moment."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, do, arguments = heappop(heap)
            do(*arguments)
        self.now = max(self.now, until)
