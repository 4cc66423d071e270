"""The lifecycles, as tables. Everything that decides whether a transition is legal is here, and nothing else.

* A table maps state → move → new state; the key None is "does not exist yet".
* A pair that is not in a table is impossible: `advance` raises and nothing changes. `may` asks without raising, for
  what peers send late or twice.
* The tables know no guards: whether a late success is still wanted is decided where it is decided.

`docs/lifecycles.md` is rendered from these tables; a test compares.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from bacalhau_daemon.core.events import Connection, End, Membership
from bacalhau_daemon.core.state import Status
from bacalhau_protocol.models.states import JobStateType

S = TypeVar("S", bound=enum.StrEnum)
M = TypeVar("M", bound=enum.StrEnum)
Table = Mapping[S | None, Mapping[M, S]]


class Impossible(Exception):
    """A transition that is in no table: a bug of ours, never a peer's fault."""


class JobMove(enum.StrEnum):
    """What can happen to a job."""

    SUBMIT = "submit"  # also an update and a rerun: a new version
    QUEUE = "queue"
    RUN = "run"
    COMPLETE = "complete"
    FAIL = "fail"
    STOP = "stop"


class ExecutionMove(enum.StrEnum):
    """What can happen to an execution."""

    PLAN = "plan"
    APPROVE = "approve"
    COMPLETE = "complete"
    FAIL = "fail"  # reported, or a deadline of ours has passed
    REFUSE = "refuse"
    CANCEL = "cancel"
    LOSE = "lose"


class NodeMove(enum.StrEnum):
    """What can happen to a node's connection."""

    CONNECT = "connect"
    FALL_SILENT = "fall silent"  # also: the orchestrator started anew
    LEAVE = "leave"
    LOSE = "lose"


class MemberMove(enum.StrEnum):
    """What can happen to a node's membership."""

    JOIN = "join"
    APPROVE = "approve"
    REJECT = "reject"


_PENDING, _QUEUED, _RUNNING = JobStateType.PENDING, JobStateType.QUEUED, JobStateType.RUNNING
_COMPLETED, _FAILED, _STOPPED = JobStateType.COMPLETED, JobStateType.FAILED, JobStateType.STOPPED

JOB: Final[Table[JobStateType, JobMove]] = {
    None: {JobMove.SUBMIT: _PENDING},
    _PENDING: {
        JobMove.SUBMIT: _PENDING,
        JobMove.QUEUE: _QUEUED,
        JobMove.RUN: _RUNNING,
        JobMove.COMPLETE: _COMPLETED,  # a job of no partitions
        JobMove.FAIL: _FAILED,
        JobMove.STOP: _STOPPED,
    },
    _QUEUED: {
        JobMove.SUBMIT: _PENDING,
        JobMove.RUN: _RUNNING,
        JobMove.COMPLETE: _COMPLETED,  # a late success of a node that had been given up
        JobMove.FAIL: _FAILED,
        JobMove.STOP: _STOPPED,
    },
    _RUNNING: {
        JobMove.SUBMIT: _PENDING,
        JobMove.QUEUE: _QUEUED,  # its node is gone and no other fits
        JobMove.COMPLETE: _COMPLETED,
        JobMove.FAIL: _FAILED,
        JobMove.STOP: _STOPPED,
    },
    _COMPLETED: {JobMove.SUBMIT: _PENDING},
    _FAILED: {JobMove.SUBMIT: _PENDING},
    _STOPPED: {JobMove.SUBMIT: _PENDING},
}

EXECUTION: Final[Table[Status, ExecutionMove]] = {
    None: {ExecutionMove.PLAN: Status.PLANNED},
    Status.PLANNED: {
        ExecutionMove.APPROVE: Status.RUNNING,
        ExecutionMove.FAIL: Status.FAILED,
        ExecutionMove.REFUSE: Status.REFUSED,
        ExecutionMove.CANCEL: Status.CANCELLED,
        ExecutionMove.LOSE: Status.LOST,
    },
    Status.RUNNING: {
        ExecutionMove.COMPLETE: Status.COMPLETED,
        ExecutionMove.FAIL: Status.FAILED,
        ExecutionMove.CANCEL: Status.CANCELLED,
        ExecutionMove.LOSE: Status.LOST,
    },
    # The node was gone and came back, and nothing has replaced the execution meanwhile.
    Status.LOST: {
        ExecutionMove.APPROVE: Status.RUNNING,
        ExecutionMove.COMPLETE: Status.COMPLETED,
        ExecutionMove.FAIL: Status.FAILED,
    },
    Status.COMPLETED: {},
    Status.FAILED: {},
    Status.REFUSED: {},
    Status.CANCELLED: {},
}

NODE: Final[Table[Connection, NodeMove]] = {
    None: {NodeMove.CONNECT: Connection.CONNECTED},
    Connection.CONNECTED: {
        NodeMove.FALL_SILENT: Connection.UNKNOWN,
        NodeMove.LEAVE: Connection.LEFT,
        NodeMove.LOSE: Connection.LOST,
    },
    Connection.UNKNOWN: {
        NodeMove.CONNECT: Connection.CONNECTED,
        NodeMove.LEAVE: Connection.LEFT,
        NodeMove.LOSE: Connection.LOST,
    },
    Connection.LEFT: {
        NodeMove.CONNECT: Connection.CONNECTED,
        NodeMove.LOSE: Connection.LOST,
    },
    Connection.LOST: {NodeMove.CONNECT: Connection.CONNECTED},
}

MEMBERSHIP: Final[Table[Membership, MemberMove]] = {
    None: {MemberMove.JOIN: Membership.APPROVED},
    Membership.PENDING: {MemberMove.APPROVE: Membership.APPROVED, MemberMove.REJECT: Membership.REJECTED},
    Membership.APPROVED: {MemberMove.REJECT: Membership.REJECTED},
    Membership.REJECTED: {MemberMove.APPROVE: Membership.APPROVED},
}

MOVE_OF_END: Final[Mapping[End, ExecutionMove]] = {
    End.COMPLETED: ExecutionMove.COMPLETE,
    End.FAILED: ExecutionMove.FAIL,
    End.REFUSED: ExecutionMove.REFUSE,
    End.CANCELLED: ExecutionMove.CANCEL,
    End.LOST: ExecutionMove.LOSE,
}
MOVE_TO_JOB: Final[Mapping[JobStateType, JobMove]] = {
    JobStateType.QUEUED: JobMove.QUEUE,
    JobStateType.RUNNING: JobMove.RUN,
    JobStateType.COMPLETED: JobMove.COMPLETE,
    JobStateType.FAILED: JobMove.FAIL,
}
MOVE_TO_CONNECTION: Final[Mapping[Connection, NodeMove]] = {
    Connection.CONNECTED: NodeMove.CONNECT,
    Connection.UNKNOWN: NodeMove.FALL_SILENT,
    Connection.LEFT: NodeMove.LEAVE,
    Connection.LOST: NodeMove.LOSE,
}
MOVE_TO_MEMBERSHIP: Final[Mapping[Membership, MemberMove]] = {
    Membership.APPROVED: MemberMove.APPROVE,
    Membership.REJECTED: MemberMove.REJECT,
}


def may(table: Table[S, M], state: S | None, move: M) -> bool:
    """Whether a move is possible from a state."""
    return move in table[state]


def advance(table: Table[S, M], state: S | None, move: M, what: object = "") -> S:
    """Return the state after a move. `what` names the entity in the error.

    Raises
    ------
    Impossible
        when the table does not have the pair.
    """
    new = table[state].get(move)
    if new is None:
        raise Impossible(f"{what}: cannot {move} from {state or 'nothing'}")
    return new


def render() -> str:
    """Return the tables as the page `docs/lifecycles.md`."""
    lines = [
        "# Lifecycles",
        "",
        "Rendered from `bacalhau_daemon/core/lifecycle.py`; `tests/unit/test_core_lifecycle.py` compares.",
        "A move that is not here is impossible: it raises, and nothing changes.",
    ]
    for title, table in TABLES.items():
        lines += ["", f"## {title}", "", "| From | Move | To |", "|---|---|---|"]
        for state, moves in table.items():
            lines += [f"| {state or '(new)'} | {move} | {new} |" for move, new in moves.items()]
        ends = [str(state) for state, moves in table.items() if not moves]
        lines += ["", f"Final: {', '.join(ends)}."] if ends else []
    return "\n".join(lines) + "\n"


TABLES: Final[dict[str, Table[enum.StrEnum, enum.StrEnum]]] = {
    "Job": JOB,  # type: ignore[dict-item]
    "Execution": EXECUTION,  # type: ignore[dict-item]
    "Node: connection": NODE,  # type: ignore[dict-item]
    "Node: membership": MEMBERSHIP,  # type: ignore[dict-item]
}
