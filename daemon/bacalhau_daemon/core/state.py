"""The orchestrator's state: the fold of its log, active entities only. `fold` is the only module that changes it.

Entities are frozen structs; query rows, feed rows and the blobs for a restart are pure functions of them. A finished
job leaves together with its executions once its record is stored and handed to the query side; an execution that its
node must still be told to stop stays until the node knows. Times are nanoseconds since the epoch.
"""

from __future__ import annotations

import enum

import msgspec

from bacalhau_daemon.core.events import Connection, Membership, Role, Why
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import ComputeStateType, DesiredStateType, JobStateType


class Status(enum.StrEnum):
    """Where an execution is; `lifecycle` has the transitions."""

    PLANNED = "planned"  # the node is asked for a bid
    RUNNING = "running"  # its bid is approved; the node prepares, runs, publishes
    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    LOST = "lost"  # presumed over because its node is gone

    @property
    def live(self) -> bool:
        """Whether it counts: it holds its partition and its node's capacity."""
        return self in _LIVE

    @property
    def compute(self) -> ComputeStateType:
        """Bacalhau's compute state. A running one is shown as BidAccepted, as Bacalhau does."""
        return _COMPUTE[self]

    @property
    def desired(self) -> DesiredStateType:
        """Bacalhau's desired state."""
        return _DESIRED.get(self, DesiredStateType.STOPPED)


_LIVE = frozenset({Status.PLANNED, Status.RUNNING})
_COMPUTE = {
    Status.PLANNED: ComputeStateType.NEW,
    Status.RUNNING: ComputeStateType.BID_ACCEPTED,
    Status.COMPLETED: ComputeStateType.COMPLETED,
    Status.FAILED: ComputeStateType.FAILED,
    Status.REFUSED: ComputeStateType.ASK_FOR_BID_REJECTED,
    Status.CANCELLED: ComputeStateType.CANCELLED,
    Status.LOST: ComputeStateType.FAILED,
}
_DESIRED = {Status.PLANNED: DesiredStateType.PENDING, Status.RUNNING: DesiredStateType.RUNNING}


class ClusterState(msgspec.Struct, frozen=True, kw_only=True):
    """What there is one of. `event` is the number of the last event folded."""

    cluster: str = ""
    term: int = 0
    leader: str = ""
    leader_since: int = 0
    event: int = 0
    next_j: int = 1
    next_x: int = 1


class JobState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job, at its latest version. Queue and total time-outs run from `submitted`."""

    j: int
    id: str
    name: str
    namespace: str
    spec: Job  # normalised, as submitted; state, version and times in it are blank
    version: int = 1
    revision: int = 1  # goes up with every change
    state: JobStateType = JobStateType.PENDING
    message: str = ""
    details: dict[str, str] = msgspec.field(default_factory=dict)
    created: int  # version 1
    submitted: int  # this version
    queued: int = 0  # since when it waits for a node, while it does
    modified: int
    ended: int = 0  # of this version
    running: int = 0  # executions of this version by what they do: live ones …
    completed: int = 0
    failed: int = 0  # … failed, refused or lost ones
    unplaced: Why | None = None  # why it waits, as last recorded
    eval: str = ""
    by: str = ""
    request: str = ""

    @property
    def count(self) -> int:
        """How many partitions."""
        return self.spec.count or 0


class ExecutionState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try of one partition on one node."""

    x: int
    id: str
    j: int
    job_id: str
    namespace: str
    job_version: int
    node: str
    partition: int = 0
    attempt: int = 1
    resources: Resources = Resources()
    status: Status = Status.PLANNED
    revision: int = 1
    message: str = ""  # of the compute state
    desired_message: str = ""
    details: dict[str, str] = msgspec.field(default_factory=dict)
    created: int
    modified: int
    approved: int = 0
    ended: int = 0
    owed: bool = False  # over, but the node must still be told
    why: Why | None = None
    eval: str = ""
    result: SpecConfig | None = None
    output: RunOutput | None = None


class NodeRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A node as the log knows it. Heartbeats, free capacity and so on are soft and live in `core/liveness.py`."""

    id: str
    info: NodeInfo  # static: what it has, not what is free
    membership: Membership = Membership.APPROVED
    connection: Connection = Connection.CONNECTED
    reason: str = ""  # of the connection's last change
    joined: int  # first handshake
    since: int  # of the connection's last change
    modified: int


class CredentialState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A credential without its secret."""

    sha256: str
    identity: str
    role: Role
    created: int
    expires: int = 0  # 0: never
    invite: bool = False
    used: bool = False  # an invite whose node has joined does not expire
    foreign: bool = False
    revoked: bool = False
    by: str = ""

    def dead(self, now: int) -> bool:
        """Whether nobody can come in with it any more, so that its name is free: revoked, or expired.

        An invitation whose node has joined is that node's credential and does not expire.
        """
        expires = 0 if self.invite and self.used else self.expires
        return self.revoked or 0 < expires <= now


class Tally:
    """A job's executions, indexed: derived, never stored. Of the current version, but for `old`."""

    __slots__ = ("done", "failed", "live", "old", "tries", "vacant", "xs")

    def __init__(self, count: int) -> None:
        self.xs: set[int] = set()  # every execution of the job that is in the state, of any version
        self.live: dict[int, int] = {}  # partition → x
        self.done: dict[int, int] = {}  # partition → x that completed it
        self.tries: dict[int, list[int]] = {}  # partition → x of its tries that failed, were refused or lost
        self.failed = 0  # how many those are
        self.vacant: dict[int, None] = dict.fromkeys(range(count))  # partitions neither live nor done
        self.old: set[int] = set()  # x of live executions of earlier versions


class NodeUse:
    """What a node's executions were given, the owed ones included: derived, never stored. CPU in millicores."""

    __slots__ = ("cpu", "disk", "gpu", "live", "memory", "owed")

    def __init__(self) -> None:
        self.live: dict[int, None] = {}  # x, in order of creation
        self.owed: dict[int, None] = {}  # x, over, but the node must be told
        self.cpu = self.memory = self.disk = self.gpu = 0


class Dirty:
    """What was touched since the last record was handed on, with the number of the last event that did."""

    __slots__ = ("credentials", "executions", "jobs", "nodes")

    def __init__(self) -> None:
        self.jobs: dict[int, int] = {}  # j → event
        self.executions: dict[int, int] = {}
        self.nodes: dict[str, int] = {}
        self.credentials: dict[str, int] = {}  # by sha256


class State:
    """All of it. Dicts keyed by the integers of the log or by ids; the rest are indexes that `fold` keeps."""

    def __init__(self) -> None:
        self.cluster = ""
        self.term = 0
        self.leader = ""
        self.leader_since = 0
        self.event = 0  # number of the last event folded
        self.next_j = 1
        self.next_x = 1
        self.jobs: dict[int, JobState] = {}
        self.executions: dict[int, ExecutionState] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.credentials: dict[str, CredentialState] = {}  # by sha256
        # indexes
        self.job_ids: dict[str, int] = {}
        self.job_names: dict[tuple[str, str], int] = {}  # (namespace, name)
        self.execution_ids: dict[str, int] = {}
        self.tallies: dict[int, Tally] = {}  # of jobs in the state
        self.uses: dict[str, NodeUse] = {}  # of nodes that have any
        self.identities: dict[str, dict[str, None]] = {}  # identity → sha256
        self.dirty = Dirty()

    def execution(self, execution_id: str) -> ExecutionState | None:
        """Return an execution by its id."""
        x = self.execution_ids.get(execution_id)
        return None if x is None else self.executions[x]

    def use(self, node: str) -> NodeUse:
        """Return what is used of a node; an empty one when nothing is."""
        return self.uses.get(node) or _NO_USE

    def cluster_state(self) -> ClusterState:
        """Return what there is one of."""
        return ClusterState(
            cluster=self.cluster,
            term=self.term,
            leader=self.leader,
            leader_since=self.leader_since,
            event=self.event,
            next_j=self.next_j,
            next_x=self.next_x,
        )


_NO_USE = NodeUse()  # never in a state, so never changed

LIVE: dict[str, type[msgspec.Struct]] = {
    "cluster": ClusterState,
    "job": JobState,
    "execution": ExecutionState,
    "node": NodeRecord,
    "credential": CredentialState,
}
"""Kinds of blobs that a restart loads, keyed in the query side by "", `j`, `x`, node id, sha256."""
