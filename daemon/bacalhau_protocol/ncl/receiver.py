"""The other end of an ordered, acknowledged stream: decodes, hands over in order, acknowledges in order.

A message is acknowledged (`{}`) only when its owner says that it is stored, and only when all before it are. We never
refuse: a peer answers a refusal by sending everything since the handshake again, for ever. What cannot be read is
reported as `Malformed` and acknowledged; so is a message that does not belong here (`Ignored`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from bacalhau_protocol.ncl import envelope
from bacalhau_protocol.ncl.events import Delivery, Ignored, Incoming, Malformed, Send
from bacalhau_protocol.ncl.messages import NAMES
from bacalhau_protocol.ncl.subjects import OWN_INBOX
from bacalhau_protocol.ncl.timings import Limits

ACK: Final = b"{}"
"""Not empty, not a copy of the message's headers: what a real node sends."""

NUMBER_DIGITS_MAX: Final = 18

Event = TypeVar("Event")
Output = TypeVar("Output")


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
        """Take a message; `event` builds what is handed to the owner."""
        if len(self._waiting) >= self._limits.unpersisted_max:
            return [
                Ignored(self._node, f"{len(self._waiting)} messages wait to be stored; its sender will repeat this")
            ]
        try:
            received = envelope.decode(message.data)
        except envelope.Unreadable as error:
            delivery = self._admit(message.reply, None)
            return [malformed(self._node, error), *self.persisted(delivery)]
        delivery = self._admit(message.reply, received.seq)
        if type(received.payload) not in self._kinds:
            words = f"{NAMES[type(received.payload)]} does not belong on {message.subject}"
            return [Ignored(self._node, words), *self.persisted(delivery)]
        return [event(received, delivery)]

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


def merge_acks(outputs: Iterable[Output]) -> list[Output | Send]:
    """Have one answer acknowledge several messages that came one after another, where their sender is one of ours.

    It goes where the last of them wants its answer, and says how many. The numbers are those that the sender gave, so
    what was lost on the way is never among them.
    """
    out: list[Output | Send] = []
    runs: dict[str, tuple[int, int, int]] = {}  # by stream: place in `out`, number of the last message, how many
    for output in outputs:
        if isinstance(output, Send) and output.data is ACK and output.subject.startswith(OWN_INBOX):
            stream, _, last = output.subject.rpartition(".")
            if last.isascii() and last.isdecimal() and len(last) <= NUMBER_DIGITS_MAX:
                at, before, count = runs.get(stream, (0, -1, 0))
                number = int(last)
                if count and number == before + 1:
                    runs[stream] = at, number, count + 1
                    out[at] = Send(output.subject, b'{"count":%d}' % (count + 1))
                    continue
                runs[stream] = len(out), number, 1
        out.append(output)
    return out


def malformed(node: str, error: envelope.Unreadable) -> Malformed:
    """Turn a decoding error into what is told to the owner."""
    return Malformed(node, error.message, error.type, error.execution_id, error.job_id, error.job_type)
