"""One connection to a NATS server: a client of nats-py that lives once and never reconnects.

The only module that imports nats-py; import it late, it is heavy. Messages are handed over as nats-py's own task for
the subscription reads them, and sending waits for nothing: what one turn of the loop sends leaves in one write. What
nats-py does not tell is watched: its callbacks are missed now and then, so the state of the connection is polled, and
a frozen server is noticed by pings. When a connection has ended, what it had not yet sent is gone, and `ended` has
been called, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from bacalhau_protocol import errors
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.settings import Server, WireError, headers_size

PING_INTERVAL_S, PINGS_OUTSTANDING_MAX = 5, 2
CONNECT_TIMEOUT_S, CLOSE_TIMEOUT_S = 5, 1
POLL_S = 0.1
PENDING_BYTES_MAX = 16 * 1024 * 1024  # not yet written to the socket; more means that the link does not keep up
UNREAD_MESSAGES_MAX = 64 * 1024  # what comes above is dropped and reported
UNREAD_BYTES_MAX = 64 * 1024 * 1024

Deliver = Callable[[Message], None]
T = TypeVar("T")


class Wire:
    """See above. `complained` gets what the server or the client says is wrong, in its words."""

    def __init__(self, place: str, complained: Callable[[str], None], ended: Callable[[], None]) -> None:
        self.place = place
        self._complained, self._ended = complained, ended
        self._client = Client()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seen: list[Exception] = []  # while connecting nats-py keeps the reason to itself
        self._poll: asyncio.TimerHandle | None = None
        self._abandoning: asyncio.Task[None] | None = None

    # ── a life ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def open(self, server: Server, context: ssl.SSLContext | None, login: dict[str, Any]) -> None:
        """Connect and log in. Raises `OSError`, `ssl.SSLError` or `WireError`, in the server's words if it has any."""
        try:
            await self._client.connect(
                server.url,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_TIMEOUT_S,
                ping_interval=PING_INTERVAL_S,
                max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                pending_size=0,
                tls=context,
                **login,
            )
        except (nats.errors.Error, OSError) as error:
            self.abort()
            raise _plain(self._seen[-1] if self._seen else error) from error
        except BaseException:
            self.abort()
            raise
        self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look)

    @property
    def connected(self) -> bool:
        """Logged in, and not ended."""
        return self._client.is_connected and not self._over.done()

    @property
    def greeted(self) -> bool:
        """Whether the server has said who it is."""
        return self._client.client_id is not None

    @property
    def error(self) -> Exception | None:
        """Why it ended."""
        return _plain(self._client.last_error) if self._client.last_error is not None else None

    def abort(self) -> None:
        """End it now; what was not written is dropped."""
        self._end()
        if self._abandoning is None:
            self._abandoning = asyncio.create_task(_abandon(self._client))

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the server has seen everything before; False when the connection has ended or time is over."""
        flushed = asyncio.create_task(self._client.flush(timeout_s))  # type: ignore[arg-type]  # any number will do
        try:
            await asyncio.wait({flushed, self._over}, return_when=asyncio.FIRST_COMPLETED)
            return flushed.done() and flushed.exception() is None
        finally:
            flushed.cancel()

    def _look(self) -> None:
        if self._client.is_connected:
            self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look)
        else:
            self._end()

    def _end(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        if not self._over.done():
            self._over.set_result(None)
            self._ended()

    async def _on_closed(self) -> None:
        self._end()

    async def _on_error(self, error: Exception) -> None:
        self._seen.append(error)
        if self.connected:
            self._seen.clear()
            if not isinstance(error, nats.errors.UnexpectedEOF):
                self._complained(_words(error))

    # ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────

    def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        """Send. Raises `UsageError` for what NATS cannot carry and `Unavailable` when the link does not keep up."""
        client = self._client
        size_bytes = len(data) + headers_size(headers) if headers else len(data)
        if size_bytes > client.max_payload:
            raise errors.UsageError(
                f"a message of {size_bytes} bytes with its headers is over the limit of {client.max_payload}",
                place=subject,
            )
        if client.pending_data_size > PENDING_BYTES_MAX:
            raise errors.Unavailable("the link does not keep up", place=self.place)
        try:
            _at_once(client.publish(subject, data, reply, headers))
        except (nats.errors.BadSubjectError, nats.errors.BadHeaderError) as error:
            raise errors.UsageError(f"not a subject or header of NATS: {error}", place=subject) from error
        except (nats.errors.Error, OSError) as error:
            raise errors.Unavailable(f"no connection: {_words(error)}", place=self.place) from error

    def subscribe(self, subject: str, queue: str, deliver: Deliver) -> Subscription:
        """Listen. Raises `UsageError` for what is no subject, `Unavailable` when the connection has ended."""

        async def hand_over(msg: Msg) -> None:
            deliver(Message(msg.subject, msg.data, msg.reply, msg.headers))

        try:
            return _at_once(
                self._client.subscribe(
                    subject,
                    queue,
                    cb=hand_over,
                    pending_msgs_limit=UNREAD_MESSAGES_MAX,
                    pending_bytes_limit=UNREAD_BYTES_MAX,
                )
            )
        except nats.errors.BadSubjectError as error:
            raise errors.UsageError(f"not a subject of NATS: {error}", place=subject) from error
        except (nats.errors.Error, OSError) as error:
            raise errors.Unavailable(f"no connection: {_words(error)}", place=self.place) from error

    def unsubscribe(self, subscription: Subscription) -> None:
        """Listen no more."""
        with contextlib.suppress(nats.errors.Error, OSError):
            _at_once(subscription.unsubscribe())


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of nats-py's that has nothing to wait for: these only add to what its own task writes."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise ConnectionError("the client does not write any more")


async def _abandon(client: Client) -> None:
    """Close a client whose life is over without sending what it still holds, and without waiting for a dead peer."""
    client._pending.clear()
    client._pending_data_size = 0
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError, RuntimeError):
        await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)


def _plain(error: Exception) -> Exception:
    """Return what nats-py raises as an error of ours; what the system raised stays as it is."""
    ours = isinstance(error, nats.errors.Error) or not isinstance(error, OSError)
    return WireError(_words(error)) if ours else error


def _words(error: Exception) -> str:
    return str(error).removeprefix("nats: ").strip("'") or type(error).__name__
