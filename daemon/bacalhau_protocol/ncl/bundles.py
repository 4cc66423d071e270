"""Fewer messages between peers of ours: one for several, and one acknowledgement for several.

A bundle is the byte `0xB1`, then of each message 4 bytes of length (big-endian) and its envelope. The messages belong
to one stream and follow each other; the bundle wants its answer where the last of them would want it. Whoever takes it
apart gives each message the reply subject that it would have had alone, so nothing else knows of bundles, and a part of
one may be acknowledged. Peers that are not ours get each message alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from bacalhau_protocol.ncl.envelope import Unreadable
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.subjects import OWN_INBOX
from bacalhau_protocol.ncl.timings import NEVER

ACK: Final = b"{}"
"""Not empty, not a copy of the message's headers: what a real node sends."""

BUNDLE: Final = b"\xb1"
BUNDLED_MAX: Final = 256
BUNDLED_MAX_BYTES: Final = 128 * 1024
NUMBER_DIGITS_MAX: Final = 18
HOLD_NS: Final = 25_000_000  # an acknowledgement waits at most so long for company
_LENGTH = struct.Struct(">I")

Output = TypeVar("Output")


class _Run:
    """Messages of one stream that follow each other: where the first stands, the number of the last."""

    __slots__ = ("at", "last", "sends", "size_bytes")

    def __init__(self, at: int, number: int, send: Send) -> None:
        self.at = at
        self.last = number
        self.sends = [send]
        self.size_bytes = len(send.data)

    def takes(self, number: int, send: Send) -> bool:
        """Add a message if it is the next one and there is room."""
        size = self.size_bytes + len(send.data)
        if number != self.last + 1 or len(self.sends) == BUNDLED_MAX or size > BUNDLED_MAX_BYTES:
            return False
        self.sends.append(send)
        self.last, self.size_bytes = number, size
        return True


class Outbox:
    """Gathers, and lets acknowledgements to a peer of ours wait a moment for something to travel with.

    Each message costs both ends and the server a wake-up, and the answer to an order is mostly soon followed by the
    report of what came of it.
    """

    def __init__(self, hold_ns: int = HOLD_NS) -> None:
        self.due = NEVER  # when what is held leaves, if nothing else does
        self._hold_ns = hold_ns
        self._held: list[Send] = []

    def gather(self, outputs: Sequence[Output], now: int) -> list[Output | Send]:
        """Return what leaves now; see `gather`."""
        if now < self.due:
            rest: list[Output | Send] = []
            waiting: list[Send] = []
            for one in outputs:
                if isinstance(one, Send) and one.joinable:
                    break
                if isinstance(one, Send) and one.data is ACK and one.subject.startswith(OWN_INBOX):
                    waiting.append(one)
                else:
                    rest.append(one)
            else:
                if waiting and not self._held:
                    self.due = now + self._hold_ns
                self._held += waiting
                return rest
        held, self._held, self.due = self._held, [], NEVER
        together: list[Output | Send] = [*held, *outputs]
        return gather(together)


def gather(outputs: Iterable[Output]) -> list[Output | Send]:
    """Make one of what goes to the same peer: messages become bundles, acknowledgements one that says how many.

    It goes where the last of them would go, or wants its answer. The numbers are those that the sender gave, so what
    was lost on the way is never among those that are acknowledged.
    """
    out: list[Output | Send] = []
    runs: dict[str, _Run] = {}
    made: list[_Run] = []
    for output in outputs:
        if isinstance(output, Send) and (output.joinable or output.data is ACK):
            where = output.reply if output.joinable else output.subject
            stream, _, last = where.rpartition(".")
            number = _number(last)
            if number is not None and (output.joinable or where.startswith(OWN_INBOX)):
                run = runs.get(stream)
                if run is not None and run.takes(number, output):
                    continue
                runs[stream] = _Run(len(out), number, output)
                made.append(runs[stream])
        out.append(output)
    for run in made:
        if len(run.sends) > 1:
            out[run.at] = _one(run.sends)
    return out


def _one(sends: list[Send]) -> Send:
    last = sends[-1]
    if last.joinable:
        return Send(last.subject, join(send.data for send in sends), last.reply)
    return Send(last.subject, b'{"count":%d}' % len(sends))


def join(parts: Iterable[bytes]) -> bytes:
    """Make a bundle of encoded messages."""
    pack = _LENGTH.pack
    return BUNDLE + b"".join(piece for part in parts for piece in (pack(len(part)), part))


def parts(data: bytes, reply: str) -> list[tuple[bytes, str]]:
    """Return the messages in what came, and where each wants its answer; a message alone is one of one.

    Raises `Unreadable`. The reply subject of a message that cannot be known is blank.
    """
    if not data.startswith(BUNDLE):
        return [(data, reply)]
    found = split(data)
    return list(zip(found, _replies(reply, len(found)), strict=True))


def split(data: bytes) -> list[bytes]:
    """Take a bundle apart. Raises `Unreadable`."""
    parts: list[bytes] = []
    at, end = len(BUNDLE), len(data)
    while at < end:
        begin = at + _LENGTH.size
        if begin > end or len(parts) == BUNDLED_MAX:
            break
        at = begin + _LENGTH.unpack_from(data, at)[0]
        parts.append(data[begin:at])
    if at != end or not parts:
        raise Unreadable(f"bad bundle: it ends after {len(parts)} messages, at byte {at} of {end}")
    return parts


def _replies(reply: str, count: int) -> list[str]:
    stream, _, last = reply.rpartition(".")
    number = _number(last)
    if number is None or number < count - 1:
        return [""] * (count - 1) + [reply]
    return [f"{stream}.{each}" for each in range(number - count + 1, number + 1)]


def _number(token: str) -> int | None:
    return int(token) if token.isascii() and token.isdecimal() and len(token) <= NUMBER_DIGITS_MAX else None
