"""The earliest of many deadlines, where most are put off before they come."""

from __future__ import annotations

import heapq


class Deadlines:
    """One deadline per key. Moving one later costs nothing: it is looked at when the old time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []  # an entry counts only if `_at` has the same time
        self._at: dict[str, int] = {}

    def not_later(self, key: str, at: int) -> None:
        """Make sure that the key comes up at this time or earlier."""
        known = self._at.get(key)
        if known is None or at < known:
            self._at[key] = at
            heapq.heappush(self._heap, (at, key))

    def discard(self, key: str) -> None:
        """Forget a key."""
        self._at.pop(key, None)

    def pop_due(self, now: int) -> list[str]:
        """Return the keys whose time has come, and forget them."""
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            at, key = heapq.heappop(self._heap)
            if self._at.get(key) == at:
                del self._at[key]
                due.append(key)
        return due

    def soonest(self) -> int | None:
        """Return when the next comes up; perhaps earlier than that, never later."""
        return self._heap[0][0] if self._heap else None
