"""Logs of Bacalhau 1.9 nodes reach clients as those of our own nodes do; the node speaks as the captured one does."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from bacalhau_daemon.orchestrator import foreign_logs, pulled_log
from bacalhau_daemon.orchestrator.foreign_logs import ForeignLogs
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.tokens import Ticket, TicketSigner
from bacalhau_protocol.client.client import checked
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker, MemoryBus
from tests.builders_ncl import captured

NODE, EXECUTION = "n-go", "e-1"
SIGNER = TicketSigner(bytes(32))


class ForeignNode:
    """A scripted node: keeps requests, and sends what it is told in the frames of a real one."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.requests: list[dict[str, object]] = []
        self.replies: list[str] = []

    async def start(self) -> None:
        """Listen where a real one does."""
        await self.bus.subscribe(f"node.compute.{NODE}.>", self._asked)

    async def _asked(self, message: Message) -> None:
        outer = json.loads(message.data)
        assert outer.keys() == captured("log-request-all")["body"].keys()
        self.requests.append(json.loads(base64.b64decode(outer["body"])))
        self.replies.append(message.reply)

    async def says(self, text: str, kind: int = 1, *, stream: int = -1) -> None:
        """Send a piece of output on a stream, by default the newest."""
        item = json.dumps({"value": {"Type": kind, "Line": text}}).encode()
        await self._frame(stream, {"type": 1, "data": base64.b64encode(item).decode()})

    async def breaks(self, text: str) -> None:
        """Send an error in the stream, as a node does that has no log file."""
        item = json.dumps({"error": text, "value": {"Type": 0, "Line": ""}}).encode()
        await self._frame(-1, {"type": 1, "data": base64.b64encode(item).decode()})
        await self.ends()

    async def ends(self, code: int = 1000, text: str = "", *, stream: int = -1) -> None:
        """Close a stream."""
        await self._frame(stream, {"type": 2, "closeError": {"Code": code, "Text": text}})

    async def _frame(self, stream: int, frame: dict[str, object]) -> None:
        await wait_until(lambda: self.replies, what="a request for a log")
        await self.bus.publish(self.replies[stream], json.dumps(frame).encode())


class Place:
    """The orchestrator's side, a node and a client on one broker."""

    def __init__(self) -> None:
        broker = MemoryBroker()
        self.alice = broker.connect("alice")
        self.node = ForeignNode(broker.connect(NODE))
        self.live = {EXECUTION}
        self.bulk = broker.connect("orchestrator-bulk")
        self.logs = ForeignLogs(broker.connect("orchestrator"), SIGNER.public_key, lambda one: one in self.live)

    async def start(self) -> None:
        """Start all."""
        await self.node.start()
        await self.logs.start(self.bulk)
        await self.logs.serve(NODE)

    async def read(self, stdout: int = 0, stderr: int = 0, *, wait_ms: int = 20_000, **more: object) -> m.LogChunk:
        """Ask as a client does."""
        ticket = SIGNER.sign(Ticket(user="alice", execution=EXECUTION, expires=time.time_ns() + 10**12))
        request = m.LogRead(
            ticket=ticket, execution_id=EXECUTION, stdout_offset=stdout, stderr_offset=stderr, wait_ms=wait_ms
        )
        data = msgspec.json.encode(msgspec.structs.replace(request, **more))
        answer = await self.alice.request(subjects.to_node(NODE, "log.read"), data, timeout_s=25)
        return msgspec.json.decode(checked(answer).data, type=m.LogChunk)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Give a started place."""
    made = Place()
    await made.start()
    yield made
    await made.logs.close()
    for bus in (made.alice, made.node.bus, made.bulk):
        assert bus.problems == []


async def test_a_log_is_followed_to_its_end(place: Place) -> None:
    """Bytes at offsets, as they come; the end is told when the node has closed its stream."""
    first = asyncio.create_task(place.read())
    await place.node.says("one\n")
    assert (await first).stdout == b"one\n"
    await place.node.says("err\n", 2)
    assert await place.read(4) == m.LogChunk(stderr=b"err\n", stdout_size=4, stderr_size=4)
    place.live.clear()
    await place.node.ends()

    assert await place.read(4, 4) == m.LogChunk(stdout_size=4, stderr_size=4, ended=True)
    assert place.node.requests == [{"ExecutionID": EXECUTION, "NodeID": NODE, "Tail": False, "Follow": True}]


async def test_what_there_is_now_is_whole(place: Place) -> None:
    """Who does not follow gets an answer when the node has sent all of it: sizes are those of the log."""
    asked = asyncio.create_task(place.read(wait_ms=0))
    await place.node.says("one\n")
    await place.node.says("two\n")
    assert not asked.done()
    await place.node.ends()

    assert await asked == m.LogChunk(stdout=b"one\ntwo\n", stdout_size=8)
    assert place.node.requests[0]["Follow"] is False


async def test_readers_share_a_stream(place: Place) -> None:
    """Because a node feeds one at a time: followers, and those who only look."""
    first = asyncio.create_task(place.read())
    await place.node.says("one\n")
    await first

    assert (await place.read()).stdout == b"one\n"
    assert (await place.read(wait_ms=0)).stdout == b"one\n"
    assert len(place.node.requests) == 1


async def test_a_node_without_a_log_says_so(place: Place) -> None:
    """Its words come through; of an execution that is over it is not asked again: that would block others."""
    asked = asyncio.create_task(place.read())
    await place.node.ends(5000, "execution e-1 not found")
    with pytest.raises(errors.NotFound, match="execution e-1 not found"):
        await asked

    place.live.clear()
    asked = asyncio.create_task(place.read())
    await wait_until(lambda: len(place.node.requests) == 2)
    await place.node.breaks("timeout while waiting for execution logs")
    for again in (asked, place.read(), place.read(wait_ms=0)):
        with pytest.raises(errors.NotFound, match="timeout while waiting"):
            await again
    assert len(place.node.requests) == 2


async def test_what_is_over_is_asked_for_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow node is not asked again while it has not answered; the answer serves everybody."""
    monkeypatch.setattr(foreign_logs, "SNAPSHOT_WAIT_S", 0.05)
    place.live.clear()
    for wait_ms in (0, 20_000):
        with pytest.raises(errors.TimedOut, match="has not sent the log in time"):
            await place.read(wait_ms=wait_ms)
    await place.node.says("one\n")
    await place.node.ends()

    for wait_ms in (0, 20_000):
        assert await place.read(wait_ms=wait_ms) == m.LogChunk(stdout=b"one\n", stdout_size=4, ended=True)
    assert len(place.node.requests) == 1
    assert place.node.requests[0]["Follow"] is False


async def test_a_node_that_is_gone_is_unavailable(place: Place) -> None:
    """Nobody listens there: said at once."""
    await place.logs.serve("n-gone")
    ticket = SIGNER.sign(Ticket(user="alice", execution=EXECUTION, expires=time.time_ns() + 10**12))
    request = msgspec.json.encode(m.LogRead(ticket=ticket, execution_id=EXECUTION, wait_ms=20_000))
    asked = asyncio.create_task(place.alice.request(subjects.to_node("n-gone", "log.read"), request, timeout_s=25))
    await wait_until(lambda: place.logs._pulled)
    (stream,) = place.logs._pulled
    inbox = place.logs._consumer.subscriptions[0].removesuffix("*")
    await place.node.bus.publish(f"{inbox}{stream}", b"", headers={"Status": "503"})

    with pytest.raises(errors.Unavailable, match="serves no logs now"):
        checked(await asked)


async def test_a_stream_that_broke_off_is_begun_anew_behind_what_was_read(place: Place) -> None:
    """Frames have been lost with the connection: the next stream begins at the first byte and skips."""
    asked = asyncio.create_task(place.read())
    await place.node.says("one\n")
    await asked
    place.logs.broke_off()
    await place.node.says("lost\n")
    with pytest.raises(errors.Unavailable, match="broke off"):
        await place.read(4)

    again = asyncio.create_task(place.read(4))
    await wait_until(lambda: len(place.node.requests) == 2)
    await place.node.says("one\ntwo\n")

    assert (await again).stdout == b"two\n"


async def test_memory_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who falls behind what is held gets a stream of its own; nothing is skipped in silence."""
    monkeypatch.setattr(pulled_log, "HELD_BYTES_MAX", 8)
    asked = asyncio.create_task(place.read())
    await place.node.says("0123456789ab")
    with pytest.raises(errors.Busy, match="faster than it was read"):
        await asked

    again = asyncio.create_task(place.read())
    await wait_until(lambda: len(place.node.requests) == 2)
    await place.node.says("0123")
    assert (await again).stdout == b"0123"
    monkeypatch.setattr(foreign_logs, "LOGS_MAX", 2)
    await place.node.says("456789ab")
    assert (await place.read(8)).stdout == b"89ab"
    with pytest.raises(errors.Busy, match="2 logs of foreign nodes are being read"):
        await place.read()


async def test_only_a_ticket_opens_a_log_and_only_for_its_user(place: Place) -> None:
    """A forged ticket, impossible offsets, and another's inbox: refused, dropped."""
    with pytest.raises(errors.Unauthenticated):
        await place.read(ticket="x.y")
    with pytest.raises(errors.UsageError):
        await place.read(-1)
    spied: list[Message] = []

    async def spy(message: Message) -> None:
        spied.append(message)

    target = "bacalhau.global.compute.n-2.in.msgs"
    await place.node.bus.subscribe(target, spy)
    await place.alice.publish(subjects.to_node(NODE, "log.read"), b"{}", reply=target)
    asked = asyncio.create_task(place.read())
    await place.node.says("one\n")
    await asked

    assert spied == []


async def test_heartbeats_of_streams_are_answered(place: Place) -> None:
    """A stream that somebody reads is wanted; one that was let go is not."""
    asked = asyncio.create_task(place.read())
    await place.node.says("one\n")
    await asked
    reply = place.node.replies[0]
    stream = reply.rpartition(".")[2]
    beat = json.dumps({"ActiveStreamIds": {f"node.compute.{NODE}.ExecutionLogs/v1": [stream]}}).encode()
    subject = f"_HEARTBEAT.{reply.rpartition('.')[0]}"

    assert json.loads((await beaten(place, subject, beat)).data) == {"NonActiveStreamIds": {}}
    place.logs._forget(place.logs._pulled[stream])
    gone = json.loads((await beaten(place, subject, beat)).data)["NonActiveStreamIds"]
    assert list(gone.values()) == [[stream]]


async def beaten(place: Place, subject: str, beat: bytes) -> Message:
    """Send a heartbeat as a foreign node does; return the answer in its inbox."""
    answers: list[Message] = []

    async def note(message: Message) -> None:
        answers.append(message)

    await place.node.bus.subscribe("_INBOX.x.1", note)
    await place.node.bus.publish(subject, beat, reply="_INBOX.x.1")
    await wait_until(lambda: answers)
    return answers[0]
