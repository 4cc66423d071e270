"""Keys are handed on one at a time: the next one when all that the one before led to has happened.

Textual hands a key to the widget with the focus at once, and carries out what it is bound to some messages later. Of
keys that come together, as over a slow line or from a quick hand, those after `:` would still go to the list, and not
into the prompt that `:` opens. So a message follows each key along its way, from the widget with the focus up to the
app, and then once more, behind whatever the key made others say; what is typed meanwhile waits for it.

Letters for a widget that takes text (it says so: `takes_text`) lead to nothing but text. They wait for nobody and
nobody waits for them: else each would have a screen of its own painted.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from textual import events
from textual.app import App
from textual.message import Message

ROUNDS = 2
WAITING_MAX = 100_000
"""Keys that wait; nobody types more, and what pastes more without saying so loses the rest."""
STUCK_S = 0.5
"""When the message gets lost, with a screen that goes while it passes, keys wait no longer than this."""


class Through(Message):
    """Follows a key; sent along `left` times more."""

    def __init__(self, number: int, left: int) -> None:
        super().__init__()
        self.number, self.left = number, left


class TypeAhead:
    """The keys of an app. `hand_on` does with a key (or a paste) what Textual does."""

    def __init__(self, app: App[int], hand_on: Callable[[events.Event], Awaitable[None]]) -> None:
        self.busy = False  # a key is on its way
        self._app, self._hand_on = app, hand_on
        self._waiting: deque[events.Event] = deque(maxlen=WAITING_MAX)
        self._number = 0  # of the key on its way
        self._stuck: asyncio.TimerHandle | None = None

    async def take(self, event: events.Event) -> None:
        """Take what was typed."""
        if len(self._waiting) < WAITING_MAX:
            self._waiting.append(event)
        if not self.busy:
            await self._next()

    async def through(self, message: Through) -> None:
        """Take note that all that came before this message has happened."""
        if message.number != self._number or not self.busy:
            return  # it is late, and was given up
        if message.left == 0 or not self._follow(message.left - 1):
            await self._next()

    async def _next(self) -> None:
        """Hand the next key on, if one waits."""
        self._forget_timer()
        while self._waiting and self._is_text(self._waiting[0]):
            await self._hand_on(self._waiting.popleft())
        self.busy = bool(self._waiting)
        if self.busy:
            self._number += 1
            loop, number = asyncio.get_running_loop(), self._number
            self._stuck = loop.call_later(STUCK_S, lambda: self._app.call_later(self._give_up, number))
            await self._hand_on(self._waiting.popleft())
            if not self._follow(ROUNDS - 1):
                await self._next()

    def _is_text(self, event: events.Event) -> bool:
        if not isinstance(event, events.Key) or not event.is_printable or not self._app.screen_stack:
            return False
        return getattr(self._app.focused, "takes_text", False)

    def _follow(self, left: int) -> bool:
        """Send the message along; return whether it can come back."""
        if not self._app.screen_stack:
            return False
        target = self._app.focused or self._app.screen
        return target.post_message(Through(self._number, left))

    async def _give_up(self, number: int) -> None:
        if self.busy and number == self._number:
            await self._next()

    def _forget_timer(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
