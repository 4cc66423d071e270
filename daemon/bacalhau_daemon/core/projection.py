"""What a stored record changed, for the query side; and what may leave the state with it. Also: a restart.

A restart loads what the query side has as live, then folds the log's tail record by record, each of which goes to the
query side again by the same function.
"""

from __future__ import annotations

from collections.abc import Iterable

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.events import CODEC, AnyEvent
from bacalhau_daemon.core.fold import apply_record
from bacalhau_daemon.core.indexes import (
    forget_execution,
    forget_job,
    put_credential,
    put_execution,
    put_job,
    put_node,
)
from bacalhau_daemon.core.state import (
    ClusterState,
    CredentialState,
    Dirty,
    ExecutionState,
    JobState,
    NodeRecord,
    State,
)
from bacalhau_daemon.log.records import Chain, Record


def project(state: State, record: Record[AnyEvent], data: bytes) -> Project:
    """Return what a record changed, all entities as they are now; take out of the state what is over."""
    dirty, state.dirty = state.dirty, Dirty()
    jobs = {j: state.jobs[j] for j in dirty.jobs}
    executions = {x: state.executions[x] for x in dirty.executions}
    gone_jobs, gone_executions = _sweep(state, jobs, executions)
    return Project(
        record=record,
        data=data,
        cluster=state.cluster_state(),
        jobs=jobs,
        executions=executions,
        nodes={node: state.nodes[node] for node in dirty.nodes},
        credentials={sha256: state.credentials[sha256] for sha256 in dirty.credentials},
        forgotten_jobs=tuple(gone_jobs),
        forgotten_executions=tuple(gone_executions),
    )


def _sweep(
    state: State, jobs: dict[int, JobState], executions: dict[int, ExecutionState]
) -> tuple[list[int], list[int]]:
    gone_jobs: list[int] = []
    gone_executions: list[int] = []
    touched = dict.fromkeys([*jobs, *(execution.j for execution in executions.values())])
    for j in touched:
        job, tally = state.jobs.get(j), state.tallies.get(j)
        if job is not None and tally is not None and job.state.terminal and not tally.live and not tally.old:
            gone_executions += forget_job(state, j)
            gone_jobs.append(j)
    for x, execution in executions.items():
        over = not execution.status.live and not execution.owed
        if over and execution.j not in state.jobs and x in state.executions:
            forget_execution(state, x)
            gone_executions.append(x)
    return gone_jobs, gone_executions


class Restored:
    """A state that is being read back: first what was live, then the log's tail."""

    def __init__(
        self,
        *,
        chain: Chain | None = None,
        cluster: ClusterState | None = None,
        jobs: Iterable[JobState] = (),
        executions: Iterable[ExecutionState] = (),
        nodes: Iterable[NodeRecord] = (),
        credentials: Iterable[CredentialState] = (),
    ) -> None:
        """Take in everything that was live after record `chain.n`; executions in order of creation."""
        self.chain = chain or Chain()
        self.state = state = State()
        cluster = cluster or ClusterState()
        state.cluster, state.term = cluster.cluster, cluster.term
        state.leader, state.leader_since = cluster.leader, cluster.leader_since
        state.event, state.next_j, state.next_x = cluster.event, cluster.next_j, cluster.next_x
        for job in jobs:
            put_job(state, job)
        for execution in executions:
            put_execution(state, execution)
        for node in nodes:
            put_node(state, node)
        for credential in credentials:
            put_credential(state, credential)

    def add(self, data: bytes) -> Project:
        """Fold the next record of the log; return what it changed, for the query side.

        Raises
        ------
        LogDamaged
            when it does not follow on what is known.
        LogTooNew
            when it needs a newer release.
        """
        self.chain = self.chain.verify(data)
        record = CODEC.decode(data)
        apply_record(self.state, record)
        return project(self.state, record, data)
