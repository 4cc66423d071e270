"""Log streams for orchestrators of Bacalhau 1.9 (`ncl.logstream`): each its own task, many at a time.

Bacalhau's own nodes serve one stream at a time; ours do not. `tail` means "from now on", as there.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from bacalhau_daemon.compute import layout
from bacalhau_protocol.api.subjects import TOKEN
from bacalhau_protocol.errors import BacalhauError
from bacalhau_protocol.ncl.events import Ignored, Send
from bacalhau_protocol.ncl.logstream import (
    CloseCode,
    LogCancelled,
    LogProducer,
    LogRequested,
    LogType,
    ProducerOutput,
    Stream,
)
from bacalhau_protocol.transport.base import Bus, Message, Subscription

CHUNK_BYTES = 32 * 1024
POLL_S = 0.1
KNOWN_WITHIN_S = 5.0  # a request may overtake the offer of its execution
log = structlog.get_logger(__name__)


class ForeignLogs:
    """Feeds streams. `known` says whether an execution is one of ours, `live` whether it is not over."""

    def __init__(
        self,
        node: str,
        bus: Bus,
        root: Path,
        *,
        known: Callable[[str], bool],
        live: Callable[[str], bool],
    ) -> None:
        self._producer = LogProducer(node, bus.inbox())
        self._bus, self._root, self._known, self._live = bus, root, known, live
        self._subscriptions: list[Subscription] = []
        self._feeding: dict[Stream, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to listen for requests."""
        for subject in self._producer.subscriptions:
            self._subscriptions.append(await self._bus.subscribe(subject, self._receive))

    async def close(self) -> None:
        """End all streams."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        if self._timer is not None:
            self._timer.cancel()
        for stream, task in list(self._feeding.items()):
            task.cancel()
            await self._send(self._producer.close(stream, CloseCode.GOING_AWAY, "the node is stopping"))
        await asyncio.gather(*self._feeding.values(), return_exceptions=True)

    async def _receive(self, message: Message) -> None:
        await self._act(self._producer.message(message, time.time_ns()))

    async def _act(self, outputs: Iterable[ProducerOutput]) -> None:
        for output in outputs:
            match output:
                case Send():
                    await self._send([output])
                case LogRequested():
                    task = asyncio.create_task(self._feed(output), name=f"log of {output.execution_id[:80]}")
                    self._feeding[output.stream] = task
                case LogCancelled():
                    fed = self._feeding.pop(output.stream, None)
                    if fed is not None:
                        fed.cancel()
                case Ignored():
                    log.info("log.ignored", words=output.words)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self._producer.next_tick()
        if at is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, (at - time.time_ns()) / 1e9), self._due)

    def _due(self) -> None:
        task = asyncio.create_task(self._act(self._producer.tick(time.time_ns())))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _feed(self, request: LogRequested) -> None:
        stream, execution = request.stream, request.execution_id
        try:
            if await self._comes_to_be_known(execution):
                await self._follow(request)
                await self._send(self._producer.close(stream))
            else:
                words = f"error in handler : execution {execution[:80]} not found"
                await self._send(self._producer.close(stream, CloseCode.PRODUCER_ERROR, words))
        except Exception as error:
            log.warning("log.feed_failed", execution=execution, error=repr(error))
            await self._send(self._producer.close(stream, CloseCode.PRODUCER_ERROR, str(error)))
        finally:
            self._feeding.pop(stream, None)

    async def _comes_to_be_known(self, execution: str) -> bool:
        deadline = time.monotonic() + KNOWN_WITHIN_S
        while TOKEN.fullmatch(execution):
            if self._known(execution):
                return True
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(POLL_S)
        return False

    async def _follow(self, request: LogRequested) -> None:
        results = self._root / request.execution_id / layout.RESULTS
        readers = [
            _Reader(results / layout.STDOUT, LogType.STDOUT),
            _Reader(results / layout.STDERR, LogType.STDERR),
        ]
        if request.tail:
            for reader in readers:
                reader.skip()
        while True:
            live = self._live(request.execution_id)
            found = False
            for reader in readers:
                text = await asyncio.to_thread(reader.read)
                found = found or bool(text)
                await self._send(self._producer.lines(request.stream, reader.kind, text))
            if not found and not (live and request.follow):
                return
            if not found:
                await asyncio.sleep(POLL_S)

    async def _send(self, sends: Iterable[Send]) -> None:
        for send in sends:
            try:
                await self._bus.publish(send.subject, send.data, reply=send.reply)
            except BacalhauError as error:
                log.info("log.not_sent", reason=str(error))


class _Reader:
    """One file, read in pieces that end at whole characters."""

    def __init__(self, path: Path, kind: LogType) -> None:
        self.kind = kind
        self._path = path
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def skip(self) -> None:
        """Begin at the end."""
        try:
            self._offset = self._path.lstat().st_size
        except FileNotFoundError:
            self._offset = 0

    def read(self) -> str:
        """Return what is new, a piece of it; blank when nothing is."""
        data = layout.pread(self._path, self._offset, CHUNK_BYTES)
        self._offset += len(data)
        return self._decoder.decode(data)
