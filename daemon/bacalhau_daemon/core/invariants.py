"""What must hold of the state after every event, as code. Tests and the simulator call `check`; it looks at everything.

* A partition has at most one live execution; a job never more live ones than its count, old versions apart.
* An execution has one end: only a lost one may change once more, and then nothing had replaced it.
* No node is given more than it has, unless it has shrunk since.
* A finished job has an end, one that is not has none; a waiting one says since when.
* Every index says exactly what the entities say.
"""

from __future__ import annotations

from collections import Counter

from bacalhau_daemon.core.indexes import put_credential, put_execution, put_job, put_node
from bacalhau_daemon.core.scheduling.slot import amounts
from bacalhau_daemon.core.state import ExecutionState, JobState, NodeUse, State, Status, Tally


class Broken(AssertionError):
    """An invariant does not hold."""


def check(state: State) -> None:
    """Raise `Broken` with every invariant that does not hold."""
    wrong = [
        *(words for job in state.jobs.values() for words in _job(state, job)),
        *(words for execution in state.executions.values() for words in _execution(state, execution)),
        *_capacity(state),
        *_indexes(state),
    ]
    if wrong:
        raise Broken("; ".join(wrong))


def _job(state: State, job: JobState) -> list[str]:
    wrong = []
    tally = state.tallies[job.j]
    live = [state.executions[x] for x in tally.xs if state.executions[x].status.live]
    current = Counter(each.partition for each in live if each.job_version == job.version)
    wrong += [f"{job.id} runs partition {partition} {n} times" for partition, n in current.items() if n > 1]
    wrong += [f"{job.id} has partition {partition} of {job.count}" for partition in current if partition >= job.count]
    if sum(current.values()) > job.count:
        wrong.append(f"{job.id} has {sum(current.values())} live executions, its count is {job.count}")
    if job.state.terminal != bool(job.ended):
        wrong.append(f"{job.id} is {job.state}, and its end is {job.ended}")
    if (job.running, job.completed, job.failed) != (len(tally.live), len(tally.done), tally.failed):
        wrong.append(f"{job.id} counts {job.running}, {job.completed}, {job.failed} executions wrongly")
    both = tally.done.keys() & current.keys()
    wrong += [f"{job.id} runs partition {partition} although it is done" for partition in both]
    if job.unplaced is not None and not job.queued:
        wrong.append(f"{job.id} waits since never")
    return wrong


def _execution(state: State, execution: ExecutionState) -> list[str]:
    wrong = []
    if execution.status.live and execution.ended:
        wrong.append(f"{execution.id} is {execution.status} and has ended")
    if not execution.status.live and not execution.ended:
        wrong.append(f"{execution.id} is {execution.status} and has no end")
    if execution.status.live and execution.owed:
        wrong.append(f"{execution.id} is live, and its end is owed")
    if execution.status is Status.COMPLETED and execution.j in state.jobs:
        job, tally = state.jobs[execution.j], state.tallies[execution.j]
        current = execution.job_version == job.version
        if current and tally.done.get(execution.partition) != execution.x:
            wrong.append(f"partition {execution.partition} of {job.id} was completed twice")
    if execution.status.live and execution.j not in state.jobs:
        wrong.append(f"{execution.id} is live, but its job is gone")
    if execution.x >= state.next_x or execution.j >= state.next_j:
        wrong.append(f"{execution.id} has an integer that would be given again")
    return wrong


def _capacity(state: State) -> list[str]:
    wrong = []
    for name, use in state.uses.items():
        node = state.nodes.get(name)
        if node is None:
            wrong.append(f"{name} has executions, but is not known")
            continue
        most = amounts(node.info.compute_node_info.max_capacity)
        live = [amounts(state.executions[x].resources) for x in use.live]
        given = tuple(map(sum, zip(*live, strict=True))) if live else (0, 0, 0, 0)
        if any(ours > all_of_it for ours, all_of_it in zip(given, most, strict=True)):
            wrong.append(f"{name} was given {given}, it has {most}")
    return wrong


def _indexes(state: State) -> list[str]:
    """Build the indexes anew from the entities and compare."""
    fresh = State()
    for job in state.jobs.values():
        put_job(fresh, job)
    for x in sorted(state.executions):
        put_execution(fresh, state.executions[x])
    for node in state.nodes.values():
        put_node(fresh, node)
    for credential in state.credentials.values():
        put_credential(fresh, credential)
    wrong = [
        f"index {name} differs"
        for name in ("job_ids", "job_names", "execution_ids", "identities")
        if getattr(fresh, name) != getattr(state, name)
    ]
    if fresh.tallies.keys() != state.tallies.keys():
        wrong.append("index tallies has other jobs")
    wrong += [
        f"tally of job {j} differs: {_tally(state.tallies[j])}, not {_tally(tally)}"
        for j, tally in fresh.tallies.items()
        if j in state.tallies and _tally(tally) != _tally(state.tallies[j])
    ]
    if {node: _use(use) for node, use in fresh.uses.items()} != {node: _use(use) for node, use in state.uses.items()}:
        wrong.append("index uses differs")
    return wrong


def _tally(tally: Tally) -> tuple[object, ...]:
    tries = {partition: sorted(xs) for partition, xs in tally.tries.items()}
    return tally.live, tally.done, tries, tally.failed, set(tally.vacant), tally.old, tally.xs


def _use(use: NodeUse) -> tuple[object, ...]:
    return set(use.live), set(use.owed), use.cpu, use.memory, use.disk, use.gpu
