"""One set of predicates, two drivers: `place` asks which is the first to fail, `explain` asks for every finding.

`CHECKS` is the order in which they are asked; an index into it is how the hot path names a check. The first six depend
on the node's record alone, so their answers are kept until it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bacalhau_daemon.core.events import Connection, Membership
from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.slot import VERSION_MIN, Slot
from bacalhau_protocol.api.messages import Finding
from bacalhau_protocol.models.constraints import match, matches
from bacalhau_protocol.models.quantities import format_bytes, format_cpu
from bacalhau_protocol.models.times import format_time

FITS, MEMBERSHIP, ENGINE, PUBLISHER, STORAGE, VERSION, LABELS, MAXIMUM, CONNECTION, HISTORY, CAPACITY = range(11)
CHECKS: Final = (
    *("", "membership", "engine", "publisher", "storage", "version", "labels", "maximum"),
    *("connection", "history", "capacity"),
)
"""Names of checks, as `Finding.check` has them. Index 0 means that nothing failed."""
STATIC_LAST: Final = MAXIMUM
PERMANENT: Final = frozenset({MEMBERSHIP, ENGINE, PUBLISHER, STORAGE, LABELS, VERSION, MAXIMUM})
"""Waiting does not help against these: the node would have to change."""


class Past(msgspec.Struct, frozen=True):
    """What an earlier try on a node says about another one."""

    words: str
    permanent: bool  # for this version of the job


History = Mapping[str, Past]
"""Node → why it may not have another try. Nodes that may are not in it."""
NO_HISTORY: Final[History] = {}


def first_static_miss(slot: Slot, need: Need) -> int:
    """Return the first of the static checks that the node fails, `FITS` if none."""
    return first_miss_of_kind(slot, need) or first_miss_of_node(slot, need)


def first_miss_of_kind(slot: Slot, need: Need) -> int:
    """The same, for the checks that all nodes of a kind (`Slot.kind`) pass or fail alike."""
    if not slot.approved:
        return MEMBERSHIP
    if need.engine not in slot.engines:
        return ENGINE
    if need.publisher and need.publisher not in slot.publishers:
        return PUBLISHER
    if need.storages and not slot.storages.issuperset(need.storages):
        return STORAGE
    return FITS if slot.version_ok else VERSION


def first_miss_of_node(slot: Slot, need: Need) -> int:
    """The same, for the checks that are about one node alone."""
    if need.constraints:
        labels = slot.labels
        for each in need.constraints:
            if not matches(each, labels):
                return LABELS
    cpu, memory, disk, gpu = slot.job_max
    if need.cpu > cpu or need.memory > memory or need.disk > disk or need.gpu > gpu or not slot.has_anything:
        return MAXIMUM
    return FITS


def has_room(slot: Slot, need: Need) -> bool:
    """Whether it is connected and so much is free now."""
    return (
        slot.connected
        and need.cpu <= slot.free_cpu
        and need.memory <= slot.free_memory
        and need.disk <= slot.free_disk
        and need.gpu <= slot.free_gpu
    )


# ── findings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def findings(slot: Slot, need: Need, history: History = NO_HISTORY) -> list[Finding]:
    """Return every check's finding on this node, in the order of `CHECKS`."""
    past = history.get(slot.id)
    return [
        *(find(slot, need) for find in _FINDERS),
        Finding(
            check="history",
            passed=past is None,
            required="not refused or failed twice here",
            actual=past.words if past is not None else "nothing against it",
            permanent=past is not None and past.permanent,
            hint="" if past is None else "submit the job again to try every node anew",
        ),
        _capacity(slot, need),
    ]


def _membership(slot: Slot, need: Need) -> Finding:
    hint = "" if slot.approved else "give the node a new credential: bacalhau-tui node invite"
    actual = slot.record.membership
    return Finding(
        check="membership", passed=slot.approved, required=Membership.APPROVED, actual=actual, hint=hint, permanent=True
    )


def _engine(slot: Slot, need: Need) -> Finding:
    return _listed(slot, "engine", (need.engine,), slot.engines, "start the engine on the node, or use one that it has")


def _publisher(slot: Slot, need: Need) -> Finding:
    wanted = (need.publisher,) if need.publisher else ()
    return _listed(slot, "publisher", wanted, slot.publishers, "name a publisher that the node has")


def _storage(slot: Slot, need: Need) -> Finding:
    return _listed(slot, "storage", need.storages, slot.storages, "use an input type that the node has")


def _listed(slot: Slot, check: str, wanted: tuple[str, ...], have: frozenset[str], hint: str) -> Finding:
    passed = have.issuperset(wanted)
    why = [f"{name}: {slot.unavailable[key]}" for name in wanted if (key := f"{check} {name}") in slot.unavailable]
    return Finding(
        check=check,
        passed=passed,
        required=", ".join(wanted) or "nothing",
        actual=(", ".join(sorted(have)) or "nothing") + (f" ({'; '.join(why)})" if why else ""),
        hint="" if passed else hint,
        permanent=True,
    )


def _labels(slot: Slot, need: Need) -> Finding:
    misses = [found for each in need.constraints if not (found := match(each, slot.labels)).passed]
    shown = misses or [match(each, slot.labels) for each in need.constraints]
    return Finding(
        check="labels",
        passed=not misses,
        required=", ".join(found.required for found in shown) or "nothing",
        actual=", ".join(found.actual for found in shown) or "nothing asked",
        hint="change the job's constraints, or the node's labels" if misses else "",
        permanent=True,
    )


def _version(slot: Slot, need: Need) -> Finding:
    return Finding(
        check="version",
        passed=slot.version_ok,
        required="v" + ".".join(map(str, VERSION_MIN)) + " or newer",
        actual=slot.record.info.version.git_version or "unknown",
        hint="" if slot.version_ok else "update the node",
        permanent=True,
    )


def _maximum(slot: Slot, need: Need) -> Finding:
    passed = slot.has_anything and all(want <= most for want, most in zip(_tuple(need), slot.job_max, strict=True))
    hint = "" if passed else "ask for less" if slot.has_anything else "the node has not said what it has"
    return Finding(
        check="maximum", passed=passed, required=_amounts(need), actual=_four(slot.job_max), hint=hint, permanent=True
    )


def _connection(slot: Slot, need: Need) -> Finding:
    record = slot.record
    since = f" since {format_time(record.since)}" if record.connection is not Connection.CONNECTED else ""
    reason = f" ({record.reason})" if record.reason and since else ""
    return Finding(
        check="connection",
        passed=slot.connected,
        required=Connection.CONNECTED,
        actual=f"{record.connection}{since}{reason}",
        hint="" if slot.connected else "start the node, or wait for it",
    )


def _capacity(slot: Slot, need: Need) -> Finding:
    free = (slot.free_cpu, slot.free_memory, slot.free_disk, slot.free_gpu)
    passed = all(want <= have for want, have in zip(_tuple(need), free, strict=True))
    return Finding(
        check="capacity",
        passed=passed,
        required=_amounts(need),
        actual=f"{_four(tuple(max(0, amount) for amount in free))} free",
        hint="" if passed else "it fits when other work on the node has ended",
    )


_FINDERS: tuple[Callable[[Slot, Need], Finding], ...] = (
    _membership,
    _engine,
    _publisher,
    _storage,
    _version,
    _labels,
    _maximum,
    _connection,
)


def _tuple(need: Need) -> tuple[int, int, int, int]:
    return need.cpu, need.memory, need.disk, need.gpu


def _amounts(need: Need) -> str:
    return _four(_tuple(need))


def _four(amount: tuple[int, ...]) -> str:
    cpu, memory, disk, gpu = amount
    parts = [f"CPU {format_cpu(cpu / 1000)}", f"memory {format_bytes(memory)}", f"disk {format_bytes(disk)}"]
    return ", ".join([*parts, f"GPU {gpu}"] if gpu else parts)
