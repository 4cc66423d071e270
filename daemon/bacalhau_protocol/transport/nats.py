"""The bus over NATS.

A `NatsBus` heals itself for ever: each *life* is a new `Wire`, so nothing that was sent in one life arrives in another,
and everything that waits learns at once that its life has ended. Subscriptions are made again in each life. A frozen
server is noticed by pings.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable

from bacalhau_protocol import errors
from bacalhau_protocol.api.subjects import inbox_prefix
from bacalhau_protocol.transport.base import Callback, Message
from bacalhau_protocol.transport.nats_subscription import NatsSubscription
from bacalhau_protocol.transport.nats_wire import Wire
from bacalhau_protocol.transport.settings import (
    HINT_NOBODY,
    HINT_UNREACHABLE,
    REFUSED_AGAIN_S,
    NatsSettings,
    WireError,
    is_subject,
    refusal,
    retry_wait_s,
    tls_context,
)

CLOSE_TIMEOUT_S = 1.0
NO_RESPONDERS = "503"

_REFUSED_SUBJECT = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"', re.IGNORECASE)


Hook = Callable[["NatsBus"], Awaitable[None]]
"""Awaited after a connection is made and its subscriptions are back: for handshakes."""
Ended = Callable[[errors.BacalhauError], None]
"""Called when a connection has ended, with the reason."""
Reporter = Callable[[errors.BacalhauError], None]
"""Told what has no caller to raise to: refused subscriptions, lost messages, failed attempts to connect."""


class NatsBus:
    """A connection with an identity; see `base.Bus` for the contract."""

    def __init__(
        self,
        settings: NatsSettings,
        *,
        on_connect: Hook | None = None,
        on_disconnect: Ended | None = None,
        on_error: Reporter | None = None,
    ) -> None:
        self.settings = settings
        self._on_connect, self._on_disconnect, self._on_error = on_connect, on_disconnect, on_error
        self._prefix = settings.inbox_prefix or inbox_prefix(settings.identity)
        self._answers = ""  # where answers to requests of this life come
        self._wire: Wire | None = None
        self._decided = asyncio.Event()  # connected, or refused
        self._refused: errors.BacalhauError | None = None
        self._ended = asyncio.Event()  # this life has
        self._subscriptions: list[NatsSubscription] = []
        self._waiting: dict[str, tuple[asyncio.Future[Message], str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: asyncio.Task[None] | None = None
        self._last_error: errors.BacalhauError | None = None

    # ── state ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def connected(self) -> bool:
        """Whether the link is up now."""
        return self._wire is not None and self._wire.connected

    @property
    def last_error(self) -> errors.BacalhauError | None:
        """Why the last attempt failed or the last connection ended."""
        return self._last_error

    def start(self) -> None:
        """Begin to connect, and keep at it until `close`."""
        assert self._runner is None, "started twice"
        self._runner = asyncio.create_task(self._run(), name=f"nats {self.settings.identity}")

    async def wait_connected(self, timeout_s: float) -> None:
        """Wait for the link.

        Raises
        ------
        Unauthenticated
            when the server refuses the credential.
        UsageError
            when the server's certificate is not trusted.
        Unavailable
            when there is no link in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._decided.wait()
        except TimeoutError:
            raise self._last_error or errors.Unavailable(
                f"no answer within {timeout_s:g} s", place=self.settings.place, hint=HINT_UNREACHABLE
            ) from None
        if self._refused is not None:
            raise self._refused

    async def close(self) -> None:
        """Flush and close."""
        runner, self._runner = self._runner, None
        if self.connected:
            with contextlib.suppress(errors.Unavailable):
                await self.flush(CLOSE_TIMEOUT_S)
        while runner is not None and not runner.done():  # nats-py swallows a cancellation now and then
            runner.cancel()
            await asyncio.wait({runner}, timeout=CLOSE_TIMEOUT_S)
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()

    # ── the bus ───────────────────────────────────────────────────────────────────────────────────────────────────

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send without waiting; see `base.Bus.send`."""
        self._live().publish(subject, data, reply, headers)

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Do as `send` does."""
        self.send(subject, data, reply=reply, headers=headers)

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """Send and wait for one answer; see `base.Bus.request`. Raises `Forbidden` when the subject is refused."""
        self._live()
        token = secrets.token_urlsafe(12)  # nobody else can guess where an answer is awaited
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[token] = (future, subject)
        try:
            self.send(subject, data, reply=self._answers + token, headers=headers)
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError as error:
            raise errors.TimedOut(f"no answer within {timeout_s:g} s", place=subject) from error
        finally:
            self._waiting.pop(token, None)
            future.cancel()
        if not answer.data and answer.headers is not None and answer.headers.get("Status") == NO_RESPONDERS:
            raise errors.Unavailable("nobody answers", place=subject, hint=HINT_NOBODY)
        return answer

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> NatsSubscription:
        """Listen in this life and all that follow. The callback's errors go to `on_error`."""
        if not is_subject(subject) or (queue and not is_subject(queue)):
            raise errors.UsageError(f"not a subject of NATS: {subject!r} {queue!r}")
        subscription = NatsSubscription(subject, queue, callback, self.report, self._forget)
        self._subscriptions.append(subscription)
        if self._wire is not None:
            with contextlib.suppress(errors.Unavailable):  # when the link ends just now, the next life subscribes
                subscription.begin(self._wire)
        return subscription

    def inbox(self) -> str:
        """Return a new subject under this connection's own inbox prefix."""
        return f"{self._prefix}.{secrets.token_urlsafe(12)}"

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until the server has seen everything sent so far. Raises `Unavailable`."""
        if not await self._live().flush(timeout_s):
            raise self._down()

    # ── lives ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        """Live one life after another."""
        failures = refusals = 0
        while self._runner is not None:
            try:
                wire = await self._connect()
            except errors.BacalhauError as error:
                failures += 1
                refusals = 0 if error.retryable else refusals + 1
                self._attempt_failed(error, refusals)
                await asyncio.sleep(REFUSED_AGAIN_S if refusals == 1 else retry_wait_s(failures))
                continue
            failures = refusals = 0
            try:
                self._begin_life(wire)
                await self._ended.wait()
            except errors.Unavailable:  # it has ended while it began
                pass
            finally:
                self._end_of_life(wire)

    def _begin_life(self, wire: Wire) -> None:
        self._answers = f"{self._prefix}.{secrets.token_urlsafe(12)}."
        wire.subscribe(self._answers + "*", "", self._answered)
        for subscription in self._subscriptions:
            subscription.begin(wire)
        self._wire = wire
        self._refused = None
        self._decided.set()
        if self._on_connect is not None:
            self._spawn(self._greet(self._on_connect))

    def _end_of_life(self, wire: Wire) -> None:
        self._wire = None
        wire.abort()
        self._decided.clear()
        reason = str(wire.error) if isinstance(wire.error, WireError) else "the server went away"
        error = errors.Unavailable(f"the connection ended: {reason}", place=self.settings.place)
        self._last_error = error
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        if self._on_disconnect is not None and self._runner is not None:
            self._on_disconnect(error)

    async def _greet(self, hook: Hook) -> None:
        try:
            await hook(self)
        except errors.BacalhauError as error:
            self.report(error)

    def _answered(self, message: Message) -> None:
        waiting = self._waiting.get(message.subject.rpartition(".")[2])
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(message)

    async def _connect(self) -> Wire:
        """Open one connection; what it raises is retryable, or `Unauthenticated` or `UsageError` (TLS)."""
        settings = self.settings
        context = tls_context(settings.ca) if settings.ca else None
        failed = errors.BacalhauError("there is no address", place=settings.place)
        for server in settings.servers:
            ended = asyncio.Event()
            wire = Wire(settings.place, self._complaint, ended.set)
            try:
                await wire.open(server, context, settings.login(server))
            except (WireError, OSError) as error:
                failed = refusal(error, settings, greeted=wire.greeted)
                failed.__cause__ = error
            else:
                self._ended = ended
                return wire
        raise failed

    # ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _live(self) -> Wire:
        wire = self._wire
        if wire is None or not wire.connected:
            raise self._down()
        return wire

    def _down(self) -> errors.BacalhauError:
        reason = f": {self._last_error.message}" if self._last_error is not None else ""
        return errors.Unavailable(f"no connection{reason}", place=self.settings.place, hint=HINT_UNREACHABLE)

    def _attempt_failed(self, error: errors.BacalhauError, refusals: int) -> None:
        self._last_error = error
        if refusals == 1:  # believed when it comes twice in a row
            return
        if not error.retryable:
            self._refused = error
            self._decided.set()
        self.report(error)

    def _complaint(self, words: str) -> None:
        """Turn what the server complains about into an error, and fail the request that it is about."""
        refused = _REFUSED_SUBJECT.search(words)
        if refused is None:
            self.report(errors.Unavailable(words, place=self.settings.place))
            return
        verb, subject = ("publish to" if refused[1].lower() == "publish" else "listen to"), refused[2]
        # nats-py hands the text over in lower case, so the request that it is about knows better.
        about = [waiting for waiting in self._waiting.values() if waiting[1].lower() == subject]
        forbidden = errors.Forbidden(
            f"{self.settings.identity!r} may not {verb} {about[0][1] if about else subject}",
            place=self.settings.place,
            hint="the role of this credential does not include it",
        )
        for future, _ in about:
            if not future.done():
                future.set_exception(forbidden)
        if not about:
            self.report(forbidden)

    def report(self, error: errors.BacalhauError) -> None:
        """Hand an error without a caller to `on_error`."""
        if self._on_error is not None:
            self._on_error(error)

    def _forget(self, subscription: NatsSubscription) -> None:
        """Do not subscribe in the next life."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def _spawn(self, work: Awaitable[None]) -> None:
        """Run in the background; ends with the bus."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def connect(
    settings: NatsSettings,
    *,
    timeout_s: float = 5.0,
    on_connect: Hook | None = None,
    on_disconnect: Ended | None = None,
    on_error: Reporter | None = None,
) -> NatsBus:
    """Connect, or say why not, as `wait_connected` does; then nothing is left running."""
    bus = NatsBus(settings, on_connect=on_connect, on_disconnect=on_disconnect, on_error=on_error)
    bus.start()
    try:
        await bus.wait_connected(timeout_s)
    except BaseException:
        await bus.close()
        raise
    return bus
