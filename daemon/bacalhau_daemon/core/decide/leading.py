"""The start of a term, and on an empty log the creation of the cluster."""

from __future__ import annotations

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.events import AnyEvent, ClusterCreated, CredentialIssued, LeaderStarted, Role
from bacalhau_daemon.core.inputs import Lead
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.state import State


def decide_lead(context: Context, state: State, item: Lead, now: int) -> Decision[AnyEvent]:
    """Start the term that the record is written under."""
    assert item.term == state.term + 1, "a term follows the one before"
    events: list[AnyEvent] = []
    if not state.cluster:
        events.append(ClusterCreated(cluster=item.create))
        events.append(CredentialIssued(identity=item.admin, role=Role.ADMIN, sha256=item.admin_sha256, by=item.node))
    events.append(LeaderStarted(term=item.term, node=item.node, version=item.version))
    return Decision(events)
