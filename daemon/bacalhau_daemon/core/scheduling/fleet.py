"""The index over nodes that makes placing cheap: for each kind of need, which nodes fit, and which have room now.

Soft: built from the state, kept in step by `refresh` (a node's record changed) and `touch` (what is free changed). A
`Shape` is made the first time that a need is seen and then costs next to nothing per change and per placement.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from bacalhau_daemon.core.scheduling.feasible import (
    CAPACITY,
    CHECKS,
    CONNECTION,
    FITS,
    LABELS,
    first_miss_of_kind,
    first_miss_of_node,
    first_static_miss,
    has_room,
)
from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.slot import Slot
from bacalhau_daemon.core.state import NodeRecord, NodeUse, State
from bacalhau_protocol.models.constraints import Operator, values_of
from bacalhau_protocol.models.resources import Resources

SHAPES_MAX = 64
_UNFIT, _BUSY, _AWAY, _OPEN = -1, -2, -3, -4
_EQUALS = frozenset({Operator.EQUALS, Operator.DOUBLE_EQUALS, Operator.IN})


class Shape:
    """All nodes, seen by one need."""

    __slots__ = ("_place", "away", "busy", "counts", "misses", "need", "open")

    def __init__(self, need: Need, nodes: int) -> None:
        self.need = need
        self.misses = bytearray(bytes([LABELS]) * nodes)  # slot index → first static check that fails
        self.counts = [0] * len(CHECKS)  # of these, by check
        self.counts[LABELS] = nodes
        self.open: list[Slot] = []  # those that fit and have room now, in no order
        self.away = self.busy = 0  # those that fit, but are not connected, or have no room
        self._place = array("i", [_UNFIT]) * nodes  # slot index → place in `open`, or a negative reason

    def build(self, slots: Sequence[Slot]) -> None:
        """Judge many nodes at once, none of which has been; the same as `judge`, but in one go."""
        need, misses, counts, place, kinds = self.need, self.misses, self.counts, self._place, dict[int, int]()
        for slot in slots:
            miss = kinds.get(slot.kind)
            if miss is None:
                miss = kinds[slot.kind] = first_miss_of_kind(slot, need)
            miss = miss or first_miss_of_node(slot, need)
            misses[slot.index] = miss
            counts[miss] += 1
            if not miss:
                if has_room(slot, need):
                    place[slot.index] = len(self.open)
                    self.open.append(slot)
                elif slot.connected:
                    place[slot.index] = _BUSY
                    self.busy += 1
                else:
                    place[slot.index] = _AWAY
                    self.away += 1
        counts[LABELS] -= len(slots)

    def judge(self, slot: Slot) -> None:
        """Take a node in, or its changed record."""
        while slot.index >= len(self.misses):
            self.misses.append(LABELS)
            self.counts[LABELS] += 1
            self._place.append(_UNFIT)
        miss = first_static_miss(slot, self.need)
        self.counts[self.misses[slot.index]] -= 1
        self.counts[miss] += 1
        self.misses[slot.index] = miss
        self.touch(slot)

    def touch(self, slot: Slot) -> None:
        """Take in that what is free on a node has changed."""
        before = self._place[slot.index]
        after = self._classify(slot)
        if before == after or (before >= 0 and after == _OPEN):
            return
        if before >= 0:
            self._close(before)
        self.away += (after == _AWAY) - (before == _AWAY)
        self.busy += (after == _BUSY) - (before == _BUSY)
        if after == _OPEN:
            after = len(self.open)
            self.open.append(slot)
        self._place[slot.index] = after

    def _classify(self, slot: Slot) -> int:
        if self.misses[slot.index] != FITS:
            return _UNFIT
        if has_room(slot, self.need):
            return _OPEN
        return _BUSY if slot.connected else _AWAY

    def _close(self, place: int) -> None:
        last = self.open.pop()
        if place < len(self.open):
            self.open[place] = last
            self._place[last.index] = place

    def is_open(self, slot: Slot) -> bool:
        """Whether the node fits and has room now."""
        return self._place[slot.index] >= 0

    def dropped(self) -> dict[str, int]:
        """Return how many nodes each check was the first to drop, those without any left out."""
        found = {name: count for name, count in zip(CHECKS, self.counts, strict=True) if name and count}
        if self.away:
            found[CHECKS[CONNECTION]] = self.away
        if self.busy:
            found[CHECKS[CAPACITY]] = self.busy
        return found

    def fits(self, slot: Slot) -> bool:
        """Whether the node would do, were it connected and empty."""
        return self.misses[slot.index] == FITS


class Fleet:
    """Every node that the cluster knows."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []  # by index; nodes are never taken out
        self.by_id: dict[str, Slot] = {}
        self._labels: dict[tuple[str, str], dict[int, None]] = {}
        self._kinds: dict[tuple[object, ...], int] = {}
        self._shapes: dict[Need, Shape] = {}  # the least recently used first

    @classmethod
    def of(cls, state: State) -> Fleet:
        """Build it from the state; what nodes report comes with their next heartbeats."""
        fleet = cls()
        for node in state.nodes.values():
            fleet.refresh(node, state.use(node.id))
        return fleet

    def refresh(self, record: NodeRecord, use: NodeUse) -> Slot:
        """Take in a new node, or a changed record."""
        slot = self.by_id.get(record.id)
        if slot is None:
            slot = Slot(len(self.slots), record, use)
            self.slots.append(slot)
            self.by_id[record.id] = slot
        else:
            self._unlabel(slot)
            slot.set_record(record)
            slot.set_use(use)
        alike = (slot.approved, slot.engines, slot.publishers, slot.storages, slot.version_ok)
        slot.kind = self._kinds.setdefault(alike, len(self._kinds))
        for label in slot.labels.items():
            self._labels.setdefault(label, {})[slot.index] = None
        for shape in self._shapes.values():
            shape.judge(slot)
        return slot

    def _unlabel(self, slot: Slot) -> None:
        for label in slot.labels.items():
            holders = self._labels[label]
            del holders[slot.index]
            if not holders:
                del self._labels[label]

    def touch(self, node: str, use: NodeUse) -> None:
        """Take in that what we gave a node has changed."""
        slot = self.by_id[node]
        slot.set_use(use)
        for shape in self._shapes.values():
            shape.touch(slot)

    def report(self, node: str, available: Resources, queued: Resources, use: NodeUse) -> bool:
        """Take a node's own word on what is free; return whether more is free than before."""
        slot = self.by_id.get(node)
        if slot is None:
            return False
        more = slot.report(available, queued, use)
        if more is None:
            return False
        for shape in self._shapes.values():
            shape.touch(slot)
        return more

    def shape(self, need: Need) -> Shape:
        """Return the shape of a need, made if it is new."""
        shape = self._shapes.pop(need, None)
        if shape is None:
            shape = Shape(need, len(self.slots))
            shape.build(self._candidates(need))
            if len(self._shapes) >= SHAPES_MAX:
                del self._shapes[next(iter(self._shapes))]
        self._shapes[need] = shape
        return shape

    def _candidates(self, need: Need) -> Sequence[Slot]:
        """Narrow down by the rarest label that the job insists on."""
        best: Iterator[int] | None = None
        fewest = len(self.slots)
        for constraint in need.constraints:
            if constraint.operator not in _EQUALS:
                continue
            holders = [self._labels.get((constraint.key, value), {}) for value in values_of(constraint)]
            count = sum(map(len, holders))
            if count < fewest:
                fewest, best = count, (index for each in holders for index in each)
        return self.slots if best is None else [self.slots[index] for index in dict.fromkeys(best)]
