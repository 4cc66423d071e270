"""How well a node would do: Bacalhau's scores, summed. Deterministic: the tie-break is seeded by the evaluation.

========== ======================================================================================
engine, publisher, storage, version known, resources asked for and within the maximum: 10 each
labels     10 when constraints hold, 10 more when the job favours this node
history    30 when no execution of this version has been here
capacity   0 to 100: 80 by what is free and 20 by what waits on the node, both against the best of those compared
tie-break  0 to 4
========== ======================================================================================
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.slot import Slot
from bacalhau_protocol.models.constraints import matches

NOTHING = (0, 0, 0, 0)
FRESH, FAVOURED, KNOWN, TIES = 30, 10, 10, 5


def scores(slots: Sequence[Slot], need: Need, used: Container[str], seed: int) -> list[int]:
    """Return each node's score, in order. `used` are the nodes that this version of the job has been on."""
    cpu, memory, disk, gpu = need.weights
    free = [
        cpu * slot.free_cpu + memory * slot.free_memory + disk * slot.free_disk + gpu * slot.free_gpu for slot in slots
    ]
    free_most = max(free, default=0.0) or 1.0
    waits = [0.0 if slot.queued == NOTHING else _queued(slot, need) for slot in slots]
    waits_most = max(waits, default=0.0) or 1.0
    base = 30 + (10 if need.asks_for_something else 0) + (10 if need.constraints else 0)
    result = []
    for slot, have, queue, tie in zip(slots, free, waits, tie_breaks(seed, slots), strict=True):
        share = 80 * have / free_most if have > 0 else 0.0
        score = base + int(share + 20 * (1 - queue / waits_most))
        if slot.version_known:
            score += KNOWN
        if slot.id not in used:
            score += FRESH
        if need.favours and all(matches(each, slot.labels) for each in need.favours):
            score += FAVOURED
        result.append(score + tie)
    return result


def _queued(slot: Slot, need: Need) -> float:
    return sum(weight * amount for weight, amount in zip(need.weights, slot.queued, strict=True))


def tie_breaks(seed: int, slots: Sequence[Slot]) -> list[int]:
    """Return 0 to 4 for each node, evenly spread and always the same for the same seed and place in the fleet."""
    mixed_seed = seed * 0x9E3779B1
    result = []
    for slot in slots:
        mixed = (mixed_seed ^ (slot.index + 1) * 0x85EBCA6B) & 0xFFFFFFFF
        mixed = (mixed ^ mixed >> 15) * 0x2C1B3C6D & 0xFFFFFFFF
        result.append((mixed ^ mixed >> 13) % TIES)
    return result
