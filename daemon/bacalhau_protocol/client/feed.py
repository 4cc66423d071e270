"""The feed: row changes as they happen, and a word whenever some may have been missed.

Nothing here trusts the connection to deliver everything. Rows of a whole kind carry the number of the row before them,
so a hole is seen; ticks, once a second, carry the newest numbers, so a hole at the end is seen; ticks that stop, a new
term and an interrupted link are seen too. In each case the feed says `AskAgain`, and its reader asks the orchestrator.
So it does with the first tick of a feed that follows some rows only: a row that was sent before the feed listened may
have been missing in an answer that was asked for afterwards, because answers are a moment behind rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any

import msgspec

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.transport.base import Message, Subscription

UNREAD_ROWS_MAX = 10_000


class Changed(msgspec.Struct, frozen=True):
    """A row is new, different, or gone. `key` is the row's own id; an execution's `parent` is its job."""

    kind: str
    namespace: str
    key: str
    parent: str
    seq: int
    deleted: bool
    row: dict[str, Any]


class AskAgain(msgspec.Struct, frozen=True):
    """Changes of this kind may have been missed (blank: of any kind), none of them newer than log position `seq`."""

    kind: str
    reason: str
    seq: int = 0


class Silent(msgspec.Struct, frozen=True):
    """Ticks have stopped: what is known may be old."""


class Heard(msgspec.Struct, frozen=True):
    """Ticks are back."""


FeedEvent = Changed | AskAgain | Silent | Heard


class Feed:
    """Follows some subjects of the feed; an async context manager and an async iterator of `FeedEvent`.

    `whole` says that the subjects take in every row of their kinds and namespaces, so that numbers can be compared.
    After asking again, call `asked` with the answer's log position: older holes do not matter any more.
    """

    def __init__(self, client: Client, patterns: list[str], *, whole: bool) -> None:
        self._client = client
        self._patterns = patterns
        self._whole = whole
        self._followed = {(tokens[3], tokens[4]) for tokens in (pattern.split(".") for pattern in patterns)}
        self._events: deque[FeedEvent] = deque()
        self._filled = asyncio.Event()
        self._subscriptions: list[Subscription] = []
        self._positions: dict[str, int] = {}  # by kind: what the last answer had seen
        self._seen: dict[str, int] = {}  # by `namespace/kind`: the newest number
        self._due: dict[str, int] = {}  # what the tick before this one promised
        self._term = 0
        self._interruptions = client.interruptions
        self._ticked_at = time.monotonic()
        self._silent = False

    async def __aenter__(self) -> Feed:
        for pattern in self._patterns:
            self._subscriptions.append(await self._client.bus.subscribe(pattern, self._on_row))
        self._subscriptions.append(await self._client.bus.subscribe(subjects.feed_tick(), self._on_tick))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for subscription in self._subscriptions:
            await subscription.unsubscribe()

    def asked(self, kind: str, position: int) -> None:
        """Say that an answer with everything of this kind up to a log position has been taken in."""
        self._positions[kind] = max(self._positions.get(kind, 0), position)

    def __aiter__(self) -> AsyncIterator[FeedEvent]:
        return self

    async def __anext__(self) -> FeedEvent:
        while not self._events:
            self._filled.clear()
            quiet_s = self._client.timing.tick_missing_s
            left_s = self._ticked_at + quiet_s - time.monotonic()
            if self._silent:
                await self._filled.wait()
            elif left_s <= 0:
                self._silent = True
                return Silent()
            else:
                try:
                    # Not `wait_for`: when the event and a cancellation come together, Python 3.11's loses the latter.
                    async with asyncio.timeout(left_s):
                        await self._filled.wait()
                except TimeoutError:
                    continue
        return self._events.popleft()

    def waiting(self) -> bool:
        """Whether there are events that can be had without waiting."""
        return bool(self._events)

    # ── what comes in ─────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, event: FeedEvent) -> None:
        if len(self._events) >= UNREAD_ROWS_MAX:
            self._events.clear()
            event = AskAgain("", f"more than {UNREAD_ROWS_MAX} changes were waiting")
        self._events.append(event)
        self._filled.set()

    async def _on_row(self, message: Message) -> None:
        try:
            row = msgspec.json.decode(message.data, type=m.FeedRow)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._put(AskAgain("", f"a change could not be read: {error}"))
            return
        _, _, _, namespace, _, *keys = message.subject.split(".")
        chain = f"{namespace}/{row.kind}"
        known = max(self._seen.get(chain, 0), self._positions.get(row.kind, 0))
        if self._whole and known and row.prev > known:
            self._put(AskAgain(row.kind, f"changes {known + 1} to {row.prev} of {chain} are missing"))
        self._seen[chain] = max(self._seen.get(chain, 0), row.seq)
        parent = keys[0] if len(keys) > 1 else ""
        self._put(Changed(row.kind, namespace, keys[-1], parent, row.seq, row.deleted, row.row))

    async def _on_tick(self, message: Message) -> None:
        try:
            tick = msgspec.json.decode(message.data, type=m.FeedTick)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._put(AskAgain("", f"a tick could not be read: {error}"))
            return
        self._ticked_at = time.monotonic()
        self._look_for_breaks(tick)
        if self._whole:
            self._look_for_holes(tick)

    def _look_for_breaks(self, tick: m.FeedTick) -> None:
        reasons = []
        if self._silent:
            self._silent = False
            self._put(Heard())
            reasons.append("ticks had stopped")
        if self._term and tick.term != self._term:
            reasons.append("another orchestrator leads")
        if self._client.interruptions != self._interruptions:
            reasons.append("the link was interrupted")
        if not self._term and not self._whole:
            reasons.append("rows may have been sent before this feed began")
        self._term, self._interruptions = tick.term, self._client.interruptions
        if reasons:
            self._put(AskAgain("", ", ".join(reasons), tick.seq))
        self._filled.set()  # a reader that waits for silence begins to wait anew

    def _look_for_holes(self, tick: m.FeedTick) -> None:
        """Compare with what the last tick promised: a row may overtake a tick, but not by a whole second."""
        for name, due in self._due.items():
            raw, _, kind = name.rpartition("/")
            namespace = subjects.encode_token(raw)  # as rows have it, in their subjects
            chain = f"{namespace}/{kind}"
            if not self._follows(namespace, kind):
                continue
            if max(self._seen.get(chain, 0), self._positions.get(kind, 0)) < due:
                self._put(AskAgain(kind, f"{chain} is at {due}, which was not heard of"))
                self._seen[chain] = due
        self._due = tick.newest

    def _follows(self, namespace: str, kind: str) -> bool:
        return kind in self._positions and ((namespace, kind) in self._followed or ("*", kind) in self._followed)
