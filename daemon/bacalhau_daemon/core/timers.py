"""Deadlines, as a heap. Soft: a timer that has lost its meaning fires and finds nothing due; none is cancelled."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from bacalhau_daemon.core.inputs import CheckExecution, CheckNode, Reconcile

PRUNE_FROM = 10_000  # below so many there is no hurry to drop timers that mean nothing any more
Timed = Reconcile | CheckExecution | CheckNode


class Timers:
    """What to look at, and when."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timed]] = []
        self._sequence = 0  # keeps equal times in order of arming
        self._soonest: dict[Timed, int] = {}
        self._prune_at = PRUNE_FROM

    def arm(self, due: int, item: Timed) -> None:
        """Have an item looked at when `due` has come; an earlier timer of the same item makes this one needless."""
        armed = self._soonest.get(item)
        if armed is not None and armed <= due:
            return
        self._soonest[item] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, item))

    def due(self, now: int) -> list[Timed]:
        """Return what is due, in order, each once."""
        fired = []
        while self._heap and self._heap[0][0] <= now:
            due, _, item = heapq.heappop(self._heap)
            if self._soonest.get(item) == due:
                del self._soonest[item]
                fired.append(item)
        return fired

    def prune(self, keep: Callable[[Timed], bool]) -> None:
        """Drop timers of what is over, whenever their number has doubled: most never fire in earnest."""
        if len(self._heap) < self._prune_at:
            return
        self._heap = [entry for entry in self._heap if self._soonest.get(entry[2]) == entry[0] and keep(entry[2])]
        heapq.heapify(self._heap)
        self._soonest = {item: due for due, _, item in self._heap}
        self._prune_at = max(PRUNE_FROM, 2 * len(self._heap))

    def next(self) -> int | None:
        """Return when something may be due."""
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._heap)
