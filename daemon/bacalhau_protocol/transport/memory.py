"""A bus in memory with the semantics of NATS: for tests, and for two halves of one process.

One `MemoryBroker` is the server; `connect` gives each identity its own bus. Delivery is in order per subscription, a
callback is awaited before the next message, queue groups share, wildcards work, a request that nobody hears fails at
once. `MemoryBus.cut` and `heal` take the link away and give it back; what is sent meanwhile raises.
"""

from __future__ import annotations

import asyncio
import itertools

from bacalhau_protocol import errors
from bacalhau_protocol.api.subjects import inbox_prefix
from bacalhau_protocol.transport.base import Callback, Message

UNREAD_MESSAGES_MAX = 64 * 1024


def matches(pattern: str, subject: str) -> bool:
    """Whether a subject matches a pattern: `*` is one token, `>` at the end is one or more."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, part in enumerate(wanted):
        if part == ">":
            return len(given) > index
        if index >= len(given) or part not in ("*", given[index]):
            return False
    return len(wanted) == len(given)


class MemorySubscription:
    """A running subscription: one task that hands over message after message."""

    def __init__(self, bus: MemoryBus, pattern: str, queue: str, callback: Callback) -> None:
        self.bus, self.pattern, self.queue = bus, pattern, queue
        self._callback = callback
        self._unread: asyncio.Queue[Message] = asyncio.Queue(UNREAD_MESSAGES_MAX)
        self._over = False
        self._task = asyncio.create_task(self._deliver())

    def offer(self, message: Message) -> None:
        """Queue a message; like NATS, drop it when the reader is too slow."""
        if not self._unread.full():
            self._unread.put_nowait(message)

    async def _deliver(self) -> None:
        while not self._over:
            message = await self._unread.get()
            if self._over:
                return
            try:
                running = self._callback(message)
                if running is not None:
                    await running
            except Exception as error:
                self.bus.problems.append(errors.Internal(f"handling a message failed: {error!r}"))

    async def unsubscribe(self) -> None:
        """Stop; the message that is being handled now is still handled."""
        self._over = True
        self.bus.broker.forget(self)
        if self._unread.empty() and asyncio.current_task() is not self._task:
            self._unread.put_nowait(Message(""))  # wakes the task so that it ends


class MemoryBus:
    """One identity's connection to a `MemoryBroker`; see `base.Bus` for the contract."""

    def __init__(self, broker: MemoryBroker, identity: str) -> None:
        self.broker, self.identity = broker, identity
        self.problems: list[errors.BacalhauError] = []  # what callbacks raised
        self._up = True
        self._waiting: set[asyncio.Future[Message]] = set()

    @property
    def connected(self) -> bool:
        """Whether the link is up now."""
        return self._up

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send without waiting. Raises `Unavailable` when the link is cut."""
        self._check()
        self.broker.route(Message(subject, bytes(data), reply, dict(headers) if headers else None))

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Do as `send` does."""
        self.send(subject, data, reply=reply, headers=headers)

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """Send and wait for one answer; see `base.Bus.request`."""
        self._check()
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def answered(message: Message) -> None:
            if not answer.done():
                answer.set_result(message)

        inbox = self.inbox()
        subscription = await self.subscribe(inbox, answered)
        self._waiting.add(answer)
        try:
            if not self.broker.route(Message(subject, bytes(data), inbox, dict(headers) if headers else None)):
                raise errors.Unavailable("nobody answers", place=subject)
            async with asyncio.timeout(timeout_s):
                return await answer
        except TimeoutError as error:
            raise errors.TimedOut(f"no answer within {timeout_s:g} s", place=subject) from error
        finally:
            self._waiting.discard(answer)
            await subscription.unsubscribe()

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> MemorySubscription:
        """Listen. Wildcards `*` and `>` as in NATS."""
        subscription = MemorySubscription(self, subject, queue, callback)
        self.broker.add(subscription)
        return subscription

    def inbox(self) -> str:
        """Return a new subject under this identity's inbox prefix."""
        return f"{inbox_prefix(self.identity)}.{next(self.broker.numbers)}"

    async def close(self) -> None:
        """End all subscriptions of this bus."""
        for subscription in self.broker.of(self):
            await subscription.unsubscribe()
        self.cut()

    def cut(self) -> None:
        """Take the link away: what waits fails, nothing comes or goes."""
        self._up = False
        for answer in self._waiting:
            if not answer.done():
                answer.set_exception(errors.Unavailable("the connection ended", place="memory"))

    def heal(self) -> None:
        """Give the link back; subscriptions are as they were."""
        self._up = True

    def _check(self) -> None:
        if not self._up:
            raise errors.Unavailable("no connection", place="memory")


class MemoryBroker:
    """The server."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self._subscriptions: list[MemorySubscription] = []

    def connect(self, identity: str) -> MemoryBus:
        """Return a new connection."""
        return MemoryBus(self, identity)

    def route(self, message: Message) -> int:
        """Hand a message to everybody who listens, to one per queue group; return to how many."""
        groups: dict[tuple[str, str], list[MemorySubscription]] = {}
        heard = 0
        for subscription in self._subscriptions:
            if not subscription.bus.connected or not matches(subscription.pattern, message.subject):
                continue
            if subscription.queue:
                groups.setdefault((subscription.pattern, subscription.queue), []).append(subscription)
            else:
                subscription.offer(message)
                heard += 1
        for members in groups.values():
            members[next(self.numbers) % len(members)].offer(message)
        return heard + len(groups)

    def add(self, subscription: MemorySubscription) -> None:
        """Begin to route to it."""
        self._subscriptions.append(subscription)

    def forget(self, subscription: MemorySubscription) -> None:
        """Route to it no more."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def of(self, bus: MemoryBus) -> list[MemorySubscription]:
        """Return the subscriptions of one bus."""
        return [subscription for subscription in self._subscriptions if subscription.bus is bus]
