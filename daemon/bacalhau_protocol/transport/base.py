"""The bus port: what daemons and clients need of NATS, and nothing else.

Delivery is at most once and in order per publisher and subject. A callback is a plain function or a coroutine
function; the latter is awaited before the next message of its subscription is handed over. Hand long work to a task of
your own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as it came. `reply` is blank when no answer is wanted."""

    subject: str
    data: bytes = b""
    reply: str = ""
    headers: dict[str, str] | None = None


Callback = Callable[[Message], Awaitable[None] | None]


class Subscription(Protocol):
    """A running subscription."""

    async def unsubscribe(self) -> None:
        """Stop; messages already handed over are still handled."""
        ...


class Bus(Protocol):
    """A connection with an identity."""

    @property
    def connected(self) -> bool:
        """Whether the link is up now."""
        ...

    def send(self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send without waiting.

        Raises
        ------
        Unavailable
            when the link is down, or does not keep up: nothing is kept for later.
        UsageError
            when it is too large, or no subject.
        """
        ...

    async def publish(
        self, subject: str, data: bytes, *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Do as `send` does, which is not worth awaiting either."""
        ...

    async def request(
        self, subject: str, data: bytes, *, timeout_s: float, headers: dict[str, str] | None = None
    ) -> Message:
        """Send and wait for one answer.

        Raises
        ------
        Unavailable
            when nobody listens (at once), or the link is down or goes down while waiting.
        TimedOut
            when no answer came in time.
        """
        ...

    async def subscribe(self, subject: str, callback: Callback, *, queue: str = "") -> Subscription:
        """Listen. Wildcards `*` and `>` as in NATS."""
        ...

    def inbox(self) -> str:
        """Return a new subject under this connection's own inbox prefix."""
        ...

    async def close(self) -> None:
        """Flush and close."""
        ...
