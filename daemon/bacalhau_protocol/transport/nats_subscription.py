"""One subscription over all lives of a `NatsBus`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as Current

from bacalhau_protocol import errors
from bacalhau_protocol.transport.base import Callback, Message

UNREAD_MESSAGES_MAX = 64 * 1024  # what comes above is dropped and reported
UNREAD_BYTES_MAX = 64 * 1024 * 1024


class NatsSubscription:
    """A running subscription; `report` is told what its callback raises."""

    def __init__(
        self,
        subject: str,
        queue: str,
        callback: Callback,
        report: Callable[[errors.BacalhauError], None],
        forget: Callable[[NatsSubscription], None],
    ) -> None:
        self.subject, self.queue = subject, queue
        self._callback, self._report, self._forget = callback, report, forget
        self._current: Current | None = None
        self._over = False

    async def begin(self, client: Client) -> None:
        """Subscribe in a new life."""
        self._current = await client.subscribe(
            self.subject,
            queue=self.queue,
            cb=self._deliver,
            pending_msgs_limit=UNREAD_MESSAGES_MAX,
            pending_bytes_limit=UNREAD_BYTES_MAX,
        )

    async def _deliver(self, msg: Msg) -> None:
        if self._over:
            return
        try:
            await self._callback(Message(msg.subject, msg.data, msg.reply, msg.headers))
        except Exception as error:
            self._report(errors.Internal(f"handling a message failed: {error!r}", place=msg.subject))

    async def unsubscribe(self) -> None:
        """Stop; the message that is being handled now is still handled."""
        self._over = True
        self._forget(self)

    async def drain(self) -> None:
        """End it without cancelling the callback that runs, as nats-py's own `unsubscribe` would."""
        if self._current is not None:
            with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
                await self._current.drain()  # type: ignore[no-untyped-call]
