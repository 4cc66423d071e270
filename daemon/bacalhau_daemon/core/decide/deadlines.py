"""Deadlines of executions and nodes, computed from the state when a timer fires; a timer alone means nothing."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.jobs import TIMEOUT_HINT, timeouts
from bacalhau_daemon.core.events import (
    AnyEvent,
    CancelConfirmed,
    Cause,
    Connection,
    End,
    ExecutionEnded,
    Membership,
    NodeConnectionChanged,
)
from bacalhau_daemon.core.inputs import CheckExecution, CheckNode, Reconcile
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import MINUTE, PLANNED_PER_PASS_MAX, SECOND
from bacalhau_daemon.core.state import ExecutionState, NodeRecord, State, Status
from bacalhau_protocol.models.times import format_duration
from bacalhau_protocol.ncl.messages import is_own

NOTHING: Decision[AnyEvent] = Decision()


class Returned(msgspec.Struct, frozen=True):
    """Answer to a look at a node: it has had its time to report after it came back; tell it what is over."""

    node: str


_RUNNING_PHASES = frozenset({"", "Running"})


def decide_execution_deadline(context: Context, state: State, item: CheckExecution, now: int) -> Decision[AnyEvent]:
    """End an execution whose bid or run takes too long; give up telling a node that never came back."""
    execution = state.executions.get(item.x)
    due = execution_due(context, state, execution) if execution is not None else 0
    if execution is None or not due:
        return NOTHING
    if now < due:
        context.timers.arm(due, item)
        return NOTHING
    if execution.owed:
        return Decision([CancelConfirmed(x=item.x, given_up=True)])
    if execution.status is Status.PLANNED:
        words = (
            f"The node has not answered the request for a bid within {format_duration(context.policy.bid_timeout_ns)}"
        )
        return Decision([_timed_out(execution, Cause.BID_TIMEOUT, words)])
    limit_ns = run_timeout_ns(state, execution)
    words = f"Execution timed out. Execution took longer than {format_duration(limit_ns)}"
    return Decision([_timed_out(execution, Cause.RUN_TIMEOUT, words)])


def execution_due(context: Context, state: State, execution: ExecutionState) -> int:
    """Return when an execution's present deadline passes, 0 when it has none.

    After a change of leader nodes get their time to come back first.
    """
    policy = context.policy
    if execution.owed:
        return execution.ended + policy.owed_kept_ns
    if execution.status is Status.PLANNED:
        return max(execution.created, state.leader_since) + policy.bid_timeout_ns
    limit_ns = run_timeout_ns(state, execution)
    if execution.status is not Status.RUNNING or not limit_ns:
        return 0
    return max(_run_base(context, execution) + limit_ns + policy.run_grace_ns, state.leader_since + MINUTE)


def _run_base(context: Context, execution: ExecutionState) -> int:
    """Return when the time-out began to count: for our own nodes when their program began to run, as they said."""
    heard = context.heard.get(execution.id)
    if heard is None:
        return execution.approved
    if heard.phase.name in _RUNNING_PHASES:
        return max(execution.approved, heard.began)
    return max(execution.approved, heard.at)  # preparing or publishing: the node has limits of its own for these


def run_timeout_ns(state: State, execution: ExecutionState) -> int:
    """Return the execution time-out of a live execution's job, 0: none."""
    job = state.jobs.get(execution.j)
    if job is None:
        return 0
    limits = timeouts(job)
    return (limits.execution or limits.total) * SECOND


def _timed_out(execution: ExecutionState, cause: Cause, words: str) -> ExecutionEnded:
    details = {"IsError": "true", "FailsExecution": "true", "Hint": TIMEOUT_HINT}
    return ExecutionEnded(x=execution.x, to=End.FAILED, cause=cause, message=words, details=details, owed=True)


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def decide_node_deadline(context: Context, state: State, item: CheckNode, now: int) -> Decision[AnyEvent]:
    """Give a node up whose grace is over; end what it was running, so much at a time; end a wait for its reports."""
    node = state.nodes.get(item.node)
    if node is None:
        return NOTHING
    if _return_is_over(context, state, node, now):
        return Decision((), Returned(node.id))
    if node.connection is Connection.LOST or node.membership is Membership.REJECTED:
        return Decision(_lose(state, node))
    due = node_due(context, node)
    if not due:
        return NOTHING
    if now < due:
        context.timers.arm(due, item)
        return NOTHING
    reason = node.reason or f"silent for {format_duration(now - node.since)}"
    return Decision([NodeConnectionChanged(node=node.id, to=Connection.LOST, reason=reason)])


def node_due(context: Context, node: NodeRecord) -> int:
    """Return when a node that is not connected is given up, 0 when it is there or given up already."""
    if node.connection not in (Connection.UNKNOWN, Connection.LEFT):
        return 0
    policy = context.policy
    return node.since + (policy.own_lost_after_ns if is_own(node.info) else policy.foreign_lost_after_ns)


def _lose(state: State, node: NodeRecord) -> list[AnyEvent]:
    rejected = node.membership is Membership.REJECTED
    cause = Cause.NODE_REJECTED if rejected else Cause.NODE_LOST
    words = f"Execution stop requested because node has {'been rejected' if rejected else 'disappeared'}"
    live = list(state.use(node.id).live)[:PLANNED_PER_PASS_MAX]
    return [ExecutionEnded(x=x, to=End.LOST, cause=cause, message=words, owed=True) for x in live]


def _return_is_over(context: Context, state: State, node: NodeRecord, now: int) -> bool:
    until = context.returning.get(node.id)
    if until is None:
        return False
    if now < until:
        context.timers.arm(until, CheckNode(node.id))
        return False
    del context.returning[node.id]
    lost = (state.executions[x] for x in state.use(node.id).owed)
    context.woken += {Reconcile(each.j): None for each in lost if each.status is Status.LOST}
    return True
