"""The orchestrator's end of NCL: one session per connected node, one collection for all."""

from __future__ import annotations

from bacalhau_protocol.ncl.events import Delivery, Incoming, NodeHandshook, OrchestratorOutput
from bacalhau_protocol.ncl.messages import Command
from bacalhau_protocol.ncl.timings import FOREIGN, LIMITS, OWN, Limits, Timings


class OrchestratorSessions:
    """All sessions of one leader. Soft state: a new leader starts empty, and every node shakes hands again.

    Use::

        sessions = OrchestratorSessions(inbox)              # subscribe to each of sessions.subscriptions first
        for output in sessions.message(message, now): …     # and .tick(now) at sessions.next_tick()
            Send                → publish it
            NodeHandshook       → decide membership, store it, then accept(…) or refuse(…); after accept, send every
                                  command again that the node must know: live executions, ends it has not confirmed
            ReportReceived      → decide, store, then persisted(output.delivery), also when there was nothing to store
            DeliveryConfirmed   → the node has handled what was sent with that tag

    Parameters
    ----------
    inbox
        A subject prefix of our own, never used by an earlier process: answers come to `<inbox>.<node>.…`.
    """

    def __init__(self, inbox: str, *, own: Timings = OWN, foreign: Timings = FOREIGN, limits: Limits = LIMITS) -> None:
        raise NotImplementedError

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to subscribe to, before anything else: three wildcards over all nodes and our inbox."""
        raise NotImplementedError

    @property
    def connected(self) -> frozenset[str]:
        """Ids of the nodes that have a session now (silent ones too)."""
        raise NotImplementedError

    def message(self, message: Incoming, now: int) -> list[OrchestratorOutput]:
        """Take a message from any of the subscriptions. Never raises for what a peer sent."""
        raise NotImplementedError

    def accept(
        self,
        handshake: NodeHandshook,
        now: int,
        *,
        starting_seq: int,
        last_compute_seq: int = 0,
        reason: str = "node registered",
    ) -> list[OrchestratorOutput]:
        """Open a session (replacing the node's old one, whose unconfirmed messages are forgotten) and answer.

        `starting_seq` is the current event number: what is sent from now on has higher ones.
        """
        raise NotImplementedError

    def refuse(self, handshake: NodeHandshook, now: int, reason: str) -> list[OrchestratorOutput]:
        """Answer that the node may not join, and why; a session that it has is ended."""
        raise NotImplementedError

    def send(self, node: str, command: Command, *, seq: int, tag: object, now: int) -> list[OrchestratorOutput]:
        """Send in order; `DeliveryConfirmed` with this tag tells when the node has handled it.

        Without a session nothing is sent: the next handshake derives all again. Build an AskForBid with
        `messages.ask_for_bid`. Raises `UsageError` when the message is larger than NATS carries.
        """
        raise NotImplementedError

    def persisted(self, delivery: Delivery, now: int) -> list[OrchestratorOutput]:
        """Say that what a report meant is stored; acknowledgements leave in the order of the reports."""
        raise NotImplementedError

    def drop(self, node: str) -> None:
        """End a node's session (rejected, credential revoked): its next heartbeat is told to shake hands."""
        raise NotImplementedError

    def tick(self, now: int) -> list[OrchestratorOutput]:
        """Do what is due: silence, loss, repeats."""
        raise NotImplementedError

    def next_tick(self) -> int | None:
        """Return when `tick` is next worth calling; may be early, never late."""
        raise NotImplementedError
