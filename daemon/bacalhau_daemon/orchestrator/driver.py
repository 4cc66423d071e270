"""Drives the orchestrator's machine: hands it messages, requests, time and outcomes; carries out what it asks for.

Everything here runs on the loop and none of it waits: the machine is called from callbacks, and asked once per turn of
the loop what is to be done, so that what came together is decided together, and what is sent leaves in one write.
Appends and rows go to threads. A look-up does not: it reads two index entries, which costs less than a change of
threads, and nothing can be forgotten between question and answer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, assert_never

import structlog
from msgspec import structs

from bacalhau_daemon.core.actions import (
    Action,
    Answer,
    Append,
    Complain,
    Disconnect,
    Halt,
    KeepLogTail,
    LookUp,
    Project,
    Reload,
    Send,
)
from bacalhau_daemon.core.complaints import UNREADABLE
from bacalhau_daemon.core.context import Disk
from bacalhau_daemon.core.orchestrator import Orchestrator
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.log.appender import Appender
from bacalhau_daemon.log.base import Outcome, Unavailable
from bacalhau_daemon.log.space import measure
from bacalhau_daemon.log.sqlite_reader import SqliteReader
from bacalhau_daemon.orchestrator.endpoint import Result
from bacalhau_daemon.orchestrator.kept_logs import KeptLogs
from bacalhau_daemon.orchestrator.loading import fold_tail
from bacalhau_daemon.pump import Pump
from bacalhau_daemon.query.restart import restore
from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import Body
from bacalhau_protocol.transport.base import Bus, Message

DISK_EVERY_S = 2.0
MACHINE_TIMEOUT_S = 60.0

Token = asyncio.Future[Result]
"""What a request carries through the machine."""

log = structlog.get_logger(__name__)


class Driver:
    """The shell around one machine. `failed` gets what must end the process."""

    def __init__(
        self,
        machine: Orchestrator,
        bus: Bus,
        *,
        appender: Callable[[Callable[[Outcome], None], Callable[[BaseException], None]], Appender],
        query: Query,
        kept_logs: KeptLogs,
        cut: Callable[[str], None],
        log_path: Path,
        min_free_bytes: int | None,
    ) -> None:
        self.machine = machine
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.leading = asyncio.Event()
        self._bus, self._query, self._kept_logs, self._cut = bus, query, kept_logs, cut
        self._log_path, self._min_free_bytes = log_path, min_free_bytes
        self._loop = asyncio.get_running_loop()
        self._pump = Pump(machine, self._carry_out_all, self._machine_failed)
        self._appender = appender(self._settled, self.fail)
        self._asked: dict[Token, float] = {}  # when each is given up, the first first
        self._tasks: set[asyncio.Task[None]] = set()

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Look at the disk, then at it again and again."""
        await self._look_at_disk()
        self._spawn(self._watch_disk())

    def received(self, message: Message) -> None:
        """Take a message of a node."""
        self.machine.message(message, time.time_ns())
        self.wake()

    def request(self, request: Request) -> Token:
        """Take a client's request; the future gets answer and position, or the error."""
        token: Token = self._loop.create_future()
        self._asked[token] = self._loop.time() + MACHINE_TIMEOUT_S
        self.machine.request(structs.replace(request, token=token), time.time_ns())
        self.wake()
        return token

    def applied(self, event: int) -> None:
        """Take note of how far the query side has got."""
        self.machine.applied(event)

    def _settled(self, outcome: Outcome) -> None:
        if isinstance(outcome, Unavailable):
            log.error("log.not_stored", reason=outcome.reason)
            self._spawn(self._look_at_disk())
        self.machine.settled(outcome, time.time_ns())
        self.wake()

    def wake(self) -> None:
        """Have the machine asked in the next turn of the loop what is to be done."""
        self._pump.wake()

    def fail(self, error: BaseException) -> None:
        """End the process with this."""
        self._pump.stop()
        if not self.failed.done():
            self.failed.set_exception(error)

    def _machine_failed(self, error: Exception) -> None:
        log.exception("machine.failed")
        self.fail(error)

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _carry_out_all(self, actions: list[Action]) -> None:
        dropped = 0
        for action in actions:
            if type(action) is Send:
                dropped += not self._send(action)
            else:
                self._carry_out(action)
        if dropped:
            log.warning("messages.not_sent", count=dropped, reason="the link is down")
        if self.machine.leading:
            self.leading.set()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Answer():
                self._answer(action.request, action.result, action.position)
            case Append():
                self._appender.append(action.expected, action.data)
            case Project():
                self._query.project(action)
            case LookUp():
                self._look_up(action)
            case KeepLogTail():
                self._spawn(self._keep(action))
            case Complain():
                complain(action)
            case Disconnect():
                log.info("identity.cut", identity=action.identity, reason=action.reason)
                self._cut(action.identity)
            case Reload():
                self._spawn(self._reload(action.reason))
            case Halt():
                self.fail(errors.Conflict(f"another orchestrator leads this cluster: {action.reason}"))
            case Send():
                raise AssertionError("sent before")
            case _:
                assert_never(action)

    def _send(self, send: Send) -> bool:
        """Send; whether the link took it."""
        try:
            self._bus.send(send.subject, send.data, reply=send.reply)
        except errors.Unavailable:
            return False
        except errors.UsageError as error:
            log.error("message.not_sent", subject=send.subject, error=str(error))
        return True

    def _look_up(self, action: LookUp) -> None:
        try:
            found = self._query.lookup(action.lookup)
        except errors.BacalhauError as error:
            self._answer(action.request, error, self.machine.position)
            return
        self.machine.request(structs.replace(action.request, found=found), time.time_ns())
        self.wake()

    def _answer(self, request: Request, result: Body | errors.BacalhauError, position: int) -> None:
        token: Token = request.token
        self._asked.pop(token, None)
        if token.done():
            return
        if isinstance(result, errors.BacalhauError):
            token.set_exception(result)
        else:
            token.set_result(Result(result, position))

    def _give_up(self) -> None:
        """Answer requests that have waited too long: the log has not said for long whether they are stored."""
        now = self._loop.time()
        while self._asked and next(iter(self._asked.values())) < now:
            token = next(iter(self._asked))
            del self._asked[token]
            if not token.done():
                token.set_exception(errors.TimedOut(f"not decided within {MACHINE_TIMEOUT_S:g} s; it may still be"))

    async def _keep(self, action: KeepLogTail) -> None:
        try:
            await asyncio.to_thread(self._kept_logs.put, action.data)
        except errors.UsageError as error:
            log.warning("log_tail.refused", execution=action.execution_id, error=str(error))

    async def _reload(self, reason: str) -> None:
        log.warning("state.reloading", reason=reason)
        loaded = await self._query.load()
        restored = await asyncio.to_thread(_fold_rest, restore(loaded), self._log_path)
        self.machine.reloaded(restored)
        self.wake()

    # ── in the background ─────────────────────────────────────────────────────────────────────────────────────────

    async def _watch_disk(self) -> None:
        while True:
            await asyncio.sleep(DISK_EVERY_S)
            await self._look_at_disk()
            self._give_up()
            if self._query.failed:
                raise errors.Internal(f"the query side failed: {self._query.failed}", hint="bacalhau-daemon rebuild")

    async def _look_at_disk(self) -> None:
        space = await asyncio.to_thread(measure, self._log_path.parent, min_free_bytes=self._min_free_bytes)
        was_low = self.machine.context.disk.low
        self.machine.disk(Disk(space.path, space.free_bytes, space.min_free_bytes))
        if space.low != was_low:
            log.log(40 if space.low else 20, "disk.low" if space.low else "disk.has_room", reason=space.reason)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def close(self, grace_s: float) -> None:
        """Let the append in hand settle, then stop."""
        deadline = self._loop.time() + grace_s
        while self._unfinished() and self._loop.time() < deadline:  # noqa: ASYNC110  nobody tells, and this is once
            await asyncio.sleep(0.005)
        self._pump.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.to_thread(self._appender.close)

    def _unfinished(self) -> bool:
        return self.machine.loop.busy and not self.failed.done()


def _fold_rest(restored: Restored, log_path: Path) -> Restored:
    reader = SqliteReader(log_path)
    try:
        return fold_tail(restored, reader)
    finally:
        reader.close()


def complain(action: Complain) -> None:
    """Write down what is wrong with what a node sent; an error when it could not even be read."""
    write = log.error if action.event == UNREADABLE else log.warning
    write(action.event, node=action.who, **action.details, reason=action.words, more=action.more)
