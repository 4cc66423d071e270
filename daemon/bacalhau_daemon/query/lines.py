"""A job's history in words: what each event of the log says to people, as Bacalhau words it. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.events import Cause, End, Submission
from bacalhau_daemon.core.state import ExecutionState
from bacalhau_protocol.models.event import Event, JobHistory
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.models.times import format_time

IS_ERROR = {"IsError": "true"}
NO_DETAILS: dict[str, str] = {}

_SUBMITTED = {
    Submission.NEW: ("Job submitted", NO_DETAILS),
    Submission.UPDATE: ("Job updated", NO_DETAILS),
    Submission.RERUN: ("Job rerun requested", {"Reason": "job rerun"}),
}
_JOB_TOPIC = {Cause.RETRIES: "Scheduling", Cause.JOB_FAILED: "Scheduling", Cause.JOB_TIMEOUT: "Job Timeout"}
_EXECUTION_TOPIC = {
    Cause.REPORTED: "Execution",
    Cause.NODE_RESTARTED: "Execution",
    Cause.RUN_TIMEOUT: "Exec Timeout",
}


class Place(msgspec.Struct, frozen=True):
    """Where an event stands, and the job that it is about."""

    seq: int
    at: int
    job_id: str


def line_of(
    event: ev.AnyEvent, place: Place, execution: Callable[[int], ExecutionState], following: ev.AnyEvent | None
) -> JobHistory | None:
    """Return an event's line; None when it has none.

    `execution` finds an execution by its `x`; `following` is the next event about the same job in the same record.
    """
    match event:
        case ev.JobSubmitted():
            message, details = _SUBMITTED[event.kind]
            return _job(place, event.version, "Submission", message, details)
        case ev.JobStopped():
            details = {"Reason": event.reason} if event.reason else NO_DETAILS
            return _job(place, event.version, "Scheduling", "Job requested to stop before completion", details)
        case ev.JobStateChanged():
            return _state(place, event)
        case ev.JobUnplaced():
            if isinstance(following, ev.JobStateChanged) and following.cause is Cause.NO_NODE:
                return None  # which says the same
            return _job(place, event.version, "Queueing", event.message)
        case ev.ExecutionPlanned():
            message = f"Requested execution on {short_id(event.node)}"
            return _execution(place, (event.version, event.id), "Scheduling", message, {"NodeID": event.node})
        case ev.BidApproved():
            found = execution(event.x)
            return _execution(place, (found.job_version, found.id), "Execution", "Running")
        case ev.ExecutionEnded():
            return _end(place, event, execution(event.x))
        case _:
            return None


def _state(place: Place, event: ev.JobStateChanged) -> JobHistory:
    details, failed = event.details, event.to is JobStateType.FAILED
    if event.to is JobStateType.QUEUED:
        return _job(place, event.version, "Queueing", event.message, details)
    if failed and event.message:
        topic = _JOB_TOPIC.get(event.cause, "Scheduling")
        return _job(place, event.version, topic, event.message, IS_ERROR | details)
    message = f"{event.to}. {event.message}" if event.message else str(event.to)
    return _job(place, event.version, "State Update", message, {"NewState": str(event.to), **details})


def _end(place: Place, event: ev.ExecutionEnded, found: ExecutionState) -> JobHistory:
    topic = event.topic or _EXECUTION_TOPIC.get(event.cause, "Scheduling")
    details = event.details
    message = event.message
    if event.to is End.COMPLETED:
        message = message or "Completed successfully"
    elif event.to in (End.FAILED, End.REFUSED):
        details = IS_ERROR | details
    line = _execution(place, (found.job_version, found.id), topic, message or f"Execution {event.to}", details)
    return replace(line, event=replace(line.event, timestamp=event.reported)) if event.reported else line


def _job(place: Place, version: int, topic: str, message: str, details: dict[str, str] = NO_DETAILS) -> JobHistory:
    at = format_time(place.at)
    event = Event(message, topic, at, details or msgspec.UNSET)
    return JobHistory(place.seq, "JobLevel", place.job_id, version, event, at)


def _execution(
    place: Place, run: tuple[int, str], topic: str, message: str, details: dict[str, str] = NO_DETAILS
) -> JobHistory:
    line = _job(place, run[0], topic, message, details)
    return replace(line, type="ExecutionLevel", execution_id=run[1])
