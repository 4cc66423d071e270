"""The compute node's end of NCL: connect, shake hands, beat, take commands, report, leave.

The orchestrator forgets us whenever it restarts, and says so (`HandshakeRequired`, nobody listening, silence). Each
time the answer is the same: a new handshake, after which both sides derive from their own state what to say again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from bacalhau_protocol.errors import Busy
from bacalhau_protocol.models import times
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.ncl import envelope, messages, subjects
from bacalhau_protocol.ncl.events import (
    CommandReceived,
    ComputeOutput,
    Delivery,
    Ignored,
    Incoming,
    Send,
    SessionClosed,
    SessionLost,
    SessionOpened,
)
from bacalhau_protocol.ncl.lifecycle import COMPUTE, ComputeSignal, ComputeState, step
from bacalhau_protocol.ncl.receiver import Receiver, malformed
from bacalhau_protocol.ncl.sender import Sender, backoff, no_responders
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.ncl.timings import LIMITS, OWN, Limits, Timings

_COMMANDS: Final = frozenset({messages.AskForBid, messages.BidAccepted, messages.BidRejected, messages.CancelExecution})
# Looking a member of an enumeration up costs more than a call does, and heartbeats do nothing else.
_CONNECTED: Final = ComputeState.CONNECTED
_HANDSHAKING: Final = ComputeState.HANDSHAKING
_LEAVING: Final = ComputeState.LEAVING


class _Asked(msgspec.Struct, gc=False):
    """A control request that is not answered. At most one of each kind is awaited."""

    kind: type[messages.Request]
    deadline: int
    info: NodeInfo  # what we said of ourselves


class ComputeSession:
    """A node's session with its orchestrator, ours or Bacalhau's.

    Use::

        session = ComputeSession("n-1", inbox, info, started_at=…, jitter=random.random)
        # subscribe to each of session.subscriptions, then:
        session.link_up(now)                                # also after each reconnect; link_down(now) when it breaks
        for output in session.message(message, now): …      # and .tick(now) at session.next_tick()
            Send              → publish it
            SessionOpened     → report(…) everything that is not confirmed, oldest first
            CommandReceived   → decide, store, then persisted(output.delivery), also when there was nothing to store
            DeliveryConfirmed → forget the report with that tag

    Parameters
    ----------
    inbox
        A subject prefix of our own, never used by an earlier process: answers come to `<inbox>.…`.
    started_at
        When the process began, nanoseconds since the epoch.
    jitter
        Returns a random number in [0, 1).
    last_orchestrator_seq
        That of an earlier process; informational.
    """

    def __init__(
        self,
        node: str,
        inbox: str,
        info: NodeInfo,
        *,
        started_at: int,
        jitter: Callable[[], float],
        last_orchestrator_seq: int = 0,
        timings: Timings = OWN,
        limits: Limits = LIMITS,
    ) -> None:
        self.state = ComputeState.OFFLINE
        self._node = node
        self._inbox = inbox
        self._answers = f"{inbox}."  # how the subjects of answers begin
        self._control_answers = f"{inbox}.control."
        self._info = info
        self._told = info  # what the orchestrator knows of us
        self._start_time = times.format_time(started_at)
        self._jitter = jitter
        self._timings = timings
        self._limits = limits
        self._commands = subjects.subject(node, Plane.IN_MSGS)
        self._control = subjects.subject(node, Plane.OUT_CTRL)
        self._silence_ns = timings.missed_heartbeats_max * timings.heartbeat_ns
        self._handshakes = 0
        self._failures = 0  # failed handshakes and lost sessions since a heartbeat was answered
        self._handshake_at = 0  # in WAITING
        self._beat_at = 0  # in CONNECTED
        self._silent_at = 0  # in CONNECTED: when too many heartbeats are unanswered
        self._requests = 0
        self._asked: dict[str, _Asked] = {}  # by the last token of the reply subject
        self._sender = self._new_sender()
        self._receiver = self._new_receiver(last_orchestrator_seq)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to subscribe to before `link_up`: our commands and our inbox."""
        return self._commands, f"{self._inbox}.>"

    @property
    def last_orchestrator_seq(self) -> int:
        """The number of the last command that is persisted: keep it over a restart (informational)."""
        return self._receiver.last_seq

    # --- what the owner says ---

    def link_up(self, now: int) -> list[ComputeOutput]:
        """The connection stands (again). The first handshake leaves at once, later ones after 0.1 to 2 s."""
        was = self._step(ComputeSignal.LINK_UP)
        if self.state is not ComputeState.WAITING:
            return []
        self._handshake_at = now + (self._rehandshake_ns() if self._handshakes else 0)
        self._asked.clear()
        lost = [SessionLost("the link was cut", self._handshake_at)] if was is ComputeState.CONNECTED else []
        return [*lost, *self.tick(now)]

    def link_down(self, now: int) -> list[ComputeOutput]:
        """The connection is gone."""
        was = self._step(ComputeSignal.LINK_DOWN)
        self._asked.clear()
        if was is ComputeState.CONNECTED:
            return [SessionLost("the link is cut", None)]
        return [SessionClosed(answered=False)] if was is ComputeState.LEAVING else []

    def describe(self, info: NodeInfo, now: int) -> list[ComputeOutput]:
        """Replace what is known of this node: the next heartbeat has its free capacity, other changes go out now."""
        self._info = info
        return self._tell(now)

    def report(self, report: messages.Report, *, seq: int, tag: object, now: int) -> list[ComputeOutput]:
        """Send in order; `DeliveryConfirmed` with this tag tells when the orchestrator has stored it.

        Without a session nothing is sent: keep the report and send it again at the next `SessionOpened`. A report
        larger than NATS carries comes back as `DeliveryRefused`.
        """
        if self.state is not ComputeState.CONNECTED:
            return []
        try:
            return list(self._sender.send(report, seq=seq, tag=tag, now=now))
        except Busy as error:
            return self._lose(error.message, now)

    def bundle(self) -> None:
        """Bundle reports from now on, until the session ends: the orchestrator is one of ours."""
        self._sender.joinable = True

    def persisted(self, delivery: Delivery) -> list[ComputeOutput]:
        """Say that what a command meant is stored; acknowledgements leave in the order of the commands."""
        return list(self._receiver.persisted(delivery))

    def leave(self, now: int, reason: str = "") -> list[ComputeOutput]:
        """Give notice of our shutdown; `SessionClosed` follows. May be called in any state, and twice."""
        was = self._step(ComputeSignal.LEAVE)
        if was is ComputeState.CONNECTED:
            self._asked.clear()
            notice = messages.ShutdownNoticeRequest(
                node_id=self._node,
                reason=reason or msgspec.UNSET,
                last_orchestrator_seq=self.last_orchestrator_seq,
            )
            return [self._ask(notice, now, self._timings.leave_timeout_ns)]
        return [] if was in (ComputeState.LEAVING, ComputeState.CLOSED) else [SessionClosed(answered=False)]

    # --- time ---

    def tick(self, now: int) -> list[ComputeOutput]:
        """Do what is due: handshake, heartbeat, time-outs, repeats."""
        if self.state is _CONNECTED:
            return self._connected_tick(now)
        due = self.next_tick()
        if due is None or now < due:
            return []
        match self.state:
            case ComputeState.WAITING:
                return [self._handshake(now)]
            case ComputeState.HANDSHAKING:
                return self._failed("no answer to the handshake", now)
            case _:  # leaving
                self._step(ComputeSignal.ENDED)
                return [SessionClosed(answered=False)]

    def next_tick(self) -> int | None:
        """Return when `tick` is next worth calling; None while only the owner or the link can move us."""
        if self.state is _CONNECTED:
            soonest = min(self._beat_at, self._silent_at)
            for asked in self._asked.values():
                soonest = min(soonest, asked.deadline)
            resend = self._sender.next_tick()
            return soonest if resend is None or soonest < resend else resend
        match self.state:
            case ComputeState.WAITING:
                return self._handshake_at
            case ComputeState.HANDSHAKING | ComputeState.LEAVING:
                return min((asked.deadline for asked in self._asked.values()), default=None)
            case _:
                return None

    def _connected_tick(self, now: int) -> list[ComputeOutput]:
        if self._asked:
            for key in [key for key, asked in self._asked.items() if now >= asked.deadline]:
                del self._asked[key]
        if now >= self._silent_at:
            return self._lose(f"no answer for {self._timings.missed_heartbeats_max} heartbeats", now)
        out: list[ComputeOutput] = []
        if now >= self._beat_at:
            self._beat_at = now + self._timings.heartbeat_ns
            offer = self._info.compute_node_info
            beat = messages.HeartbeatRequest(
                node_id=self._node,
                available_capacity=offer.available_capacity,
                queue_used_capacity=offer.queue_capacity,
                last_orchestrator_seq=self._receiver.last_seq,
            )
            out.append(self._ask(beat, now, self._timings.request_timeout_ns))
            out += self._tell(now)
        out += self._sender.tick(now)
        return out

    # --- what the orchestrator says ---

    def message(self, message: Incoming, now: int) -> list[ComputeOutput]:
        """Take a message from any of the subscriptions. Never raises for what a peer sent."""
        subject = message.subject
        if subject.startswith(self._control_answers):
            asked = self._asked.pop(subject[len(self._control_answers) :], None)
            return self._answered(asked, message, now) if asked else []
        if subject == self._commands:
            if self.state in (ComputeState.LEAVING, ComputeState.CLOSED):
                return [Ignored(self._node, "a command came while we leave")]
            return list(self._receiver.message(message, _command))
        if not subject.startswith(self._answers):
            return [Ignored(self._node, f"{subject} is no subject of ours")]
        session, _, key = subject[len(self._answers) :].partition(".")
        if session != str(self._handshakes) or self.state is not ComputeState.CONNECTED:
            return []  # an acknowledgement for an earlier session
        if no_responders(message) and self._sender.is_in_flight(key):
            return self._lose("no orchestrator listens to our reports", now)
        return list(self._sender.answer(key, message, now))

    def _answered(self, asked: _Asked, message: Incoming, now: int) -> list[ComputeOutput]:
        if self.state is _LEAVING:
            self._step(ComputeSignal.ENDED)
            return [SessionClosed(answered=not no_responders(message))]
        shaking = self.state is _HANDSHAKING
        if no_responders(message):
            reason = "no orchestrator listens"
            return self._failed(reason, now) if shaking else self._lose(reason, now)
        try:
            answer = envelope.decode(message.data).payload
        except envelope.Unreadable as error:
            failed = self._failed(f"the answer cannot be read: {error.message}", now) if shaking else []
            return [malformed(self._node, error), *failed]
        return self._handshake_answered(answer, asked, now) if shaking else self._request_answered(answer, asked, now)

    def _handshake_answered(self, answer: messages.Payload, asked: _Asked, now: int) -> list[ComputeOutput]:
        match answer:
            case messages.HandshakeResponse(accepted=True):
                return self._accepted(answer, asked, now)
            case messages.HandshakeResponse():
                return self._failed(f"the orchestrator refused us: {answer.reason or 'no reason given'}", now)
            case messages.BacError():
                return self._failed(answer.cause, now)
            case _:
                return self._failed(f"{type(answer).__name__} is no answer to a handshake", now)

    def _request_answered(self, answer: messages.Payload, asked: _Asked, now: int) -> list[ComputeOutput]:
        match answer:
            case messages.HeartbeatResponse():
                self._silent_at = now + self._silence_ns
                self._failures = 0
                return []
            case messages.UpdateNodeInfoResponse():
                self._told = asked.info
                return []
            case messages.BacError(code=code) if code == messages.HANDSHAKE_REQUIRED:
                return self._lose("the orchestrator asks for a new handshake", now)
            case messages.BacError():
                return [Ignored(self._node, f"the orchestrator could not answer: {answer.cause}")]
            case _:
                return [Ignored(self._node, f"{type(answer).__name__} is no answer to {asked.kind.__name__}")]

    def _accepted(self, answer: messages.HandshakeResponse, asked: _Asked, now: int) -> list[ComputeOutput]:
        self._step(ComputeSignal.ACCEPTED)
        self._silent_at = now + self._silence_ns
        self._beat_at = now + self._timings.heartbeat_ns
        self._told = asked.info
        if not self._receiver.has_begun:  # commands may overtake this answer
            self._receiver.last_seq = answer.starting_orchestrator_seq
        reason = answer.reason or ""
        return [
            SessionOpened(reason, answer.starting_orchestrator_seq, answer.last_compute_seq),
            *self._tell(now),
        ]

    # --- steps ---

    def _handshake(self, now: int) -> Send:
        """Begin a session: what an earlier one had sent or received is void."""
        self._step(ComputeSignal.DUE)
        self._handshakes += 1
        self._sender = self._new_sender()
        self._receiver = self._new_receiver(self.last_orchestrator_seq)
        request = messages.HandshakeRequest(
            info=self._info, start_time=self._start_time, last_orchestrator_seq=self.last_orchestrator_seq
        )
        return self._ask(request, now, self._timings.request_timeout_ns)

    def _failed(self, reason: str, now: int) -> list[ComputeOutput]:
        self._step(ComputeSignal.FAILED)
        return self._wait(reason, now)

    def _lose(self, reason: str, now: int) -> list[ComputeOutput]:
        self._step(ComputeSignal.LOST)
        return self._wait(reason, now)

    def _wait(self, reason: str, now: int) -> list[ComputeOutput]:
        """Try again soon if all was well, else after a while: a session counts as well once a heartbeat is answered."""
        self._asked.clear()
        wait_ns = self._rehandshake_ns()
        if self._failures:
            full_ns = backoff(self._failures, self._timings.reconnect_min_ns, self._timings.reconnect_max_ns)
            wait_ns = int(full_ns * (0.75 + self._jitter() / 2))
        self._failures += 1
        self._handshake_at = now + wait_ns
        return [SessionLost(reason, self._handshake_at)]

    def _tell(self, now: int) -> list[ComputeOutput]:
        """Send what the orchestrator does not know of us yet, unless that is under way."""
        if self._info is self._told or self.state is not ComputeState.CONNECTED:
            return []
        if any(asked.kind is messages.UpdateNodeInfoRequest for asked in self._asked.values()):
            return []
        if messages.lasting(self._info) == messages.lasting(self._told):
            self._told = self._info  # the same, but for what heartbeats carry
            return []
        return [self._ask(messages.UpdateNodeInfoRequest(self._info), now, self._timings.request_timeout_ns)]

    def _ask(self, request: messages.Request, now: int, timeout_ns: int) -> Send:
        self._requests += 1
        key = str(self._requests)
        self._asked[key] = _Asked(type(request), now + timeout_ns, self._info)
        data = envelope.encode(envelope.metadata(request, source=self._node, now=now), request)
        return Send(self._control, data, self._control_answers + key)

    def _rehandshake_ns(self) -> int:
        least, most = self._timings.rehandshake_min_ns, self._timings.rehandshake_max_ns
        return least + int((most - least) * self._jitter())

    def _step(self, signal: ComputeSignal) -> ComputeState:
        """Move; return where we were."""
        was, self.state = self.state, step(COMPUTE, self.state, signal)
        return was

    def _new_sender(self) -> Sender:
        return Sender(
            node=self._node,
            subject=subjects.subject(self._node, Plane.OUT_MSGS),
            source=self._node,
            inbox=f"{self._inbox}.{self._handshakes}",
            timings=self._timings,
            limits=self._limits,
        )

    def _new_receiver(self, last_seq: int) -> Receiver:
        return Receiver(
            node=self._node, session=self._handshakes, kinds=_COMMANDS, limits=self._limits, last_seq=last_seq
        )


def _command(received: envelope.Envelope, delivery: Delivery) -> CommandReceived:
    assert isinstance(
        received.payload, messages.AskForBid | messages.BidAccepted | messages.BidRejected | messages.CancelExecution
    ), "it was checked"
    return CommandReceived(received.payload, received.seq, delivery)
