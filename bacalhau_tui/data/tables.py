"""What lists show: columns and filter fields of jobs, executions and nodes, for screens and for plain tables alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from bacalhau_protocol.models.execution import EXIT_CODE_UNKNOWN
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell, Column, Layout
from bacalhau_tui.data.query import Field, Measure

if TYPE_CHECKING:
    from bacalhau_protocol.api.messages import ExecutionRow, JobRow
    from bacalhau_protocol.models.node import NodeState

Row = TypeVar("Row")


def _text(get: Callable[[Row], str]) -> Callable[[Row, int], Cell]:
    return lambda row, now: Cell(fmt.clean(get(row)))


def _state(get: Callable[[Row], str]) -> Callable[[Row, int], Cell]:
    def cell(row: Row, now: int) -> Cell:
        mark = fmt.mark(get(row))
        return Cell(mark.word, mark.tone, mark.glyph, mark.ascii)

    return cell


def _by(get: Callable[[Row], Any]) -> Callable[[Row, int], Any]:
    return lambda row, now: get(row)


def _field(
    name: str, get: Callable[[Any], Any], help_text: str = "", *, measure: Measure = Measure.TEXT, prefix: bool = False
) -> Field:
    return Field(name=name, get=lambda row, now: get(row), measure=measure, help=help_text, prefix=prefix)


def _fields(*fields: Field) -> dict[str, Field]:
    return {field.name: field for field in fields}


# ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def job_name(row: JobRow) -> str:
    """Return a job's name; one that was given no name has its id as name, which says nothing new."""
    return row.name if row.name != row.id else ""


def job_progress(row: JobRow) -> str:
    """Return `done/wanted`, and what failed: `3/5`, `3/5 1x`."""
    wanted = str(row.count) if row.count else str(row.completed + row.failed + row.running)
    return f"{row.completed}/{wanted}" + (f" {row.failed}x" if row.failed else "")


def job_length_ns(row: JobRow, now_ns: int) -> int:
    """Return how long a job has taken until now, or took."""
    return max(0, (row.ended or now_ns) - row.created)


_WAITS = ("Pending", "Queued")

JOBS: Layout[JobRow] = Layout(
    columns=(
        Column(key="id", title="ID", width=10, cell=_text(lambda r: short_id(r.id)), order=_by(lambda r: r.id)),
        Column(
            key="name",
            title="NAME",
            width=14,
            cell=_text(job_name),
            order=_by(lambda r: job_name(r).lower()),
            flexible=True,
            middle=True,
        ),
        Column(key="type", title="TYPE", width=7, cell=_text(lambda r: r.type), order=_by(lambda r: r.type)),
        Column(key="state", title="STATE", width=11, cell=_state(lambda r: r.state), order=_by(lambda r: r.state)),
        Column(
            key="progress",
            title="DONE",
            width=8,
            cell=_text(job_progress),
            order=_by(lambda r: (r.completed, r.failed)),
            right=True,
        ),
        Column(key="engine", title="ENGINE", width=6, cell=_text(lambda r: r.engine), order=_by(lambda r: r.engine)),
        Column(
            key="created",
            title="AGE",
            width=6,
            cell=lambda row, now: Cell(fmt.age(row.created, now)),
            calm=lambda row, now: Cell(fmt.calm_age(row.created, now)),
            order=_by(lambda r: r.created),
            right=True,
        ),
        Column(
            key="length",
            title="TOOK",
            width=6,
            cell=lambda row, now: Cell(fmt.duration(job_length_ns(row, now)) if row.ended else ""),
            order=job_length_ns,
            right=True,
            wide=True,
        ),
        Column(
            key="priority",
            title="PRIO",
            width=4,
            cell=_text(lambda r: str(r.priority)),
            order=_by(lambda r: r.priority),
            right=True,
            wide=True,
        ),
        Column(
            key="namespace",
            title="NAMESPACE",
            width=10,
            cell=_text(lambda r: r.namespace),
            order=_by(lambda r: r.namespace),
            wide=True,
        ),
        Column(key="by", title="BY", width=10, cell=_text(lambda r: r.by), order=_by(lambda r: r.by), wide=True),
        Column(
            key="message",
            title="REASON",
            width=24,
            cell=_text(lambda r: r.message),
            order=_by(lambda r: r.message),
            wide=True,
        ),
    ),
    fields=_fields(
        _field("id", lambda r: r.id),
        _field("name", lambda r: r.name),
        _field("state", lambda r: r.state, "pending, queued, running, completed, failed, stopped", prefix=True),
        _field("type", lambda r: r.type, "batch, ops, daemon, service", prefix=True),
        _field("engine", lambda r: r.engine),
        _field("namespace", lambda r: r.namespace),
        _field("by", lambda r: r.by, "who submitted it"),
        _field("message", lambda r: r.message),
        _field("priority", lambda r: r.priority, measure=Measure.NUMBER),
        _field("count", lambda r: r.count, measure=Measure.NUMBER),
        _field("failed", lambda r: r.failed, measure=Measure.NUMBER),
        _field("age", lambda r: r.created, "10m, 2h, 3d", measure=Measure.AGE),
        Field(name="took", get=job_length_ns, measure=Measure.LENGTH, help="90s, 10m"),
    ),
    search=lambda row: f"{row.id} {row.name}".lower(),
    order="created",
    reverse=True,
    problem=lambda row: row.state == "Failed" or bool(row.failed) or (row.state in _WAITS and bool(row.message)),
)


# ── executions ────────────────────────────────────────────────────────────────────────────────────────────────────


def execution_state(row: ExecutionRow) -> str:
    """Return what an execution does now: its phase while it lives and the phase is known, else its state."""
    return row.phase.name if row.phase is not None and row.state in _LIVE_PHASES else row.state


_LIVE_PHASES = frozenset({"BidAccepted", "Running", "Publishing"})
_ENDED = frozenset({"AskForBidRejected", "BidRejected", "Completed", "Failed", "Cancelled"})


def execution_note(row: ExecutionRow) -> str:
    """Return the progress of the phase (`image 12 MB of 80 MB`), or the message."""
    phase = row.phase
    if phase is None or row.state not in _LIVE_PHASES or not phase.what:
        return row.message
    if not phase.done_bytes:
        return phase.what
    of = f" of {format_bytes(phase.total_bytes)}" if phase.total_bytes else ""
    return f"{phase.what} {format_bytes(phase.done_bytes)}{of}"


def execution_exit(row: ExecutionRow) -> str:
    """Return the exit code of an execution whose program ended by itself; `-` when its node did not learn it."""
    return exit_text(row.exit_code) if row.state == "Completed" else ""


def exit_text(code: int) -> str:
    """Return a completed program's exit code as it is shown."""
    return "-" if code == EXIT_CODE_UNKNOWN else str(code)


def execution_length_ns(row: ExecutionRow, now_ns: int) -> int:
    """Return how long an execution has taken until now, or took."""
    return max(0, (row.modified if row.state in _ENDED else now_ns) - row.created)


def _calm_length(row: ExecutionRow, now_ns: int) -> Cell:
    if row.state in _ENDED:
        return Cell(fmt.duration(execution_length_ns(row, now_ns)))
    return Cell(fmt.calm_age(row.created, now_ns))


EXECUTIONS: Layout[ExecutionRow] = Layout(
    columns=(
        Column(key="id", title="ID", width=10, cell=_text(lambda r: short_id(r.id)), order=_by(lambda r: r.id)),
        Column(
            key="partition",
            title="PART",
            width=4,
            cell=_text(lambda r: str(r.partition)),
            order=_by(lambda r: (r.partition, r.created)),
            right=True,
        ),
        Column(
            key="node",
            title="NODE",
            width=10,
            cell=_text(lambda r: short_id(r.node_id)),
            order=_by(lambda r: r.node_id),
            middle=True,
        ),
        Column(key="state", title="STATE", width=11, cell=_state(execution_state), order=_by(execution_state)),
        Column(
            key="exit", title="EXIT", width=4, cell=_text(execution_exit), order=_by(lambda r: r.exit_code), right=True
        ),
        Column(
            key="length",
            title="TOOK",
            width=6,
            cell=lambda row, now: Cell(fmt.duration(execution_length_ns(row, now))),
            calm=_calm_length,
            order=execution_length_ns,
            right=True,
        ),
        Column(
            key="note",
            title="NOTE",
            width=18,
            cell=_text(execution_note),
            order=_by(execution_note),
            flexible=True,
        ),
    ),
    fields=_fields(
        _field("id", lambda r: r.id),
        _field("job", lambda r: r.job_id),
        _field("node", lambda r: r.node_id),
        _field("state", execution_state, "running, completed, failed, cancelled, …", prefix=True),
        _field("message", lambda r: r.message),
        _field("partition", lambda r: r.partition, measure=Measure.NUMBER),
        _field("exit", lambda r: r.exit_code, measure=Measure.NUMBER),
        _field("age", lambda r: r.created, "10m, 2h, 3d", measure=Measure.AGE),
    ),
    search=lambda row: f"{row.id} {row.node_id}".lower(),
    order="partition",
    problem=lambda row: (
        row.state in ("Failed", "AskForBidRejected", "BidRejected") or row.exit_code not in (0, EXIT_CODE_UNKNOWN)
    ),
)


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


def _available(name: str) -> Callable[[NodeState, int], Any]:
    return lambda node, now: getattr(node.info.compute_node_info.available_capacity, name)


def _heard(node: NodeState) -> int:
    return fmt.nanoseconds(node.connection_state.last_heartbeat)


NODES: Layout[NodeState] = Layout(
    columns=(
        Column(
            key="id",
            title="ID",
            width=12,
            cell=_text(lambda n: short_id(n.info.node_id)),
            order=_by(lambda n: n.info.node_id),
            flexible=True,
            middle=True,
        ),
        Column(key="state", title="STATE", width=14, cell=_state(node_state), order=_by(node_state)),
        Column(key="cpu", title="CPU", width=9, cell=_free("cpu", fmt.cores), order=_available("cpu"), right=True),
        Column(
            key="memory",
            title="MEMORY",
            width=16,
            cell=_free("memory", format_bytes),
            order=_available("memory"),
            right=True,
        ),
        Column(key="gpu", title="GPU", width=5, cell=_free("gpu", str), order=_available("gpu"), right=True),
        Column(
            key="running",
            title="RUN",
            width=4,
            cell=_text(lambda n: str(n.info.compute_node_info.running_executions)),
            order=_by(lambda n: n.info.compute_node_info.running_executions),
            right=True,
        ),
        Column(
            key="heard",
            title="HEARD",
            width=6,
            cell=lambda node, now: Cell(fmt.age(_heard(node), now)),
            calm=lambda node, now: Cell(fmt.calm_age(_heard(node), now) if now - _heard(node) > STALE_NS else ""),
            order=_by(_heard),
            right=True,
        ),
        Column(
            key="engines",
            title="ENGINES",
            width=12,
            cell=_text(lambda n: ",".join(n.info.compute_node_info.execution_engines or ())),
            order=_by(lambda n: n.info.compute_node_info.execution_engines or ()),
            wide=True,
        ),
        Column(
            key="version",
            title="VERSION",
            width=8,
            cell=_text(lambda n: n.info.version.git_version),
            order=_by(lambda n: n.info.version.git_version),
            wide=True,
        ),
        Column(
            key="labels",
            title="LABELS",
            width=24,
            cell=_text(lambda n: labels_text(n.info.labels)),
            order=_by(lambda n: labels_text(n.info.labels)),
            wide=True,
        ),
    ),
    fields=_fields(
        _field("id", lambda n: n.info.node_id),
        _field("state", node_state, "connected, unknown, lost, pending, rejected", prefix=True),
        _field("type", lambda n: n.info.node_type.value, "compute, requester", prefix=True),
        _field("engine", lambda n: " ".join(n.info.compute_node_info.execution_engines or ())),
        _field("label", lambda n: labels_text(n.info.labels), "part of key=value"),
        _field("version", lambda n: n.info.version.git_version),
        _field("cpu", lambda n: n.info.compute_node_info.available_capacity.cpu, "free", measure=Measure.NUMBER),
        _field("memory", lambda n: n.info.compute_node_info.available_capacity.memory, "free", measure=Measure.BYTES),
        _field("disk", lambda n: n.info.compute_node_info.available_capacity.disk, "free", measure=Measure.BYTES),
        _field("gpu", lambda n: n.info.compute_node_info.available_capacity.gpu, "free", measure=Measure.NUMBER),
        _field("running", lambda n: n.info.compute_node_info.running_executions, measure=Measure.NUMBER),
    ),
    search=lambda node: f"{node.info.node_id} {labels_text(node.info.labels)}".lower(),
    order="id",
    problem=lambda node: node_state(node) != "connected",
)
