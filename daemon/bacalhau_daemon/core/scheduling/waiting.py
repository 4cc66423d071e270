"""The index over jobs that wait for room: whom to look at when some becomes free. Nothing is polled.

Jobs with equal needs form a line: by priority, then by age. Only its head is tried; when that is placed, the next is.
Soft: rebuilt by looking at every active job once after a restart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from bacalhau_daemon.core.scheduling.feasible import FITS, first_static_miss, has_room
from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.slot import Slot

LINES_TRIED_MAX = 256  # per change of one node; the others have their turn at the next change

Place = tuple[int, int, int]
"""Minus priority, time of submission, j: sorts as the line stands."""


class Line:
    """Jobs with equal needs."""

    __slots__ = ("blocked", "places")

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.blocked: set[int] = set()  # j that found no node although some had room: their history forbids those

    def head(self) -> Place | None:
        """Return who is next."""
        if not self.blocked:
            return self.places[0] if self.places else None
        return next((place for place in self.places if place[2] not in self.blocked), None)


class Waiting:
    """All lines."""

    def __init__(self) -> None:
        self._lines: dict[Need, Line] = {}
        self._jobs: dict[int, tuple[Need, Place]] = {}

    def __contains__(self, j: object) -> bool:
        return j in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, j: int, need: Need, place: Place, *, blocked: bool) -> None:
        """Put a job in its line, or leave it there."""
        self.remove(j)
        line = self._lines.get(need)
        if line is None:
            line = self._lines[need] = Line()
        insort(line.places, place)
        if blocked:
            line.blocked.add(j)
        self._jobs[j] = (need, place)

    def remove(self, j: int) -> None:
        """Take a job out; nothing happens when it is in no line."""
        entry = self._jobs.pop(j, None)
        if entry is None:
            return
        need, place = entry
        line = self._lines[need]
        del line.places[bisect_left(line.places, place)]
        line.blocked.discard(j)
        if not line.places:
            del self._lines[need]

    def before(self, need: Need, place: Place) -> int | None:
        """Return the job that is to be tried before one with this need and place, if any."""
        line = self._lines.get(need)
        head = line.head() if line is not None else None
        return head[2] if head is not None and head < place else None

    def next(self, need: Need) -> int | None:
        """Return the head of a line."""
        line = self._lines.get(need)
        head = line.head() if line is not None else None
        return head[2] if head is not None else None

    def for_slot(self, slot: Slot) -> Iterable[int]:
        """Return the heads of the lines that could use this node now, the most urgent first."""
        heads = []
        for need in list(self._lines)[:LINES_TRIED_MAX]:
            line = self._lines[need]
            if has_room(slot, need) and first_static_miss(slot, need) == FITS:
                line.blocked.clear()
                head = line.head()
                if head is not None:
                    heads.append(head)
            if len(self._lines) > LINES_TRIED_MAX:
                self._lines[need] = self._lines.pop(need)  # to the back
        return [j for _, _, j in sorted(heads)]
