"""What the orchestrator's log can say. These formats are on disk for ever: add, never change; see `log/records.py`.

Every event is folded from what it holds and the entities it names, so it carries all that was decided: new ids, the
small integers `j` (job) and `x` (execution) that key everything, times other than the record's own, and words for
people. An event has no time of its own: it happened at its record's `at`. `by` is the identity that asked, `request`
its Request-Id: together they find the first answer of a repeated request.
"""

from __future__ import annotations

import enum

import msgspec

from bacalhau_daemon.log.records import Codec, Event
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import JobStateType


class Why(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An explanation as the log keeps it, at most 8 kB; `job.explain` computes the rest and says "as of now"."""

    nodes: int  # looked at
    fit: int = 0  # of these, fit
    sampled: bool = False  # only some of the nodes that fit were scored
    scores: tuple[tuple[str, int], ...] = ()  # (node, score), the winner first, at most five
    dropped: dict[str, int] = msgspec.field(default_factory=dict)  # check → how many nodes it was the first to drop
    near: tuple[Near, ...] = ()  # nodes that nearly fit, at most twenty


class Near(msgspec.Struct, frozen=True, omit_defaults=True):
    """A node that did not fit, and what it failed on."""

    node: str
    misses: tuple[str, ...]  # one line per check
    permanent: bool = False  # waiting will not help


class Cause(enum.StrEnum):
    """Why an execution ended, a job changed its state. Words for people are in `message`."""

    REPORTED = "reported"  # the node said so
    JOB_STOPPED = "job-stopped"
    JOB_FAILED = "job-failed"
    JOB_UPDATED = "job-updated"
    SURPLUS = "surplus"
    NODE_LOST = "node-lost"
    NODE_REJECTED = "node-rejected"
    NODE_RESTARTED = "node-restarted"  # the node came back and knows nothing of it
    BID_TIMEOUT = "bid-timeout"
    RUN_TIMEOUT = "run-timeout"
    JOB_TIMEOUT = "job-timeout"
    NO_NODE = "no-node"
    RETRIES = "retries"
    STARTED = "started"
    DONE = "done"


class Submission(enum.StrEnum):
    """What made a version of a job."""

    NEW = "new"
    UPDATE = "update"
    RERUN = "rerun"


class End(enum.StrEnum):
    """How an execution ended. `lost` is our presumption; the node may still report, see `lifecycle`."""

    COMPLETED = "completed"
    FAILED = "failed"
    REFUSED = "refused"  # the node did not want it
    CANCELLED = "cancelled"
    LOST = "lost"


class Connection(enum.StrEnum):
    """Whether a node is there. Only `connected` gets new work; work on `lost` goes elsewhere."""

    CONNECTED = "connected"
    UNKNOWN = "unknown"  # silent for a while, or not back since the orchestrator started
    LEFT = "left"  # said good-bye
    LOST = "lost"


class Membership(enum.StrEnum):
    """Whether a node may work here."""

    APPROVED = "APPROVED"
    PENDING = "PENDING"
    REJECTED = "REJECTED"


class Role(enum.StrEnum):
    """What a credential may do."""

    ADMIN = "admin"
    OPERATOR = "operator"
    SUBMITTER = "submitter"
    VIEWER = "viewer"
    COMPUTE = "compute"


# ── cluster and credentials ───────────────────────────────────────────────────────────────────────────────────────


class ClusterCreated(Event, frozen=True, kw_only=True):
    """The first event of every log."""

    cluster: str


class LeaderStarted(Event, frozen=True, kw_only=True):
    """The first event of every term: records of older terms that follow are ignored by fold."""

    term: int
    node: str  # the orchestrator
    version: str = ""


class CredentialIssued(Event, frozen=True, kw_only=True):
    """A secret was made; the log keeps its hash only. An invite expires unless the node has joined by then."""

    identity: str
    role: Role
    sha256: str  # hexadecimal, of the whole secret
    expires: int = 0
    invite: bool = False
    foreign: bool = False  # for an unmodified Bacalhau node
    by: str = ""
    request: str = ""


class CredentialRevoked(Event, frozen=True, kw_only=True):
    """All credentials of an identity ended."""

    identity: str
    by: str = ""
    request: str = ""


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class JobSubmitted(Event, frozen=True, kw_only=True):
    """A version of a job was accepted. Version 1 creates the job and its integer; the spec holds id and names."""

    j: int
    spec: Job  # normalised; its state, version and times are blank
    kind: Submission = Submission.NEW
    version: int = 1
    revision: int = 1
    created: int = 0  # of version 1, when this is a later one; 0: now
    eval: str = ""
    warnings: tuple[str, ...] = ()
    by: str = ""
    request: str = ""


class JobStopped(Event, frozen=True, kw_only=True):
    """Somebody stopped the job."""

    j: int
    id: str
    version: int = 1
    reason: str = ""
    eval: str = ""
    by: str = ""
    request: str = ""


class JobStateChanged(Event, frozen=True, kw_only=True):
    """The job's state changed by itself."""

    j: int
    version: int = 1
    to: JobStateType
    cause: Cause
    message: str = ""
    details: dict[str, str] = msgspec.field(default_factory=dict)


class JobUnplaced(Event, frozen=True, kw_only=True):
    """No node fits now: the job waits, or fails in the same record. Again only when the reason has changed."""

    j: int
    version: int = 1
    partitions: int  # how many wait
    why: Why
    message: str  # for people, one line per distinct reason


# ── executions ────────────────────────────────────────────────────────────────────────────────────────────────────


class ExecutionPlanned(Event, frozen=True, kw_only=True):
    """A partition was given to a node, which is asked for a bid."""

    x: int
    id: str
    j: int
    version: int = 1  # the job's
    node: str
    partition: int = 0
    attempt: int = 1  # of this partition in this version
    resources: Resources = Resources()
    why: Why | None = None  # None: the same as that of execution x - 1


class BidApproved(Event, frozen=True, kw_only=True):
    """The node bid and may run it now. `resumed`: it was presumed lost and is still there."""

    x: int
    resumed: bool = False


class ExecutionEnded(Event, frozen=True, kw_only=True):
    """The one authoritative end; only `lost` may be followed by another, while nothing has replaced it."""

    x: int
    to: End
    cause: Cause = Cause.REPORTED
    message: str = ""
    topic: str = ""  # as the node named the phase
    details: dict[str, str] = msgspec.field(default_factory=dict)
    reported: str = ""  # the node's own time stamp, RFC 3339
    owed: bool = False  # the node must be told to stop it, until it confirms
    result: SpecConfig | None = None
    output: RunOutput | None = None


class CancelConfirmed(Event, frozen=True, kw_only=True):
    """The node knows that the execution is over; `given_up`: it never came back to hear it."""

    x: int
    given_up: bool = False


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class NodeJoined(Event, frozen=True, kw_only=True):
    """A node that the cluster did not know shook hands; it is connected now."""

    node: str
    info: NodeInfo  # what it has, not what is free
    membership: Membership = Membership.APPROVED


class NodeInfoChanged(Event, frozen=True, kw_only=True):
    """What the node has or can do changed."""

    node: str
    info: NodeInfo


class NodeConnectionChanged(Event, frozen=True, kw_only=True):
    """The node came, went quiet, left or was given up."""

    node: str
    to: Connection
    reason: str = ""


class NodeMembershipChanged(Event, frozen=True, kw_only=True):
    """Somebody decided whether the node may work here."""

    node: str
    to: Membership
    reason: str = ""
    by: str = ""


AnyEvent = (
    ClusterCreated
    | LeaderStarted
    | CredentialIssued
    | CredentialRevoked
    | JobSubmitted
    | JobStopped
    | JobStateChanged
    | JobUnplaced
    | ExecutionPlanned
    | BidApproved
    | ExecutionEnded
    | CancelConfirmed
    | NodeJoined
    | NodeInfoChanged
    | NodeConnectionChanged
    | NodeMembershipChanged
)

CODEC: Codec[AnyEvent] = Codec(AnyEvent)
"""Records of the orchestrator's log. Vocabulary 1."""
