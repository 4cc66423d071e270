"""Fold: the only way in which the state changes. Total, and from nothing but the event and what it names.

Every transition goes through the tables of `lifecycle`. `apply_record` is what a restart does with the log; the loop
calls `fold` for its own events. Both know which record is too old to count: one of a term below the state's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.events import AnyEvent, Cause, Connection, End, Submission
from bacalhau_daemon.core.indexes import put_credential, put_execution, put_job, put_node
from bacalhau_daemon.core.lifecycle import (
    EXECUTION,
    JOB,
    MEMBERSHIP,
    MOVE_OF_END,
    MOVE_TO_CONNECTION,
    MOVE_TO_JOB,
    MOVE_TO_MEMBERSHIP,
    NODE,
    ExecutionMove,
    JobMove,
    MemberMove,
    NodeMove,
    advance,
)
from bacalhau_daemon.core.state import CredentialState, ExecutionState, JobState, NodeRecord, State
from bacalhau_daemon.log.records import Record
from bacalhau_protocol.models.states import JobStateType

Handler = Callable[[State, Any, int, int], None]

_UPDATED = {
    Submission.NEW: "",
    Submission.UPDATE: "Job update requested by user",
    Submission.RERUN: "job rerun",
}
_DESIRED = {
    End.COMPLETED: "execution completed",
    End.FAILED: "execution failed",
    End.REFUSED: "bid rejected",
    End.CANCELLED: "",
    End.LOST: "",
}


def fold(state: State, event: AnyEvent, n: int, at: int) -> None:
    """Change the state by event number `n`, of a record made at `at`."""
    _HANDLERS[type(event)](state, event, n, at)
    state.event = n


def apply_record(state: State, record: Record[AnyEvent]) -> None:
    """Fold a record of the log, unless a newer leader had started before it was written."""
    if record.term < state.term:
        state.event = record.last_event
        return
    for n, event in enumerate(record.events, record.first_event):
        fold(state, event, n, record.at)


# ── cluster and credentials ───────────────────────────────────────────────────────────────────────────────────────


def _cluster_created(state: State, event: ev.ClusterCreated, n: int, at: int) -> None:
    assert not state.cluster, "a cluster is created once"
    state.cluster = event.cluster


def _leader_started(state: State, event: ev.LeaderStarted, n: int, at: int) -> None:
    """Nodes are silent until they shake hands with this leader; from now on they have their whole grace."""
    state.term, state.leader, state.leader_since = event.term, event.node, at
    for node in list(state.nodes.values()):
        if node.connection is Connection.CONNECTED or node.connection is Connection.UNKNOWN:
            put_node(state, replace(node, connection=Connection.UNKNOWN, reason="orchestrator started", since=at))
            state.dirty.nodes[node.id] = n


def _credential_issued(state: State, event: ev.CredentialIssued, n: int, at: int) -> None:
    put_credential(
        state,
        CredentialState(
            sha256=event.sha256,
            identity=event.identity,
            role=event.role,
            created=at,
            expires=event.expires,
            invite=event.invite,
            foreign=event.foreign,
            by=event.by,
        ),
    )
    state.dirty.credentials[event.sha256] = n


def _credential_revoked(state: State, event: ev.CredentialRevoked, n: int, at: int) -> None:
    for sha256 in state.identities.get(event.identity, ()):
        put_credential(state, replace(state.credentials[sha256], revoked=True))
        state.dirty.credentials[sha256] = n


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _job_submitted(state: State, event: ev.JobSubmitted, n: int, at: int) -> None:
    old, spec = state.jobs.get(event.j), event.spec
    job = JobState(
        j=event.j,
        id=spec.id,
        name=spec.name,
        namespace=spec.namespace,
        spec=spec,
        version=event.version,
        revision=event.revision,
        state=advance(JOB, old.state if old else None, JobMove.SUBMIT, spec.id),
        message=_UPDATED[event.kind],
        created=event.created or at,
        submitted=at,
        modified=at,
        eval=event.eval,
        by=event.by,
        request=event.request,
    )
    put_job(state, job)
    state.next_j = max(state.next_j, event.j + 1)
    state.dirty.jobs[event.j] = n


def _job_stopped(state: State, event: ev.JobStopped, n: int, at: int) -> None:
    job = state.jobs[event.j]
    _set_job(
        state,
        n,
        replace(
            job,
            state=advance(JOB, job.state, JobMove.STOP, job.id),
            message=event.reason,
            details={},
            eval=event.eval,
            queued=0,
            unplaced=None,
            ended=at,
            modified=at,
        ),
    )


def _job_state_changed(state: State, event: ev.JobStateChanged, n: int, at: int) -> None:
    job = state.jobs[event.j]
    new = advance(JOB, job.state, MOVE_TO_JOB[event.to], job.id)
    ended = at if new.terminal else 0
    waits = new is JobStateType.QUEUED
    _set_job(
        state,
        n,
        replace(
            job,
            state=new,
            message=event.message,
            details=event.details,
            queued=0 if new.terminal else job.queued,
            unplaced=job.unplaced if waits or not new.terminal else None,
            ended=ended,
            modified=at,
        ),
    )


def _job_unplaced(state: State, event: ev.JobUnplaced, n: int, at: int) -> None:
    job = state.jobs[event.j]
    _set_job(state, n, replace(job, queued=job.queued or at, unplaced=event.why, modified=at))


def _set_job(state: State, n: int, job: JobState) -> None:
    put_job(state, replace(job, revision=job.revision + 1))
    state.dirty.jobs[job.j] = n


# ── executions ────────────────────────────────────────────────────────────────────────────────────────────────────


def _execution_planned(state: State, event: ev.ExecutionPlanned, n: int, at: int) -> None:
    job = state.jobs[event.j]
    before = state.executions.get(event.x - 1)
    execution = ExecutionState(
        x=event.x,
        id=event.id,
        j=job.j,
        job_id=job.id,
        namespace=job.namespace,
        job_version=event.version,
        node=event.node,
        partition=event.partition,
        attempt=event.attempt,
        resources=event.resources,
        status=advance(EXECUTION, None, ExecutionMove.PLAN, event.id),
        created=at,
        modified=at,
        why=event.why or (before.why if before is not None else None),
        eval=job.eval,
    )
    state.next_x = max(state.next_x, event.x + 1)
    _set_execution(state, n, at, execution)


def _bid_approved(state: State, event: ev.BidApproved, n: int, at: int) -> None:
    execution = state.executions[event.x]
    new = replace(
        execution,
        status=advance(EXECUTION, execution.status, ExecutionMove.APPROVE, execution.id),
        message="Running",
        desired_message="",
        details={},
        approved=execution.approved or at,
        ended=0,
        owed=False,
        revision=execution.revision + 1,
        modified=at,
    )
    _set_execution(state, n, at, new)


def _execution_ended(state: State, event: ev.ExecutionEnded, n: int, at: int) -> None:
    execution = state.executions[event.x]
    reported = event.cause is Cause.REPORTED
    new = replace(
        execution,
        status=advance(EXECUTION, execution.status, MOVE_OF_END[event.to], execution.id),
        message=event.message or execution.message,
        desired_message=_DESIRED[event.to] if reported else event.message,
        details=event.details,
        ended=at,
        owed=event.owed,
        result=event.result,
        output=event.output,
        revision=execution.revision + 1,
        modified=at,
    )
    _set_execution(state, n, at, new)


def _cancel_confirmed(state: State, event: ev.CancelConfirmed, n: int, at: int) -> None:
    execution = state.executions[event.x]
    put_execution(state, replace(execution, owed=False))
    state.dirty.executions[event.x] = n


def _set_execution(state: State, n: int, at: int, execution: ExecutionState) -> None:
    """Put an execution, and count it in its job's row."""
    put_execution(state, execution)
    state.dirty.executions[execution.x] = n
    job, tally = state.jobs.get(execution.j), state.tallies.get(execution.j)
    if job is None or tally is None or job.version != execution.job_version:
        return
    waits = job.queued and bool(tally.vacant)
    put_job(
        state,
        replace(
            job,
            running=len(tally.live),
            completed=len(tally.done),
            failed=tally.failed,
            queued=job.queued if waits else 0,
            unplaced=job.unplaced if waits else None,
            modified=at,
        ),
    )
    state.dirty.jobs[job.j] = n


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _node_joined(state: State, event: ev.NodeJoined, n: int, at: int) -> None:
    joined = advance(MEMBERSHIP, None, MemberMove.JOIN, event.node)
    node = NodeRecord(
        id=event.node,
        info=event.info,
        membership=joined if event.membership is joined else event.membership,
        connection=advance(NODE, None, NodeMove.CONNECT, event.node),
        joined=at,
        since=at,
        modified=at,
    )
    _set_node(state, n, node)
    _use_invites(state, n, event.node)


def _use_invites(state: State, n: int, identity: str) -> None:
    for sha256 in state.identities.get(identity, ()):
        credential = state.credentials[sha256]
        if credential.invite and not credential.used and not credential.revoked:
            put_credential(state, replace(credential, used=True))
            state.dirty.credentials[sha256] = n


def _node_info_changed(state: State, event: ev.NodeInfoChanged, n: int, at: int) -> None:
    _set_node(state, n, replace(state.nodes[event.node], info=event.info, modified=at))


def _node_connection_changed(state: State, event: ev.NodeConnectionChanged, n: int, at: int) -> None:
    node = state.nodes[event.node]
    new = advance(NODE, node.connection, MOVE_TO_CONNECTION[event.to], node.id)
    _set_node(state, n, replace(node, connection=new, reason=event.reason, since=at, modified=at))
    if new is Connection.CONNECTED:
        _use_invites(state, n, event.node)


def _node_membership_changed(state: State, event: ev.NodeMembershipChanged, n: int, at: int) -> None:
    node = state.nodes[event.node]
    new = advance(MEMBERSHIP, node.membership, MOVE_TO_MEMBERSHIP[event.to], node.id)
    _set_node(state, n, replace(node, membership=new, modified=at))


def _set_node(state: State, n: int, node: NodeRecord) -> None:
    put_node(state, node)
    state.dirty.nodes[node.id] = n


_HANDLERS: dict[type, Handler] = {
    ev.ClusterCreated: _cluster_created,
    ev.LeaderStarted: _leader_started,
    ev.CredentialIssued: _credential_issued,
    ev.CredentialRevoked: _credential_revoked,
    ev.JobSubmitted: _job_submitted,
    ev.JobStopped: _job_stopped,
    ev.JobStateChanged: _job_state_changed,
    ev.JobUnplaced: _job_unplaced,
    ev.ExecutionPlanned: _execution_planned,
    ev.BidApproved: _bid_approved,
    ev.ExecutionEnded: _execution_ended,
    ev.CancelConfirmed: _cancel_confirmed,
    ev.NodeJoined: _node_joined,
    ev.NodeInfoChanged: _node_info_changed,
    ev.NodeConnectionChanged: _node_connection_changed,
    ev.NodeMembershipChanged: _node_membership_changed,
}
