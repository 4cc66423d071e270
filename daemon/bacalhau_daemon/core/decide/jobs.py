"""One look at a job: end it, cancel what it has too much, place what it lacks, or say why not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.unplaced import decide_unplaced, fails, job_state, place_in_line, settled
from bacalhau_daemon.core.events import AnyEvent, Cause, End, ExecutionEnded, JobStateChanged
from bacalhau_daemon.core.inputs import Reconcile
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import PLANNED_PER_PASS_MAX, SECOND
from bacalhau_daemon.core.scheduling.plan import plan
from bacalhau_daemon.core.scheduling.reconcile import Gap, Vacancy, gap_of
from bacalhau_daemon.core.state import ExecutionState, JobState, State, Tally
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.job import TimeoutConfig
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.models.times import format_duration

NOTHING: Decision[AnyEvent] = Decision()
TIMEOUT_HINT = "Increase the task timeout or allocate more resources"

_CANCELS: dict[JobStateType, tuple[Cause, str]] = {
    JobStateType.STOPPED: (Cause.JOB_STOPPED, "Execution stop requested because job has been stopped"),
    JobStateType.FAILED: (Cause.JOB_FAILED, "Execution stopped due to job failure"),
    JobStateType.COMPLETED: (
        Cause.SURPLUS,
        "Execution stop requested because there are more executions than needed",
    ),
}
_UPDATED = (Cause.JOB_UPDATED, "Execution stopped for job update")


def decide_reconcile(context: Context, state: State, item: Reconcile, now: int) -> Decision[AnyEvent]:
    """Look at a job. Events of the job come before those of its executions."""
    job = state.jobs.get(item.j)
    if job is None:
        return NOTHING
    tally = state.tallies[job.j]
    if job.state.terminal:
        return Decision(cancel([*tally.old, *tally.live.values()], *_CANCELS[job.state]))
    total_ns = timeouts(job).total * SECOND
    if total_ns and now >= job.submitted + total_ns:
        return Decision([_timed_out(job, total_ns)])
    if tally.old:
        events = cancel(tally.old, *_UPDATED)
        return Decision([*events, *_fill(context, state, job, tally, now)])
    return Decision(_fill(context, state, job, tally, now))


def timeouts(job: JobState) -> TimeoutConfig:
    """Return the time-outs of a job's task."""
    return job.spec.task.timeouts or TimeoutConfig()


def cancel(xs: Iterable[int], cause: Cause, message: str) -> list[AnyEvent]:
    """End executions that are not wanted any more; their nodes are told until they confirm."""
    first = sorted(xs)[:PLANNED_PER_PASS_MAX]
    return [ExecutionEnded(x=x, to=End.CANCELLED, cause=cause, message=message, owed=True) for x in first]


def _timed_out(job: JobState, total_ns: int) -> JobStateChanged:
    words = f"Job timed out. Job took longer than {format_duration(total_ns)}"
    details = {"IsError": "true", "FailsExecution": "true", "Hint": TIMEOUT_HINT}
    return job_state(job, JobStateType.FAILED, Cause.JOB_TIMEOUT, words, details)


def _fill(context: Context, state: State, job: JobState, tally: Tally, now: int) -> Sequence[AnyEvent]:
    if not tally.vacant:
        settled(context, job)
        return [job_state(job, JobStateType.COMPLETED, Cause.DONE)] if len(tally.done) >= job.count else ()
    gap = gap_of(state, job, now, context.policy, returning=context.returning, limit=PLANNED_PER_PASS_MAX)
    if gap.exhausted is not None and gap.last is not None:
        return [_exhausted(job, gap.exhausted, gap.last)]
    if gap.resting:
        context.timers.arm(gap.rests_until, Reconcile(job.j))
    if gap.wanted:
        return _place(context, state, job, gap, now)
    settled(context, job)
    return ()


def _place(context: Context, state: State, job: JobState, gap: Gap, now: int) -> Sequence[AnyEvent]:
    need = context.need(job)
    before = context.waiting.before(need, place_in_line(job))
    if before is not None:
        if context.fleet.shape(need).open:
            context.woken.append(Reconcile(before))
        return decide_unplaced(context, state, job, gap.wanted, now=now, tried=False)
    made = plan(context, state, job, need, gap.wanted)
    if made.unplaced:
        waits = decide_unplaced(context, state, job, made.unplaced, now=now, tried=True)
        return waits if fails(waits) else [*waits, *made.events]
    settled(context, job)
    if len(state.tallies[job.j].vacant) > len(made.events) + gap.resting:
        context.woken.append(Reconcile(job.j))  # more than one pass may place
    return made.events


def _exhausted(job: JobState, vacancy: Vacancy, last: ExecutionState) -> JobStateChanged:
    message = (
        "Job failed because it has been retried too many times. "
        f"Partition {vacancy.partition} had {vacancy.attempt - 1} tries, the last on node {short_id(last.node)}: "
        f"{last.message}"
    )
    return job_state(job, JobStateType.FAILED, Cause.RETRIES, message, {"IsError": "true"})
