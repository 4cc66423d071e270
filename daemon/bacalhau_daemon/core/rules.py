"""The orchestrator's vocabulary for the loop: which decision an input needs, and what events call for next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.answers import first_answer
from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide import credentials, deadlines, leading, nodes, reports, submissions
from bacalhau_daemon.core.decide.jobs import decide_reconcile, timeouts
from bacalhau_daemon.core.events import AnyEvent, Connection
from bacalhau_daemon.core.fold import fold
from bacalhau_daemon.core.inputs import (
    CheckExecution,
    CheckNode,
    Confirmed,
    ConnectionChange,
    Handshake,
    InfoChange,
    Inventory,
    Item,
    Lead,
    Reconcile,
    Reported,
    Undeliverable,
)
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import SECOND
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.scheduling.fleet import Fleet
from bacalhau_daemon.core.state import State
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api


class OrchestratorRules:
    """See `loop.Rules`. Holds the context, which is soft; `rebuild` makes it fit a state that was loaded."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def answerable(self, item: Item) -> bool:
        """Whether a client waits."""
        return isinstance(item, Request)

    def fold(self, state: State, event: AnyEvent, n: int, at: int) -> None:
        """Change the state."""
        fold(state, event, n, at)

    def decide(self, state: State, item: Item, now: int) -> Decision[AnyEvent]:
        """Decide one input."""
        return _DECIDERS[type(item)](self.context, state, item, now)

    # ── what follows ──────────────────────────────────────────────────────────────────────────────────────────────

    def follow(self, state: State, events: Sequence[AnyEvent]) -> Iterable[Item]:
        """Bring the soft indexes up to date, arm timers, and return whom to look at."""
        context = self.context
        found: list[Item] = []
        first = state.event - len(events) + 1
        for n, event in enumerate(events, first):
            kind = type(event)
            if kind in _ABOUT_EXECUTIONS:
                self._follow_execution(state, event, found)
            elif kind in _ABOUT_JOBS:
                self._follow_job(state, event, found)
            elif kind in _ABOUT_NODES:
                self._follow_node(state, event.node, found)  # type: ignore[union-attr]
            elif kind is ev.LeaderStarted:
                found += self.rebuild(state)
            if kind in _ANSWERS and event.request:  # type: ignore[union-attr]
                answer = first_answer(event)
                assert answer is not None, "an event with a request answers it"
                context.recall.keep_answer(n, (event.by, event.request), answer)  # type: ignore[union-attr]
        if context.woken:
            found += context.woken
            context.woken = []
        return found

    def _follow_execution(self, state: State, event: AnyEvent, found: list[Item]) -> None:
        context = self.context
        execution = state.executions[event.x]  # type: ignore[union-attr]
        due = deadlines.execution_due(context, state, execution)
        if due:
            context.timers.arm(due, CheckExecution(execution.x))
        match event:
            case ev.ExecutionPlanned():
                context.fleet.touch(execution.node, state.use(execution.node))
                need = context.need(state.jobs[execution.j])
                following = context.waiting.next(need)
                if following is not None and following != execution.j and context.fleet.shape(need).open:
                    found.append(Reconcile(following))
            case ev.ExecutionEnded():
                context.heard.pop(execution.id, None)
                context.fleet.touch(execution.node, state.use(execution.node))
                if _needs_a_look(state, execution.j):
                    found.append(Reconcile(execution.j))
                found += self.wake_for(execution.node)
            case ev.CancelConfirmed():
                context.fleet.touch(execution.node, state.use(execution.node))
                found += self.wake_for(execution.node)
            case _:
                pass

    def wake_for(self, node: str) -> Iterable[Reconcile]:
        """Return the jobs to look at because something has become free on a node."""
        context = self.context
        if not len(context.waiting):
            return ()
        return map(Reconcile, context.waiting.for_slot(context.fleet.by_id[node]))

    def _follow_job(self, state: State, event: AnyEvent, found: list[Item]) -> None:
        context = self.context
        job = state.jobs[event.j]  # type: ignore[union-attr]
        if job.state.terminal:
            context.forget_job(job.j)
            if not _needs_a_look(state, job.j):
                return
        elif isinstance(event, ev.JobSubmitted):
            context.forget_job(job.j)  # what an earlier version waited for
            total_s = timeouts(job).total
            if total_s:
                context.timers.arm(job.submitted + total_s * SECOND, Reconcile(job.j))
        elif isinstance(event, ev.JobStateChanged):
            return
        found.append(Reconcile(job.j))

    def _follow_node(self, state: State, name: str, found: list[Item]) -> None:
        context = self.context
        node = state.nodes[name]
        context.fleet.refresh(node, state.use(name))
        context.forget_explanations()
        due = deadlines.node_due(context, node)
        if due:
            context.timers.arm(due, CheckNode(name))
        if node.connection is Connection.LOST or node.membership is ev.Membership.REJECTED:
            found.append(CheckNode(name))
        else:
            found += self.wake_for(name)

    def prune(self, state: State) -> None:
        """Drop timers of what is over."""

        def lives(item: Reconcile | CheckExecution | CheckNode) -> bool:
            match item:
                case CheckExecution():
                    return item.x in state.executions
                case Reconcile():
                    return item.j in state.jobs
                case CheckNode():
                    return True

        self.context.timers.prune(lives)

    def rebuild(self, state: State) -> list[Reconcile | CheckNode]:
        """Make indexes and timers anew from a state; return what to look at, which is everything once.

        A new leader does this: nothing that waits was written down anywhere but in the state.
        """
        context = self.context
        context.reset(Fleet.of(state))
        for execution in state.executions.values():
            due = deadlines.execution_due(context, state, execution)
            if due:
                context.timers.arm(due, CheckExecution(execution.x))
        for job in state.jobs.values():
            total_s = timeouts(job).total
            if total_s and not job.state.terminal:
                context.timers.arm(job.submitted + total_s * SECOND, Reconcile(job.j))
        return [*map(CheckNode, state.nodes), *map(Reconcile, state.jobs)]


_ABOUT_EXECUTIONS = frozenset({ev.ExecutionPlanned, ev.BidApproved, ev.ExecutionEnded, ev.CancelConfirmed})
_ABOUT_JOBS = frozenset({ev.JobSubmitted, ev.JobStopped, ev.JobStateChanged, ev.JobUnplaced})
_ABOUT_NODES = frozenset({ev.NodeJoined, ev.NodeInfoChanged, ev.NodeConnectionChanged, ev.NodeMembershipChanged})
_ANSWERS = frozenset({ev.JobSubmitted, ev.JobStopped, ev.CredentialIssued, ev.CredentialRevoked})


def _needs_a_look(state: State, j: int) -> bool:
    """Whether a job still has anything to be decided about: not when it is over and nothing of it runs."""
    job, tally = state.jobs.get(j), state.tallies.get(j)
    if job is None or tally is None:
        return False
    return not job.state.terminal or bool(tally.live or tally.old)


def _decide_request(context: Context, state: State, request: Request, now: int) -> Decision[AnyEvent]:
    match request.body:
        case api.JobSubmit():
            return submissions.decide_submit(context, state, request, request.body, now)
        case api.JobRef() if request.verb == "job.stop":
            return submissions.decide_stop(context, state, request, request.body, now)
        case api.NodeInvite():
            return credentials.decide_invite(context, state, request, request.body, now)
        case api.CredentialIssue():
            return credentials.decide_issue(context, state, request, request.body, now)
        case api.CredentialRevoke():
            return credentials.decide_revoke(context, state, request, request.body, now)
        case _:
            raise errors.UsageError(f"{request.verb} is not a write", place=request.verb)


Decider = Callable[[Context, State, Any, int], Decision[AnyEvent]]

_DECIDERS: dict[type, Decider] = {
    Request: _decide_request,
    Reported: reports.decide_report,
    Confirmed: reports.decide_confirmed,
    Undeliverable: reports.decide_undeliverable,
    Reconcile: decide_reconcile,
    CheckExecution: deadlines.decide_execution_deadline,
    CheckNode: deadlines.decide_node_deadline,
    Handshake: nodes.decide_handshake,
    ConnectionChange: nodes.decide_connection,
    InfoChange: nodes.decide_info,
    Inventory: nodes.decide_inventory,
    Lead: leading.decide_lead,
}
assert _DECIDERS.keys() == set(get_args(Item)), "every input has its decision"
