"""The hot path: the best node for one execution, by index and, among many, by sample."""

from __future__ import annotations

from collections.abc import Container, Sequence
from heapq import nsmallest

import msgspec

from bacalhau_daemon.core.events import Why
from bacalhau_daemon.core.scheduling.feasible import NO_HISTORY, History
from bacalhau_daemon.core.scheduling.fleet import Fleet, Shape
from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.rank import scores
from bacalhau_daemon.core.scheduling.slot import Slot

SCORES_KEPT = 5
SAMPLE_TRIES = 4  # samples taken in vain, of nodes excluded or filled by this pass, before all are looked at


class Placement(msgspec.Struct, frozen=True):
    """The node, and why."""

    node: str
    why: Why


class Given:
    """What one pass has handed out before it is folded: node → how many executions of this need."""

    __slots__ = ("_counts", "_need")

    def __init__(self, need: Need) -> None:
        self._need = need
        self._counts: dict[str, int] = {}

    def add(self, node: str) -> None:
        """Note one more execution on a node."""
        self._counts[node] = self._counts.get(node, 0) + 1

    def leaves_room(self, slot: Slot) -> bool:
        """Whether a node that had room for one still has room for another."""
        count = self._counts.get(slot.id, 0) + 1
        need = self._need
        return count == 1 or (
            need.cpu * count <= slot.free_cpu
            and need.memory * count <= slot.free_memory
            and need.disk * count <= slot.free_disk
            and need.gpu * count <= slot.free_gpu
        )

    def __contains__(self, node: object) -> bool:
        return node in self._counts


def place(
    fleet: Fleet,
    need: Need,
    *,
    seed: int,
    scored_max: int,
    used: Container[str] = (),
    history: History = NO_HISTORY,
    given: Given | None = None,
) -> Placement | None:
    """Return the best node for one execution, or None when none fits now.

    Parameters
    ----------
    seed
        Of the evaluation: the same seed, nodes and need give the same node.
    scored_max
        How many nodes to score; when more fit, a sample is scored.
    used
        Nodes that this version of the job has been on: fresh ones are preferred.
    history
        Nodes that may not have it, with the reason.
    given
        What this pass has handed out already.
    """
    shape = fleet.shape(need)
    if not shape.open:
        return None
    slots, sampled = _choose(shape, seed, scored_max, history, given)
    if not slots:
        return None
    found = scores(slots, need, _Used(used, given) if given is not None else used, seed)
    ranked = nsmallest(
        SCORES_KEPT, [(-score, slot.index, slot) for score, slot in zip(found, slots, strict=True)]
    )  # by score, then by age; an index is there once, so slots are never compared
    why = Why(
        nodes=len(fleet.slots),
        fit=len(shape.open),
        sampled=sampled,
        scores=tuple((slot.id, -minus_score) for minus_score, _, slot in ranked),
        dropped=shape.dropped(),
    )
    return Placement(ranked[0][2].id, why)


class _Used:
    """Nodes that this version has been on, or was given in this pass."""

    __slots__ = ("_given", "_used")

    def __init__(self, used: Container[str], given: Given) -> None:
        self._used, self._given = used, given

    def __contains__(self, node: object) -> bool:
        return node in self._used or node in self._given


def _choose(
    shape: Shape, seed: int, scored_max: int, history: History, given: Given | None
) -> tuple[Sequence[Slot], bool]:
    """Return the nodes to score, and whether they are a sample."""
    everyone = shape.open
    if len(everyone) > scored_max:
        for attempt in range(SAMPLE_TRIES):
            sample = _allowed(_sample(everyone, seed + attempt, scored_max), history, given)
            if sample:
                return sample, True
    return _allowed(everyone, history, given), False


def _allowed(slots: Sequence[Slot], history: History, given: Given | None) -> Sequence[Slot]:
    if history:
        slots = [slot for slot in slots if slot.id not in history]
    if given is not None:
        slots = [slot for slot in slots if given.leaves_room(slot)]
    return slots


def _sample(slots: Sequence[Slot], seed: int, count: int) -> Sequence[Slot]:
    """Return `count` nodes, spread evenly from a start that the seed gives."""
    total = len(slots)
    start = (seed * 0x9E3779B1 & 0xFFFFFFFF) % total
    step = total / count
    return [slots[(start + int(n * step)) % total] for n in range(count)]
