"""Requests and answers of the client API, one pair per verb; JSON. Field names follow Bacalhau's models.

Every request may carry `Request-Id` (writes must), `Deadline` (ns since the epoch, decimal) and `At-Least` (a log
position that a read must have reached) as NATS headers. An answer's header `Log-Position` says how far it has seen.
An error answer has `Nats-Service-Error` and `Nats-Service-Error-Code` headers and an `errors.ErrorInfo` as its body.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.node import NodeState

REQUEST_ID, DEADLINE, AT_LEAST, LOG_POSITION = "Request-Id", "Deadline", "At-Least", "Log-Position"
ERROR, ERROR_CODE = "Nats-Service-Error", "Nats-Service-Error-Code"

PAGE_BYTES_MAX = 256 * 1024
PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX = 100, 1000


class Body(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of all requests and answers: PascalCase names, unknown keys of a newer peer ignored."""


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class JobSubmit(Body, frozen=True, kw_only=True):
    """`job.submit`: run a job; the name of an existing job makes a new version of it."""

    job: Job
    force: bool = False  # accept an update that changes nothing
    dry_run: bool = False  # validate, fill in defaults, explain; change nothing


class JobSubmitted(Body, frozen=True, kw_only=True):
    """Answer to `job.submit`."""

    job_id: str = msgspec.field(name="JobID")
    evaluation_id: str = msgspec.field(name="EvaluationID")
    version: int
    warnings: list[str] = []
    job: Job | None = None  # the normalised job, for a dry run


class JobRef(Body, frozen=True, kw_only=True):
    """`job.get`, `job.stop`, `job.executions`, …: which job. `job` is an id, a unique prefix of one, or a name."""

    job: str
    namespace: str = "default"
    reason: str = ""  # of a stop
    version: int = 0  # 0: the latest
    page: str = ""  # of executions: `next_page` of the answer before


class JobQuery(Body, frozen=True, kw_only=True):
    """`job.list`: a page of jobs, newest first unless `order_by` says otherwise."""

    namespace: str = ""  # blank: all
    states: list[str] = []
    types: list[str] = []
    labels: str = ""  # a selector, for instance `env=prod,tier!=web`
    text: str = ""  # part of an id or of a name
    order_by: str = "created"  # created, modified, name, priority
    reverse: bool = False
    limit: int = PAGE_ROWS_DEFAULT
    page: str = ""  # `next_page` of the answer before


class JobRow(Body, frozen=True, kw_only=True):
    """One line of a list: what a table shows, without the specification. Also the feed's `job` row."""

    id: str = msgspec.field(name="ID")
    name: str
    namespace: str
    type: str
    engine: str
    state: str
    message: str = ""
    priority: int
    count: int
    version: int
    created: int  # ns since the epoch
    modified: int
    ended: int = 0
    running: int = 0  # executions by what they do now
    completed: int = 0
    failed: int = 0
    by: str = ""  # who submitted it


class JobPage(Body, frozen=True, kw_only=True):
    """Answer to `job.list`."""

    jobs: list[JobRow]
    next_page: str = ""
    total: int = 0


class JobFull(Body, frozen=True, kw_only=True):
    """Answer to `job.get`."""

    job: Job
    executions: list[Execution] = []


class ExecutionPage(Body, frozen=True, kw_only=True):
    """Answer to `job.executions`. `phases` has what each live execution is doing now (soft: may be missing)."""

    executions: list[Execution]
    phases: dict[str, Phase] = {}
    next_page: str = ""


class Phase(Body, frozen=True, kw_only=True):
    """What an execution does now: `Preparing`, `Running`, `Publishing`; bytes when they are known."""

    name: str
    since: int  # ns since the epoch, by the node's clock
    what: str = ""
    done_bytes: int = 0
    total_bytes: int = 0


class HistoryQuery(Body, frozen=True, kw_only=True):
    """`job.history`: a page of a job's history in log order."""

    job: str
    namespace: str = "default"
    execution: str = ""
    after: int = 0  # SeqNum
    limit: int = PAGE_ROWS_DEFAULT


class HistoryPage(Body, frozen=True, kw_only=True):
    """Answer to `job.history`."""

    items: list[JobHistory]
    next_after: int = 0


class StopAnswer(Body, frozen=True, kw_only=True):
    """Answer to `job.stop`. `evaluation_id` is blank when it had been stopped before."""

    job_id: str = msgspec.field(name="JobID")
    evaluation_id: str = msgspec.field(name="EvaluationID")


class Finding(Body, frozen=True, kw_only=True):
    """One predicate's finding about one node. `permanent`: waiting will not help."""

    check: str  # engine, publisher, storage, labels, maximum, capacity, version, history, connection, membership
    passed: bool
    required: str = ""
    actual: str = ""
    hint: str = ""
    permanent: bool = False


class NodeFindings(Body, frozen=True, kw_only=True):
    """Why one node fits or does not."""

    node_id: str = msgspec.field(name="NodeID")
    fits: bool
    score: int = 0
    findings: list[Finding] = []


class Explanation(Body, frozen=True, kw_only=True):
    """Answer to `job.explain`: `as_of` is when (ns); `recorded` is what the log kept when the job was placed."""

    as_of: int
    matching: int
    nodes: list[NodeFindings]
    summary: str = ""
    recorded: dict[str, Any] = {}


class JobExplain(Body, frozen=True, kw_only=True):
    """`job.explain`: where would this run (a specification), or why does it run or wait (a job)."""

    spec: Job | None = None
    job: str = ""
    namespace: str = "default"


class JobValidated(Body, frozen=True, kw_only=True):
    """Answer to `job.validate`: the job as it would be stored."""

    job: Job
    warnings: list[str] = []


class TicketRequest(Body, frozen=True, kw_only=True):
    """`job.logs` and `job.results`: give me access to executions of a job."""

    job: str
    namespace: str = "default"
    execution: str = ""  # one only; blank: all


class Access(Body, frozen=True, kw_only=True):
    """Where an execution's log and result files are, and a ticket that opens them."""

    execution_id: str = msgspec.field(name="ExecutionID")
    node_id: str = msgspec.field(name="NodeID")
    state: str
    partition: int = 0
    ticket: str = ""  # blank: not one of our own nodes, or nothing to read
    result: dict[str, Any] = {}  # the PublishedResult
    exit_code: int = 0
    message: str = ""


class AccessPage(Body, frozen=True, kw_only=True):
    """Answer to `job.logs` and `job.results`, in order of partition and creation."""

    job_id: str = msgspec.field(name="JobID")
    state: str
    executions: list[Access]


class KeptLogQuery(Body, frozen=True, kw_only=True):
    """`job.keptlog`: the last 64 kB of an execution's log as the orchestrator kept them; survives the node."""

    execution: str  # its whole id
    job: str = ""  # a short log is found in the history of its job
    namespace: str = "default"


class KeptLog(Body, frozen=True, kw_only=True):
    """Answer to `job.keptlog`; text may begin in the middle."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_offset: int = 0  # of the first byte kept
    stderr_offset: int = 0


# ── nodes and cluster ─────────────────────────────────────────────────────────────────────────────────────────────


class NodeQuery(Body, frozen=True, kw_only=True):
    """`node.list`: all nodes that the cluster knows."""

    labels: str = ""
    limit: int = PAGE_ROWS_MAX
    page: str = ""


class NodePage(Body, frozen=True, kw_only=True):
    """Answer to `node.list`."""

    nodes: list[NodeState]
    next_page: str = ""


class NodeRef(Body, frozen=True, kw_only=True):
    """`node.get`: an id or a unique prefix of one."""

    node: str


class NodeFull(Body, frozen=True, kw_only=True):
    """Answer to `node.get`."""

    node: NodeState
    executions: list[Execution] = []


class NodeInvite(Body, frozen=True, kw_only=True):
    """`node.invite`: make a join token. `name` is the node's id (blank: a new one); it must join within `ttl_s`."""

    name: str = ""
    ttl_s: int = 24 * 3600
    foreign: bool = False  # for an unmodified Bacalhau 1.9 node: a plain NATS token


class NodeInvited(Body, frozen=True, kw_only=True):
    """Answer to `node.invite`."""

    token: str
    expires: int
    command: str  # what to type on the other machine


class CredentialIssue(Body, frozen=True, kw_only=True):
    """`credential.issue`: make a credential. Roles: admin, operator, submitter, viewer, compute."""

    identity: str
    role: str
    ttl_s: int = 0  # 0: does not expire


class CredentialIssued(Body, frozen=True, kw_only=True):
    """Answer to `credential.issue`: the only time that the secret is shown."""

    identity: str
    role: str
    secret: str
    expires: int = 0


class CredentialRevoke(Body, frozen=True, kw_only=True):
    """`credential.revoke`: end all credentials of an identity; its connections are cut."""

    identity: str


class CredentialRow(Body, frozen=True, kw_only=True):
    """One credential, without its secret."""

    identity: str
    role: str
    created: int
    expires: int = 0
    revoked: bool = False


class CredentialPage(Body, frozen=True, kw_only=True):
    """Answer to `credential.list`."""

    credentials: list[CredentialRow]


class Empty(Body, frozen=True, kw_only=True):
    """A request or an answer that says nothing more."""


class ClusterInfo(Body, frozen=True, kw_only=True):
    """Answer to `cluster.info`."""

    cluster: str
    version: str
    orchestrator: str
    term: int
    log_position: int  # newest event number
    applied_position: int  # what the query side has
    parked: list[ParkedInput] = []  # inputs whose decision raised: our bugs, with their reasons
    jobs: dict[str, int] = {}  # by state
    nodes: dict[str, int] = {}  # by connection
    disk_free_bytes: int = 0
    disk_min_free_bytes: int = 0
    accepting: bool = True  # whether submissions are taken
    reason: str = ""  # why not


class ParkedInput(Body, frozen=True, kw_only=True):
    """An input whose decision raised."""

    at: int
    what: str
    error: str


# ── feed ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class ExecutionRow(Body, frozen=True, kw_only=True):
    """One line of a list of executions; the feed's `execution` row. `state` and `desired` are Bacalhau's names."""

    id: str = msgspec.field(name="ID")
    job_id: str = msgspec.field(name="JobID")
    node_id: str = msgspec.field(name="NodeID")
    namespace: str
    state: str
    desired: str = ""
    message: str = ""
    partition: int = 0
    job_version: int = 1
    created: int  # ns since the epoch
    modified: int
    exit_code: int = 0
    phase: Phase | None = None  # what a live one does now, when known


class FeedRow(Body, frozen=True, kw_only=True):
    """A row change. `prev` is the `seq` of the change before it of this kind and namespace; a gap means: ask again.

    `seq` is the log's event number: an answer whose `Log-Position` is not below it has this change in it.
    `row` is a `JobRow`, an `ExecutionRow` or a `NodeState`, by kind. Nodes have the namespace `-`.
    """

    kind: str  # job, execution, node
    seq: int
    prev: int
    deleted: bool = False
    row: dict[str, Any] = {}


class FeedTick(Body, frozen=True, kw_only=True):
    """Comes once a second: `newest` has the last `seq` per `namespace/kind`."""

    term: int
    seq: int
    newest: dict[str, int] = {}


# ── our own nodes: bacalhau.x.v1 ──────────────────────────────────────────────────────────────────────────────────


class Hello(Body, frozen=True, kw_only=True):
    """`out.hello`, a request right after each handshake: what the node holds."""

    node_id: str = msgspec.field(name="NodeID")
    version: str
    live: list[str] = []  # execution ids that are not over
    unsent: list[str] = []  # ended, report not yet acknowledged


class Welcome(Body, frozen=True, kw_only=True):
    """Answer to `out.hello`."""

    cluster: str
    term: int
    ticket_keys: list[str]  # public keys (hexadecimal Ed25519) whose tickets open logs and results
    forget: list[str] = []  # of `live`: executions that the orchestrator does not want


class PhaseReport(Body, frozen=True, kw_only=True):
    """`out.phase`, published: what an execution does now. Soft: may be lost."""

    execution_id: str = msgspec.field(name="ExecutionID")
    job_id: str = msgspec.field(name="JobID")
    phase: Phase


class LogTail(Body, frozen=True, kw_only=True):
    """`out.logtail`, published when an execution has ended: its last 64 kB, for the orchestrator to keep."""

    execution_id: str = msgspec.field(name="ExecutionID")
    log: KeptLog


class LogRead(Body, frozen=True, kw_only=True):
    """`in.log.read`: bytes of both streams from these offsets. `wait_ms`: hold the answer until there is something."""

    ticket: str
    execution_id: str = msgspec.field(name="ExecutionID")
    stdout_offset: int = 0
    stderr_offset: int = 0
    limit: int = 64 * 1024
    wait_ms: int = 0


class LogChunk(Body, frozen=True, kw_only=True):
    """Answer to `in.log.read`. `ended`: nothing will follow these bytes; then `outcome` says how it ended."""

    stdout: bytes = b""
    stderr: bytes = b""
    stdout_size: int = 0  # of the stream so far
    stderr_size: int = 0
    ended: bool = False
    exit_code: int = 0
    outcome: str = ""  # an OutcomeKind
    message: str = ""


class FileList(Body, frozen=True, kw_only=True):
    """`in.file.list`: a page of the result tree, sorted by path."""

    ticket: str
    execution_id: str = msgspec.field(name="ExecutionID")
    after: str = ""  # path
    limit: int = PAGE_ROWS_MAX


class FileEntry(Body, frozen=True, kw_only=True):
    """One file or link. `sha256` is hexadecimal and of the whole file."""

    path: str  # relative, `/` between parts
    size: int
    mode: int  # permission bits
    sha256: str = ""
    link: str = ""  # target of a symbolic link


class FilePage(Body, frozen=True, kw_only=True):
    """Answer to `in.file.list`."""

    files: list[FileEntry]
    next_after: str = ""
    complete: bool = True  # False: the execution still runs, sizes and hashes may change


class FileRead(Body, frozen=True, kw_only=True):
    """`in.file.read`: one chunk (≤ 256 kB) of one file."""

    ticket: str
    execution_id: str = msgspec.field(name="ExecutionID")
    path: str
    offset: int = 0
    limit: int = 256 * 1024


FILE_OFFSET, FILE_SHA256, FILE_SIZE = "File-Offset", "File-Sha256", "File-Size"
"""Headers of the answer to `in.file.read`: its body is the raw bytes; `File-Sha256` is the hash of this chunk."""


# ── the table ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Verb(msgspec.Struct, frozen=True):
    """One entry of the client API. A `write` must carry `Request-Id` and `Deadline`; only the leader answers it."""

    request: type[Body]
    answer: type[Body]
    write: bool = False


VERBS: dict[str, Verb] = {
    "job.submit": Verb(JobSubmit, JobSubmitted, write=True),
    "job.stop": Verb(JobRef, StopAnswer, write=True),
    "job.validate": Verb(JobSubmit, JobValidated),
    "job.get": Verb(JobRef, JobFull),
    "job.list": Verb(JobQuery, JobPage),
    "job.executions": Verb(JobRef, ExecutionPage),
    "job.history": Verb(HistoryQuery, HistoryPage),
    "job.explain": Verb(JobExplain, Explanation),
    "job.logs": Verb(TicketRequest, AccessPage),
    "job.results": Verb(TicketRequest, AccessPage),
    "job.keptlog": Verb(KeptLogQuery, KeptLog),
    "node.list": Verb(NodeQuery, NodePage),
    "node.get": Verb(NodeRef, NodeFull),
    "node.invite": Verb(NodeInvite, NodeInvited, write=True),
    "credential.issue": Verb(CredentialIssue, CredentialIssued, write=True),
    "credential.revoke": Verb(CredentialRevoke, Empty, write=True),
    "credential.list": Verb(Empty, CredentialPage),
    "cluster.info": Verb(Empty, ClusterInfo),
}
"""Every verb of `bacalhau.api.v1.<user>.<noun>.<verb>`: what it takes, what it answers, whether it changes anything."""
