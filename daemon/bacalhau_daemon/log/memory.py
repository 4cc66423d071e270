"""The log in memory, with faults from a seeded plan: the simulator's disk. It survives the machines that use it."""

from __future__ import annotations

import enum
import random
from bisect import bisect_left
from collections.abc import Iterator, Mapping

from bacalhau_daemon.log.base import Fenced, Outcome, Stored, Unavailable, Unknown
from bacalhau_daemon.log.records import Chain, LogDamaged, head


class Fault(enum.StrEnum):
    """What may happen to an append."""

    NONE = "none"
    LOST = "lost"  # never arrives; the caller cannot know
    LATE = "late"  # arrives after the next append, or at `deliver`; the caller cannot know
    UNANSWERED = "unanswered"  # arrives, its answer does not
    DUPLICATE = "duplicate"  # arrives twice
    UNAVAILABLE = "unavailable"  # refused


class Plan:
    """Draws faults from a seed; `rates` gives each fault's probability, what is left is no fault."""

    def __init__(self, seed: int = 0, rates: Mapping[Fault, float] | None = None) -> None:
        self._random = random.Random(seed)
        self._faults = [*(rates or {}), Fault.NONE]
        self._weights = [*(rates or {}).values(), 1.0 - sum((rates or {}).values())]
        assert self._weights[-1] >= 0, "rates add up to more than one"

    def draw(self) -> Fault:
        """Return what happens to the next append."""
        if len(self._faults) == 1:
            return Fault.NONE
        return self._random.choices(self._faults, self._weights)[0]

    def chance(self) -> bool:
        """Toss a coin."""
        return self._random.random() < 0.5


class MemoryLog:
    """See `base.Log`. `full` makes every append unavailable for as long as it is set."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.full = False
        self.plan = plan or Plan()
        self.faults: dict[Fault, int] = dict.fromkeys(Fault, 0)
        self._origin = Chain()
        self._chains: list[Chain] = []
        self._records: list[bytes] = []
        self._late: list[tuple[int, bytes]] = []
        self._doubt = b""  # the record whose append was answered Unknown
        self._acknowledged = 0

    @property
    def origin(self) -> Chain:
        """Where the chain stands before the oldest record kept."""
        return self._origin

    def last(self) -> int:
        """Return the number of the newest record."""
        return self._origin.n + len(self._records)

    def read(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield records from number `start` on."""
        for n in range(max(start, self._origin.n + 1), self.last() + 1):
            yield n, self._records[n - self._origin.n - 1]

    def holding(self, event: int) -> tuple[int, bytes] | None:
        """Return number and bytes of the record that holds an event."""
        at = bisect_left(self._chains, event, key=lambda chain: chain.event)
        if event <= self._origin.event or at == len(self._chains):
            return None
        return self._chains[at].n, self._records[at]

    def append(self, expected: int, record: bytes) -> Outcome:
        """Store a record, or do what the plan says."""
        fault = Fault.UNAVAILABLE if self.full else self.plan.draw()
        self.faults[fault] += 1
        match fault:
            case Fault.UNAVAILABLE if record != self._doubt:
                return Unavailable("the disk is full" if self.full else "planned")
            case Fault.UNAVAILABLE:
                return Unknown("planned: unavailable, and an earlier append of it may still arrive")
            case Fault.LOST:
                return self._unknown(fault, record)
            case Fault.LATE:
                self._late.append((expected, record))
                return self._unknown(fault, record)
        outcome = self._store(expected, record)
        if fault is Fault.DUPLICATE:
            self._store(expected, record)
        self.deliver()
        if fault is Fault.UNANSWERED:
            return self._unknown(fault, record)
        if isinstance(outcome, Stored):
            self._acknowledged = max(self._acknowledged, outcome.n)
        return outcome

    def _unknown(self, fault: Fault, record: bytes) -> Unknown:
        self._doubt = record
        return Unknown(f"planned: {fault}")

    def deliver(self) -> None:
        """Let appends arrive that were late."""
        while self._late:
            expected, record = self._late.pop(0)
            if expected <= self.last():
                self._store(expected, record)

    def reopen(self) -> None:
        """Be opened by a new process: as in the real one, what it reads is on the disk for good before it is used."""
        self._acknowledged = self.last()

    def crash(self) -> None:
        """Cut the power: late appends arrive or not, and of what was never acknowledged a part may be gone."""
        if self.plan.chance():
            self.deliver()
        self._late.clear()
        self._doubt = b""
        while self.last() > max(self._acknowledged, self._origin.n) and self.plan.chance():
            self._records.pop()
            self._chains.pop()

    def trim(self, before: int) -> None:
        """Forget the records below `before`."""
        gone = min(before, self.last()) - 1 - self._origin.n
        if gone > 0:
            self._origin = self._chains[gone - 1]
            del self._chains[:gone], self._records[:gone]

    def _store(self, expected: int, record: bytes) -> Outcome:
        last = self.last()
        if last < expected:
            raise LogDamaged(f"record {expected} was acknowledged, but the log ends at {last}: the tail was lost")
        if last > expected:
            at = expected - self._origin.n
            same = at >= 0 and self._records[at] == record
            return Stored(expected + 1) if same else Fenced(f"record {expected + 1} was written by another writer")
        tip = self._chains[-1] if self._chains else self._origin
        try:
            chain = tip.verify(record)
        except LogDamaged:
            if head(record).prev != tip.hash:
                return Fenced(f"record {last} is not the one that this writer knows: another writer lives")
            raise
        self._records.append(record)
        self._chains.append(chain)
        return Stored(expected + 1)
