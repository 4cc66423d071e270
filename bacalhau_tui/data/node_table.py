"""What the list of nodes shows, for screens and for plain tables alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell, Column, Layout, by, field, fields_of, state_cell, text_cell
from bacalhau_tui.data.query import Measure

if TYPE_CHECKING:
    from bacalhau_protocol.models.node import NodeState

STALE_NS = 60 * fmt.SECOND_NS
"""A node that was heard of within this time is heard of now."""


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def node_state(node: NodeState) -> str:
    """Return one word: `pending` and `rejected` come before the link's `connected`, `unknown`, `lost`."""
    membership = node.membership.lower()
    return membership if membership in ("pending", "rejected") else node.connection.lower()


def node_name(node: NodeState) -> str:
    """Return the label `name` where it says more than the id."""
    name = (node.info.labels or {}).get("name", "")
    return name if name != node.info.node_id else ""


def labels_text(labels: Mapping[str, str] | None) -> str:
    """Return `k=v k=v`, sorted."""
    return " ".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def _free(name: str, show: Callable[[Any], str]) -> Callable[[NodeState, int], Cell]:
    def cell(node: NodeState, now: int) -> Cell:
        info = node.info.compute_node_info
        most = getattr(info.max_capacity, name)
        return Cell(f"{show(getattr(info.available_capacity, name))}/{show(most)}" if most else "")

    return cell


def _rank(engine: str) -> tuple[bool, str]:
    return engine == "noop", engine  # which does nothing: last, where there is room for it


BAR_CELLS = 5
NEARLY_FULL = 0.9


def capacity_bar(node: NodeState, name: str, words: str, cells: int = BAR_CELLS) -> Cell:
    """Return how much of a resource is in use, as a bar with words behind it; blank when the node has none of it."""
    info = node.info.compute_node_info
    most, free = getattr(info.max_capacity, name), getattr(info.available_capacity, name)
    if not most:
        return Cell("")
    used = max(0, most - free)
    tone = fmt.Tone.WAITING if used >= NEARLY_FULL * most else fmt.Tone.BUSY if used else fmt.Tone.OFF
    return Cell(words, tone, *fmt.bar(used, most, cells))


def _used(name: str, show: Callable[[Any], str]) -> Callable[[NodeState, int], Cell]:
    return lambda node, now: capacity_bar(node, name, show(getattr(node.info.compute_node_info.max_capacity, name)))


def _calm_node_state(node: NodeState, now: int) -> Cell:
    mark = fmt.mark(node_state(node))
    heard = _heard(node)
    stale = f" {fmt.calm_age(heard, now)}" if heard > 0 and now - heard > STALE_NS else ""
    return Cell(f"{mark.word}{stale}", mark.tone, mark.glyph, mark.ascii)


def _available(name: str) -> Callable[[NodeState, int], Any]:
    return lambda node, now: getattr(node.info.compute_node_info.available_capacity, name)


def _heard(node: NodeState) -> int:
    return fmt.nanoseconds(node.connection_state.last_heartbeat)


NODES: Layout[NodeState] = Layout(
    columns=(
        Column(
            key="id",
            title="ID",
            width=11,
            cell=text_cell(lambda n: short_id(n.info.node_id)),
            order=by(lambda n: n.info.node_id),
            flexible=True,
            middle=True,
        ),
        Column(
            key="state",
            title="STATE",
            width=13,
            cell=state_cell(node_state),
            calm=_calm_node_state,
            order=by(node_state),
        ),
        Column(
            key="cpu",
            title="CPU",
            width=10,
            cell=_free("cpu", fmt.cores),
            calm=_used("cpu", fmt.cores),
            order=_available("cpu"),
        ),
        Column(
            key="memory",
            title="MEMORY",
            width=13,
            cell=_free("memory", format_bytes),
            calm=_used("memory", format_bytes),
            order=_available("memory"),
        ),
        Column(
            key="disk",
            title="DISK",
            width=13,
            cell=_free("disk", format_bytes),
            calm=_used("disk", format_bytes),
            order=_available("disk"),
            wide=True,
        ),
        Column(key="gpu", title="GPU", width=3, cell=_free("gpu", str), order=_available("gpu"), right=True),
        Column(
            key="running",
            title="RUN",
            width=4,
            cell=text_cell(lambda n: str(n.info.compute_node_info.running_executions)),
            order=by(lambda n: n.info.compute_node_info.running_executions),
            right=True,
        ),
        Column(
            key="engines",
            title="ENGINES",
            width=12,
            cell=text_cell(lambda n: " ".join(sorted(n.info.compute_node_info.execution_engines or (), key=_rank))),
            order=by(lambda n: n.info.compute_node_info.execution_engines or ()),
        ),
        Column(
            key="heard",
            title="HEARD",
            width=6,
            cell=lambda node, now: Cell(fmt.age(_heard(node), now)),
            calm=lambda node, now: Cell(fmt.calm_age(_heard(node), now) if now - _heard(node) > STALE_NS else ""),
            order=by(_heard),
            right=True,
            wide=True,
        ),
        Column(
            key="version",
            title="VERSION",
            width=8,
            cell=text_cell(lambda n: n.info.version.git_version),
            order=by(lambda n: n.info.version.git_version),
            wide=True,
        ),
        Column(
            key="labels",
            title="LABELS",
            width=24,
            cell=text_cell(lambda n: labels_text(n.info.labels)),
            order=by(lambda n: labels_text(n.info.labels)),
            flexible=True,
            wide=True,
        ),
    ),
    fields=fields_of(
        field("id", lambda n: n.info.node_id),
        field("state", node_state, "connected, unknown, lost, pending, rejected", prefix=True),
        field("type", lambda n: n.info.node_type.value, "compute, requester", prefix=True),
        field("engine", lambda n: " ".join(n.info.compute_node_info.execution_engines or ())),
        field("label", lambda n: labels_text(n.info.labels), "part of key=value"),
        field("version", lambda n: n.info.version.git_version),
        field("cpu", lambda n: n.info.compute_node_info.available_capacity.cpu, "free", measure=Measure.NUMBER),
        field("memory", lambda n: n.info.compute_node_info.available_capacity.memory, "free", measure=Measure.BYTES),
        field("disk", lambda n: n.info.compute_node_info.available_capacity.disk, "free", measure=Measure.BYTES),
        field("gpu", lambda n: n.info.compute_node_info.available_capacity.gpu, "free", measure=Measure.NUMBER),
        field("running", lambda n: n.info.compute_node_info.running_executions, measure=Measure.NUMBER),
    ),
    search=lambda node: f"{node.info.node_id} {labels_text(node.info.labels)}".lower(),
    state=node_state,
    counted=("connected", "pending", "unknown", "lost", "disconnected"),
    order="id",
    problem=lambda node: node_state(node) != "connected",
)
