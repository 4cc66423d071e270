"""What a node tells of an execution: built from how it ended, kept in the journal, said in the terms of NCL.

The first event is the one that Bacalhau reads: why it failed, or that it completed. Ours adds the phases with their
times. Codes and hints of errors are kept in the event's details. Every text is bounded, so that a report stays far
below what NATS carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from bacalhau_daemon.core.compute_events import Report
from bacalhau_daemon.core.policy import RESULT_BYTES_MAX
from bacalhau_protocol.errors import BacalhauError
from bacalhau_protocol.models import times
from bacalhau_protocol.models.event import Event
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.ncl import messages as ncl

MESSAGE_LENGTH_MAX = 4096
DETAIL_LENGTH_MAX = 1024
DETAILS_MAX = 16
EVENTS_MAX = 16
RESTART = "Failing due to node restart"

SCANNING, EXECUTION, RUNNING = "Exec Scanning", "Execution", "Running Execution"
INPUTS, PREPARING, PUBLISHING = "Downloading Inputs", "Preparing Environment", "Publishing Results"
"""Topics of events, as Bacalhau names them."""


class Phase(msgspec.Struct, frozen=True):
    """A phase that a run went through: `Preparing`, `Running`, `Publishing`; when it began (ns)."""

    name: str
    at: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why something failed, with everything that its error said."""

    message: str
    topic: str
    hint: str = ""
    code: str = ""
    retryable: bool = False
    details: dict[str, str] = {}


_TOPICS = {"Preparing": PREPARING, "Running": RUNNING, "Publishing": PUBLISHING}


def failure(error: BacalhauError, topic: str) -> Failure:
    """Return an error as a failure."""
    return Failure(
        message=str(error),
        topic=topic,
        hint=error.hint,
        code=error.code,
        retryable=error.retryable,
        details=dict(error.details),
    )


def refused(execution: Execution, reasons: Sequence[str], code: str, at: int) -> Report:
    """Build the report of a refused bid, in Bacalhau's words."""
    message = "; ".join(f"rejected bid: this node does not {reason}" for reason in reasons)
    details = {"ErrorCode": code, "Retryable": "true"} if code else {}
    return _report("refusal", execution, (_event(message, SCANNING, at, details),))


def completed(
    execution: Execution,
    output: RunOutput,
    result: SpecConfig,
    phases: Sequence[Phase],
    at: int,
    *,
    details: Mapping[str, str] = MappingProxyType({}),
) -> Report:
    """Build the report of a run that ended by itself, whatever its exit code."""
    if len(msgspec.json.encode(result)) > RESULT_BYTES_MAX:
        words = f"the publisher's result is larger than {RESULT_BYTES_MAX} bytes"
        return failed(execution, Failure(message=words, topic=PUBLISHING), phases, at)
    events = (
        _event("Completed successfully", EXECUTION, at, dict(list(details.items())[:DETAILS_MAX])),
        *_story(phases),
    )
    return _report("result", execution, events, result, output)


def failed(execution: Execution, why: Failure, phases: Sequence[Phase], at: int) -> Report:
    """Build the report of a run that failed."""
    said = {"ErrorCode": why.code, "Hint": why.hint, "Retryable": "true" if why.retryable else ""}
    details = {"IsError": "true"} | {key: value for key, value in said.items() if value}
    extra = dict(list(why.details.items())[: DETAILS_MAX - len(details)])
    return _report("error", execution, (_event(why.message, why.topic, at, extra | details), *_story(phases)))


def lost_to_restart(execution: Execution, at: int) -> Report:
    """Build the report of a run that did not survive the daemon."""
    details = {"IsError": "true", "FailsExecution": "true", "Retryable": "true"}
    return _report("error", execution, (_event(RESTART, EXECUTION, at, details),))


def not_understood(execution_id: str, job_id: str, job_type: str, words: str, at: int) -> Report:
    """Build the report about an execution that could not be read, or that we know nothing of."""
    event = _event(words, SCANNING, at, {"IsError": "true"})
    return Report(execution_id=execution_id, job_id=job_id, job_type=job_type, kind="error", events=(event,))


def to_ncl(report: Report) -> ncl.Report:
    """Return a report as it travels."""
    who = (report.execution_id, report.job_id, report.job_type)
    match report.kind:
        case "bid":
            return ncl.BidResult(*who, None, True)
        case "refusal":
            return ncl.BidResult(*who, report.events, False)
        case "result":
            return ncl.RunResult(*who, report.events, report.result, report.output)
        case _:
            return ncl.ComputeError(*who, report.events)


def _report(
    kind: str,
    execution: Execution,
    events: tuple[Event, ...],
    result: SpecConfig | None = None,
    output: RunOutput | None = None,
) -> Report:
    return Report(
        execution_id=execution.id,
        job_id=execution.job_id,
        job_type=execution.job.type if execution.job else "",
        kind=kind,
        events=events[:EVENTS_MAX],
        result=result,
        output=output,
    )


def _story(phases: Sequence[Phase]) -> tuple[Event, ...]:
    return tuple(_event(phase.name, _TOPICS.get(phase.name, EXECUTION), phase.at, {}) for phase in phases)


def _event(message: str, topic: str, at: int, details: dict[str, str]) -> Event:
    bounded = {key[:DETAIL_LENGTH_MAX]: value[:DETAIL_LENGTH_MAX] for key, value in details.items()}
    return Event(
        message=message[:MESSAGE_LENGTH_MAX],
        topic=topic,
        timestamp=times.format_time(at),
        details=bounded or msgspec.UNSET,
    )
