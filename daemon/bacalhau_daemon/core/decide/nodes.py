"""Nodes come, describe themselves, fall silent, leave and come back; our own ones also say what they hold."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.reports import approval, is_unreplaced
from bacalhau_daemon.core.events import (
    AnyEvent,
    Connection,
    Membership,
    NodeConnectionChanged,
    NodeInfoChanged,
    NodeJoined,
    NodeMembershipChanged,
)
from bacalhau_daemon.core.inputs import CheckNode, ConnectionChange, Handshake, InfoChange, Inventory
from bacalhau_daemon.core.lifecycle import MOVE_TO_CONNECTION, NODE, may
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import INFO_BYTES_MAX, REASON_CHARACTERS_MAX
from bacalhau_daemon.core.state import NodeRecord, State, Status
from bacalhau_protocol.models.node import NodeInfo, NodeType
from bacalhau_protocol.ncl.events import Ignored
from bacalhau_protocol.ncl.messages import lasting

NOTHING: Decision[AnyEvent] = Decision()
NODES_MAX = 20_000


class Accepted(msgspec.Struct, frozen=True):
    """Answer to a handshake: open the session and send what the node must know."""

    reason: str


class Rejected(msgspec.Struct, frozen=True):
    """Answer to a handshake: no, and why."""

    reason: str


class Wanted(msgspec.Struct, frozen=True):
    """Answer to an inventory: what the node should drop."""

    forget: tuple[str, ...]


def decide_handshake(context: Context, state: State, item: Handshake, now: int) -> Decision[AnyEvent]:
    """Let a node in, or not. What it says of itself counts; what the log says of its membership decides."""
    name, info = item.event.node, static_info(item.event.info)
    node = state.nodes.get(name)
    if info.node_type is not NodeType.COMPUTE:
        return Decision((), Rejected("node is not a compute node"))
    too_large = _too_large(info)
    if too_large:
        return Decision((), Rejected(too_large))
    if node is None:
        if len(state.nodes) >= NODES_MAX:
            return Decision((), Rejected(f"the cluster has {NODES_MAX} nodes already"))
        return Decision([NodeJoined(node=name, info=info)], Accepted("node registered"))
    events: list[AnyEvent] = []
    if node.membership is Membership.REJECTED:
        if not _readmitted(state, node, now):
            return Decision((), Rejected("node has been rejected"))
        events.append(NodeMembershipChanged(node=name, to=Membership.APPROVED, reason="it has a new credential"))
    if node.info != info:
        events.append(NodeInfoChanged(node=name, info=info))
    if node.connection is not Connection.CONNECTED:
        events.append(NodeConnectionChanged(node=name, to=Connection.CONNECTED))
    _await_reports(context, state, node, now)
    return Decision(events, Accepted("node reconnected"))


def _readmitted(state: State, node: NodeRecord, now: int) -> bool:
    """Whether somebody has given the node a credential since it was rejected; with that alone can it be here."""
    mine = (state.credentials[sha256] for sha256 in state.identities.get(node.id, ()))
    return any(not each.dead(now) for each in mine)


def _await_reports(context: Context, state: State, node: NodeRecord, now: int) -> None:
    """Give a node that comes back a moment to say how its lost executions fare, before they are replaced."""
    owed = state.use(node.id).owed
    if any(state.executions[x].status is Status.LOST for x in owed):
        until = context.returning[node.id] = now + context.policy.return_grace_ns
        context.timers.arm(until, CheckNode(node.id))


def static_info(info: NodeInfo) -> NodeInfo:
    """Return what of a node is worth a record: what it has, without what is free just now."""
    kept = lasting(info)
    offer = kept.compute_node_info
    ordered = msgspec.structs.replace(
        offer,
        execution_engines=_ordered(offer.execution_engines),
        publishers=_ordered(offer.publishers),
        storage_sources=_ordered(offer.storage_sources),
    )
    return msgspec.structs.replace(kept, compute_node_info=ordered)


def _too_large(info: NodeInfo) -> str:
    """Say why this information is not kept, if so."""
    size_bytes = len(msgspec.json.encode(info))
    if size_bytes <= INFO_BYTES_MAX:
        return ""
    return (
        f"what the node says of itself has {size_bytes:,} bytes, the limit is {INFO_BYTES_MAX:,}; give it fewer labels"
    )


def _ordered(names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Bacalhau nodes list these in an order that varies from run to run."""
    return tuple(sorted(names or ()))


def decide_info(context: Context, state: State, item: InfoChange, now: int) -> Decision[AnyEvent]:
    """Take in what has changed of a node, if anything that is worth a record has. The answer: why not."""
    node, info = state.nodes.get(item.node), static_info(item.info)
    if node is None or node.info == info or info.node_type is not NodeType.COMPUTE:
        return NOTHING
    too_large = _too_large(info)
    if too_large:
        return Decision((), Ignored(item.node, too_large))
    return Decision([NodeInfoChanged(node=item.node, info=info)])


def decide_connection(context: Context, state: State, item: ConnectionChange, now: int) -> Decision[AnyEvent]:
    """Record that a node fell silent, spoke again, left or is lost; what it is already is no news."""
    node = state.nodes.get(item.node)
    if node is None or node.connection is item.to or not may(NODE, node.connection, MOVE_TO_CONNECTION[item.to]):
        return NOTHING
    reason = item.reason[:REASON_CHARACTERS_MAX]
    return Decision([NodeConnectionChanged(node=item.node, to=item.to, reason=reason)])


def decide_inventory(context: Context, state: State, item: Inventory, now: int) -> Decision[AnyEvent]:
    """Compare what one of our nodes holds with what it should hold.

    What it still runs and nothing has replaced goes on, though it had been given up; what nobody wants is dropped.
    """
    name = item.hello.node_id
    events: list[AnyEvent] = []
    forget: list[str] = []
    started: set[int] = set()
    for execution_id in item.hello.live:
        execution = state.execution(execution_id)
        if execution is None or execution.node != name:
            forget.append(execution_id)
        elif execution.status is Status.LOST and is_unreplaced(state, execution):
            steps = approval(state, execution)
            events += steps[-1:] if execution.j in started else steps
            started.add(execution.j)
        elif not execution.status.live:
            forget.append(execution_id)
    return Decision(events, Wanted(tuple(forget)))
