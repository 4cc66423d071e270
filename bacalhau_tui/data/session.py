"""Keeps a client connected and the store fed (`feeding`), and says how the link is.

A session never gives up and never empties the store: when the link is down the last rows stay, and `link` says since
when they are old.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import random
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from bacalhau_protocol import errors
from bacalhau_tui.data.store import Store

if TYPE_CHECKING:
    from bacalhau_protocol.api import messages as m
    from bacalhau_protocol.client.client import Client

RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0
REFUSED_RETRY_S = 15.0
RELOAD_PAUSE_S = 1.0  # whatever the feed says, everything is asked again at most this often

Connect = Callable[["Session"], Awaitable["Client"]]


class LinkState(enum.StrEnum):
    """How well the client knows what goes on."""

    CONNECTING = "connecting"
    LOADING = "loading"  # connected; rows are being asked for
    LIVE = "live"  # rows are as they are now
    STALE = "stale"  # connected, but the orchestrator is silent
    DOWN = "down"  # no connection
    REFUSED = "refused"  # the credential is


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the link, since when (ns), and why, in words."""

    state: LinkState
    since: int
    reason: str = ""
    hint: str = ""

    @property
    def writable(self) -> bool:
        """Whether actions can be sent; offline they are refused, never queued."""
        return self.state in (LinkState.LOADING, LinkState.LIVE)


class Session:
    """One connection for the life of a program (or of a profile). `start` it, `close` it.

    `wake` is called on the event loop whenever `link` or `info` has changed. `client` is None before the first
    connection; the same client then heals itself for ever.
    """

    def __init__(
        self,
        connect: Connect,
        store: Store,
        *,
        namespace: str = "",
        wake: Callable[[], None] | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """`connect(session)` makes the client, with `session.on_link` as its link hook; blank `namespace` means all."""
        self.store = store
        self.client: Client | None = None
        self.info: m.ClusterInfo | None = None
        self.link = Link(state=LinkState.CONNECTING, since=clock())
        self.namespace = namespace
        self._connect, self._wake, self._clock = connect, wake, clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to connect and to feed the store."""
        assert self._task is None, "started twice"
        self._task = asyncio.create_task(self._run(), name="session")

    async def close(self) -> None:
        """End; the store stays as it is."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self.client is not None:
            await self.client.close()

    def on_link(self, up: bool, why: errors.BacalhauError | None) -> None:
        """Take note of the connection's coming and going (the client's link hook)."""
        if up:
            self.tell(LinkState.LOADING)
        else:
            self.tell(LinkState.DOWN, why)

    def require(self) -> Client:
        """Return the client for an action. Raises `Unavailable` when nothing can be sent now."""
        if self.client is None or not self.link.writable:
            raise errors.Unavailable(f"not connected: {self.link.reason or self.link.state.value}", hint=self.link.hint)
        return self.client

    async def reload_nodes(self) -> None:
        """Ask for all nodes: free capacity and heartbeats are soft and not in the feed. Raises as `Client` does."""
        if self.client is not None:
            from bacalhau_tui.data.feeding import load_nodes  # noqa: PLC0415  loads the models

            await load_nodes(self.store, self.client)

    async def reload_jobs(self) -> None:
        """Ask for all jobs. Raises as `Client` does."""
        if self.client is not None:
            from bacalhau_tui.data.feeding import load_jobs  # noqa: PLC0415  loads the models

            await load_jobs(self.store, self.client, self.namespace)

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        self.client = await self._connected()
        from bacalhau_tui.data.feeding import keep_fed  # noqa: PLC0415  loads the models

        await keep_fed(self, self.client)

    async def _connected(self) -> Client:
        tries = 0
        while True:
            try:
                return await self._connect(self)
            except errors.Unauthenticated as error:
                self.tell(LinkState.REFUSED, error)
                await asyncio.sleep(REFUSED_RETRY_S)
            except errors.BacalhauError as error:
                self.tell(LinkState.DOWN, error)
                tries += 1
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(RETRY_MAX_S, RETRY_MIN_S * 2**tries))

    def tell(self, state: LinkState, why: errors.BacalhauError | None = None) -> None:
        """Take note of how the link is now, and why."""
        reason, hint = (why.message, why.hint) if why is not None else ("", "")
        same = state is self.link.state
        if not same or (reason, hint) != (self.link.reason, self.link.hint):
            since = self.link.since if same or _both_old(state, self.link.state) else self._clock()
            self.link = Link(state=state, since=since, reason=reason, hint=hint)
        if self._wake is not None:
            self._wake()


_OLD = (LinkState.STALE, LinkState.DOWN, LinkState.REFUSED)


def _both_old(one: LinkState, other: LinkState) -> bool:
    """Whether rows stay old when one state follows the other: `since` then stays that of the first."""
    return one in _OLD and other in _OLD
