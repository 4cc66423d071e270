"""The NATS protocol on our side: any split of the bytes means the same, nothing that is sent can end its command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.nats_wire import LINE_BYTES_MAX, Wire, read_headers
from bacalhau_protocol.transport.settings import NatsSettings, Server, headers_bytes

INFO = b'INFO {"max_payload": 100, "server_name": "x"}\r\n'


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data

    def is_closing(self) -> bool:
        """Whether it was aborted."""
        return self.closed

    def get_write_buffer_size(self) -> int:
        """Return 0: everything leaves at once."""
        return 0

    def abort(self) -> None:
        """Close."""
        self.closed = True


class Line:
    """A wire on such a transport, logged in, and what came of it."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.heard: list[Message] = []
        self.ends = 0
        self.transport = Transport()
        self.wire = Wire("there", self.complaints.append, self._ended)
        self.wire.connection_made(cast("Any", self.transport))
        self.wire.data_received(INFO)
        self.wire.connected = True

    def _ended(self) -> None:
        self.ends += 1

    async def written(self) -> bytes:
        """Return what has been written after this turn of the loop."""
        await asyncio.sleep(0)
        return self.transport.written


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """Give a line to nowhere."""
    made = Line()
    yield made
    made.wire.connection_lost(None)


STREAM = (
    b"MSG a.b 1 5\r\nhello\r\n"
    b"PING\r\n"
    b"HMSG a.c 1 _R.x 27 31\r\nNATS/1.0\r\nKey: value: 1\r\n\r\nd\r\ne\r\n"
    b"MSG a.d 9 2\r\nno\r\n"
    b"+OK\r\n"
    b"MSG a.e 1 0\r\n\r\n"
)
MESSAGES = [
    Message("a.b", b"hello"),
    Message("a.c", b"d\r\ne", "_R.x", {"Key": "value: 1"}),
    Message("a.e", b""),
]


@pytest.mark.parametrize("step", [1, 2, 3, 7, 20, 1000])
async def test_any_split_of_the_stream_gives_the_same_messages(line: Line, step: int) -> None:
    """A message is handed over once it is whole; an unknown subscription's is passed over; pings are answered."""
    line.wire.subscribe("a.>", "", line.heard.append)

    for start in range(0, len(STREAM), step):
        line.wire.data_received(STREAM[start : start + step])

    assert line.heard == MESSAGES
    assert (await line.written()).endswith(b"PONG\r\n")


async def test_what_is_sent_in_one_turn_leaves_together(line: Line) -> None:
    """Commands are as NATS wants them."""
    number = line.wire.subscribe("a.*", "q", line.heard.append)
    line.wire.publish("a.b", b"x", "", None)
    line.wire.publish("a.b", b"yz", "_R.1", {"K": "v\r\nw"})
    line.wire.unsubscribe(number)

    assert await line.written() == (
        b"SUB a.* q 1\r\nPUB a.b  1\r\nx\r\nHPUB a.b _R.1 21 23\r\nNATS/1.0\r\nK: v  w\r\n\r\nyz\r\nUNSUB 1\r\n"
    )


@pytest.mark.parametrize("subject", ["", "a b", "a\r\nPUB b 0", "a\tb", "a\x00"])
async def test_a_subject_cannot_end_its_command(line: Line, subject: str) -> None:
    """Blanks and control characters are refused, in replies too."""
    for sent, reply in [(subject, ""), ("a", subject or " ")]:
        with pytest.raises(errors.UsageError, match="not a subject"):
            line.wire.publish(sent, b"", reply, None)
    assert await line.written() == b""


async def test_a_header_needs_a_name() -> None:
    """A name with a blank or a line's end is refused."""
    for name in ["", "a b", "a\r\n", "a:"]:
        with pytest.raises(errors.UsageError, match="not a header"):
            headers_bytes({name: "x"})


async def test_a_message_over_the_servers_limit_is_refused(line: Line) -> None:
    """The limit of the greeting counts, headers included."""
    line.wire.publish("a", b"x" * 100, "", None)
    with pytest.raises(errors.UsageError, match="over the limit of 100"):
        line.wire.publish("a", b"x" * 80, "", {"Key": "value"})


@pytest.mark.parametrize("junk", [b"HTTP/1.1 400\r\n", b"MSG a 1 many\r\n", b"MSG\r\n", b"x" * (LINE_BYTES_MAX + 1)])
async def test_what_is_not_nats_ends_the_connection(line: Line, junk: bytes) -> None:
    """It is said, and nothing more is read into it."""
    line.wire.data_received(junk)

    assert line.transport.closed
    assert "does not speak NATS" in str(line.wire.error)


async def test_a_refusal_is_kept_as_the_reason_of_the_end(line: Line) -> None:
    """A permission that is missing is told and ends nothing; other complaints are why the server hangs up."""
    line.wire.data_received(b"-ERR 'Permissions Violation for Publish to \"A.b\"'\r\n")
    assert line.complaints == ['Permissions Violation for Publish to "A.b"']
    assert line.wire.error is None

    line.wire.data_received(b"-ERR 'User Authentication Expired'\r\n")
    pong = line.wire.ping()
    line.wire.connection_lost(ConnectionResetError())
    assert (str(line.wire.error), await pong, line.ends) == ("User Authentication Expired", False, 1)


def test_status_messages_have_no_lines() -> None:
    """The server's own word stands in the first line."""
    assert read_headers(b"NATS/1.0 503\r\n\r\n") == {"Status": "503"}
    assert read_headers(b"NATS/1.0 100 Idle Heartbeat\r\nA: b\r\n\r\n") == {
        "Status": "100",
        "Description": "Idle Heartbeat",
        "A": "b",
    }


def test_addresses_are_read() -> None:
    """Scheme, token and port are optional; what is no address is refused without showing a token."""
    settings = NatsSettings(address="tls://secret@h:1, [::1]", identity="a")

    assert settings.servers == [Server("h", 1, tls=True, token="secret"), Server("::1", 4222)]
    assert settings.login(settings.servers[0])["auth_token"] == "secret"
    assert settings.place == "tls://h:1, [::1]"
    with pytest.raises(errors.UsageError) as caught:
        _ = NatsSettings(address="nats://secret@h:x", identity="a").servers
    assert "secret" not in str(caught.value)
