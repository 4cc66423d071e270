"""Which job a request means: the state first, then what has just left it, then what the query side found."""

from __future__ import annotations

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.state import JobState, State
from bacalhau_protocol import errors
from bacalhau_protocol.models import ids


def by_name(context: Context, state: State, request: Request, namespace: str, name: str) -> JobState | None:
    """Return the newest version of the job with exactly this name, in any state."""
    j = state.job_names.get((namespace, name)) or context.recall.names.get((namespace, name))
    if j is not None:
        return _newest(context, state, j)
    found = request.found.job if request.found is not None else None
    if found is None or (found.namespace, found.name) != (namespace, name):
        return None
    return _newest(context, state, found.j) or found


def by_ref(context: Context, state: State, request: Request, namespace: str, ref: str) -> JobState:
    """Return the job that a name, an id or the start of an id means.

    Raises
    ------
    NotFound
        when there is none.
    UsageError
        when it is the start of several.
    """
    j = state.job_names.get((namespace, ref)) or context.recall.names.get((namespace, ref))
    j = j or state.job_ids.get(ref) or context.recall.ids.get(ref)
    if j is not None:
        job = _newest(context, state, j)
        assert job is not None, "an index names what is there"
        return job
    found = request.found
    fresh = [] if ids.is_full(ref, ids.JOB) or not ref.startswith(ids.JOB) else _fresh(context, state, ref)
    several = sorted({*(found.several if found is not None else ()), *fresh})
    if found is not None and found.job is not None:
        several = sorted({*several, found.job.id})
    if len(several) > 1:
        raise errors.UsageError(
            f"multiple jobs found for id {ref}: {', '.join(map(ids.short_id, several[:5]))}", hint="Use full job ID"
        )
    if fresh:
        return by_ref(context, state, request, namespace, fresh[0])
    if found is None or found.job is None:
        raise errors.NotFound(f"job not found: {ref}", hint="bacalhau-tui job list shows jobs")
    return _newest(context, state, found.job.j) or found.job


def _newest(context: Context, state: State, j: int) -> JobState | None:
    return state.jobs.get(j) or context.recall.jobs.get(j)


def _fresh(context: Context, state: State, ref: str) -> list[str]:
    """Return ids that begin so, of jobs that the query side may not have yet. Rare: only for a shortened id."""
    return [full for known in (state.job_ids, context.recall.ids) for full in known if full.startswith(ref)]
