"""What nodes report: bids, results, errors. Late, repeated and misdirected reports change nothing."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.unplaced import job_state
from bacalhau_daemon.core.events import AnyEvent, BidApproved, CancelConfirmed, Cause, End, ExecutionEnded
from bacalhau_daemon.core.inputs import Confirmed, Reported, Undeliverable
from bacalhau_daemon.core.lifecycle import EXECUTION, ExecutionMove, may
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import DETAILS_MAX, OUTPUT_CHARACTERS_MAX, REASON_CHARACTERS_MAX, RESULT_BYTES_MAX
from bacalhau_daemon.core.state import ExecutionState, State, Status
from bacalhau_protocol.models.event import Event
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.models.nesting import DEPTH_MAX, nests_deeper
from bacalhau_protocol.models.node import ZERO_TIME
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.ncl.messages import BidResult, ComputeError, Report, RunResult

NOTHING: Decision[AnyEvent] = Decision()
_STARTS = frozenset({JobStateType.PENDING, JobStateType.QUEUED})


class Stray(msgspec.Struct, frozen=True):
    """Answer to a report: the node holds an execution that nobody wants. Tell it to stop."""

    node: str
    execution_id: str


def decide_report(context: Context, state: State, item: Reported, now: int) -> Decision[AnyEvent]:
    """Decide what a report means. Whatever it does, it is acknowledged."""
    report = item.report
    execution = state.execution(report.execution_id)
    accepted = isinstance(report, BidResult) and report.accepted
    if execution is None:
        return Decision((), Stray(item.node, report.execution_id)) if accepted else NOTHING
    if execution.node != item.node:
        return NOTHING  # no node speaks for another
    move = _move(report)
    if not may(EXECUTION, execution.status, move) or not _wanted(state, execution):
        stray = accepted and not execution.status.live
        return Decision((), Stray(item.node, execution.id)) if stray else NOTHING
    if move is ExecutionMove.APPROVE:
        return Decision(approval(state, execution))
    events: list[AnyEvent] = [_ended(execution, report)]
    if move is ExecutionMove.COMPLETE and _completes_job(state, execution):
        events.append(job_state(state.jobs[execution.j], JobStateType.COMPLETED, Cause.DONE))
    return Decision(events)


def _completes_job(state: State, execution: ExecutionState) -> bool:
    """Whether this is the last partition: then the job is complete at once, whatever else is in the batch."""
    job, tally = state.jobs[execution.j], state.tallies[execution.j]
    if job.state.terminal or job.version != execution.job_version:
        return False
    return len(tally.done) + 1 >= job.count


def _move(report: Report) -> ExecutionMove:
    match report:
        case BidResult(accepted=True):
            return ExecutionMove.APPROVE
        case BidResult():
            return ExecutionMove.REFUSE
        case RunResult():
            return ExecutionMove.COMPLETE
        case ComputeError():
            return ExecutionMove.FAIL


def _wanted(state: State, execution: ExecutionState) -> bool:
    """Whether a report still counts: always of a live execution; of a lost one only if nothing has replaced it."""
    if execution.status is not Status.LOST:
        return True
    return is_unreplaced(state, execution)


def is_unreplaced(state: State, execution: ExecutionState) -> bool:
    """Whether the partition of an ended execution is still vacant, in a job that still runs this version."""
    job = state.jobs.get(execution.j)
    if job is None or job.state.terminal or job.version != execution.job_version:
        return False
    return execution.partition in state.tallies[execution.j].vacant


def approval(state: State, execution: ExecutionState) -> list[AnyEvent]:
    """Return the events that let an execution run; the first one sets its job running."""
    resumed = execution.status is Status.LOST
    job = state.jobs[execution.j]
    events: list[AnyEvent] = [BidApproved(x=execution.x, resumed=resumed)]
    if job.state in _STARTS and job.version == execution.job_version:
        events.insert(0, job_state(job, JobStateType.RUNNING, Cause.STARTED))
    return events


def _ended(execution: ExecutionState, report: Report) -> ExecutionEnded:
    event = next(iter(report.events or ()), Event())
    details = event.details if isinstance(event.details, dict) else {}
    to, result, output, dropped = End.FAILED, None, None, ""
    match report:
        case RunResult():
            to, output = End.COMPLETED, _cut(report.run_output)
            result, dropped = _kept(report.publish_result)
        case BidResult():
            to = End.REFUSED
        case ComputeError():
            pass
    return ExecutionEnded(
        x=execution.x,
        to=to,
        message=". ".join(filter(None, (event.message[:REASON_CHARACTERS_MAX], dropped))),
        topic=event.topic[:100],
        details={key[:100]: value[:REASON_CHARACTERS_MAX] for key, value in list(details.items())[:DETAILS_MAX]},
        reported=event.timestamp[:50] if event.timestamp != ZERO_TIME else "",
        result=result,
        output=output,
    )


def _kept(result: SpecConfig | None) -> tuple[SpecConfig | None, str]:
    """Return what is kept of where the results are: all, or nothing and the words that say why."""
    if result is None:
        return None, ""
    if nests_deeper(result.values):
        return None, f"Where its results are was dropped: lists and objects nested more than {DEPTH_MAX} deep"
    size_bytes = len(msgspec.json.encode(result))
    if size_bytes > RESULT_BYTES_MAX:
        return None, f"Where its results are was dropped: {size_bytes:,} bytes, the limit is {RESULT_BYTES_MAX:,}"
    return result, ""


def _cut(output: RunOutput | None) -> RunOutput | None:
    """Nodes send at most 2 KiB of each stream; a node that sends more is cut short."""
    limit = OUTPUT_CHARACTERS_MAX
    if output is None:
        return None
    if len(output.stdout) <= limit and len(output.stderr) <= limit and len(output.error_message) <= limit:
        return output
    return msgspec.structs.replace(
        output,
        stdout=output.stdout[:limit],
        stdout_truncated=output.stdout_truncated or len(output.stdout) > limit,
        stderr=output.stderr[:limit],
        stderr_truncated=output.stderr_truncated or len(output.stderr) > limit,
        error_message=output.error_message[:limit],
    )


def decide_confirmed(context: Context, state: State, item: Confirmed, now: int) -> Decision[AnyEvent]:
    """A node knows that an execution is over: nothing more is owed to it."""
    execution = state.executions.get(item.x)
    if execution is None or not execution.owed:
        return NOTHING
    return Decision([CancelConfirmed(x=item.x)])


def decide_undeliverable(context: Context, state: State, item: Undeliverable, now: int) -> Decision[AnyEvent]:
    """End an execution about which its node and we cannot understand each other."""
    execution = state.execution(item.execution_id)
    if execution is None or execution.node != item.node or not execution.status.live:
        return NOTHING
    words = item.reason[:REASON_CHARACTERS_MAX]
    return Decision(
        [ExecutionEnded(x=execution.x, to=End.FAILED, message=words, details={"IsError": "true"}, owed=True)]
    )
