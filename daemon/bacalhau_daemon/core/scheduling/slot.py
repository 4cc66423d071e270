"""A node as the scheduler sees it: sets instead of lists, integers instead of texts, and what is free now."""

from __future__ import annotations

from collections.abc import Sequence

from bacalhau_daemon.core.events import Connection, Membership
from bacalhau_daemon.core.state import NodeRecord, NodeUse
from bacalhau_protocol.models.node import BuildVersion
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl.messages import is_own

VERSION_MIN = (1, 0, 4)
"""Of Bacalhau nodes: older ones do not speak this protocol."""


class Slot:
    """One node. Soft: rebuilt from its record, its use and its last report; the scheduler's hot path reads it."""

    __slots__ = (
        "approved",
        "connected",
        "engines",
        "foreign_use",
        "free_cpu",
        "free_disk",
        "free_gpu",
        "free_memory",
        "has_anything",
        "id",
        "index",
        "job_max",
        "kind",
        "labels",
        "max",
        "own",
        "publishers",
        "queued",
        "record",
        "reported",
        "said",
        "said_twice",
        "storages",
        "unavailable",
        "version_known",
        "version_ok",
    )

    def __init__(self, index: int, record: NodeRecord, use: NodeUse) -> None:
        self.index = index
        self.kind = 0  # the same for nodes that are alike in all but labels and amounts; the fleet's to give
        self.id = record.id
        self.foreign_use = (0, 0, 0, 0)  # what the node says is taken beyond what we gave it
        self.reported = [0, 0, 0, 0]  # the last report of that
        self.said: object = None  # the last report as it came, beside what we knew then
        self.said_twice = False
        self.queued = (0, 0, 0, 0)  # what waits on the node itself
        self.set_record(record)
        self.set_use(use)

    def set_record(self, record: NodeRecord) -> None:
        """Take over what the log says about the node."""
        self.record = record
        info, compute = record.info, record.info.compute_node_info
        self.approved = record.membership is Membership.APPROVED
        self.connected = record.connection is Connection.CONNECTED
        self.labels: dict[str, str] = info.labels or {}
        self.engines = _names(compute.execution_engines)
        self.publishers = _names(compute.publishers)
        self.storages = _names(compute.storage_sources)
        self.unavailable: dict[str, str] = compute.unavailable or {}
        self.max = amounts(compute.max_capacity)
        self.has_anything = any(self.max)
        self.job_max = _least(self.max, amounts(compute.max_job_requirements))  # what one job may ask for
        self.own = is_own(info)
        self.version_known, self.version_ok = check_version(info.version)

    def set_use(self, use: NodeUse) -> None:
        """Recompute what is free: the maximum, minus what we gave, minus what else the node says is taken."""
        cpu, memory, disk, gpu = self.max
        other_cpu, other_memory, other_disk, other_gpu = self.foreign_use
        self.free_cpu = cpu - use.cpu - other_cpu
        self.free_memory = memory - use.memory - other_memory
        self.free_disk = disk - use.disk - other_disk
        self.free_gpu = gpu - use.gpu - other_gpu

    def report(self, available: Resources, queued: Resources, use: NodeUse) -> bool | None:
        """Take the node's own word on what is free; return whether more is free than before, None: nothing is new.

        It counts only where it says *less* than we know, and only what two reports in a row agree on: a report and
        the end of an execution may cross on the way.
        """
        given = (use.cpu, use.memory, use.disk, use.gpu)
        said = (available, queued, given, self.max)
        again = said == self.said
        if again and self.said_twice:
            return None  # a third time changes nothing: the way of most heartbeats
        self.said, self.said_twice = said, again
        before = (self.free_cpu, self.free_memory, self.free_disk, self.free_gpu)
        triples = zip(self.max, amounts(available), given, strict=True)
        other = [max(0, most - free - ours) for most, free, ours in triples]
        self.foreign_use = _least(other, self.reported)
        self.reported = other
        self.queued = amounts(queued)
        self.set_use(use)
        after = (self.free_cpu, self.free_memory, self.free_disk, self.free_gpu)
        return any(now > then for now, then in zip(after, before, strict=True))


def amounts(resources: Resources) -> tuple[int, int, int, int]:
    """Return millicores, bytes of memory, bytes of disk, GPUs."""
    return round(resources.cpu * 1000), resources.memory, resources.disk, resources.gpu


def _least(one: Sequence[int], other: Sequence[int]) -> tuple[int, int, int, int]:
    cpu, memory, disk, gpu = map(min, one, other)
    return cpu, memory, disk, gpu


def _names(names: tuple[str, ...] | None) -> frozenset[str]:
    return frozenset(name.strip().lower() for name in names or ())


def check_version(version: BuildVersion) -> tuple[bool, bool]:
    """Return (known, compatible). Unknown versions and development builds (0.0) are taken as compatible."""
    text = version.git_version.strip().removeprefix("v")
    if not text:
        return False, True
    parts = text.split("-", 1)[0].split("+", 1)[0].split(".")
    if not all(part.isascii() and part.isdigit() for part in parts) or len(parts) < 2:
        return False, True
    numbers = tuple(int(part[:9]) for part in parts[:3])
    return True, numbers[:2] == (0, 0) or numbers >= VERSION_MIN
