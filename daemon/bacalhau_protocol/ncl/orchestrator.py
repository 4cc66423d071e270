"""The orchestrator's end of NCL: one session per connected node, one collection for all.

A leader's sessions are soft state: a new leader starts with none, tells every node to shake hands, and derives from its
log what each must know. Nothing depends on replay.
"""

from __future__ import annotations

from typing import Final, assert_never

from bacalhau_protocol.api.subjects import TOKEN
from bacalhau_protocol.errors import Busy
from bacalhau_protocol.models.node import NodeInfo, NodeType
from bacalhau_protocol.ncl import envelope, messages, subjects
from bacalhau_protocol.ncl.deadlines import Deadlines
from bacalhau_protocol.ncl.events import (
    Delivery,
    HeartbeatReceived,
    Ignored,
    Incoming,
    NodeHandshook,
    NodeInfoUpdated,
    NodeLeft,
    NodeLost,
    OrchestratorOutput,
    ReportReceived,
    Send,
)
from bacalhau_protocol.ncl.lifecycle import NodeSignal, NodeState
from bacalhau_protocol.ncl.messages import (
    BacError,
    BidResult,
    Command,
    ComputeError,
    HandshakeRequest,
    HandshakeResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    PreSignURLRequest,
    Response,
    RunResult,
    ShutdownNoticeRequest,
    ShutdownNoticeResponse,
    UpdateNodeInfoRequest,
    UpdateNodeInfoResponse,
)
from bacalhau_protocol.ncl.node_session import OrchestratorSession
from bacalhau_protocol.ncl.receiver import malformed
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.ncl.timings import FOREIGN, LIMITS, OWN, SECOND, Limits, Timings

CONTROL_SOURCE: Final = "orchestrator-control"
REQUESTS_SOURCE: Final = "orchestrator-data-plane-responder"
_CONTROL: Final = Plane.OUT_CTRL
TICK_MAX_NS: Final = 5 * SECOND
"""`tick` wants to be called at least so often; a longer pause was ours (a stopped process), not the nodes' silence."""

LOOK_EVERY_NS: Final = SECOND // 10
"""What falls due is looked at so often: many nodes fall silent, or have spoken after all, at about the same time."""


class OrchestratorSessions:
    """All sessions of one leader.

    Use::

        sessions = OrchestratorSessions(inbox)              # subscribe to each of sessions.subscriptions first
        for output in sessions.message(message, now): …     # and .tick(now) at sessions.next_tick()
            Send                → publish it
            NodeHandshook       → decide membership, store it, then accept(…) or refuse(…); after accept, send every
                                  command again that the node must know: live executions, ends it has not confirmed
            ReportReceived      → decide, store, then persisted(output.delivery), also when there was nothing to store
            DeliveryConfirmed   → the node has handled what was sent with that tag

    Parameters
    ----------
    inbox
        A subject prefix of our own, never used by an earlier process: answers come to `<inbox>.<node>.…`.
    own, foreign
        Timings of our nodes (they list `messages.OWN_PROTOCOL`) and of Bacalhau 1.9's.
    """

    def __init__(self, inbox: str, *, own: Timings = OWN, foreign: Timings = FOREIGN, limits: Limits = LIMITS) -> None:
        self._inbox = inbox
        self._own = own
        self._foreign = foreign
        self._limits = limits
        self._sessions: dict[str, OrchestratorSession] = {}
        self._opened = 0
        self._deadlines = Deadlines()
        self._last_tick = 0
        self._resumed_at = 0  # silence before this moment was ours

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to subscribe to, before anything else: wildcards over all nodes and our inbox."""
        planes = (Plane.OUT_CTRL, Plane.OUT_MSGS, Plane.OUT_REQUESTS)
        return (*(subjects.of_all_nodes(plane) for plane in planes), f"{self._inbox}.>")

    @property
    def connected(self) -> frozenset[str]:
        """Ids of the nodes that have a session now (silent ones too)."""
        return frozenset(self._sessions)

    def message(self, message: Incoming, now: int) -> list[OrchestratorOutput]:
        """Take a message from any of the subscriptions. Never raises for what a peer sent."""
        parsed = subjects.parse(message.subject)
        if parsed is None:
            if message.subject.startswith(f"{self._inbox}."):
                return self._answer(message, now)
            return [Ignored("", f"{message.subject} is no subject of ours")]
        node, plane = parsed
        if plane is _CONTROL:
            return self._request(node, message, CONTROL_SOURCE, now)
        match plane:
            case Plane.OUT_REQUESTS:
                return self._request(node, message, REQUESTS_SOURCE, now)
            case Plane.OUT_MSGS:
                return self._report(node, message, now)
            case Plane.IN_MSGS:
                return [Ignored(node, f"{message.subject} is not for an orchestrator")]
            case _:
                assert_never(plane)

    def accept(
        self,
        handshake: NodeHandshook,
        now: int,
        *,
        starting_seq: int,
        last_compute_seq: int = 0,
        reason: str = "node registered",
    ) -> list[OrchestratorOutput]:
        """Open a session (replacing the node's old one, whose unconfirmed messages are forgotten) and answer.

        `starting_seq` is the current event number: what is sent from now on has higher ones.
        """
        self.drop(handshake.node)
        if not self._sessions:
            self._last_tick = now  # nobody was there to tick for
        self._opened += 1
        own = messages.is_own(handshake.info)
        session = OrchestratorSession(
            handshake.node,
            number=self._opened,
            inbox=self._inbox,
            timings=self._own if own else self._foreign,
            limits=self._limits,
            last_seq=last_compute_seq,
            now=now,
            own=own,
        )
        self._sessions[handshake.node] = session
        self._schedule(session)
        return [
            self._reply(
                handshake.reply,
                HandshakeResponse(
                    accepted=True,
                    reason=reason,
                    last_compute_seq=last_compute_seq,
                    starting_orchestrator_seq=starting_seq,
                ),
                now,
            )
        ]

    def refuse(self, handshake: NodeHandshook, now: int, reason: str) -> list[OrchestratorOutput]:
        """Answer that the node may not join, and why; a session that it has is ended."""
        self.drop(handshake.node)
        return [self._reply(handshake.reply, HandshakeResponse(accepted=False, reason=reason), now)]

    def send(self, node: str, command: Command, *, seq: int, tag: object, now: int) -> list[OrchestratorOutput]:
        """Send in order; `DeliveryConfirmed` with this tag tells when the node has handled it.

        Without a session nothing is sent: the next handshake derives all again. Build an AskForBid with
        `messages.ask_for_bid`. A command larger than NATS carries comes back as `DeliveryRefused`.
        """
        session = self._sessions.get(node)
        if session is None:
            return []
        try:
            out: list[OrchestratorOutput] = [*session.sender.send(command, seq=seq, tag=tag, now=now)]
        except Busy as error:
            self._end(session, NodeSignal.EXPIRY)
            return [NodeLost(node, session.last_heard, error.message)]
        self._schedule(session)
        return out

    def persisted(self, delivery: Delivery) -> list[OrchestratorOutput]:
        """Say that what a report meant is stored; acknowledgements leave in the order of the reports."""
        session = self._sessions.get(delivery.node)
        return list(session.receiver.persisted(delivery)) if session else []

    def drop(self, node: str) -> None:
        """End a node's session (rejected, credential revoked): its next heartbeat is told to shake hands."""
        session = self._sessions.get(node)
        if session:
            self._end(session, NodeSignal.ENDED)

    def tick(self, now: int) -> list[OrchestratorOutput]:
        """Do what is due: silence, loss, repeats."""
        if now - self._last_tick > 2 * TICK_MAX_NS:
            self._resumed_at = now
        self._last_tick = now
        out: list[OrchestratorOutput] = []
        for node in self._deadlines.pop_due(now):
            session = self._sessions[node]
            out += session.tick(now, self._silent_since(session))
            if session.state is NodeState.GONE:
                del self._sessions[node]
            else:
                self._schedule(session)
        return out

    def next_tick(self) -> int | None:
        """Return when `tick` is next worth calling; may be early, never late. None without sessions."""
        soonest = self._deadlines.soonest()
        if not self._sessions or soonest is None:
            return None
        return min(max(soonest, self._last_tick + LOOK_EVERY_NS), self._last_tick + TICK_MAX_NS)

    # --- what peers send ---

    def _answer(self, message: Incoming, now: int) -> list[OrchestratorOutput]:
        """Take an acknowledgement; one for an earlier session or try is late and of no use."""
        node, _, rest = message.subject[len(self._inbox) + 1 :].partition(".")
        number, _, key = rest.partition(".")
        session = self._sessions.get(node)
        if session is None or number != str(session.number):
            return []
        out: list[OrchestratorOutput] = [*session.sender.answer(key, message, now)]
        self._schedule(session)
        return out

    def _report(self, node: str, message: Incoming, now: int) -> list[OrchestratorOutput]:
        session = self._sessions.get(node)
        if session is None:  # not acknowledged: the node repeats it after its handshake
            return [Ignored(node, "a report came before the handshake")]
        if message.reply and not subjects.is_inbox_of(node, message.reply):
            return [Ignored(node, f"a report wants its acknowledgement at {message.reply!r}")]

        def received(report: envelope.Envelope, delivery: Delivery) -> ReportReceived:
            assert isinstance(report.payload, BidResult | RunResult | ComputeError), "the receiver has checked"
            return ReportReceived(node, report.payload, report.seq, delivery)

        return self._heard(session, now) + session.receiver.message(message, received)

    def _request(self, node: str, message: Incoming, source: str, now: int) -> list[OrchestratorOutput]:
        if not subjects.is_inbox_of(node, message.reply):
            return [Ignored(node, f"a request on {message.subject} wants its answer at {message.reply!r}")]
        try:
            payload = envelope.decode(message.data).payload
        except envelope.Unreadable as error:
            answer = BacError(cause=f"failed to deserialize request: {error.message}")
            return [malformed(node, error), self._reply(message.reply, answer, now, source)]
        if source == REQUESTS_SOURCE:
            if isinstance(payload, PreSignURLRequest):
                refusal = BacError(cause="Managed S3 publisher is not available", code="BadRequest")
                return [self._reply(message.reply, refusal, now, source)]
            return self._no_handler(node, payload, message, now, source)
        match payload:
            case HeartbeatRequest() | UpdateNodeInfoRequest() | ShutdownNoticeRequest():
                return self._control(node, payload, message.reply, now)
            case HandshakeRequest():
                return self._handshake(node, payload, message, now)
            case _:
                return self._no_handler(node, payload, message, now, source)

    def _handshake(self, node: str, request: HandshakeRequest, message: Incoming, now: int) -> list[OrchestratorOutput]:
        fault = _fault_of(node, request.info)
        if fault is not None:
            return [Ignored(node, fault.cause), self._reply(message.reply, fault, now)]
        handshake = NodeHandshook(node, request.info, request.start_time, request.last_orchestrator_seq, message.reply)
        if request.info.node_type is not NodeType.COMPUTE:
            return [
                Ignored(node, "its NodeType is not Compute"),
                *self.refuse(handshake, now, "node is not a compute node"),
            ]
        return [handshake]

    def _control(
        self,
        node: str,
        request: HeartbeatRequest | UpdateNodeInfoRequest | ShutdownNoticeRequest,
        reply: str,
        now: int,
    ) -> list[OrchestratorOutput]:
        session = self._sessions.get(node)
        if session is None:
            return [self._reply(reply, messages.handshake_required(node), now)]
        if request.node_id != node:
            fault = _wrong_id(request.node_id)
            return [Ignored(node, fault.cause), self._reply(reply, fault, now)]
        out = self._heard(session, now)
        last_seq = session.receiver.last_seq
        match request:
            case HeartbeatRequest():
                out += [
                    self._reply(reply, HeartbeatResponse(last_seq), now),
                    HeartbeatReceived(
                        node, request.available_capacity, request.queue_used_capacity, request.last_orchestrator_seq
                    ),
                ]
            case UpdateNodeInfoRequest():
                out += [
                    self._reply(reply, UpdateNodeInfoResponse(accepted=True), now),
                    NodeInfoUpdated(node, request.info),
                ]
            case ShutdownNoticeRequest():
                self._end(session, NodeSignal.ENDED)
                out += [
                    self._reply(reply, ShutdownNoticeResponse(last_seq), now),
                    NodeLeft(node, request.reason or "graceful shutdown"),
                ]
            case _:
                assert_never(request)
        return out

    def _no_handler(
        self, node: str, payload: messages.Payload, message: Incoming, now: int, source: str
    ) -> list[OrchestratorOutput]:
        words = f"no handler found for message type: {messages.NAMES[type(payload)]}"
        answer = BacError(cause=words, code="NotFound")
        return [Ignored(node, words), self._reply(message.reply, answer, now, source)]

    # --- bookkeeping ---

    def _reply(self, reply: str, payload: Response, now: int, source: str = CONTROL_SOURCE) -> Send:
        return Send(reply, envelope.encode(envelope.metadata(payload, source=source, now=now), payload))

    def _end(self, session: OrchestratorSession, signal: NodeSignal) -> None:
        session.end(signal)
        del self._sessions[session.node]
        self._deadlines.discard(session.node)

    def _heard(self, session: OrchestratorSession, now: int) -> list[OrchestratorOutput]:
        out = session.heard(now)
        if out:  # it may fall silent again before it would have been lost
            self._schedule(session)
        return out

    def _silent_since(self, session: OrchestratorSession) -> int:
        return max(session.last_heard, self._resumed_at)

    def _schedule(self, session: OrchestratorSession) -> None:
        self._deadlines.not_later(session.node, session.next_tick(self._silent_since(session)))


def _wrong_id(said: str) -> BacError:
    return BacError(
        cause=f"the message names node {said!r}, its subject another one",
        hint="a node's id, its credential and its subjects must be the same",
        code="BadRequest",
    )


def _fault_of(node: str, info: NodeInfo) -> BacError | None:
    """Say why this can be no node of ours."""
    if TOKEN.fullmatch(node) is None:
        return BacError(
            cause=f"node id {node!r} is not usable",
            hint="a node id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -",
            code="BadRequest",
        )
    return None if info.node_id == node else _wrong_id(info.node_id)
