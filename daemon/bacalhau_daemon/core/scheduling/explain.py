"""The full driver of the predicates: every finding on every node, what to keep of it, and the words for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence

import msgspec

from bacalhau_daemon.core.events import Near, Why
from bacalhau_daemon.core.scheduling.feasible import FITS, NO_HISTORY, History, findings
from bacalhau_daemon.core.scheduling.fleet import Fleet, Shape
from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.rank import scores
from bacalhau_daemon.core.scheduling.slot import Slot
from bacalhau_protocol.api.messages import Finding, NodeFindings
from bacalhau_protocol.models.ids import short_id

NEAR_KEPT_MAX = 20
EXAMINED_MAX = 200  # nodes looked at one by one when nothing fits
MISS_CHARACTERS_MAX = 200
REASONS_SHOWN_MAX = 20


class Unplaced(msgspec.Struct, frozen=True):
    """Why nothing could be placed now."""

    why: Why
    message: str
    hopeless: bool  # no node that the cluster knows could ever take it as it is
    details: dict[str, str]


def explain(
    fleet: Fleet,
    need: Need,
    *,
    seed: int = 0,
    used: Container[str] = (),
    history: History = NO_HISTORY,
    nodes_max: int = EXAMINED_MAX,
) -> list[NodeFindings]:
    """Return every finding on every node: those that fit first, by score, then the others, the nearest first.

    Of more than `nodes_max` nodes, those with room first, then those that would fit, then a spread of the others.
    """
    shape = fleet.shape(need)
    examined = [(slot, findings(slot, need, history)) for slot in _examined(fleet, shape, nodes_max)]
    fitting = [slot for slot, found in examined if all(each.passed for each in found)]
    score = dict(zip((slot.id for slot in fitting), scores(fitting, need, used, seed), strict=True))
    rows = [
        NodeFindings(node_id=slot.id, fits=slot.id in score, score=score.get(slot.id, 0), findings=found)
        for slot, found in examined
    ]
    return sorted(rows, key=lambda row: (not row.fits, -row.score, _distance(row.findings), row.node_id))


def unplaced(fleet: Fleet, need: Need, partitions: int, history: History = NO_HISTORY) -> Unplaced:
    """Say why `partitions` executions could not be placed: what the log keeps, and the words for people."""
    shape = fleet.shape(need)
    examined = [(slot, findings(slot, need, history)) for slot in _examined(fleet, shape)]
    missed = sorted(
        ((slot, [each for each in found if not each.passed]) for slot, found in examined),
        key=lambda pair: (len(pair[1]), any(each.permanent for each in pair[1]), pair[0].index),
    )
    dropped = shape.dropped()
    excluded = sum(1 for slot in shape.open if slot.id in history)
    if excluded:
        dropped["history"] = excluded
    near = tuple(
        Near(slot.id, tuple(map(_line, misses)), any(each.permanent for each in misses))
        for slot, misses in missed[:NEAR_KEPT_MAX]
        if misses
    )
    why = Why(nodes=len(fleet.slots), fit=len(shape.open) - excluded, dropped=dropped, near=near)
    available = sum(1 for slot in fleet.slots if slot.connected and slot.approved)
    return Unplaced(
        why,
        _message(partitions, available, why.fit, missed, len(fleet.slots)),
        is_hopeless(fleet, need, history),
        {"NodesRequested": str(partitions), "NodesAvailable": str(available), "NodesSuitable": str(why.fit)},
    )


def is_hopeless(fleet: Fleet, need: Need, history: History = NO_HISTORY) -> bool:
    """Whether no node that the cluster knows could ever take it as it is, were it there and empty. Cheap."""
    shape = fleet.shape(need)
    if not history:
        return shape.counts[FITS] == 0
    forbidden = sum(1 for node, past in history.items() if past.permanent and shape.fits(fleet.by_id[node]))
    return shape.counts[FITS] <= forbidden


def _examined(fleet: Fleet, shape: Shape, nodes_max: int = EXAMINED_MAX) -> Sequence[Slot]:
    """Return all nodes when they are few; else those with room, then those that would fit, and a spread of others."""
    slots = fleet.slots
    if len(slots) <= nodes_max:
        return slots
    half = nodes_max // 2
    chosen = shape.open[:half]
    if len(chosen) < half and shape.counts[FITS]:
        chosen = [*chosen, *(slot for slot in slots if shape.fits(slot))][:half]
    spread = slots[:: max(1, len(slots) // half)]
    return list(dict.fromkeys([*chosen, *spread]))[:nodes_max]


def _distance(found: Sequence[Finding]) -> tuple[int, int]:
    misses = [each for each in found if not each.passed]
    return sum(each.permanent for each in misses), len(misses)


def _line(miss: Finding) -> str:
    return words(miss)[:MISS_CHARACTERS_MAX]


def words(miss: Finding) -> str:
    """Return a failed check as Bacalhau would say it, or better."""
    match miss.check:
        case "engine" | "publisher" | "storage":
            return f"does not support {miss.required}, only {miss.actual}"
        case "labels":
            return f"labels do not match: the job requires {miss.required}, the node has {miss.actual}"
        case "maximum":
            return f"the job requires {miss.required}, more than the node's maximum of {miss.actual}"
        case "capacity":
            return f"busy: the job requires {miss.required}; {miss.actual}"
        case "connection":
            return f"not connected: {miss.actual}"
        case "membership":
            return f"membership is {miss.actual}"
        case "version":
            return f"Bacalhau version {miss.actual} is incompatible, {miss.required} is needed"
        case _:
            return miss.actual


def _message(
    partitions: int, available: int, suitable: int, missed: Sequence[tuple[Slot, list[Finding]]], total: int
) -> str:
    head = f"not enough nodes to run job. requested: {partitions}, available: {available}, suitable: {suitable}."
    if not total:
        return f"{head}\n• no compute node has joined this cluster yet"
    nodes: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for slot, misses in missed:
        reason = _line(misses[0]) if misses else "suitable, but already used in this round"
        counts[reason] += 1
        nodes.setdefault(reason, slot.id)
    examined = len(missed)
    lines = []
    for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:REASONS_SHOWN_MAX]:
        who = f"Node {short_id(nodes[reason])}" if count == 1 else f"{count} of {examined} nodes"
        lines.append(f"• {who}: {reason}")
    if len(counts) > REASONS_SHOWN_MAX:
        lines.append(f"• and {len(counts) - REASONS_SHOWN_MAX} reasons more: bacalhau-tui job explain shows all")
    if total > examined:
        lines.append(f"• {total - examined} more nodes were not looked at one by one")
    return "\n".join([head, *lines])
