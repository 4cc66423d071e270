"""One subscription over all lives of a `NatsBus`: hands messages over in order, one at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from nats.aio.subscription import Subscription

from bacalhau_protocol import errors
from bacalhau_protocol.transport.base import Callback, Message
from bacalhau_protocol.transport.nats_wire import Wire

UNREAD_MESSAGES_MAX = 64 * 1024  # what comes above is dropped and reported
UNREAD_BYTES_MAX = 64 * 1024 * 1024


class NatsSubscription:
    """A running subscription; `report` is told what its callback raises, `forget` that it is over."""

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
        self._wire: Wire | None = None
        self._current: Subscription | None = None
        self._unread: deque[Message] = deque()
        self._unread_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._over = False

    def begin(self, wire: Wire) -> None:
        """Subscribe in a new life."""
        self._wire, self._current = wire, wire.subscribe(self.subject, self.queue, self.deliver)

    def deliver(self, message: Message) -> None:
        """Hand a message over, now if nothing is in hand."""
        if self._task is not None:
            self._keep(message)
        elif not self._over:
            try:
                running = self._callback(message)
            except Exception as error:
                self._failed(message, error)
                return
            if running is not None:
                self._task = asyncio.create_task(self._go_on(message, running))

    def _keep(self, message: Message) -> None:
        if len(self._unread) >= UNREAD_MESSAGES_MAX or self._unread_bytes + len(message.data) > UNREAD_BYTES_MAX:
            self._report(errors.Busy(f"{len(self._unread)} messages are unread: one was dropped", place=self.subject))
            return
        self._unread.append(message)
        self._unread_bytes += len(message.data)

    async def _go_on(self, message: Message, running: Awaitable[None] | None) -> None:
        """Await the callback, then hand over what has come meanwhile."""
        while True:
            try:
                if running is not None:
                    await running
            except Exception as error:
                self._failed(message, error)
            if self._over or not self._unread:
                break
            message = self._unread.popleft()
            self._unread_bytes -= len(message.data)
            running = self._again(message)
        self._task = None

    def _again(self, message: Message) -> Awaitable[None] | None:
        try:
            return self._callback(message)
        except Exception as error:
            self._failed(message, error)
            return None

    def _failed(self, message: Message, error: Exception) -> None:
        self._report(errors.Internal(f"handling a message failed: {error!r}", place=message.subject))

    async def unsubscribe(self) -> None:
        """Stop; the message that is being handled now is still handled."""
        self._over = True
        self._forget(self)
        if self._wire is not None and self._current is not None:
            self._wire.unsubscribe(self._current)
