"""The compute node's end of NCL: connect, shake hands, beat, take commands, report, leave."""

from __future__ import annotations

import enum
from collections.abc import Callable

from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.ncl.events import ComputeOutput, Delivery, Incoming
from bacalhau_protocol.ncl.messages import Report
from bacalhau_protocol.ncl.timings import LIMITS, OWN, Limits, Timings


class ComputeState(enum.Enum):
    """Where a node's session is."""

    OFFLINE = "offline"  # no link
    WAITING = "waiting"  # linked; the next handshake is due at a known time
    HANDSHAKING = "handshaking"  # asked, not answered yet
    CONNECTED = "connected"
    LEAVING = "leaving"  # the shutdown notice is out
    CLOSED = "closed"


class ComputeSession:
    """A node's session with its orchestrator, ours or Bacalhau's.

    Use::

        session = ComputeSession("n-1", inbox, info, started_at=…, jitter=random.random)
        # subscribe to each of session.subscriptions, then:
        session.link_up(now)                                # also after each reconnect; link_down(now) when it breaks
        for output in session.message(message, now): …      # and .tick(now) at session.next_tick()
            Send              → publish it
            SessionOpened     → report(…) everything that is not confirmed, oldest first
            CommandReceived   → decide, store, then persisted(output.delivery), also when there was nothing to store
            DeliveryConfirmed → forget the report with that tag

    Parameters
    ----------
    inbox
        A subject prefix of our own, never used by an earlier process: answers come to `<inbox>.…`.
    jitter
        Returns a random number in [0, 1).
    headers
        Whether data messages repeat their metadata as NATS headers: Bacalhau does, nobody needs it.
    """

    def __init__(
        self,
        node: str,
        inbox: str,
        info: NodeInfo,
        *,
        started_at: int,
        jitter: Callable[[], float],
        last_orchestrator_seq: int = 0,
        headers: bool = False,
        timings: Timings = OWN,
        limits: Limits = LIMITS,
    ) -> None:
        raise NotImplementedError

    @property
    def state(self) -> ComputeState:
        """Where the session is."""
        raise NotImplementedError

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to subscribe to before `link_up`: our commands and our inbox."""
        raise NotImplementedError

    @property
    def last_orchestrator_seq(self) -> int:
        """The number of the last command that is persisted: keep it over a restart (informational)."""
        raise NotImplementedError

    def link_up(self, now: int) -> list[ComputeOutput]:
        """The connection stands (again). The first handshake leaves at once, later ones after 0.1 to 2 s."""
        raise NotImplementedError

    def link_down(self, now: int) -> list[ComputeOutput]:
        """The connection is gone."""
        raise NotImplementedError

    def message(self, message: Incoming, now: int) -> list[ComputeOutput]:
        """Take a message from any of the subscriptions. Never raises for what a peer sent."""
        raise NotImplementedError

    def describe(self, info: NodeInfo, now: int) -> list[ComputeOutput]:
        """Replace what is known of this node: the next heartbeat has its free capacity, other changes go out now."""
        raise NotImplementedError

    def report(self, report: Report, *, seq: int, tag: object, now: int) -> list[ComputeOutput]:
        """Send in order; `DeliveryConfirmed` with this tag tells when the orchestrator has stored it.

        Without a session nothing is sent: keep the report and send it again at the next `SessionOpened`.
        Raises `UsageError` when the message is larger than NATS carries.
        """
        raise NotImplementedError

    def persisted(self, delivery: Delivery, now: int) -> list[ComputeOutput]:
        """Say that what a command meant is stored; acknowledgements leave in the order of the commands."""
        raise NotImplementedError

    def leave(self, now: int, reason: str = "") -> list[ComputeOutput]:
        """Give notice of our shutdown; `SessionClosed` follows. May be called in any state, and twice."""
        raise NotImplementedError

    def tick(self, now: int) -> list[ComputeOutput]:
        """Do what is due: handshake, heartbeat, time-outs, repeats."""
        raise NotImplementedError

    def next_tick(self) -> int | None:
        """Return when `tick` is next worth calling; may be early, never late."""
        raise NotImplementedError
