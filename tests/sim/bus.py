"""A bus in virtual time that delays, drops, repeats and reorders; links can be cut. Subjects work as in NATS.

As in NATS, what one connection sends reaches another in order; only a message that bad weather makes slow is overtaken.
What comes within a turn of a process' event loop is read together.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from bacalhau_protocol.transport.base import Message
from tests.sim.clock import MILLI, TURN_NS, Clock

Receive = Callable[[Message], None]
NO_RESPONDERS = {"Status": "503"}


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How bad the line is: probabilities per message, and times."""

    drop: float = 0.0
    repeat: float = 0.0
    slow: float = 0.0
    delay_ns: int = MILLI // 2
    jitter_ns: int = MILLI
    slow_ns: int = 2_000 * MILLI


FAIR = Weather()
STORM = Weather(drop=0.05, repeat=0.05, slow=0.03)


class Endpoint:
    """One connection: what it has subscribed to, and whether its link is up."""

    def __init__(self, name: str, receive: Receive) -> None:
        self.name = name
        self.receive = receive
        self.up = True
        self.newest: dict[str, int] = {}  # by sender: when the last message in order arrives


class Bus:
    """All connections of a cluster."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock, self._draw = clock, rng.random
        self.weather = FAIR
        self.delivered = self.dropped = 0
        self._exact: dict[str, list[Endpoint]] = {}
        self._patterns: list[tuple[list[str], Endpoint]] = []
        self._routes: dict[str, list[Endpoint]] = {}
        self._arriving: dict[int, list[tuple[Endpoint, Message]]] = {}

    def subscribe(self, endpoint: Endpoint, *subjects: str) -> None:
        """Subscribe; `*` and `>` as in NATS."""
        for subject in subjects:
            tokens = subject.split(".")
            if tokens[-1] in ("*", ">") and not {"*", ">"} & set(tokens[:-1]):
                self._exact.setdefault(subject, []).append(endpoint)
            elif "*" in tokens or ">" in tokens:
                self._patterns.append((tokens, endpoint))
            else:
                self._exact.setdefault(subject, []).append(endpoint)
        self._routes.clear()

    def remove(self, endpoint: Endpoint) -> None:
        """Close a connection."""
        for subject, endpoints in list(self._exact.items()):
            if endpoint in endpoints:
                endpoints.remove(endpoint)
                if not endpoints:
                    del self._exact[subject]
        self._patterns = [(tokens, other) for tokens, other in self._patterns if other is not endpoint]
        self._routes.clear()

    def publish(self, sender: Endpoint, message: Message) -> None:
        """Send; nothing is kept while the sender's link is down."""
        if not sender.up:
            self.dropped += 1
            return
        deliver = self._deliver if self.weather is FAIR else self._spoil
        heard = False
        for endpoint in self._route(message.subject):
            if endpoint.up:
                heard = True
                deliver(sender.name, endpoint, message)
        if not heard and message.reply:
            deliver("", sender, Message(message.reply, b"", "", NO_RESPONDERS))

    def _spoil(self, sender: str, endpoint: Endpoint, message: Message) -> None:
        """Lose a message, repeat it, have others overtake it; or nothing of that."""
        weather, draw = self.weather, self._draw
        if draw() < weather.drop:
            self.dropped += 1
            return
        for _ in range(2 if draw() < weather.repeat else 1):
            if draw() < weather.slow:
                self.clock.after(int(draw() * weather.slow_ns), self._deliver, sender, endpoint, message)
            else:
                self._deliver(sender, endpoint, message)

    def _deliver(self, sender: str, endpoint: Endpoint, message: Message) -> None:
        weather, newest = self.weather, endpoint.newest
        at = self.clock.now + weather.delay_ns + int(self._draw() * weather.jitter_ns)
        at += -at % TURN_NS
        before = newest.get(sender, 0)
        newest[sender] = at = at if at > before else before
        arriving = self._arriving.get(at)
        if arriving is None:
            arriving = self._arriving[at] = []
            self.clock.at(at, self._arrive, at)
        arriving.append((endpoint, message))

    def _arrive(self, at: int) -> None:
        for endpoint, message in self._arriving.pop(at):
            if endpoint.up:
                self.delivered += 1
                endpoint.receive(message)
            else:
                self.dropped += 1

    def _route(self, subject: str) -> list[Endpoint]:
        found = self._routes.get(subject)
        if found is None:
            # The last token of an inbox is used once, and only patterns are subscribed to there.
            key = subject.rpartition(".")[0] if subject.startswith("_") else subject
            found = self._routes.get(key)
            if found is None:
                found = self._routes[key] = self._find(subject)
        return found

    def _find(self, subject: str) -> list[Endpoint]:
        head = subject.rpartition(".")[0]
        found = [*self._exact.get(subject, ()), *self._exact.get(f"{head}.*", ())]
        while head:
            found += self._exact.get(f"{head}.>", ())
            head = head.rpartition(".")[0]
        tokens = subject.split(".")
        return found + [endpoint for pattern, endpoint in self._patterns if _matches(pattern, tokens)]


def _matches(pattern: list[str], tokens: list[str]) -> bool:
    for at, part in enumerate(pattern):
        if part == ">":
            return len(tokens) > at
        if at >= len(tokens) or part not in ("*", tokens[at]):
            return False
    return len(pattern) == len(tokens)
