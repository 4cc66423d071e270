"""Clients' writes about jobs: submit (also a new version), stop. A refusal is an error and leaves no event."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from bacalhau_daemon.core.answers import decode_first_answer, first_answer
from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.find import by_name, by_ref
from bacalhau_daemon.core.events import AnyEvent, JobStopped, JobSubmitted, Submission
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import COUNT_MAX, JOBS_ACTIVE_MAX, REASON_CHARACTERS_MAX, RECALLED_MAX
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.state import JobState, State
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.models import ids
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.nesting import DEPTH_MAX, too_deep
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_protocol.models.states import JobStateType, JobType
from bacalhau_protocol.models.submission import Prepared, prepare

ALIKE_MAX, ALIKE_BYTES_MAX = 256, 4096  # prepared jobs remembered, and how large
_encode = msgspec.json.Encoder().encode


def repeated(context: Context, request: Request, *kinds: type[api.Body]) -> api.Body | None:
    """Return the first answer when this Request-Id of this user has been carried out before."""
    if not request.id:
        return None
    known: api.Body | None = context.recall.answer((request.user, request.id))
    if known is None and request.found is not None and request.found.answer:
        known = decode_first_answer(request.found.answer)
    if known is not None and not isinstance(known, kinds):
        raise errors.Conflict(
            "this Request-Id has been used for another request", hint="make a new Request-Id for each request"
        )
    return known


def check_deadline(request: Request, now: int) -> None:
    """Refuse what comes too late: whoever asked does not wait any more. `now` lets a client see that clocks differ."""
    if request.deadline and now > request.deadline:
        raise errors.TimedOut("the request's deadline had passed before it was decided; nothing was done", now=now)


# ── submit ────────────────────────────────────────────────────────────────────────────────────────────────────────


def decide_submit(
    context: Context, state: State, request: Request, body: api.JobSubmit, now: int
) -> Decision[AnyEvent]:
    """Accept a job, or a new version of the job that has its name."""
    if not body.dry_run:
        before = repeated(context, request, api.JobSubmitted)
        if before is not None:
            return Decision((), before)
        check_deadline(request, now)
        _check_room(context, state)
    prepared = prepared_job(context, body.job)
    job = prepared.job
    old = by_name(context, state, request, job.namespace, job.name) if body.job.name.strip() else None
    if old is not None:
        job = _as_version_of(old, job, force=body.force)
    if body.dry_run:
        version = old.version + 1 if old is not None else 1
        answer = api.JobSubmitted(
            job_id=job.id, evaluation_id="", version=version, warnings=list(prepared.warnings), job=job
        )
        return Decision((), answer)
    event = JobSubmitted(
        j=old.j if old is not None else state.next_j,
        spec=job,
        kind=Submission.UPDATE if old is not None else Submission.NEW,
        version=old.version + 1 if old is not None else 1,
        revision=old.revision + 1 if old is not None else 1,
        created=old.created if old is not None else 0,
        eval=context.new_id(""),
        warnings=prepared.warnings,
        by=request.user,
        request=request.id,
    )
    return Decision([event], first_answer(event))


def prepared_job(context: Context, job: Job) -> Prepared:
    """Validate and normalise a job, and refuse what this release does not run.

    Raises
    ------
    SpecError
        with every problem at once.
    """
    deep = too_deep(job)
    if deep:
        raise errors.SpecError(f"lists and objects are nested more than {DEPTH_MAX} deep", place=deep)
    prepared = _prepared(context, job)
    kind = prepared.job.type
    if kind != JobType.BATCH:
        raise errors.SpecError(
            f"jobs of type {kind} are not supported by this release yet; batch is", place="Type", hint="Type: batch"
        )
    if (prepared.job.count or 0) > COUNT_MAX:
        raise errors.SpecError(f"Count is {prepared.job.count}, the limit is {COUNT_MAX}", place="Count")
    return prepared


def _prepared(context: Context, job: Job) -> Prepared:
    """Prepare a job, or take what was made of its like: mostly the same job is submitted many times."""
    job_id, key = context.new_id(ids.JOB), _encode(job)
    if job.id or job.name.strip() or len(key) > ALIKE_BYTES_MAX:
        return prepare(job, job_id, defaults=context.policy.defaults)
    alike = context.prepared.get(key)
    if alike is None:
        if len(context.prepared) >= ALIKE_MAX:
            context.prepared.clear()
        alike = context.prepared[key] = prepare(job, job_id, defaults=context.policy.defaults)
    return replace(alike, job=replace(alike.job, id=job_id, name=job_id))


def _check_room(context: Context, state: State) -> None:
    disk = context.disk
    if disk.low:
        raise errors.Unavailable(
            f"no space for new jobs: {disk.path} has {format_bytes(disk.free_bytes)} free, "
            f"{format_bytes(disk.min_free_bytes)} must stay free",
            hint="free some space on the orchestrator's disk; running jobs go on",
            path=disk.path,
            free_bytes=disk.free_bytes,
            min_free_bytes=disk.min_free_bytes,
        )
    if len(context.recall) >= RECALLED_MAX:
        raise errors.Busy("the orchestrator's query side is far behind its log", hint="try again in a moment")
    if len(state.jobs) >= JOBS_ACTIVE_MAX:
        raise errors.Busy(f"{JOBS_ACTIVE_MAX} jobs are active already", hint="try again when some have ended")


def _as_version_of(old: JobState, job: Job, *, force: bool) -> Job:
    """Return the job under the existing one's id. Refuses what changes nothing, or cannot change."""
    job = replace(job, id=old.id)
    if job.type != old.spec.type:
        raise errors.SpecError(
            f"job {old.name!r} has type {old.spec.type}, which cannot change to {job.type}",
            place="Type",
            hint="submit it under another name",
        )
    if job == old.spec and not force:
        raise errors.Conflict(
            f"no changes detected for new job spec. Job Name: '{old.name}', Job Id: '{old.id}'",
            hint="Use the --force flag to override this warning",
        )
    return job


# ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def decide_stop(context: Context, state: State, request: Request, body: api.JobRef, now: int) -> Decision[AnyEvent]:
    """Stop a job. One that is stopped already stays so, with its first reason."""
    before = repeated(context, request, api.StopAnswer)
    if before is not None:
        return Decision((), before)
    check_deadline(request, now)
    job = by_ref(context, state, request, body.namespace or ids.NAMESPACE_DEFAULT, body.job)
    match job.state:
        case JobStateType.STOPPED:
            return Decision((), api.StopAnswer(job_id=job.id, evaluation_id=""))
        case JobStateType.COMPLETED:
            raise errors.Conflict(f"cannot stop job in state {job.state}", place=job.id)
        case JobStateType.FAILED:
            words = f"job {job.id} is in terminal state {job.state} and cannot transition to Stopped"
            raise errors.Conflict(words, place=job.id)
        case _:
            pass
    event = JobStopped(
        j=job.j,
        id=job.id,
        version=job.version,
        reason=body.reason[:REASON_CHARACTERS_MAX],
        eval=context.new_id(""),
        by=request.user,
        request=request.id,
    )
    return Decision([event], first_answer(event))
