"""Keeps a client connected and the store fed: a snapshot, then the feed; a snapshot again when something was missed.

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

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.feed import AskAgain, Changed, Feed, FeedEvent, Heard, Silent
from bacalhau_protocol.models.node import NodeState
from bacalhau_tui.data.store import Store

RETRY_MIN_S, RETRY_MAX_S = 0.2, 5.0
REFUSED_RETRY_S = 15.0
RELOAD_PAUSE_S = 1.0  # whatever the feed says, everything is asked again at most this often

Connect = Callable[["Session"], Awaitable[Client]]


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
        self._connect, self._namespace, self._wake, self._clock = connect, namespace, wake, clock
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
            self._set(LinkState.LOADING)
        else:
            self._set(LinkState.DOWN, why)

    def require(self) -> Client:
        """Return the client for an action. Raises `Unavailable` when nothing can be sent now."""
        if self.client is None or not self.link.writable:
            raise errors.Unavailable(f"not connected: {self.link.reason or self.link.state.value}", hint=self.link.hint)
        return self.client

    async def reload_nodes(self) -> None:
        """Ask for all nodes: free capacity and heartbeats are soft and not in the feed. Raises as `Client` does."""
        if self.client is not None:
            await self._load_nodes(self.client)

    async def reload_jobs(self) -> None:
        """Ask for all jobs. Raises as `Client` does."""
        if self.client is not None:
            await self._load_jobs(self.client)

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        client = self.client = await self._connected()
        self._set(LinkState.LOADING)
        patterns = [subjects.feed(self._namespace or "*", "job", ">"), subjects.feed("-", "node", ">")]
        async with Feed(client, patterns, whole=True) as feed:
            kinds = {"job", "node"}
            while True:
                if kinds:
                    await self._load(client, feed, kinds)
                    pause = asyncio.create_task(asyncio.sleep(RELOAD_PAUSE_S))
                kinds = await self._take_in(feed)
                if kinds:
                    await pause

    async def _connected(self) -> Client:
        tries = 0
        while True:
            try:
                return await self._connect(self)
            except errors.Unauthenticated as error:
                self._set(LinkState.REFUSED, error)
                await asyncio.sleep(REFUSED_RETRY_S)
            except errors.BacalhauError as error:
                self._set(LinkState.DOWN, error)
                tries += 1
                await asyncio.sleep(random.uniform(0.5, 1.0) * min(RETRY_MAX_S, RETRY_MIN_S * 2**tries))

    async def _take_in(self, feed: Feed) -> set[str]:
        """Wait for events and take in all that are there; return what has to be asked again."""
        again: set[str] = set()
        event: FeedEvent = await anext(feed)
        while True:
            match event:
                case Changed():
                    self._apply(event)
                case AskAgain(kind=kind):
                    again |= {kind} if kind else {"job", "node"}
                case Silent():
                    if self.link.state is not LinkState.DOWN:
                        self._set(LinkState.STALE, errors.Unavailable("the orchestrator is silent"))
                case Heard():
                    self._set(LinkState.LOADING)
            if not feed.waiting():
                return again
            event = await anext(feed)

    def _apply(self, change: Changed) -> None:
        if change.kind == "job":
            if change.deleted:
                self.store.jobs.remove(change.key, change.seq)
            else:
                row = msgspec.convert(change.row, m.JobRow)
                self.store.jobs.put(row.id, row, change.seq)
        elif change.kind == "node":
            if change.deleted:
                self.store.nodes.remove(change.key, change.seq)
            else:
                node = msgspec.convert(change.row, NodeState)
                self.store.nodes.put(node.info.node_id, node, change.seq)

    async def _load(self, client: Client, feed: Feed, kinds: set[str]) -> None:
        """Ask until answered; then the store is as new as the answer."""
        while True:
            try:
                if "node" in kinds:
                    feed.asked("node", await self._load_nodes(client))
                if "job" in kinds:
                    feed.asked("job", await self._load_jobs(client))
                self.info = await client.cluster_info()
                break
            except errors.Unauthenticated as error:
                self._set(LinkState.REFUSED, error)
                await asyncio.sleep(REFUSED_RETRY_S)
            except errors.BacalhauError as error:
                self._set(LinkState.STALE if client.bus.connected else LinkState.DOWN, error)
                await asyncio.sleep(RELOAD_PAUSE_S)
        self._set(LinkState.LIVE)

    async def _load_nodes(self, client: Client) -> int:
        rows: dict[str, NodeState] = {}
        page, position = "", 0
        while len(rows) < self.store.nodes.rows_max:
            answer = await client.ask("node.list", m.NodeQuery(page=page), m.NodePage)
            rows.update((node.info.node_id, node) for node in answer.body.nodes)
            page, position = answer.body.next_page, position or answer.position
            if not page:
                break
        self.store.nodes.snapshot(rows, position, complete=not page)
        return position

    async def _load_jobs(self, client: Client) -> int:
        """Take the newest jobs page by page, each page at once, so that the first screen need not wait for the last."""
        rows: dict[str, m.JobRow] = {}
        page, position = "", 0
        table = self.store.jobs
        while len(rows) < table.rows_max:
            query = m.JobQuery(namespace=self._namespace, limit=m.PAGE_ROWS_MAX, page=page)
            answer = await client.ask("job.list", query, m.JobPage)
            found = {row.id: row for row in answer.body.jobs}
            page, position = answer.body.next_page, position or answer.position
            table.snapshot(found, position, complete=False)
            rows.update(found)
            if not page:
                break
        if not page:
            table.snapshot(rows, position, complete=True)
        return position

    def _set(self, state: LinkState, why: errors.BacalhauError | None = None) -> None:
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
