"""What is wrong with what others send, said in the daemon's log without filling it.

The first complaint about somebody is said at once, those that follow within ten seconds as one, with their number: what
a node or a stranger sends, and how often, is nothing that the size of a log may depend on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bacalhau_daemon.core.actions import Complain
from bacalhau_daemon.core.policy import SECOND

EVERY_NS: Final = 10 * SECOND
WINDOWS_MAX: Final = 100  # those that are complained about at a time; those above it share a line
WHO_CHARACTERS_MAX: Final = 64
DETAIL_CHARACTERS_MAX: Final = 200
WORDS_CHARACTERS_MAX: Final = 500

UNREADABLE: Final = "node.message_unreadable"
IGNORED: Final = "node.message_ignored"
REFUSED: Final = "node.message_refused"


class _Window(msgspec.Struct):
    """From a line to the next: the newest complaint, and how many came."""

    until: int
    newest: Complain | None = None
    count: int = 0


class Complaints:
    """Takes complaints, hands out lines for the log."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}  # by event and who; the first to end comes first
        self._out: list[Complain] = []

    def add(self, event: str, who: str, words: str, now: int, **details: str) -> None:
        """Complain about what somebody has sent."""
        complaint = Complain(
            event=event,
            who=who[:WHO_CHARACTERS_MAX],
            words=words[:WORDS_CHARACTERS_MAX],
            details={name: text[:DETAIL_CHARACTERS_MAX] for name, text in details.items()},
        )
        key = (event, complaint.who)
        if key not in self._windows and len(self._windows) >= WINDOWS_MAX:
            key = (event, "")
        window = self._windows.get(key)
        if window is None:
            self._say(key, complaint, now)
        else:
            window.newest, window.count = complaint, window.count + 1

    def take(self, now: int) -> list[Complain]:
        """Return what is to be said now."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if window.until > now:
                break
            del self._windows[key]
            if window.newest is not None:
                self._say(key, msgspec.structs.replace(window.newest, more=window.count - 1), now)
        out, self._out = self._out, []
        return out

    def _say(self, key: tuple[str, str], complaint: Complain, now: int) -> None:
        self._windows[key] = _Window(now + EVERY_NS)
        self._out.append(complaint)
