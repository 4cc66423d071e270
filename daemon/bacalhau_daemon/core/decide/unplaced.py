"""What becomes of a job that no node can take now: it waits in its line, or fails with the reason.

It fails at once only when waiting is pointless *and* it did not ask to be queued: no node that the cluster knows could
ever take it as it is. A job that did ask (`QueueTimeout`) waits that long for a node to join. Busy, silent or absent
nodes are worth waiting for: the job is Queued, and looked at again when something changes, not by polling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.events import AnyEvent, Cause, JobStateChanged, JobUnplaced
from bacalhau_daemon.core.inputs import Reconcile
from bacalhau_daemon.core.policy import REASON_CHARACTERS_MAX, SECOND
from bacalhau_daemon.core.scheduling.explain import Unplaced, is_hopeless
from bacalhau_daemon.core.scheduling.reconcile import Vacancy
from bacalhau_daemon.core.state import JobState, State
from bacalhau_protocol.models.job import TimeoutConfig
from bacalhau_protocol.models.states import JobStateType


def decide_unplaced(
    context: Context, state: State, job: JobState, vacancies: Sequence[Vacancy], *, now: int, tried: bool
) -> Sequence[AnyEvent]:
    """Decide for partitions that found no room, or (not `tried`) whose job must let others go first.

    When the first event fails the job, nothing else of the pass counts.
    """
    need, queue_ns = context.need(job), _queue_ns(job)
    hopeless = [vacancy for vacancy in vacancies if is_hopeless(context.fleet, need, vacancy.history)]
    over = bool(job.queued and queue_ns and now >= job.queued + queue_ns)
    if over or (hopeless and not queue_ns):
        settled(context, job)
        return [_failed(job, _explain(context, job, hopeless or vacancies, now))]
    since = context.waits_since.setdefault(job.j, now)
    _stand_in_line(context, job, tried=tried)
    for due in _dues(context, job, vacancies, since):
        if due > now:
            context.timers.arm(due, Reconcile(job.j))
    if job.unplaced is None and (hopeless or now >= since + context.policy.settle_ns):
        return _record(state, job, _explain(context, job, vacancies, now), len(vacancies))
    if job.unplaced is not None and not state.tallies[job.j].live and job.state is not JobStateType.QUEUED:
        return [_queued(job, _explain(context, job, vacancies, now))]
    return ()


def _queue_ns(job: JobState) -> int:
    return (job.spec.task.timeouts or TimeoutConfig()).queue * SECOND


def _stand_in_line(context: Context, job: JobState, *, tried: bool) -> None:
    """Wait. A job that was tried although some nodes have room lets the next one try those."""
    need = context.need(job)
    blocked = tried and bool(context.fleet.shape(need).open)
    context.waiting.add(job.j, need, place_in_line(job), blocked=blocked)
    following = context.waiting.next(need) if blocked else None
    if following is not None:
        context.woken.append(Reconcile(following))


def _dues(context: Context, job: JobState, vacancies: Sequence[Vacancy], since: int) -> Iterator[int]:
    """Yield when to look again: to call it Queued, to end its wait, to ask a node that has refused once more."""
    if job.unplaced is None:
        yield since + context.policy.settle_ns
    if job.queued and _queue_ns(job):
        yield job.queued + _queue_ns(job)
    yield from sorted(vacancy.history_until for vacancy in vacancies if vacancy.history_until)[:1]


def _explain(context: Context, job: JobState, vacancies: Sequence[Vacancy], now: int) -> Unplaced:
    return context.unplaced(context.need(job), len(vacancies), vacancies[0].history, now)


def _record(state: State, job: JobState, why: Unplaced, partitions: int) -> Sequence[AnyEvent]:
    message = why.message[:REASON_CHARACTERS_MAX]
    event = JobUnplaced(j=job.j, version=job.version, partitions=partitions, why=why.why, message=message)
    if state.tallies[job.j].live or job.state is JobStateType.QUEUED:
        return [event]
    return [event, _queued(job, why)]


def _queued(job: JobState, why: Unplaced) -> JobStateChanged:
    return job_state(job, JobStateType.QUEUED, Cause.NO_NODE, f"Job queued. {why.message}", why.details)


def _failed(job: JobState, why: Unplaced) -> JobStateChanged:
    return job_state(job, JobStateType.FAILED, Cause.NO_NODE, why.message, {"IsError": "true", **why.details})


def job_state(
    job: JobState, to: JobStateType, cause: Cause, message: str = "", details: dict[str, str] | None = None
) -> JobStateChanged:
    """Return the event of a job's change of state."""
    return JobStateChanged(
        j=job.j, version=job.version, to=to, cause=cause, message=message[:REASON_CHARACTERS_MAX], details=details or {}
    )


def fails(events: Sequence[AnyEvent]) -> bool:
    """Whether the first of these events fails its job."""
    return bool(events) and isinstance(events[0], JobStateChanged) and events[0].to is JobStateType.FAILED


def place_in_line(job: JobState) -> tuple[int, int, int]:
    """Return where the job stands among those with the same needs: by priority, then by age."""
    return (-job.spec.priority, job.submitted, job.j)


def settled(context: Context, job: JobState) -> None:
    """Note that the job waits for no node now."""
    context.waiting.remove(job.j)
    context.waits_since.pop(job.j, None)
