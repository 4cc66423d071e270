"""What decisions use beside the state: policy, fresh ids, and the soft indexes and reports that a restart rebuilds."""

from __future__ import annotations

from typing import Protocol

import msgspec

from bacalhau_daemon.core.inputs import Reconcile
from bacalhau_daemon.core.policy import POLICY, SECOND, Policy
from bacalhau_daemon.core.recall import Recall
from bacalhau_daemon.core.scheduling.explain import Unplaced, unplaced
from bacalhau_daemon.core.scheduling.feasible import History
from bacalhau_daemon.core.scheduling.fleet import Fleet
from bacalhau_daemon.core.scheduling.need import Need, need_of
from bacalhau_daemon.core.scheduling.waiting import Waiting
from bacalhau_daemon.core.state import JobState
from bacalhau_daemon.core.timers import Timers
from bacalhau_protocol.api.messages import Phase
from bacalhau_protocol.models import ids
from bacalhau_protocol.models.submission import Prepared

EXPLANATION_NS = SECOND
EXPLANATIONS_MAX = 256


class Ids(Protocol):
    """Where randomness comes from."""

    def random(self, count: int) -> bytes:
        """Return so many random bytes."""
        ...


class Disk(msgspec.Struct, frozen=True):
    """What the shell last saw of the log's disk. Below `min_free_bytes` submissions are refused."""

    path: str = ""
    free_bytes: int = 0
    min_free_bytes: int = 0

    @property
    def low(self) -> bool:
        """Whether submissions must wait."""
        return self.free_bytes < self.min_free_bytes


class Heard(msgspec.Struct):
    """What an execution's node last said of it: soft, own nodes only. Times are of our clock."""

    phase: Phase
    began: int  # when this phase was first heard of
    at: int  # when it was last


class Context:
    """One per machine. Only `State` is the truth; all that is here can be lost."""

    def __init__(self, ids: Ids, policy: Policy = POLICY) -> None:
        self.policy = policy
        self._ids = ids
        self.address = ""  # of the bus, for join tokens
        self.fingerprint = ""  # of its CA
        self.disk = Disk()
        self.recall = Recall()
        self.fleet = Fleet()
        self.waiting = Waiting()
        self.waits_since: dict[int, int] = {}  # j → when it was first found that no node has room
        self.timers = Timers()
        self.beats: dict[str, int] = {}  # node → when its last heartbeat came
        self.heard: dict[str, Heard] = {}  # by execution id
        self.returning: dict[str, int] = {}  # node → until when its reports are awaited before lost work is replaced
        self.prepared: dict[bytes, Prepared] = {}  # what was made of jobs without a name, by what was submitted
        self.woken: list[Reconcile] = []  # jobs that a decision wants looked at
        self._unplaced: dict[tuple[Need, int], tuple[int, Unplaced]] = {}  # of this moment
        self._needs: dict[int, tuple[int, Need]] = {}  # j → version and need

    def new_id(self, prefix: str) -> str:
        """Return a fresh id."""
        return ids.new_id(prefix, self._ids.random(ids.RANDOM_BYTES))

    def random(self, count: int) -> bytes:
        """Return so many random bytes."""
        return self._ids.random(count)

    def need(self, job: JobState) -> Need:
        """Return what the job asks of a node; computed once per version."""
        known = self._needs.get(job.j)
        if known is not None and known[0] == job.version:
            return known[1]
        need = need_of(job.spec)
        self._needs[job.j] = (job.version, need)
        return need

    def unplaced(self, need: Need, partitions: int, history: History, now: int) -> Unplaced:
        """Say why no node takes it. Jobs with equal needs share an explanation for a moment: it costs milliseconds."""
        if history:
            return unplaced(self.fleet, need, partitions, history)
        key = (need, partitions)
        known = self._unplaced.get(key)
        if known is not None and known[0] <= now < known[0] + EXPLANATION_NS:
            return known[1]
        if len(self._unplaced) >= EXPLANATIONS_MAX:
            self._unplaced.clear()
        why = unplaced(self.fleet, need, partitions)
        self._unplaced[key] = (now, why)
        return why

    def forget_explanations(self) -> None:
        """Drop explanations that were made before a node changed."""
        self._unplaced.clear()

    def forget_job(self, j: int) -> None:
        """Drop what is kept of a job that is over."""
        self.waiting.remove(j)
        self.waits_since.pop(j, None)
        self._needs.pop(j, None)

    def reset(self, fleet: Fleet) -> None:
        """Start anew with what is derived from the state; what nodes said stays."""
        self.fleet = fleet
        self.waiting = Waiting()
        self.waits_since.clear()
        self.woken = []
        self._needs.clear()
        self._unplaced.clear()
