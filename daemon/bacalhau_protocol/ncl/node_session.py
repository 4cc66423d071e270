"""One connected node as its orchestrator sees it."""

from __future__ import annotations

from typing import Final

from bacalhau_protocol.ncl import subjects
from bacalhau_protocol.ncl.events import NodeFellSilent, NodeLost, NodeSpokeAgain, OrchestratorOutput
from bacalhau_protocol.ncl.lifecycle import NODE, NodeSignal, NodeState, step
from bacalhau_protocol.ncl.messages import BidResult, ComputeError, RunResult
from bacalhau_protocol.ncl.receiver import Receiver
from bacalhau_protocol.ncl.sender import Sender
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.ncl.timings import SECOND, Limits, Timings

REPORTS: Final = frozenset({BidResult, RunResult, ComputeError})


_LIVE: Final = NodeState.LIVE


class OrchestratorSession:
    """From handshake to loss: a sender, a receiver, and when the node was last heard.

    Parameters
    ----------
    number
        Unlike that of every other session of this collection: an answer or a delivery of an old session has no effect.
    last_seq
        The number of the node's last report that an earlier session had stored.
    own
        Whether it is a node of ours.
    """

    def __init__(
        self,
        node: str,
        *,
        number: int,
        inbox: str,
        timings: Timings,
        limits: Limits,
        last_seq: int,
        now: int,
        own: bool = False,
    ) -> None:
        self.node = node
        self.state = NodeState.LIVE
        self.last_heard = now
        self.timings = timings
        self.sender = Sender(
            node=node,
            subject=subjects.subject(node, Plane.IN_MSGS),
            source=f"orchestrator-{node}",
            inbox=f"{inbox}.{node}.{number}",
            timings=timings,
            limits=limits,
            name_subject=True,
            joinable=own,
        )
        self.receiver = Receiver(node=node, session=number, kinds=REPORTS, limits=limits, last_seq=last_seq)
        self.number = number

    def heard(self, now: int) -> list[OrchestratorOutput]:
        """Note a sign of life."""
        if self.state is _LIVE:  # nearly always, and very often
            self.last_heard = max(self.last_heard, now)
            return []
        was, self.state = self.state, step(NODE, self.state, NodeSignal.HEARD)
        self.last_heard = max(self.last_heard, now)
        return [NodeSpokeAgain(self.node)] if was is NodeState.SILENT else []

    def end(self, signal: NodeSignal) -> None:
        """Move to GONE; the collection forgets the session."""
        self.state = step(NODE, self.state, signal)

    def tick(self, now: int, silent_since: int) -> list[OrchestratorOutput]:
        """Do what is due; the session may be GONE afterwards."""
        if now >= silent_since + self.timings.lost_after_ns:
            self.end(NodeSignal.EXPIRY)
            seconds = (now - self.last_heard) // SECOND
            return [NodeLost(self.node, self.last_heard, f"nothing heard of the node for {seconds} s")]
        out: list[OrchestratorOutput] = []
        if self.state is NodeState.LIVE and now >= silent_since + self.timings.unknown_after_ns:
            self.state = step(NODE, self.state, NodeSignal.SILENCE)
            out.append(NodeFellSilent(self.node, self.last_heard))
        return out + list(self.sender.tick(now))

    def next_tick(self, silent_since: int) -> int:
        """Return when something is due if nothing is heard until then."""
        timings = self.timings
        silence = silent_since + (timings.unknown_after_ns if self.state is NodeState.LIVE else timings.lost_after_ns)
        resend = self.sender.next_tick()
        return silence if resend is None else min(silence, resend)
