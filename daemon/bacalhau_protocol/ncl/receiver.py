"""The other end of an ordered, acknowledged stream: decodes, hands over in order, acknowledges in order.

A message is acknowledged (`{}`) only when its owner says that it is stored, and only when all before it are. We never
refuse: a peer answers a refusal by sending everything since the handshake again, for ever. What cannot be read is
reported as `Malformed` and acknowledged; so is a message that does not belong here (`Ignored`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from bacalhau_protocol.ncl import bundles, envelope
from bacalhau_protocol.ncl.bundles import ACK
from bacalhau_protocol.ncl.events import Delivery, Ignored, Incoming, Malformed, Send
from bacalhau_protocol.ncl.messages import NAMES
from bacalhau_protocol.ncl.timings import Limits

Event = TypeVar("Event")


class _Waiting:
    """A message that is not acknowledged."""

    __slots__ = ("reply", "seq", "stored")

    def __init__(self, reply: str, seq: int | None) -> None:
        self.reply = reply
        self.seq = seq
        self.stored = False


class Receiver:
    """The receiving end.

    Parameters
    ----------
    node, session
        Go into each `Delivery`; one of another session is not acknowledged.
    kinds
        The payloads that belong on this stream.
    last_seq
        The number of the last message that an earlier session had stored.
    """

    def __init__(self, *, node: str, session: int, kinds: frozenset[type], limits: Limits, last_seq: int = 0) -> None:
        self.last_seq = last_seq  # of the last message that is stored; may go back, as a real node's does
        self._node = node
        self._session = session
        self._kinds = kinds
        self._limits = limits
        self._waiting: deque[_Waiting] = deque()
        self._first = 0  # number of `_waiting[0]`

    @property
    def has_begun(self) -> bool:
        """Whether anything has come."""
        return bool(self._first or self._waiting)

    def message(
        self, message: Incoming, event: Callable[[envelope.Envelope, Delivery], Event]
    ) -> list[Event | Send | Malformed | Ignored]:
        """Take a message, or a bundle of them; `event` builds what is handed to the owner."""
        try:
            parts = bundles.parts(message.data, message.reply)
        except envelope.Unreadable as error:
            return self._unreadable(error, message.reply)
        out: list[Event | Send | Malformed | Ignored] = []
        for data, reply in parts:
            out += self._take(data, reply, message.subject, event)
        return out

    def _take(
        self, data: bytes, reply: str, subject: str, event: Callable[[envelope.Envelope, Delivery], Event]
    ) -> list[Event | Send | Malformed | Ignored]:
        if len(self._waiting) >= self._limits.unpersisted_max:
            return [
                Ignored(self._node, f"{len(self._waiting)} messages wait to be stored; its sender will repeat this")
            ]
        try:
            received = envelope.decode(data)
        except envelope.Unreadable as error:
            return self._unreadable(error, reply)
        delivery = self._admit(reply, received.seq)
        if type(received.payload) not in self._kinds:
            words = f"{NAMES[type(received.payload)]} does not belong on {subject}"
            return [Ignored(self._node, words), *self.persisted(delivery)]
        return [event(received, delivery)]

    def _unreadable(self, error: envelope.Unreadable, reply: str) -> list[Event | Send | Malformed | Ignored]:
        return [malformed(self._node, error), *self.persisted(self._admit(reply, None))]

    def persisted(self, delivery: Delivery) -> list[Send]:
        """Mark as stored; return the acknowledgements that may leave now. Repeats are harmless."""
        index = delivery.number - self._first
        if delivery.session != self._session or not 0 <= index < len(self._waiting):
            return []
        self._waiting[index].stored = True
        out: list[Send] = []
        while self._waiting and self._waiting[0].stored:
            done = self._waiting.popleft()
            self._first += 1
            if done.seq is not None:
                self.last_seq = done.seq
            if done.reply:
                out.append(Send(done.reply, ACK))
        return out

    def _admit(self, reply: str, seq: int | None) -> Delivery:
        self._waiting.append(_Waiting(reply, seq))
        return Delivery(self._node, self._session, self._first + len(self._waiting) - 1)


def malformed(node: str, error: envelope.Unreadable) -> Malformed:
    """Turn a decoding error into what is told to the owner."""
    return Malformed(node, error.message, error.type, error.execution_id, error.job_id, error.job_type)
