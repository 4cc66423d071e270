"""Puts entities into the state and keeps its indexes; takes out what is over. Used by `fold` and by a restart only."""

from __future__ import annotations

from bacalhau_daemon.core.state import (
    CredentialState,
    ExecutionState,
    JobState,
    NodeRecord,
    NodeUse,
    State,
    Status,
    Tally,
)

_TRIED = frozenset({Status.FAILED, Status.REFUSED, Status.LOST})


def put_job(state: State, job: JobState) -> None:
    """Put a job in its place. A new version gets a new tally, in which the live executions are old ones."""
    old = state.jobs.get(job.j)
    state.jobs[job.j] = job
    if old is None or old.version != job.version:
        _new_version(state, job)


def _new_version(state: State, job: JobState) -> None:
    state.job_ids[job.id] = job.j
    state.job_names[job.namespace, job.name] = job.j
    before = state.tallies.get(job.j)
    tally = state.tallies[job.j] = Tally(job.count)
    if before is not None:
        tally.xs = before.xs
        tally.old = before.old | set(before.live.values())


def put_execution(state: State, new: ExecutionState) -> None:
    """Put an execution in its place."""
    old = state.executions.get(new.x)
    state.executions[new.x] = new
    state.execution_ids[new.id] = new.x
    if old is None or old.status is not new.status or old.owed is not new.owed:
        _use(state, old, new)
        tally = state.tallies.get(new.j)
        if tally is not None:
            _tally(state, tally, old, new)


def _use(state: State, old: ExecutionState | None, new: ExecutionState) -> None:
    live, owed = new.status.live, new.owed
    was_live, was_owed = (old.status.live, old.owed) if old is not None else (False, False)
    if live == was_live and owed == was_owed:
        return
    had, has = was_live or was_owed, live or owed
    use = state.uses.get(new.node)
    if use is None:
        use = state.uses[new.node] = NodeUse()
    if had != has:
        sign, given = (1 if has else -1), new.resources
        use.cpu += sign * round(given.cpu * 1000)
        use.memory += sign * given.memory
        use.disk += sign * given.disk
        use.gpu += sign * given.gpu
    for x_set, belongs in ((use.live, live), (use.owed, owed)):
        if belongs:
            x_set[new.x] = None
        else:
            x_set.pop(new.x, None)
    if not has and not use.live and not use.owed:
        del state.uses[new.node]


def _tally(state: State, tally: Tally, old: ExecutionState | None, new: ExecutionState) -> None:
    tally.xs.add(new.x)
    if new.job_version != state.jobs[new.j].version:
        if new.status.live:
            tally.old.add(new.x)
        else:
            tally.old.discard(new.x)
        return
    partition, x = new.partition, new.x
    if old is not None:
        _untally(tally, old)
    if new.status.live:
        tally.live[partition] = x
    elif new.status is Status.COMPLETED:
        tally.done[partition] = x
    elif new.status in _TRIED:
        tally.tries.setdefault(partition, []).append(x)
        tally.failed += 1
    if partition in tally.live or partition in tally.done:
        tally.vacant.pop(partition, None)
    else:
        tally.vacant[partition] = None


def _untally(tally: Tally, old: ExecutionState) -> None:
    if old.status.live and tally.live.get(old.partition) == old.x:
        del tally.live[old.partition]
    elif old.status in _TRIED:
        tries = tally.tries[old.partition]
        tries.remove(old.x)
        tally.failed -= 1
        if not tries:
            del tally.tries[old.partition]


def put_node(state: State, node: NodeRecord) -> None:
    """Put a node in its place."""
    state.nodes[node.id] = node


def put_credential(state: State, credential: CredentialState) -> None:
    """Put a credential in its place."""
    state.credentials[credential.sha256] = credential
    state.identities.setdefault(credential.identity, {})[credential.sha256] = None


def forget_job(state: State, j: int) -> list[int]:
    """Take a finished job out, with its executions but for the owed ones; return the x of those that went."""
    job = state.jobs.pop(j)
    assert job.state.terminal, "only a finished job leaves"
    del state.job_ids[job.id]
    if state.job_names.get((job.namespace, job.name)) == j:
        del state.job_names[job.namespace, job.name]
    tally = state.tallies.pop(j)
    gone = []
    for x in tally.xs:
        execution = state.executions[x]
        assert not execution.status.live, "a finished job has no live execution when it leaves"
        if not execution.owed:
            forget_execution(state, x)
            gone.append(x)
    return sorted(gone)


def forget_execution(state: State, x: int) -> None:
    """Take an execution out that is over and not owed, of a job that has left."""
    execution = state.executions.pop(x)
    del state.execution_ids[execution.id]


def forget_credential(state: State, sha256: str) -> None:
    """Take a credential out."""
    credential = state.credentials.pop(sha256)
    ring = state.identities[credential.identity]
    del ring[sha256]
    if not ring:
        del state.identities[credential.identity]
