"""Events and history as users and peers see them (not the log's records: those are the daemon's)."""

from __future__ import annotations

import msgspec

from bacalhau_protocol.models.node import ZERO_TIME


class Event(msgspec.Struct, frozen=True):
    """Something that happened, in words. `timestamp` is RFC 3339 with up to nine digits of fraction."""

    message: str = msgspec.field(default="", name="Message")
    topic: str = msgspec.field(default="", name="Topic")
    timestamp: str = msgspec.field(default=ZERO_TIME, name="Timestamp")
    details: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Details")


class JobHistory(msgspec.Struct, frozen=True):
    """One line of a job's history. `type` is `JobLevel` or `ExecutionLevel`; `seq` is the log's event number."""

    seq: int = msgspec.field(name="SeqNum")
    type: str = msgspec.field(name="Type")
    job_id: str = msgspec.field(name="JobID")
    job_version: int = msgspec.field(name="JobVersion")
    event: Event = msgspec.field(name="Event")
    time: str = msgspec.field(name="Time")
    execution_id: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="ExecutionID")
