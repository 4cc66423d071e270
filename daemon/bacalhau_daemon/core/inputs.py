"""What the orchestrator's loop decides on, beside clients' requests. Hashable values: equal ones are decided once."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.events import Connection
from bacalhau_daemon.core.requests import Request
from bacalhau_protocol.api.messages import Hello
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.ncl.events import Delivery, NodeHandshook
from bacalhau_protocol.ncl.messages import Report


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """Start a term; on an empty log, create the cluster and its first credential with it."""

    term: int
    node: str
    version: str
    create: str = ""  # the cluster's name
    admin: str = ""  # identity
    admin_sha256: str = ""

    what = "start of a term"


class Reconcile(msgspec.Struct, frozen=True):
    """Look at a job: what it has, what it lacks, which of its deadlines have passed."""

    j: int

    @property
    def what(self) -> str:
        """In one line."""
        return f"job {self.j}"


class CheckExecution(msgspec.Struct, frozen=True):
    """A deadline of an execution may have passed."""

    x: int

    @property
    def what(self) -> str:
        """In one line."""
        return f"deadline of execution {self.x}"


class CheckNode(msgspec.Struct, frozen=True):
    """A node's grace may be over; or it is lost and still has live executions."""

    node: str

    @property
    def what(self) -> str:
        """In one line."""
        return f"node {self.node}"


class Handshake(msgspec.Struct, frozen=True, eq=False):
    """A node introduces itself."""

    event: NodeHandshook

    @property
    def what(self) -> str:
        """In one line."""
        return f"handshake of {self.event.node}"


class ConnectionChange(msgspec.Struct, frozen=True):
    """A session fell silent, spoke again, left or was lost."""

    node: str
    to: Connection
    reason: str

    @property
    def what(self) -> str:
        """In one line."""
        return f"node {self.node} is {self.to}"


class InfoChange(msgspec.Struct, frozen=True, eq=False):
    """A node describes itself anew."""

    node: str
    info: NodeInfo

    @property
    def what(self) -> str:
        """In one line."""
        return f"information of node {self.node}"


class Inventory(msgspec.Struct, frozen=True, eq=False):
    """One of our own nodes says what it holds, right after its handshake."""

    hello: Hello
    reply: str  # where the Welcome goes

    @property
    def what(self) -> str:
        """In one line."""
        return f"inventory of {self.hello.node_id}"


class Reported(msgspec.Struct, frozen=True, eq=False):
    """A node's report, to be acknowledged once it is stored."""

    node: str
    report: Report
    delivery: Delivery

    @property
    def what(self) -> str:
        """In one line."""
        return f"{type(self.report).__name__} of {self.report.execution_id} from {self.node}"


class Confirmed(msgspec.Struct, frozen=True):
    """A node has handled the cancel of an execution."""

    x: int

    @property
    def what(self) -> str:
        """In one line."""
        return f"cancel of execution {self.x}"


class Undeliverable(msgspec.Struct, frozen=True):
    """A node cannot read what it was sent about an execution, or we cannot read its report of it."""

    node: str
    execution_id: str
    reason: str

    @property
    def what(self) -> str:
        """In one line."""
        return f"unreadable message about {self.execution_id}"


Item = (
    Request
    | Lead
    | Reconcile
    | CheckExecution
    | CheckNode
    | Handshake
    | ConnectionChange
    | InfoChange
    | Inventory
    | Reported
    | Confirmed
    | Undeliverable
)
