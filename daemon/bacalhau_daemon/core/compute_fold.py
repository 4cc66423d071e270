"""The fold of a node's journal: the only place where `ComputeState` changes. Total: uses only its arguments."""

from __future__ import annotations

from typing import assert_never

from msgspec import structs

from bacalhau_daemon.core.compute_events import (
    BidApproved,
    BidPlaced,
    BidRefused,
    ComputeEvent,
    ExecutionCancelled,
    ExecutionFinished,
    JournalSnapshot,
    NodeStarted,
    Report,
    ReportSettled,
    RoomFound,
    Run,
    RunRepeated,
    Stage,
)
from bacalhau_daemon.core.compute_lifecycle import EXECUTION, Move
from bacalhau_daemon.core.compute_state import ComputeState, Finished
from bacalhau_daemon.core.lifecycle import advance
from bacalhau_daemon.log.records import Record


def fold(state: ComputeState, event: ComputeEvent, n: int, at: int) -> None:
    """Change the state by event number `n` of a record made at `at`."""
    state.event = n
    match event:
        case BidPlaced():
            _bid(state, event, n, at)
        case BidRefused():
            advance(EXECUTION, None, Move.REFUSE, event.report.execution_id)
            _finish(state, event.report.execution_id, event.report, n)
        case BidApproved():
            run = state.runs[event.id]
            _drop_report(state, event.id)  # who approves has read the bid
            _move(state, run, Move.APPROVE if run.reserved else Move.WAIT, at)
        case RoomFound():
            run = state.runs[event.id]
            state.wanted.give_back(run.resources)
            _move(state, structs.replace(run, resources=event.resources, reserved=True), Move.ADMIT, at)
            state.room.take(event.resources)
        case RunRepeated():
            _move(state, structs.replace(state.runs[event.id], attempt=event.attempt), Move.REPEAT, at)
        case ExecutionCancelled():
            _cancel(state, event, n, at)
        case ExecutionFinished():
            advance(EXECUTION, state.runs[event.id].stage, Move.FINISH, event.id)
            _finish(state, event.id, event.report, n)
        case ReportSettled():
            report = state.reports.pop(event.seq)
            if state.report_of.get(report.execution_id) == event.seq:
                del state.report_of[report.execution_id]
        case JournalSnapshot():
            _restore(state, event)
        case NodeStarted():
            pass
        case _:
            assert_never(event)


def fold_record(state: ComputeState, record: Record[ComputeEvent]) -> None:
    """Fold a whole record. A trimmed journal begins with the record of a snapshot: what precedes it there is void."""
    events = list(enumerate(record.events, record.first_event))
    for position, (_, event) in enumerate(events):
        if isinstance(event, JournalSnapshot):
            events = events[position:]
            break
    for n, event in events:
        fold(state, event, n, record.at)


def snapshot(state: ComputeState) -> JournalSnapshot:
    """Return the whole state as an event."""
    return JournalSnapshot(
        runs=tuple(state.runs.values()),
        reports=tuple(state.reports.items()),
        finished=state.finished.encode(),
    )


def _bid(state: ComputeState, event: BidPlaced, n: int, at: int) -> None:
    execution = event.execution
    stage = advance(EXECUTION, None, Move.BID, execution.id)
    run = Run(
        execution=execution,
        resources=event.resources,
        stage=stage,
        reserved=event.reserved,
        since=at,
        direct=event.direct,
    )
    state.runs[run.id] = run
    (state.room if run.reserved else state.wanted).take(run.resources)
    if event.direct:
        _move(state, run, Move.APPROVE if run.reserved else Move.WAIT, at)
    else:
        job_type = execution.job.type if execution.job else ""
        _owe(state, Report(execution_id=run.id, job_id=execution.job_id, job_type=job_type, kind="bid"), n)


def _move(state: ComputeState, run: Run, move: Move, at: int) -> None:
    stage = advance(EXECUTION, run.stage, move, run.id)
    state.runs[run.id] = structs.replace(run, stage=stage, since=at)
    if stage is Stage.QUEUED:
        state.queue[run.id] = None
    else:
        state.queue.pop(run.id, None)


def _cancel(state: ComputeState, event: ExecutionCancelled, n: int, at: int) -> None:
    run = state.runs.get(event.id)
    if advance(EXECUTION, run.stage if run else None, Move.CANCEL, event.id) is Stage.FINISHED:
        _finish(state, event.id, None, n)
        return
    assert run is not None, "only what is known can be stopped"
    _move(state, run, Move.CANCEL, at)
    state.stopping.take(run.resources)


def _finish(state: ComputeState, execution_id: str, report: Report | None, n: int) -> None:
    run = state.runs.pop(execution_id, None)
    state.queue.pop(execution_id, None)
    _drop_report(state, execution_id)
    if run is not None:
        (state.room if run.reserved else state.wanted).give_back(run.resources)
        if run.stage is Stage.CANCELLING:
            state.stopping.give_back(run.resources)
    state.finished.add(execution_id)
    if report is not None:
        _owe(state, report, n)


def _owe(state: ComputeState, report: Report, n: int) -> None:
    state.reports[n] = report
    state.report_of[report.execution_id] = n


def _drop_report(state: ComputeState, execution_id: str) -> None:
    """Forget a report that is not needed any more: a newer one, or what the orchestrator did, says more."""
    n = state.report_of.pop(execution_id, None)
    if n is not None:
        del state.reports[n]


def _restore(state: ComputeState, event: JournalSnapshot) -> None:
    vars(state).update(vars(ComputeState()) | {"event": state.event})  # the snapshot is everything
    state.finished = Finished.decode(event.finished)
    for run in event.runs:
        state.runs[run.id] = run
        (state.room if run.reserved else state.wanted).take(run.resources)
        if run.stage is Stage.CANCELLING:
            state.stopping.take(run.resources)
    queued = sorted(state.stages(Stage.QUEUED), key=lambda run: run.since)
    state.queue = dict.fromkeys(run.id for run in queued)
    for n, report in event.reports:
        _owe(state, report, n)
