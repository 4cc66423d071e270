"""One end of an ordered, acknowledged stream of messages: sends each at least once, in order, to one peer.

Each message has a reply subject of its own. A receiver handles and acknowledges in order, so an acknowledgement that
leaves out an earlier message tells of a loss. After a failure (that, a refusal, nobody there, no answer in time)
everything unconfirmed leaves again, in order, after a back-off; late answers to the earlier try are ignored.

Bacalhau takes the acknowledgement of a message for that of all before it. We do not: what a cut link has swallowed
would count as delivered. A repeat does no harm, since receivers are idempotent. Between peers of ours one answer may
acknowledge several messages, and says how many, and several messages may travel as one (`bundles`).
"""

from __future__ import annotations

from collections import deque

import msgspec

from bacalhau_protocol.errors import Busy, UsageError
from bacalhau_protocol.ncl import envelope
from bacalhau_protocol.ncl.events import DeliveryConfirmed, DeliveryRefused, Incoming, Send
from bacalhau_protocol.ncl.messages import Ack, Command, Report
from bacalhau_protocol.ncl.timings import Limits, Timings

SenderOutput = Send | DeliveryConfirmed | DeliveryRefused

_ack_decoder = msgspec.json.Decoder(Ack)


class _Item:
    """A message that is not confirmed."""

    __slots__ = ("nacks", "payload", "sent_at", "seq", "size_bytes", "tag")

    def __init__(self, payload: Command | Report, seq: int, tag: object) -> None:
        self.payload = payload
        self.seq = seq
        self.tag = tag
        self.nacks = 0
        self.sent_at = 0
        self.size_bytes = 0


class Sender:
    """The sending end.

    Parameters
    ----------
    node, subject, source
        The compute node of this stream, where messages go, and what their metadata names as source.
    inbox
        Answers come to `<inbox>.<try>.<number>`; give what follows `<inbox>.` to `answer`.
    name_subject
        Whether the metadata name the subject (an orchestrator's do, a node's do not).
    joinable
        Whether the peer takes bundles; may be set when that is known. Not any more once it has refused something.
    """

    def __init__(
        self,
        *,
        node: str,
        subject: str,
        source: str,
        inbox: str,
        timings: Timings,
        limits: Limits,
        name_subject: bool = False,
        joinable: bool = False,
    ) -> None:
        self.joinable = joinable
        self._node = node
        self._subject = subject
        self._source = source
        self._inbox = inbox
        self._timings = timings
        self._limits = limits
        self._named_subject = subject if name_subject else ""
        self._items: deque[_Item] = deque()  # unconfirmed, oldest first; the first `_in_flight` of them are out
        self._in_flight = 0
        self._in_flight_bytes = 0
        self._first = 0  # number of `_items[0]`
        self._try = 0
        self._failures = 0  # since the last confirmation
        self._resend_at: int | None = None

    def __len__(self) -> int:
        """Return how many messages are not confirmed."""
        return len(self._items)

    def send(self, payload: Command | Report, *, seq: int, tag: object, now: int) -> list[SenderOutput]:
        """Queue a message and send what may leave. Raises `Busy` when the peer is too far behind."""
        if len(self._items) >= self._limits.queued_max:
            raise Busy(f"{len(self._items)} messages wait for {self._node}, which does not take them")
        self._items.append(_Item(payload, seq, tag))
        return self._pump(now)

    def answer(self, key: str, message: Incoming, now: int) -> list[SenderOutput]:
        """Take an answer: an acknowledgement, a refusal, or the server's "no responders"."""
        index = self._index_in_flight(key)
        if index is None:
            return []
        if no_responders(message):
            return self._fail(now)
        try:
            ack = _ack_decoder.decode(message.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self._fail(now)
        if ack.error:
            return self._refused(index, ack.error, now)
        return self._confirmed(ack.count, now) if ack.count == index + 1 else self._fail(now)

    def is_in_flight(self, key: str) -> bool:
        """Whether this answer is one that we wait for."""
        return self._index_in_flight(key) is not None

    def tick(self, now: int) -> list[SenderOutput]:
        """Send again after a back-off; notice that answers are missing."""
        if self._resend_at is not None:
            if now < self._resend_at:
                return []
            self._resend_at = None
            return self._pump(now)
        if self._in_flight and now >= self._items[0].sent_at + self._timings.ack_timeout_ns:
            return self._fail(now)
        return []

    def next_tick(self) -> int | None:
        """Return when `tick` has something to do, if nothing else comes."""
        if self._resend_at is not None:
            return self._resend_at
        return self._items[0].sent_at + self._timings.ack_timeout_ns if self._in_flight else None

    def _index_in_flight(self, key: str) -> int | None:
        attempt, _, number = key.partition(".")
        if attempt != str(self._try) or not number.isdecimal():
            return None
        index = int(number) - self._first
        return index if 0 <= index < self._in_flight else None

    def _pump(self, now: int) -> list[SenderOutput]:
        out: list[SenderOutput] = []
        while self._resend_at is None and self._room():
            item = self._items[self._in_flight]
            metadata = envelope.metadata(
                item.payload, source=self._source, now=now, seq=item.seq, subject=self._named_subject
            )
            try:
                data = envelope.encode(metadata, item.payload)
            except UsageError as error:  # larger than the wire carries
                del self._items[self._in_flight]
                out.append(DeliveryRefused(self._node, item.tag, str(error)))
                continue
            reply = f"{self._inbox}.{self._try}.{self._first + self._in_flight}"
            out.append(Send(self._subject, data, reply, self.joinable))
            item.sent_at, item.size_bytes = now, len(data)
            self._in_flight += 1
            self._in_flight_bytes += len(data)
        return out

    def _room(self) -> bool:
        return (
            self._in_flight < min(len(self._items), self._limits.in_flight_max)
            and self._in_flight_bytes < self._limits.in_flight_max_bytes
        )

    def _confirmed(self, count: int, now: int) -> list[SenderOutput]:
        out: list[SenderOutput] = []
        for _ in range(count):
            item = self._items.popleft()
            self._in_flight_bytes -= item.size_bytes
            out.append(DeliveryConfirmed(self._node, item.tag))
        self._first += count
        self._in_flight -= count
        self._failures = 0
        return out + self._pump(now)

    def _refused(self, index: int, reason: str, now: int) -> list[SenderOutput]:
        self.joinable = False  # perhaps it is bundles that it cannot read
        item = self._items[index]
        item.nacks += 1
        if item.nacks < self._limits.nacks_max:
            return self._fail(now)
        del self._items[index]
        return [DeliveryRefused(self._node, item.tag, reason), *self._fail(now)]

    def _fail(self, now: int) -> list[SenderOutput]:
        self._try += 1
        self._in_flight = self._in_flight_bytes = 0
        self._resend_at = now + backoff(self._failures, self._timings.resend_min_ns, self._timings.resend_max_ns)
        self._failures += 1
        return []


def backoff(failures: int, least_ns: int, most_ns: int) -> int:
    """Return `least · 2^failures`, at most `most`."""
    return min(most_ns, least_ns << min(failures, 30))


def no_responders(message: Incoming) -> bool:
    """Whether this is the server's word that nobody listens to what we sent. Only this header is compared: some
    servers and clients add others.
    """
    return not message.data and (message.headers or {}).get("Status") == "503"
