"""One connection to a NATS server: its text protocol, as callbacks of the event loop.

Messages are handed over as they are parsed, in the turn of the loop that read them, and all that is sent in one turn
leaves in one write: no task, no queue and no hop in between (measured in `docs/decisions/0024`). A connection is one
life: when it has ended, what it had not yet sent is gone, and `ended` has been called, once.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.settings import Server, WireError, headers_bytes, is_subject

PING_INTERVAL_S, PINGS_OUTSTANDING_MAX = 5.0, 2
PENDING_BYTES_MAX = 16 * 1024 * 1024  # not yet written to the socket; more means that the link does not keep up
READ_AT_ONCE_BYTES = 64 * 1024  # after so much others have their turn: uvloop would read 32 times as much in one
LINE_BYTES_MAX = 64 * 1024  # of the server's own lines, INFO above all
HEADER_LINE = b"NATS/1.0"
MESSAGES = frozenset({b"MSG", b"HMSG"})
STAYS = ("permissions violation", "invalid subject", "invalid publish subject")
"""How complaints begin after which the server does not close the connection."""

Deliver = Callable[[Message], None]


class Info(msgspec.Struct, frozen=True):
    """What we need of the server's greeting."""

    max_payload: int = 1024 * 1024
    tls_required: bool = False
    tls_available: bool = False


class Wire(asyncio.Protocol):
    """See above. `complained` gets what the server says is wrong, in its words."""

    def __init__(self, place: str, complained: Callable[[str], None], ended: Callable[[], None]) -> None:
        self.place = place  # of the server, for errors
        self._complained, self._ended = complained, ended
        self._loop = asyncio.get_running_loop()
        self.connected = False  # logged in, and not ended
        self.error: Exception | None = None  # why it ended
        self.greeted = False  # the server has said who it is
        self._info: asyncio.Future[Info] = self._loop.create_future()
        self._max_payload = 0
        self._transport: asyncio.Transport
        self._unsent: list[bytes] = []
        self._unsent_bytes = self._backlog_bytes = 0  # the latter: handed to the transport, as of the last write
        self._parts: list[bytes] = []  # read and not yet parsed
        self._part_bytes = self._needed_bytes = 0
        self._subscriptions: dict[bytes, Deliver] = {}
        self._numbers = 0
        self._pongs: deque[asyncio.Future[bool]] = deque()  # of pings that are out
        self._beat: asyncio.TimerHandle | None = None

    # ── a life ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, server: Server, context: ssl.SSLContext | None, login: dict[str, Any]) -> None:
        """Connect and log in. Raises `OSError`, `ssl.SSLError` or `WireError`, in the server's words if it has any."""
        try:
            await self._loop.create_connection(lambda: self, server.host, server.port)
            info = await self._info
            if info.tls_required or server.tls or context is not None:
                await self._secure(server, info, context)
            self._write(b"CONNECT " + msgspec.json.encode(login) + b"\r\n")
            if not await self.ping():
                raise self.error or WireError("the server went away")
        except BaseException:
            self.abort()
            raise
        self.connected = True
        self._beat = self._loop.call_later(PING_INTERVAL_S, self._on_beat)

    async def _secure(self, server: Server, info: Info, context: ssl.SSLContext | None) -> None:
        if not (info.tls_required or info.tls_available):
            raise ssl.SSLError("the server does not speak TLS")
        secured = await self._loop.start_tls(
            self._transport, self, context or ssl.create_default_context(), server_hostname=server.host
        )
        self._transport = cast("asyncio.Transport", secured)

    def close(self) -> None:
        """End it after what was sent has been written."""
        self._flush()
        self._transport.close()

    def abort(self, error: Exception | None = None) -> None:
        """End it now; what was not written is dropped."""
        self.error = self.error or error
        self.connected = False
        self._unsent.clear()
        if hasattr(self, "_transport"):
            self._transport.abort()

    def ping(self) -> asyncio.Future[bool]:
        """Ask the server to answer; True once it has seen everything before, False when the connection has ended."""
        pong: asyncio.Future[bool] = self._loop.create_future()
        if self._transport.is_closing():
            pong.set_result(False)
            return pong
        self._pongs.append(pong)
        self._write(b"PING\r\n")
        return pong

    def _on_beat(self) -> None:
        if len(self._pongs) > PINGS_OUTSTANDING_MAX:
            self.abort(WireError("the server does not answer"))
            return
        self.ping()
        self._beat = self._loop.call_later(PING_INTERVAL_S, self._on_beat)

    # ── sending ───────────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Send. Raises `UsageError` for what NATS cannot carry and `Unavailable` when the link does not keep up."""
        if not is_subject(subject) or (reply and not is_subject(reply)):
            raise errors.UsageError(f"not a subject of NATS: {subject!r} {reply!r}")
        block = headers_bytes(headers) if headers else b""
        size_bytes = len(block) + len(data)
        if size_bytes > self._max_payload:
            raise errors.UsageError(
                f"a message of {size_bytes} bytes with its headers is over the limit of {self._max_payload}",
                place=subject,
            )
        if self._unsent_bytes + self._backlog_bytes > PENDING_BYTES_MAX and self._clogged():
            raise errors.Unavailable("the link does not keep up", place=self.place)
        if block:
            self._write(f"HPUB {subject} {reply} {len(block)} {size_bytes}\r\n".encode(), block, data, b"\r\n")
        else:
            self._write(f"PUB {subject} {reply} {size_bytes}\r\n".encode(), data, b"\r\n")

    def _clogged(self) -> bool:
        self._backlog_bytes = self._transport.get_write_buffer_size()
        return self._unsent_bytes + self._backlog_bytes > PENDING_BYTES_MAX

    def subscribe(self, subject: str, queue: str, deliver: Deliver) -> bytes:
        """Listen; return the number of the subscription."""
        self._numbers += 1
        number = b"%d" % self._numbers
        self._subscriptions[number] = deliver
        self._write(f"SUB {subject} {queue} ".encode() + number + b"\r\n")
        return number

    def unsubscribe(self, number: bytes) -> None:
        """Listen no more."""
        if self._subscriptions.pop(number, None) is not None and not self._transport.is_closing():
            self._write(b"UNSUB " + number + b"\r\n")

    def _write(self, *parts: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += parts
        self._unsent_bytes += sum(map(len, parts))

    def _flush(self) -> None:
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        if unsent and not self._transport.is_closing():
            self._transport.write(b"".join(unsent))
            self._backlog_bytes = self._transport.get_write_buffer_size()

    # ── receiving ─────────────────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.connected = False
        self.error = self.error or exc
        if self._beat is not None:
            self._beat.cancel()
        if not self._info.done():
            self._info.set_exception(self.error or WireError("the server went away"))
        for pong in self._pongs:
            if not pong.done():
                pong.set_result(False)
        self._ended()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._parts.append(data)
        self._part_bytes += len(data)
        if self._part_bytes < self._needed_bytes:
            return
        whole = data if len(self._parts) == 1 else b"".join(self._parts)
        try:
            done = self._parse(whole)
        except (ValueError, LookupError, msgspec.MsgspecError) as error:
            self.abort(WireError(f"the server does not speak NATS: {error!r}"))
            return
        rest = whole[done:]
        self._parts, self._part_bytes = ([rest], len(rest)) if rest else ([], 0)
        if len(data) >= READ_AT_ONCE_BYTES and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _parse(self, whole: bytes) -> int:
        """Handle every complete command; return where the incomplete one begins."""
        at, end, self._needed_bytes = 0, len(whole), 0
        while at < end:
            eol = whole.find(b"\r\n", at)
            if eol < 0:
                if end - at > LINE_BYTES_MAX:
                    raise ValueError("a line without an end")
                break
            words = whole[at:eol].split(b" ")
            kind = words[0]
            if kind in MESSAGES:
                start = eol + 2
                stop = start + int(words[-1])
                if stop + 2 > end:
                    self._needed_bytes = stop + 2 - at
                    break
                self._message(words, whole[start:stop])
                at = stop + 2
            else:
                self._command(kind, whole[at:eol])
                at = eol + 2
        return at

    def _message(self, words: list[bytes], payload: bytes) -> None:
        deliver = self._subscriptions.get(words[2])
        if deliver is None:  # unsubscribed just now
            return
        headers = None
        fields = 4
        if words[0] == b"HMSG":
            fields = 5
            size = int(words[-2])
            headers, payload = read_headers(payload[:size]), payload[size:]
        reply = words[3].decode() if len(words) > fields else ""
        deliver(Message(words[1].decode(), payload, reply, headers))

    def _command(self, kind: bytes, line: bytes) -> None:
        match kind.upper():
            case b"PING":
                self._write(b"PONG\r\n")
            case b"PONG":
                pong = self._pongs.popleft()
                if not pong.done():
                    pong.set_result(True)
            case b"INFO":
                info = msgspec.json.decode(line[5:], type=Info)
                self._max_payload, self.greeted = info.max_payload, True
                if not self._info.done():
                    self._info.set_result(info)
            case b"-ERR":
                words = line[5:].decode(errors="replace").strip("' ")
                if self.connected:
                    self._complained(words)
                if not words.lower().startswith(STAYS):
                    self.error = self.error or WireError(words)
            case b"+OK":
                pass
            case _:
                raise ValueError(line[:100])


def read_headers(block: bytes) -> dict[str, str] | None:
    """Return the headers of a message; `Status` and `Description` are the server's own word in the first line."""
    first, _, lines = block.partition(b"\r\n")
    headers = {}
    status = first.removeprefix(HEADER_LINE).strip().decode(errors="replace")
    if status:
        headers["Status"], _, description = status.partition(" ")
        if description:
            headers["Description"] = description
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.strip().decode(errors="replace")] = value.strip().decode(errors="replace")
    return headers or None
