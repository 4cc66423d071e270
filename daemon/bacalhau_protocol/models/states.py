"""States. A job's is text on the wire; an execution's two are integers on the wire."""

from __future__ import annotations

import enum
from typing import Any

import msgspec


class JobType(enum.StrEnum):
    """How many executions, where, and when it is done."""

    BATCH = "batch"
    OPS = "ops"
    DAEMON = "daemon"
    SERVICE = "service"


class JobStateType(enum.StrEnum):
    """A job's state; `lifecycle` in the daemon's core has the table of transitions."""

    UNDEFINED = "Undefined"
    PENDING = "Pending"
    QUEUED = "Queued"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    STOPPED = "Stopped"

    @classmethod
    def _missing_(cls, value: object) -> JobStateType:
        """Read as Go does: without case, and unknown text as Undefined."""
        return _JOB_STATES.get(str(value).lower(), cls.UNDEFINED)

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen without a new submission."""
        return self in _TERMINAL_JOB


_JOB_STATES = {state.lower(): state for state in JobStateType}
_TERMINAL_JOB = frozenset({JobStateType.COMPLETED, JobStateType.FAILED, JobStateType.STOPPED})


class ComputeStateType(enum.IntEnum):
    """What the compute node does with an execution."""

    UNDEFINED = 0
    NEW = 1
    ASK_FOR_BID = 2
    ASK_FOR_BID_ACCEPTED = 3
    ASK_FOR_BID_REJECTED = 4
    BID_ACCEPTED = 5
    RUNNING = 6
    PUBLISHING = 7
    BID_REJECTED = 8
    COMPLETED = 9
    FAILED = 10
    CANCELLED = 11

    @property
    def terminal(self) -> bool:
        """Whether the execution has ended."""
        return self in _TERMINAL_COMPUTE

    @property
    def label(self) -> str:
        """Bacalhau's name for it, as its command line prints it."""
        return _COMPUTE_LABEL[self]


_TERMINAL_COMPUTE = frozenset(
    {
        ComputeStateType.ASK_FOR_BID_REJECTED,
        ComputeStateType.BID_REJECTED,
        ComputeStateType.COMPLETED,
        ComputeStateType.FAILED,
        ComputeStateType.CANCELLED,
    }
)
_COMPUTE_LABEL = {state: "".join(part.capitalize() for part in state.name.split("_")) for state in ComputeStateType}


class DesiredStateType(enum.IntEnum):
    """What the orchestrator wants of an execution."""

    PENDING = 0
    RUNNING = 1
    STOPPED = 2


class JobState(msgspec.Struct, frozen=True):
    """A job's state with the reason for it. `StateType` is text; unknown text reads as Undefined (Go does that)."""

    state_type: JobStateType = msgspec.field(default=JobStateType.UNDEFINED, name="StateType")
    message: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Message")
    details: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Details")


class ComputeState(msgspec.Struct, frozen=True):
    """An execution's compute state with the reason for it."""

    state_type: ComputeStateType = msgspec.field(default=ComputeStateType.UNDEFINED, name="StateType")
    message: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Message")
    details: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Details")


class DesiredState(msgspec.Struct, frozen=True):
    """An execution's desired state with the reason for it."""

    state_type: DesiredStateType = msgspec.field(default=DesiredStateType.PENDING, name="StateType")
    message: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Message")
    details: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Details")


Params = dict[str, Any]
