"""What a stored batch does to the world: commands to nodes, acknowledgements, answers, rows for the feed.

Derived from the events and the state; an effect that is lost is derived again at the node's next handshake.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.actions import Disconnect
from bacalhau_daemon.core.decide.nodes import Accepted, Rejected, Wanted
from bacalhau_daemon.core.decide.reports import Stray, is_unreplaced
from bacalhau_daemon.core.events import AnyEvent
from bacalhau_daemon.core.inputs import Handshake
from bacalhau_daemon.core.state import ExecutionState, State, Status
from bacalhau_daemon.core.views import offered
from bacalhau_daemon.log.records import Record
from bacalhau_protocol.api.messages import Welcome
from bacalhau_protocol.models.event import Event
from bacalhau_protocol.models.times import format_time
from bacalhau_protocol.ncl.events import Ignored, OrchestratorOutput
from bacalhau_protocol.ncl.messages import BidAccepted, CancelExecution, Command, ask_for_bid
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions


class Cancelled(msgspec.Struct, frozen=True):
    """Tag of a cancel: its confirmation ends what is owed."""

    x: int


class Offered(msgspec.Struct, frozen=True):
    """Tag of the other commands."""

    execution_id: str


class Effects:
    """Turns stored events into outputs of the sessions."""

    def __init__(self, sessions: OrchestratorSessions) -> None:
        self._sessions = sessions

    def of_record(self, state: State, record: Record[AnyEvent], now: int) -> list[OrchestratorOutput | Disconnect]:
        """Return the commands that a record's events mean. What the same record has ended is not offered any more."""
        out: list[OrchestratorOutput | Disconnect] = []
        for n, event in enumerate(record.events, record.first_event):
            match event:
                case ev.ExecutionPlanned():
                    execution = state.executions.get(event.x)
                    if execution is not None and execution.status is Status.PLANNED:
                        out += self._offer(state, execution, n, now)
                case ev.BidApproved():
                    execution = state.executions.get(event.x)
                    if execution is not None and execution.status is Status.RUNNING:
                        out += self._approve(execution, n, now)
                case ev.ExecutionEnded(owed=True):
                    execution = state.executions.get(event.x)
                    if execution is not None and execution.owed:
                        out += self._cancel(execution, n, now)
                case ev.CredentialRevoked():
                    out.append(Disconnect(event.identity, "its credential was revoked"))
                case ev.NodeMembershipChanged(to=ev.Membership.REJECTED):
                    self._sessions.drop(event.node)
                case _:
                    pass
        return out

    def of_handshake(
        self, state: State, item: Handshake, answer: Accepted | Rejected, now: int
    ) -> list[OrchestratorOutput]:
        """Answer a handshake; then say again all that the node must know.

        Live executions are offered, and approved if they were; ends that it has not confirmed are told, but for lost
        executions that nothing has replaced: what the node says of those decides.
        """
        handshake = item.event
        if isinstance(answer, Rejected):
            refused = Ignored(handshake.node, f"its handshake was refused: {answer.reason}")
            return [refused, *self._sessions.refuse(handshake, now, answer.reason)]
        seq = state.event
        out = self._sessions.accept(handshake, now, starting_seq=max(seq - 1, 0), reason=answer.reason)
        use = state.use(handshake.node)
        for x in list(use.live):
            execution = state.executions[x]
            out += self._offer(state, execution, seq, now)
            if execution.status is Status.RUNNING:
                out += self._approve(execution, seq, now)
        return out + self.tell_ends(state, handshake.node, now)

    def tell_ends(self, state: State, node: str, now: int, *, lost_too: bool = False) -> list[OrchestratorOutput]:
        """Tell a node every end that it has not confirmed; lost executions that may go on only if `lost_too`."""
        out: list[OrchestratorOutput] = []
        for x in list(state.use(node).owed):
            execution = state.executions[x]
            if lost_too or execution.status is not Status.LOST or not is_unreplaced(state, execution):
                out += self._cancel(execution, state.event, now)
        return out

    def of_stray(self, state: State, stray: Stray, now: int) -> list[OrchestratorOutput]:
        """Tell a node to stop what nobody knows."""
        command = CancelExecution(execution_id=stray.execution_id)
        return self._send(stray.node, command, state.event, None, now)

    def welcome(self, state: State, keys: Sequence[str], wanted: Wanted) -> Welcome:
        """Return the answer to an inventory."""
        return Welcome(cluster=state.cluster, term=state.term, ticket_keys=list(keys), forget=list(wanted.forget))

    def _offer(self, state: State, execution: ExecutionState, seq: int, now: int) -> list[OrchestratorOutput]:
        job = state.jobs.get(execution.j)
        if job is None or job.version != execution.job_version:
            return []  # it is about to be cancelled
        command = ask_for_bid(offered(job, execution))
        return self._send(execution.node, command, seq, Offered(execution.id), now)

    def _approve(self, execution: ExecutionState, seq: int, now: int) -> list[OrchestratorOutput]:
        return self._send(execution.node, BidAccepted(execution_id=execution.id), seq, Offered(execution.id), now)

    def _cancel(self, execution: ExecutionState, seq: int, now: int) -> list[OrchestratorOutput]:
        why = Event(message=execution.message, topic="Scheduling", timestamp=format_time(now))
        command = CancelExecution(execution_id=execution.id, events=(why,))
        return self._send(execution.node, command, seq, Cancelled(execution.x), now)

    def _send(self, node: str, command: Command, seq: int, tag: object, now: int) -> list[OrchestratorOutput]:
        return self._sessions.send(node, command, seq=seq, tag=tag, now=now)
