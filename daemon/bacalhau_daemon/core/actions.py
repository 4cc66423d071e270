"""What the orchestrator's machine asks of its shell. Carry them out in order.

A `Send` that fails because the link is down is dropped: the machine repeats what matters. The outcome of an `Append`
goes to `settled`, that of a `Reload` to `reloaded`, that of a `Project` to `applied`.
"""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.events import AnyEvent
from bacalhau_daemon.core.loop import Append, Halt, Reload
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.state import ClusterState, CredentialState, ExecutionState, JobState, NodeRecord
from bacalhau_daemon.log.records import Record
from bacalhau_protocol.api.messages import Body
from bacalhau_protocol.errors import BacalhauError


class Send(msgspec.Struct, frozen=True):
    """Publish."""

    subject: str
    data: bytes
    reply: str = ""
    headers: dict[str, str] | None = None


class Answer(msgspec.Struct, frozen=True):
    """Answer a client's request; `position` is the log position for its header."""

    request: Request
    result: Body | BacalhauError
    position: int


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


Action = Send | Append | Answer | Project | KeepLogTail | Disconnect | Reload | Halt
