"""What the orchestrator's machine asks of its shell. Carry them out in order.

`Send` is the session machines' own: subject, data, reply, headers. One that fails because the link is down is dropped:
the machine repeats what matters. The outcome of an `Append` goes to `settled`, that of a `Reload` to `reloaded`, that
of a `Project` to `applied`, that of a `LookUp` to `request`.
"""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.events import AnyEvent
from bacalhau_daemon.core.loop import Append, Halt, Reload
from bacalhau_daemon.core.requests import Lookup, Request
from bacalhau_daemon.core.state import ClusterState, CredentialState, ExecutionState, JobState, NodeRecord
from bacalhau_daemon.log.records import Record
from bacalhau_protocol.api.messages import Body
from bacalhau_protocol.errors import BacalhauError
from bacalhau_protocol.ncl.events import Send


class Answer(msgspec.Struct, frozen=True):
    """Answer a client's request; `position` is the log position for its header."""

    request: Request
    result: Body | BacalhauError
    position: int


class LookUp(msgspec.Struct, frozen=True):
    """Put this question to the query side, attach the answer to the request as `found`, and hand it over again."""

    request: Request
    lookup: Lookup


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """Hand a stored record to the query side, with every entity that it touched as it is after the record.

    `forgotten` are entities that have left the state: their rows stay, their blobs for a restart go.
    """

    record: Record[AnyEvent]
    data: bytes
    cluster: ClusterState
    jobs: dict[int, JobState] = {}
    executions: dict[int, ExecutionState] = {}
    nodes: dict[str, NodeRecord] = {}
    credentials: dict[str, CredentialState] = {}
    forgotten_jobs: tuple[int, ...] = ()
    forgotten_executions: tuple[int, ...] = ()
    forgotten_credentials: tuple[str, ...] = ()


class KeepLogTail(msgspec.Struct, frozen=True):
    """Keep the last part of an execution's log, apart from the log of records; `data` is a `LogTail` (JSON)."""

    execution_id: str
    data: bytes


class Disconnect(msgspec.Struct, frozen=True):
    """Cut all connections of an identity: its credentials are no longer good."""

    identity: str
    reason: str


class Complain(msgspec.Struct, frozen=True, kw_only=True):
    """For the daemon's log: what is wrong with what somebody sent; `more` like it were not said since the last line."""

    event: str
    who: str  # a node, or the identity that somebody claims
    words: str
    details: dict[str, str] = {}
    more: int = 0


Action = Send | Append | Answer | LookUp | Project | KeepLogTail | Disconnect | Complain | Reload | Halt

__all__ = [
    "Action",
    "Answer",
    "Append",
    "Complain",
    "Disconnect",
    "Halt",
    "KeepLogTail",
    "LookUp",
    "Project",
    "Reload",
    "Send",
]
