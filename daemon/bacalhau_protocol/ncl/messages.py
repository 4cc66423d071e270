"""What NCL says: every payload, by its type name.

Spellings are Bacalhau's: `accepted` and `reason` are lower case amid PascalCase, `LastOrchestratorSeqNum` in a
handshake's *answer* is where the orchestrator starts. `None` and an absent value are both legal where Go has nil.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models import times
from bacalhau_protocol.models.event import Event
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import Job, NetworkType, SpecConfig, Task
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.resources import Resources

NCL_PROTOCOL: Final = "ncl/v1"
OWN_PROTOCOL: Final = "bacalhau-tui/v1"
"""What our own nodes list in `NodeInfo.SupportedProtocols` beside `ncl/v1`: they speak `bacalhau.x.v1.…` too."""

HANDSHAKE_REQUIRED: Final = "HandshakeRequired"
"""The one error code with a meaning in the protocol: shake hands again."""

Events = tuple[Event, ...] | None


class HandshakeRequest(msgspec.Struct, frozen=True):
    """A node introduces itself. `last_orchestrator_seq` is informational."""

    info: NodeInfo = msgspec.field(name="NodeInfo")
    start_time: str = msgspec.field(default="", name="StartTime")
    last_orchestrator_seq: int = msgspec.field(default=0, name="LastOrchestratorSeqNum")

    def __post_init__(self) -> None:
        try:
            times.parse_time(self.start_time)
        except UsageError as error:  # a naive or blank time makes the message unreadable, as it does for Go
            raise ValueError(f"StartTime: {error.message}") from error


class HandshakeResponse(msgspec.Struct, frozen=True):
    """Its answer. Messages that follow are numbered above `starting_orchestrator_seq`."""

    accepted: bool = msgspec.field(default=False, name="accepted")
    reason: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="reason")
    last_compute_seq: int = msgspec.field(default=0, name="LastComputeSeqNum")
    starting_orchestrator_seq: int = msgspec.field(default=0, name="LastOrchestratorSeqNum")


class HeartbeatRequest(msgspec.Struct, frozen=True, gc=False):
    """A node lives; what of it is free; the number of the last message that it has handled."""

    node_id: str = msgspec.field(default="", name="NodeID")
    available_capacity: Resources = msgspec.field(default_factory=Resources, name="AvailableCapacity")
    queue_used_capacity: Resources = msgspec.field(default_factory=Resources, name="QueueUsedCapacity")
    last_orchestrator_seq: int = msgspec.field(default=0, name="LastOrchestratorSeqNum")


class HeartbeatResponse(msgspec.Struct, frozen=True, gc=False):
    """Its answer."""

    last_compute_seq: int = msgspec.field(default=0, name="LastComputeSeqNum")


class UpdateNodeInfoRequest(msgspec.Struct, frozen=True):
    """Something of a node has changed that a heartbeat does not carry."""

    info: NodeInfo = msgspec.field(name="NodeInfo")

    @property
    def node_id(self) -> str:
        """Who says so."""
        return self.info.node_id


class UpdateNodeInfoResponse(msgspec.Struct, frozen=True):
    """Its answer."""

    accepted: bool = msgspec.field(default=False, name="accepted")
    reason: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="reason")


class ShutdownNoticeRequest(msgspec.Struct, frozen=True):
    """A node leaves in good order."""

    node_id: str = msgspec.field(default="", name="NodeID")
    reason: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Reason")
    last_orchestrator_seq: int = msgspec.field(default=0, name="LastOrchestratorSeqNum")


class ShutdownNoticeResponse(msgspec.Struct, frozen=True):
    """Its answer."""

    last_compute_seq: int = msgspec.field(default=0, name="LastComputeSeqNum")


class AskForBid(msgspec.Struct, frozen=True):
    """Offer an execution. Desired state Pending: bid, then wait for `BidAccepted`; Running: bid and run at once."""

    events: Events = msgspec.field(default=None, name="Events")
    execution: Execution | None = msgspec.field(default=None, name="Execution")


class BidAccepted(msgspec.Struct, frozen=True):
    """Run it."""

    events: Events = msgspec.field(default=None, name="Events")
    execution_id: str = msgspec.field(default="", name="ExecutionID")
    accepted: bool = msgspec.field(default=True, name="Accepted")


class BidRejected(msgspec.Struct, frozen=True):
    """Forget it. A 1.9 orchestrator sends `CancelExecution` instead."""

    events: Events = msgspec.field(default=None, name="Events")
    execution_id: str = msgspec.field(default="", name="ExecutionID")


class CancelExecution(msgspec.Struct, frozen=True):
    """Stop it. Nothing comes back. Unknown and ended executions: do nothing."""

    events: Events = msgspec.field(default=None, name="Events")
    execution_id: str = msgspec.field(default="", name="ExecutionID")


class BidResult(msgspec.Struct, frozen=True):
    """A node's bid; when refused, one event says why."""

    execution_id: str = msgspec.field(default="", name="ExecutionID")
    job_id: str = msgspec.field(default="", name="JobID")
    job_type: str = msgspec.field(default="", name="JobType")
    events: Events = msgspec.field(default=None, name="Events")
    accepted: bool = msgspec.field(default=False, name="Accepted")


class RunResult(msgspec.Struct, frozen=True):
    """An execution has completed, whatever its exit code."""

    execution_id: str = msgspec.field(default="", name="ExecutionID")
    job_id: str = msgspec.field(default="", name="JobID")
    job_type: str = msgspec.field(default="", name="JobType")
    events: Events = msgspec.field(default=None, name="Events")
    publish_result: SpecConfig | None = msgspec.field(default_factory=SpecConfig, name="PublishResult")
    run_output: RunOutput | None = msgspec.field(default_factory=RunOutput, name="RunCommandResult")


class ComputeError(msgspec.Struct, frozen=True):
    """An execution has failed on the node; the first event says why."""

    execution_id: str = msgspec.field(default="", name="ExecutionID")
    job_id: str = msgspec.field(default="", name="JobID")
    job_type: str = msgspec.field(default="", name="JobType")
    events: Events = msgspec.field(default=None, name="Events")


class PreSignURLRequest(msgspec.Struct, frozen=True):
    """A node asks where to put a result with publisher `s3managed`."""

    events: Events = msgspec.field(default=None, name="Events")
    execution_id: str = msgspec.field(default="", name="ExecutionID")
    job_id: str = msgspec.field(default="", name="JobID")


class PreSignURLResponse(msgspec.Struct, frozen=True):
    """Its answer."""

    job_type: str = msgspec.field(default="", name="JobType")
    events: Events = msgspec.field(default=None, name="Events")
    execution_id: str = msgspec.field(default="", name="ExecutionID")
    job_id: str = msgspec.field(default="", name="JobID")
    url: str = msgspec.field(default="", name="PreSignedURL")


class BacError(msgspec.Struct, frozen=True):
    """A request has failed. `http_status` is 0 when the code implies it (`status_of`)."""

    cause: str = msgspec.field(default="", name="Cause")
    hint: str = msgspec.field(default="", name="Hint")
    retryable: bool = msgspec.field(default=False, name="Retryable")
    fails_execution: bool = msgspec.field(default=False, name="FailsExecution")
    component: str = msgspec.field(default="Bacalhau", name="Component")
    http_status: int = msgspec.field(default=0, name="HTTPStatusCode")
    details: dict[str, str] | None = msgspec.field(default=None, name="Details")
    code: str = msgspec.field(default="", name="Code")


class Ack(msgspec.Struct, frozen=True):
    """The bare answer to a message of the data plane, without envelope: refused if `error` says something."""

    error: str = ""
    delay: int = 0  # nanoseconds; a suggestion that nobody follows
    count: int = 1  # between peers of ours: it answers so many messages, of which this one came last


Request = HandshakeRequest | HeartbeatRequest | UpdateNodeInfoRequest | ShutdownNoticeRequest | PreSignURLRequest
Response = (
    HandshakeResponse
    | HeartbeatResponse
    | UpdateNodeInfoResponse
    | ShutdownNoticeResponse
    | PreSignURLResponse
    | BacError
)
Command = AskForBid | BidAccepted | BidRejected | CancelExecution
"""What an orchestrator tells a node, in order, acknowledged."""
Report = BidResult | RunResult | ComputeError
"""What a node tells its orchestrator, in order, acknowledged."""
Payload = Request | Response | Command | Report

TYPES: Final[dict[str, type[Payload]]] = {
    "transport.HandshakeRequest": HandshakeRequest,
    "transport.HandshakeResponse": HandshakeResponse,
    "transport.HeartbeatRequest": HeartbeatRequest,
    "transport.HeartbeatResponse": HeartbeatResponse,
    "transport.UpdateNodeInfoRequest": UpdateNodeInfoRequest,
    "transport.UpdateNodeInfoResponse": UpdateNodeInfoResponse,
    "transport.ShutdownNoticeRequest": ShutdownNoticeRequest,
    "transport.ShutdownNoticeResponse": ShutdownNoticeResponse,
    "AskForBid": AskForBid,
    "BidAccepted": BidAccepted,
    "BidRejected": BidRejected,
    "CancelExecution": CancelExecution,
    "BidResult": BidResult,
    "RunResult": RunResult,
    "ComputeError": ComputeError,
    "managedPublisher.PreSignURLRequest": PreSignURLRequest,
    "managedPublisher.PreSignURLResponse": PreSignURLResponse,
    "BacError": BacError,
}
NAMES: Final[dict[type, str]] = {kind: name for name, kind in TYPES.items()}

_STATUS = {
    "BadRequest": 400,
    "ValidationError": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
    "NotFound": 404,
    "ResourceInUse": 409,
    "ResourceExhausted": 429,
    "NotImplemented": 501,
    "ServiceUnavailable": 503,
}


def status_of(error: BacError) -> int:
    """Return the HTTP-like status: the explicit one, else what the code implies."""
    return error.http_status or _STATUS.get(error.code, 500)


def handshake_required(node: str) -> BacError:
    """Return the answer to a node that has to shake hands first."""
    return BacError(
        cause=f"node {node} not connected - handshake required",
        retryable=True,
        component="ConnectionManager",
        http_status=428,
        code=HANDSHAKE_REQUIRED,
    )


def is_own(info: NodeInfo) -> bool:
    """Whether a node is one of ours (timings, extension subjects, no headers) or a Bacalhau 1.9 node."""
    return OWN_PROTOCOL in (info.supported_protocols or ())


def lasting(info: NodeInfo) -> NodeInfo:
    """Leave out what heartbeats carry."""
    offer = msgspec.structs.replace(
        info.compute_node_info,
        queue_capacity=Resources(),
        available_capacity=Resources(),
        running_executions=0,
        enqueued_executions=0,
    )
    return msgspec.structs.replace(info, compute_node_info=offer)


def ask_for_bid(execution: Execution) -> AskForBid:
    """Build an AskForBid that no Bacalhau node stumbles over (execution with its job; see reference §7.1, §3.7).

    Revision is at most 1, the job's Meta is an object, lists hold no null, network `Host` goes out as `Full` and
    `Default` not at all.
    """
    assert isinstance(execution.job, Job), "an execution is offered with its job"
    job = execution.job
    wire_job = msgspec.structs.replace(
        job,
        meta=job.meta or {},
        constraints=job.constraints or (),
        labels=job.labels or {},
        tasks=tuple(_wire_task(task) for task in job.tasks or ()),
    )
    return AskForBid(execution=msgspec.structs.replace(execution, job=wire_job, revision=min(execution.revision, 1)))


def _wire_task(task: Task) -> Task:
    network = task.network
    if not network:
        return task
    if network.type is NetworkType.DEFAULT:
        return msgspec.structs.replace(task, network=msgspec.UNSET)
    if network.type is NetworkType.HOST:
        return msgspec.structs.replace(task, network=msgspec.structs.replace(network, type=NetworkType.FULL))
    return task
