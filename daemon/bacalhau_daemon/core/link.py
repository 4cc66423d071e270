"""The orchestrator's ears: what nodes say, over NCL and over our own subjects, becomes inputs of the loop.

What is soft (heartbeats, phases) is taken in here and never reaches the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import assert_never

import msgspec

from bacalhau_daemon.core.actions import Action, Disconnect, KeepLogTail
from bacalhau_daemon.core.complaints import IGNORED, REFUSED, UNREADABLE, Complaints
from bacalhau_daemon.core.context import Heard
from bacalhau_daemon.core.effects import Cancelled, Offered
from bacalhau_daemon.core.events import AnyEvent, Connection
from bacalhau_daemon.core.feed import Feed
from bacalhau_daemon.core.inputs import (
    Confirmed,
    ConnectionChange,
    Handshake,
    InfoChange,
    Inventory,
    Item,
    Reported,
    Undeliverable,
)
from bacalhau_daemon.core.loop import Loop
from bacalhau_daemon.core.rules import OrchestratorRules
from bacalhau_daemon.core.state import ExecutionState, State
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.api import subjects
from bacalhau_protocol.ncl import events as ncl
from bacalhau_protocol.ncl.events import Incoming, OrchestratorOutput, Send
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions

ENDED_REMEMBERED_MAX = 10_000
"""Executions whose node may still send the end of its log."""
EXTENSIONS = ("hello", "phase", "logtail")


class NodeLink:
    """Sessions with nodes, and what they mean for the loop."""

    def __init__(
        self, sessions: OrchestratorSessions, rules: OrchestratorRules, loop: Loop[State, Item, AnyEvent], feed: Feed
    ) -> None:
        self.sessions = sessions
        self.counters: Counter[str] = Counter()  # of what was ignored, by reason
        self.complaints = Complaints()  # the same in words
        self._rules, self._loop, self._feed = rules, loop, feed
        self._ended: dict[str, str] = {}  # execution id → node, the oldest first

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Return every subject on which nodes speak."""
        own = (f"{subjects.EXTENSION}.*.out.{verb}" for verb in EXTENSIONS)
        return (*self.sessions.subscriptions, *own)

    def message(self, message: Incoming, now: int) -> list[Action]:
        """Take a message on one of the subscriptions."""
        if not message.subject.startswith(subjects.EXTENSION):
            return self.take(self.sessions.message(message, now), now, message.subject)
        node, _, verb = message.subject.removeprefix(f"{subjects.EXTENSION}.").partition(".out.")
        try:
            return self._extension(node, verb, message, now)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.counters["Unreadable"] += 1
            self.complaints.add(UNREADABLE, node, str(error), now, subject=message.subject, type=verb)
            return []

    def take(self, outputs: Sequence[OrchestratorOutput | Disconnect], now: int, subject: str = "") -> list[Action]:
        """Pass messages on, and take in what has happened; `subject` is where the message came that led to it."""
        out: list[Action] = []
        for output in outputs:
            match output:  # the most frequent first
                case Send():
                    out.append(output)
                case ncl.HeartbeatReceived():
                    self._heartbeat(output, now)
                case ncl.ReportReceived():
                    self._offer(Reported(output.node, output.report, output.delivery))
                case ncl.DeliveryConfirmed(tag=Cancelled(x=x)):
                    self._offer(Confirmed(x))
                case ncl.DeliveryConfirmed():
                    pass
                case ncl.NodeFellSilent() | ncl.NodeSpokeAgain() | ncl.NodeLost() | ncl.NodeLeft():
                    self._offer(_connection_change(output))
                case ncl.NodeHandshook() | ncl.NodeInfoUpdated():
                    self._offer(_introduction(output))
                case ncl.DeliveryRefused(tag=Offered(execution_id=execution_id)):
                    words = f"the node cannot read what it was sent: {output.reason}"
                    self._offer(Undeliverable(output.node, execution_id, words))
                case ncl.DeliveryRefused() | ncl.Malformed() | ncl.Ignored():
                    self._complain(output, now, subject)
                case Disconnect():
                    out.append(output)
                case _:
                    assert_never(output)
        return out

    def remember(self, execution: ExecutionState) -> None:
        """Note whose an ended execution was, for the end of its log, which may come later."""
        if execution.ended:
            self._ended[execution.id] = execution.node
            if len(self._ended) > ENDED_REMEMBERED_MAX:
                del self._ended[next(iter(self._ended))]

    # ── NCL ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _complain(self, event: ncl.DeliveryRefused | ncl.Malformed | ncl.Ignored, now: int, subject: str) -> None:
        """Count what could not be used, and say so; an execution that it was about ends with these words."""
        self.counters[type(event).__name__] += 1
        match event:
            case ncl.DeliveryRefused():
                words = f"the node cannot read what it was sent: {event.reason}"
                self.complaints.add(REFUSED, event.node, words, now, subject=subject)
            case ncl.Malformed():
                self.complaints.add(UNREADABLE, event.node, event.words, now, subject=subject, type=event.type)
                if event.execution_id:
                    words = f"the node's {event.type or 'report'} cannot be read: {event.words}"
                    self._offer(Undeliverable(event.node, event.execution_id, words))
            case ncl.Ignored():
                self.complaints.add(IGNORED, event.node, event.words, now, subject=subject)

    def _offer(self, item: Item) -> None:
        try:
            self._loop.offer(item)
        except errors.BacalhauError as refusal:  # not acknowledged: the node says it again
            self.counters[refusal.code] += 1

    def _heartbeat(self, event: ncl.HeartbeatReceived, now: int) -> None:
        """Take in what the node says is free; if more than before, look at jobs that wait for that."""
        context = self._rules.context
        context.beats[event.node] = now
        use = self._loop.state.use(event.node)
        if context.fleet.report(event.node, event.available, event.queue_used, use):
            for item in self._rules.wake_for(event.node):
                self._loop.wake(item)

    # ── our own nodes ─────────────────────────────────────────────────────────────────────────────────────────────

    def _extension(self, node: str, verb: str, message: Incoming, now: int) -> list[Action]:
        match verb:
            case "hello":
                hello = msgspec.json.decode(message.data, type=api.Hello)
                if hello.node_id == node and message.reply.startswith(f"{subjects.inbox_prefix(node)}."):
                    self._offer(Inventory(hello, message.reply))
                    return []
            case "phase":
                self._phase(node, msgspec.json.decode(message.data, type=api.PhaseReport), now)
                return []
            case "logtail":
                tail = msgspec.json.decode(message.data, type=api.LogTail)
                if self._owner(tail.execution_id) == node:
                    return [KeepLogTail(tail.execution_id, message.data)]
            case _:
                pass
        self.counters["Misdirected"] += 1
        words = "it names another node or execution, or is nothing that nodes send"
        self.complaints.add(IGNORED, node, words, now, subject=message.subject, type=verb)
        return []

    def _owner(self, execution_id: str) -> str | None:
        execution = self._loop.state.execution(execution_id)
        return execution.node if execution is not None else self._ended.get(execution_id)

    def _phase(self, node: str, report: api.PhaseReport, now: int) -> None:
        execution = self._loop.state.execution(report.execution_id)
        if execution is None or execution.node != node or not execution.status.live:
            return
        heard = self._rules.context.heard
        before = heard.get(execution.id)
        same = before is not None and before.phase.name == report.phase.name
        heard[execution.id] = Heard(report.phase, before.began if before is not None and same else now, now)
        self._feed.soft(execution)


def _introduction(event: ncl.NodeHandshook | ncl.NodeInfoUpdated) -> Handshake | InfoChange:
    return Handshake(event) if isinstance(event, ncl.NodeHandshook) else InfoChange(event.node, event.info)


def _connection_change(
    event: ncl.NodeFellSilent | ncl.NodeSpokeAgain | ncl.NodeLost | ncl.NodeLeft,
) -> ConnectionChange:
    match event:
        case ncl.NodeFellSilent():
            return ConnectionChange(event.node, Connection.UNKNOWN, "heartbeat timeout")
        case ncl.NodeSpokeAgain():
            return ConnectionChange(event.node, Connection.CONNECTED, "")
        case ncl.NodeLost():
            return ConnectionChange(event.node, Connection.LOST, event.reason)
        case ncl.NodeLeft():
            return ConnectionChange(event.node, Connection.LEFT, event.reason or "graceful shutdown")
