"""What a compute node decides: inputs, and the events that each leads to. Pure; `compute_fold` changes the state.

Orders of the orchestrator may come twice, late, or again from the beginning after its restart: each is looked at in the
light of what we know of that execution, and what changes nothing leads to no event.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from bacalhau_daemon.core import compute_bid, compute_fold, compute_reports
from bacalhau_daemon.core.compute_bid import Measured, Offer
from bacalhau_daemon.core.compute_events import (
    BidApproved,
    BidPlaced,
    BidRefused,
    ComputeEvent,
    ExecutionCancelled,
    ExecutionFinished,
    NodeStarted,
    Report,
    ReportSettled,
    RoomFound,
    Run,
    RunRepeated,
    Stage,
)
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_daemon.core.loop import Decision
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.models.states import ComputeStateType, DesiredStateType, JobType
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl.events import Delivery

BID_LIFE_NS = 600 * 1_000_000_000
"""An offer that nobody took for so long, on an open session, is withdrawn: its room would be lost for ever."""


class Ordered(msgspec.Struct, frozen=True, eq=False):
    """A command of the orchestrator; with its inputs measured when it offers an execution that has any."""

    command: ncl.Command
    delivery: Delivery | None = None
    measured: Measured | None = None

    @property
    def what(self) -> str:
        """In one line, for people who read the journal."""
        return type(self.command).__name__


class Misread(msgspec.Struct, frozen=True):
    """A command that could not be read, but says of which execution it is."""

    execution_id: str
    job_id: str
    job_type: str
    words: str


class RunEnded(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The runner's word on an execution: it completed, it failed (`failure`), it was stopped, or is gone (`lost`)."""

    id: str
    attempt: int
    output: RunOutput | None = None
    result: SpecConfig | None = None
    failure: compute_reports.Failure | None = None
    phases: tuple[compute_reports.Phase, ...] = ()
    details: dict[str, str] = {}  # of the outcome, for the history
    cancelled: bool = False
    lost: bool = False  # it was begun by an earlier daemon and nothing is left of it

    @property
    def what(self) -> str:
        """In one line, for people who read the journal."""
        return f"{self.id} ended"


class Settled(msgspec.Struct, frozen=True):
    """The orchestrator has stored a report, or cannot read it (`refused`: why)."""

    seq: int
    refused: str = ""


class Unwanted(msgspec.Struct, frozen=True):
    """The orchestrator does not know an execution that we hold."""

    id: str


class Began(msgspec.Struct, frozen=True):
    """This daemon took the journal up."""

    version: str


class FindRoom(msgspec.Struct, frozen=True):
    """See who of the queue has room now."""


class WithdrawBids(msgspec.Struct, frozen=True):
    """See which offers nobody took: made before this time (ns)."""

    before: int


class TakeSnapshot(msgspec.Struct, frozen=True):
    """Write the whole state into the journal, so that what precedes it can go."""


Input = Ordered | Misread | RunEnded | Settled | Unwanted | Began | FindRoom | WithdrawBids | TakeSnapshot

ID_LENGTH_MAX = 128  # of an execution that we say anything about

_AFTER_ROOM = (ExecutionFinished, ExecutionCancelled, RoomFound, BidApproved)
_ENDLESS = frozenset({JobType.SERVICE, JobType.DAEMON})


class ComputeRules:
    """The vocabulary of a node's loop. `offer`, `check` and `queueing` are soft: the shell sets them as they change."""

    def __init__(self, offer: Offer, check: compute_bid.Check) -> None:
        self.offer = offer
        self.check = check
        self.queueing = False

    def answerable(self, item: Input) -> bool:
        """Nobody waits: commands are acknowledged when they are stored, and offered again until they are."""
        return False

    def fold(self, state: ComputeState, event: ComputeEvent, n: int, at: int) -> None:
        """Change the state."""
        compute_fold.fold(state, event, n, at)

    def follow(self, state: ComputeState, events: Sequence[ComputeEvent]) -> Iterable[Input]:
        """After something that may give room to somebody, look at the queue."""
        if state.queue and any(isinstance(event, _AFTER_ROOM) for event in events):
            return (FindRoom(),)
        return ()

    def decide(self, state: ComputeState, item: Input, now: int) -> Decision[ComputeEvent]:
        """Return the events that an input leads to."""
        match item:
            case Ordered():
                return Decision(self._ordered(state, item, now))
            case Misread():
                return Decision(_misread(state, item, now))
            case RunEnded():
                return Decision(_ended(state, item, now))
            case Settled(seq, refused):
                return Decision((ReportSettled(seq=seq, refused=refused),) if seq in state.reports else ())
            case Unwanted(id_):
                return Decision((ExecutionCancelled(id=id_),) if _stoppable(state.runs.get(id_)) else ())
            case Began(version):
                return Decision((NodeStarted(version=version),))
            case FindRoom():
                return Decision(self._find_room(state, now))
            case WithdrawBids(before):
                return Decision([_withdrawn(run, now) for run in state.stages(Stage.BID) if run.since < before])
            case TakeSnapshot():
                return Decision((compute_fold.snapshot(state),))
            case _:
                assert_never(item)

    def _ordered(self, state: ComputeState, item: Ordered, now: int) -> Sequence[ComputeEvent]:
        match item.command:
            case ncl.AskForBid(execution=execution):
                return self._asked(state, execution, item.measured, now)
            case ncl.BidAccepted(execution_id=id_):
                return _approved(state, id_, now)
            case ncl.BidRejected(execution_id=id_) | ncl.CancelExecution(execution_id=id_):
                return _cancelled(state, id_)
            case _:
                assert_never(item.command)

    def _asked(
        self, state: ComputeState, execution: Execution | None, measured: Measured | None, now: int
    ) -> Sequence[ComputeEvent]:
        if execution is None or not _new(state, execution.id):
            return ()  # an offer that is repeated; what we owe of it is sent again by itself
        if words := compute_bid.unreadable(execution):
            job_type = execution.job.type if execution.job else ""
            report = compute_reports.not_understood(execution.id, execution.job_id, job_type, words, now)
            return (BidRefused(report=report),)
        bid = compute_bid.decide_bid(
            execution, self.offer, state, self.check, measured or Measured(id=execution.id), queueing=self.queueing
        )
        if bid.reasons:
            return (BidRefused(report=compute_reports.refused(execution, bid.reasons, bid.code, now)),)
        direct = (
            execution.desired_state.state_type is DesiredStateType.RUNNING
            or execution.compute_state.state_type is ComputeStateType.BID_ACCEPTED
        )
        return (BidPlaced(execution=execution, resources=bid.resources, reserved=bid.reserved, direct=direct),)

    def _find_room(self, state: ComputeState, now: int) -> Sequence[ComputeEvent]:
        """Admit the head of the queue while it fits: nobody overtakes, so that large work is not starved."""
        run = next(state.in_queue(), None)
        if run is None:
            return ()
        if not run.resources.fits(self.offer.largest):
            words = "the node's capacity has shrunk below what this execution needs"
            why = compute_reports.Failure(message=words, topic=compute_reports.PREPARING, retryable=True)
            return (ExecutionFinished(id=run.id, report=compute_reports.failed(run.execution, why, (), now)),)
        if not run.resources.fits(compute_bid.free(self.offer, state)):
            return ()
        return (RoomFound(id=run.id, resources=compute_bid.assign(run.resources, self.offer, state)),)


def _approved(state: ComputeState, id_: str, now: int) -> Sequence[ComputeEvent]:
    run = state.runs.get(id_)
    if run is not None:
        return (BidApproved(id=id_),) if run.stage is Stage.BID else ()
    if not _new(state, id_):
        return ()
    words = "this node knows nothing of the execution that it is told to run"
    return (BidRefused(report=compute_reports.not_understood(id_, "", "", words, now)),)


def _cancelled(state: ComputeState, id_: str) -> Sequence[ComputeEvent]:
    run = state.runs.get(id_)
    if run is not None:
        return (ExecutionCancelled(id=id_),) if _stoppable(run) else ()
    return (ExecutionCancelled(id=id_),) if _new(state, id_) else ()


def _new(state: ComputeState, id_: str) -> bool:
    return 0 < len(id_) <= ID_LENGTH_MAX and id_ not in state.runs and id_ not in state.finished


def _stoppable(run: Run | None) -> bool:
    return run is not None and run.stage is not Stage.CANCELLING


def _misread(state: ComputeState, item: Misread, now: int) -> Sequence[ComputeEvent]:
    if not _new(state, item.execution_id):
        return ()
    report: Report = compute_reports.not_understood(
        item.execution_id, item.job_id, item.job_type, f"the request could not be read: {item.words}", now
    )
    return (BidRefused(report=report),)


def _ended(state: ComputeState, item: RunEnded, now: int) -> Sequence[ComputeEvent]:
    run = state.runs.get(item.id)
    if run is None or item.attempt != run.attempt or run.stage not in (Stage.STARTED, Stage.CANCELLING):
        return ()  # said before, or of an earlier attempt
    if run.stage is Stage.CANCELLING:
        return (ExecutionFinished(id=run.id),)
    job = run.execution.job
    if item.lost and job and job.type in _ENDLESS:
        return (RunRepeated(id=run.id, attempt=run.attempt + 1),)
    return (ExecutionFinished(id=run.id, report=_report(run, item, now)),)


def _report(run: Run, item: RunEnded, now: int) -> Report:
    if item.lost or item.cancelled:  # nobody asked for it to be stopped, so it was our shutdown
        return compute_reports.lost_to_restart(run.execution, now)
    if item.failure is not None:
        return compute_reports.failed(run.execution, item.failure, item.phases, now)
    return compute_reports.completed(
        run.execution, item.output or RunOutput(), item.result or SpecConfig(), item.phases, now, details=item.details
    )


def _withdrawn(run: Run, now: int) -> ExecutionFinished:
    words = "nobody took this node's offer in time"
    why = compute_reports.Failure(message=words, topic=compute_reports.SCANNING, retryable=True)
    return ExecutionFinished(id=run.id, report=compute_reports.failed(run.execution, why, (), now))
