"""Logs of foreign nodes (Bacalhau 1.9), served to clients as our own nodes serve theirs.

A client asks `bacalhau.x.v1.<node>.in.log.read` for bytes at offsets. A foreign node does not listen there; the
orchestrator does in its place, and has the log pushed to it in the node's own protocol (`ncl.logstream`). Such a stream
always begins at the first byte, so offsets mean the same in every stream of an execution, and one that broke off is
simply begun anew. A bounded part is held in memory; who has fallen behind it gets a stream of its own, which skips what
it has.

Bacalhau's nodes feed one stream at a time, so readers of one execution share a stream where they can. Of an execution
that never ran a node says only after a minute that it has no log, and serves no other meanwhile: it is asked once.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import assert_never

import msgspec
import structlog

from bacalhau_daemon.orchestrator.pulled_log import PulledLog
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects, tokens
from bacalhau_protocol.ncl.events import Ignored, Send
from bacalhau_protocol.ncl.logstream import CloseCode, ConsumerOutput, LogClosed, LogConsumer, LogLine
from bacalhau_protocol.transport.base import Bus, Message, Subscription

VERB = "log.read"
LOGS_MAX = 16  # held at a time
REQUESTS_MAX = 256  # in hand, most of them waiting for output
CHUNK_BYTES_MAX = 256 * 1024
FOLLOW_WAIT_S_MAX = 30.0
SNAPSHOT_WAIT_S = 4.0  # a client waits 5 s for an answer that it did not ask to be held back
IDLE_S = 30.0  # a log that nobody has asked for so long is let go
TICK_S = 1.0
EMPTY_MAX = 1000  # executions of which it is remembered that their node has no log
STREAM_ID_BYTES = 9

_INBOX = re.compile(rf"_R\.{subjects.TOKEN.pattern}\.")  # an answer to any other subject would speak for us

log = structlog.get_logger(__name__)


class ForeignLogs:
    """Serves logs in the place of foreign nodes.

    Clients ask on `bus`, nodes push on the connection given to `start`, so that a flood of frames stands before
    nobody's request; when that one breaks off, `broke_off` must be called, because frames have been lost. `key` is the
    public key of our tickets; `live` says whether an execution is not over.
    """

    def __init__(self, bus: Bus, key: str, live: Callable[[str], bool]) -> None:
        self._bus, self._key, self._live = bus, key, live
        self._consumer = LogConsumer(secrets.token_hex(STREAM_ID_BYTES))
        self._pulled: dict[str, PulledLog] = {}  # by stream
        self._empty: dict[str, errors.BacalhauError] = {}  # by execution: its node has said that it has no log
        self._nodes: dict[str, Subscription] = {}
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None

    async def start(self, bulk: Bus) -> None:
        """Listen for frames and for heartbeats of streams."""
        for subject in self._consumer.subscriptions:
            self._subscriptions.append(await bulk.subscribe(subject, self._came))
        self._ticking = asyncio.create_task(self._tick(), name="foreign logs")

    async def serve(self, node: str) -> None:
        """Answer for this node from now on."""
        if node not in self._nodes:
            self._nodes[node] = await self._bus.subscribe(subjects.to_node(node, VERB), self._asked)

    async def close(self) -> None:
        """Stop; nodes notice when their heartbeats are not answered."""
        for subscription in [*self._subscriptions, *self._nodes.values()]:
            await subscription.unsubscribe()
        tasks = [*self._tasks, *([self._ticking] if self._ticking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def broke_off(self) -> None:
        """Begin all logs anew that have not come to their ends."""
        for stream, pulled in self._pulled.items():
            self._consumer.close(stream)
            pulled.end(LogClosed(stream, CloseCode.ABNORMAL, "the connection broke off"))

    # ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _asked(self, message: Message) -> None:
        if not _INBOX.match(message.reply):
            log.warning("request.reply_refused", verb=VERB, reply=message.reply[:128])
            return
        task = asyncio.create_task(self._answer(message, busy=len(self._tasks) >= REQUESTS_MAX))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message, *, busy: bool) -> None:
        headers: dict[str, str] = {}
        try:
            if busy:
                raise errors.Busy(f"{REQUESTS_MAX} requests for logs are in hand", hint="try again in a moment")
            data = msgspec.json.encode(await self._serve(message))
        except errors.BacalhauError as error:
            data = error.to_wire()
            headers = {m.ERROR: error.message[:512] or error.code, m.ERROR_CODE: str(error.http_status)}
        try:
            self._bus.send(message.reply, data, headers=headers)
        except errors.BacalhauError as error:  # who asks asks again
            log.info("answer.not_sent", verb=VERB, reason=str(error))

    async def _serve(self, message: Message) -> m.LogChunk:
        node = message.subject.removeprefix(f"{subjects.EXTENSION}.").partition(".")[0]
        try:
            request = msgspec.json.decode(message.data, type=m.LogRead)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise errors.UsageError(f"the request cannot be read: {error}", place=VERB) from error
        if request.stdout_offset < 0 or request.stderr_offset < 0 or request.limit < 1:
            raise errors.UsageError("offsets count from 0, and a limit is at least 1", place=VERB)
        execution, now = request.execution_id, time.time_ns()
        tokens.check_ticket(request.ticket, [self._key], execution=execution, path="", reply=message.reply, now=now)
        return await self._read(node, request)

    async def _read(self, node: str, request: m.LogRead) -> m.LogChunk:
        live = self._live(request.execution_id)
        if not live and request.execution_id in self._empty:
            raise self._empty[request.execution_id]
        pulled = self._find(request, live=live) or self._begin(node, request, live=live)
        # What is over comes soon or not at all.
        wait_s = min(request.wait_ms / 1000, FOLLOW_WAIT_S_MAX) if request.wait_ms and live else SNAPSHOT_WAIT_S
        await pulled.wait(request, wait_s)
        if not pulled.holds(request):
            raise errors.Busy("the log came faster than it was read", hint="ask again for the same bytes")
        try:
            return pulled.chunk(request, min(request.limit, CHUNK_BYTES_MAX), live=live)
        except errors.TimedOut:
            raise  # what comes late is for the next request: asking again would only lengthen the node's queue
        except errors.BacalhauError:
            self._forget(pulled)  # the next request begins anew
            raise

    def _find(self, request: m.LogRead, *, live: bool) -> PulledLog | None:
        for pulled in self._pulled.values():
            fits = pulled.follow or pulled.final or (live and not request.wait_ms and not pulled.closed)
            if fits and pulled.execution == request.execution_id and pulled.holds(request):
                return pulled
        return None

    def _begin(self, node: str, request: m.LogRead, *, live: bool) -> PulledLog:
        if len(self._pulled) >= LOGS_MAX:
            self._let_go()
        if len(self._pulled) >= LOGS_MAX:
            raise errors.Busy(f"{LOGS_MAX} logs of foreign nodes are being read", hint="try again in a moment")
        stream = secrets.token_hex(STREAM_ID_BYTES)
        follow = live and request.wait_ms > 0
        pulled = PulledLog(stream, node, request, follow=follow, final=not live)
        self._pulled[stream] = pulled
        self._act(self._consumer.open(stream, node, request.execution_id, follow=follow, now=time.time_ns()))
        return pulled

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _came(self, message: Message) -> None:
        self._act(self._consumer.message(message, time.time_ns()))

    def _act(self, outputs: Iterable[ConsumerOutput]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._send(output)
                case LogLine():
                    if (pulled := self._pulled.get(output.stream_id)) is not None:
                        pulled.take(output)
                case LogClosed():
                    self._closed(output)
                case Ignored():
                    log.info("log.ignored", words=output.words)
                case _:
                    assert_never(output)

    def _closed(self, closed: LogClosed) -> None:
        pulled = self._pulled.get(closed.stream_id)
        if pulled is None:
            return
        pulled.end(closed)
        if pulled.final and (empty := pulled.empty) is not None:
            if len(self._empty) >= EMPTY_MAX:
                self._empty.pop(next(iter(self._empty)))
            self._empty[pulled.execution] = empty

    def _send(self, send: Send) -> None:
        try:
            self._bus.send(send.subject, send.data, reply=send.reply)
        except errors.BacalhauError as error:  # the stream then ends for want of frames
            log.info("log.not_asked_for", reason=str(error))

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._act(self._consumer.tick(time.time_ns()))
            self._let_go()

    def _let_go(self) -> None:
        """Forget logs that nobody reads any more."""
        for pulled in [one for one in self._pulled.values() if one.begun and one.idle_s() > IDLE_S]:
            self._forget(pulled)

    def _forget(self, pulled: PulledLog) -> None:
        self._consumer.close(pulled.stream)
        self._pulled.pop(pulled.stream, None)
