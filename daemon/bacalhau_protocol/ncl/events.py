"""What the session machines give back: messages to send, and things that have happened.

Every method of a machine that can do something returns a list of these, in order. Send in that order.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl.messages import Command, Report


class Incoming(Protocol):
    """A message as the bus hands it over (`transport.base.Message` is one)."""

    @property
    def subject(self) -> str: ...  # noqa: D102
    @property
    def data(self) -> bytes: ...  # noqa: D102
    @property
    def reply(self) -> str: ...  # noqa: D102
    @property
    def headers(self) -> dict[str, str] | None: ...  # noqa: D102


class Send(msgspec.Struct, frozen=True, gc=False):
    """To be published now. A reply subject means that an answer comes back to one of our inboxes.

    NATS headers are not needed: a 1.9 node repeats its metadata there, and none reads them. `joinable`: the peer takes
    bundles (`ncl.bundles`).
    """

    subject: str
    data: bytes
    reply: str = ""
    joinable: bool = False


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message that waits for its acknowledgement. Hand it to `persisted` once all that it means is stored."""

    node: str
    session: int
    number: int


# --- at the orchestrator -------------------------------------------------------------------------------------------


class NodeHandshook(msgspec.Struct, frozen=True):
    """A node introduces itself and waits (10 s) for `accept` or `refuse`."""

    node: str
    info: NodeInfo
    start_time: str
    last_orchestrator_seq: int
    reply: str


class HeartbeatReceived(msgspec.Struct, frozen=True, gc=False):
    """A connected node lives. It has been answered."""

    node: str
    available: Resources
    queue_used: Resources
    last_orchestrator_seq: int


class NodeInfoUpdated(msgspec.Struct, frozen=True):
    """A connected node describes itself anew. It has been answered."""

    node: str
    info: NodeInfo


class NodeFellSilent(msgspec.Struct, frozen=True):
    """Nothing came from the node for `unknown_after_ns`: it may be gone."""

    node: str
    last_heard: int


class NodeSpokeAgain(msgspec.Struct, frozen=True):
    """A node that had fallen silent is there after all, in the same session."""

    node: str


class NodeLost(msgspec.Struct, frozen=True):
    """Nothing came for `lost_after_ns`, or it cannot keep up: the session has ended."""

    node: str
    last_heard: int
    reason: str


class NodeLeft(msgspec.Struct, frozen=True):
    """The node gave notice of its shutdown. It has been answered, the session has ended."""

    node: str
    reason: str


class ReportReceived(msgspec.Struct, frozen=True):
    """A BidResult, RunResult or ComputeError came; perhaps not for the first time. Hand `delivery` back when stored."""

    node: str
    report: Report
    seq: int | None
    delivery: Delivery


class DeliveryConfirmed(msgspec.Struct, frozen=True):
    """The other side has handled (and stored) the message that was sent with this tag."""

    node: str
    tag: object


class DeliveryRefused(msgspec.Struct, frozen=True):
    """The other side says that it cannot read the message; it is not sent again in this session."""

    node: str
    tag: object
    reason: str


class Malformed(msgspec.Struct, frozen=True):
    """A message could not be read. It has been answered (with an error, or acknowledged so that it is not repeated).

    The ids are what could be read of it, else blank: the owner may end that execution with these words.
    """

    node: str
    words: str
    type: str = ""
    execution_id: str = ""
    job_id: str = ""
    job_type: str = ""


class Ignored(msgspec.Struct, frozen=True):
    """A readable message was not for us or not for now; `words` say which and why. For logs and counters."""

    node: str
    words: str


# --- at the compute node -------------------------------------------------------------------------------------------


class SessionOpened(msgspec.Struct, frozen=True):
    """The orchestrator has accepted us. Send every report again that it has not confirmed, oldest first."""

    reason: str
    starting_orchestrator_seq: int
    last_compute_seq: int


class SessionLost(msgspec.Struct, frozen=True):
    """The session has ended or could not be opened; the next try comes by itself. Work goes on meanwhile."""

    reason: str
    retry_at: int | None  # None: as soon as the link is up again


class SessionClosed(msgspec.Struct, frozen=True):
    """We have left: the orchestrator knows, or does not answer (then it finds out by itself)."""

    answered: bool


class CommandReceived(msgspec.Struct, frozen=True):
    """An AskForBid, BidAccepted, BidRejected or CancelExecution came; perhaps not for the first time.

    Hand `delivery` back when what it means is stored.
    """

    command: Command
    seq: int | None
    delivery: Delivery


OrchestratorEvent = (
    NodeHandshook
    | HeartbeatReceived
    | NodeInfoUpdated
    | NodeFellSilent
    | NodeSpokeAgain
    | NodeLost
    | NodeLeft
    | ReportReceived
    | DeliveryConfirmed
    | DeliveryRefused
    | Malformed
    | Ignored
)
ComputeEvent = (
    SessionOpened
    | SessionLost
    | SessionClosed
    | CommandReceived
    | DeliveryConfirmed
    | DeliveryRefused
    | Malformed
    | Ignored
)
OrchestratorOutput = Send | OrchestratorEvent
ComputeOutput = Send | ComputeEvent
