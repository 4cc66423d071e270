"""The bus over NATS. The only module that imports the NATS client; import it late, it is heavy.

A `NatsBus` heals itself for ever: each *life* is a new client of nats-py that never reconnects, so nothing that was
sent in one life arrives in another, and everything that waits learns at once that its life has ended. Subscriptions
are made again in each life. What nats-py does not tell is watched: its callbacks are missed now and then, so the state
of the connection is polled, and a frozen server is noticed by pings.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from bacalhau_protocol import errors
from bacalhau_protocol.api.subjects import inbox_prefix
from bacalhau_protocol.transport.base import Callback, Message
from bacalhau_protocol.transport.nats_subscription import NatsSubscription
from bacalhau_protocol.transport.settings import (
    HINT_NOBODY,
    HINT_UNREACHABLE,
    REFUSED_AGAIN_S,
    NatsSettings,
    headers_size,
    refusal,
    retry_wait_s,
    tls_context,
)

PING_INTERVAL_S, PINGS_OUTSTANDING_MAX = 5, 2
CONNECT_TIMEOUT_S = 5
CLOSE_TIMEOUT_S = 1
POLL_S = 0.1
PENDING_BYTES_MAX = 16 * 1024 * 1024  # not yet written to the socket; more means that the link does not keep up
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
        self._client: Client | None = None
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
        return self._client is not None and self._client.is_connected

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
        client = self._client
        if client is not None and client.is_connected:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await client.flush(timeout=CLOSE_TIMEOUT_S)
        while runner is not None and not runner.done():  # nats-py swallows a cancellation now and then
            runner.cancel()
            await asyncio.wait({runner}, timeout=CLOSE_TIMEOUT_S)
        if self._tasks:
            _, late = await asyncio.wait(list(self._tasks), timeout=CLOSE_TIMEOUT_S)
            for task in late:
                task.cancel()

    # ── the bus ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Send without waiting. Raises `Unavailable` when the link is down and `UsageError` when it is too large."""
        client = self._live()
        size_bytes = len(data) + headers_size(headers)
        if size_bytes > client.max_payload:
            raise errors.UsageError(
                f"a message of {size_bytes} bytes with its headers is over the limit of {client.max_payload}",
                place=subject,
            )
        if client.pending_data_size > PENDING_BYTES_MAX:
            raise errors.Unavailable("the link does not keep up", place=self.settings.place)
        try:
            await client.publish(subject, data, reply=reply, headers=headers)
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise errors.UsageError(f"not a subject or header of NATS: {error}", place=subject) from error
        except (nats.errors.Error, OSError) as error:
            raise self._down() from error

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """Send and wait for one answer; see `base.Bus.request`. Raises `Forbidden` when the subject is refused."""
        self._live()
        token = secrets.token_urlsafe(12)  # nobody else can guess where an answer is awaited
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[token] = (future, subject)
        try:
            async with asyncio.timeout(timeout_s):
                await self.publish(subject, data, reply=self._answers + token, headers=headers)
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
        subscription = NatsSubscription(subject, queue, callback, self.report, self._forget)
        self._subscriptions.append(subscription)
        if self._client is not None:
            # When the link ends just now, the next life subscribes.
            with contextlib.suppress(nats.errors.ConnectionClosedError, OSError):
                await subscription.begin(self._client)
        return subscription

    def inbox(self) -> str:
        """Return a new subject under this connection's own inbox prefix."""
        return f"{self._prefix}.{secrets.token_urlsafe(12)}"

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Wait until the server has seen everything sent so far. Raises `Unavailable`."""
        client = self._live()
        ended = asyncio.create_task(self._ended.wait())
        flushed = asyncio.create_task(client.flush(timeout=timeout_s))  # type: ignore[arg-type]  # any number will do
        try:
            await asyncio.wait({ended, flushed}, return_when=asyncio.FIRST_COMPLETED)
            if not flushed.done() or flushed.exception() is not None:
                raise self._down()
        finally:
            ended.cancel()
            flushed.cancel()

    # ── lives ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        """Live one life after another."""
        failures = refusals = 0
        while self._runner is not None:
            try:
                client = await self._connect()
            except errors.BacalhauError as error:
                failures += 1
                refusals = 0 if error.retryable else refusals + 1
                self._attempt_failed(error, refusals)
                await asyncio.sleep(REFUSED_AGAIN_S if refusals == 1 else retry_wait_s(failures))
                continue
            failures = refusals = 0
            try:
                await self._live_through(client)
            finally:
                self._client = None
                await _abandon(client)

    async def _live_through(self, client: Client) -> None:
        self._ended = asyncio.Event()
        self._answers = f"{self._prefix}.{secrets.token_urlsafe(12)}."
        try:
            await self._subscribe_all(client)
            self._client = client
            self._refused = None
            self._decided.set()
            if self._on_connect is not None:
                self._spawn(self._greet(self._on_connect))
            while client.is_connected:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), POLL_S)
        except (nats.errors.Error, OSError) as error:
            self._last_error = errors.Unavailable(f"the connection ended: {error}", place=self.settings.place)
        finally:
            self._end_of_life(client)

    async def _subscribe_all(self, client: Client) -> None:
        answers = await client.subscribe(self._answers + "*", cb=self._answered)
        assert answers is not None
        for subscription in list(self._subscriptions):
            await subscription.begin(client)

    def _end_of_life(self, client: Client) -> None:
        self._client = None
        self._decided.clear()
        self._ended.set()
        reason = str(client.last_error or "").removeprefix("nats: ") or "the server went away"
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

    async def _answered(self, msg: Msg) -> None:
        waiting = self._waiting.get(msg.subject.rpartition(".")[2])
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(Message(msg.subject, msg.data, msg.reply, msg.headers))

    async def _connect(self) -> Client:
        """Open one connection; what it raises is retryable, or `Unauthenticated` or `UsageError` (TLS)."""
        client, seen = Client(), list[Exception]()

        async def on_error(error: Exception) -> None:
            seen.append(error)
            if client.is_connected:
                self._complaint(error)

        async def on_closed() -> None:
            self._ended.set()

        try:
            # With reconnects off nats-py tries each address twice, without a pause, and keeps the reason to itself.
            await client.connect(
                self.settings.servers,
                name=self.settings.identity,
                error_cb=on_error,
                closed_cb=on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                inbox_prefix=self._prefix,
                pending_size=0,
                user=self.settings.user or None,
                password=self.settings.token if self.settings.user else None,
                token=None if self.settings.user else self.settings.token or None,
                tls=tls_context(self.settings.ca) if self.settings.ca else None,
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            greeted = client.client_id is not None
            self._spawn(_abandon(client))
            raise refusal(seen[-1] if seen else error, self.settings, greeted=greeted) from error
        except asyncio.CancelledError:
            self._spawn(_abandon(client))
            raise
        seen.clear()
        return client

    # ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _live(self) -> Client:
        client = self._client
        if client is None or not client.is_connected:
            raise self._down()
        return client

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

    def _complaint(self, error: Exception) -> None:
        """Turn what the server or the client complains about into words, and fail the request that it is about."""
        refused = _REFUSED_SUBJECT.search(str(error))
        if refused is None:
            if not isinstance(error, nats.errors.UnexpectedEOF):
                self.report(errors.Unavailable(str(error).removeprefix("nats: "), place=self.settings.place))
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
        """Do not subscribe in the next life; end it in this one."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._spawn(subscription.drain())

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


async def _abandon(client: Client) -> None:
    """Close a client whose life is over without sending what it still holds, and without waiting for a dead peer."""
    client._pending.clear()
    client._pending_data_size = 0
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError, RuntimeError):
        await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)
