"""What lists show: columns and filter fields of jobs and executions, for screens and for plain tables alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell, Column, Layout, by, field, fields_of, state_cell, text_cell
from bacalhau_tui.data.query import Field, Measure

if TYPE_CHECKING:
    from bacalhau_protocol.api.messages import ExecutionRow, JobRow

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
        Column(key="id", title="ID", width=10, cell=text_cell(lambda r: short_id(r.id)), order=by(lambda r: r.id)),
        Column(
            key="name",
            title="NAME",
            width=14,
            cell=text_cell(job_name),
            order=by(lambda r: job_name(r).lower()),
            flexible=True,
            middle=True,
        ),
        Column(key="type", title="TYPE", width=7, cell=text_cell(lambda r: r.type), order=by(lambda r: r.type)),
        Column(key="state", title="STATE", width=11, cell=state_cell(lambda r: r.state), order=by(lambda r: r.state)),
        Column(
            key="progress",
            title="DONE",
            width=8,
            cell=text_cell(job_progress),
            order=by(lambda r: (r.completed, r.failed)),
            right=True,
        ),
        Column(key="engine", title="ENGINE", width=6, cell=text_cell(lambda r: r.engine), order=by(lambda r: r.engine)),
        Column(
            key="created",
            title="AGE",
            width=6,
            cell=lambda row, now: Cell(fmt.age(row.created, now)),
            calm=lambda row, now: Cell(fmt.calm_age(row.created, now)),
            order=by(lambda r: r.created),
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
            cell=text_cell(lambda r: str(r.priority)),
            order=by(lambda r: r.priority),
            right=True,
            wide=True,
        ),
        Column(
            key="namespace",
            title="NAMESPACE",
            width=10,
            cell=text_cell(lambda r: r.namespace),
            order=by(lambda r: r.namespace),
            wide=True,
        ),
        Column(key="by", title="BY", width=10, cell=text_cell(lambda r: r.by), order=by(lambda r: r.by), wide=True),
        Column(
            key="message",
            title="REASON",
            width=24,
            cell=text_cell(lambda r: r.message),
            order=by(lambda r: r.message),
            flexible=True,
            wide=True,
        ),
    ),
    fields=fields_of(
        field("id", lambda r: r.id),
        field("name", lambda r: r.name),
        field("state", lambda r: r.state, "pending, queued, running, completed, failed, stopped", prefix=True),
        field("type", lambda r: r.type, "batch, ops, daemon, service", prefix=True),
        field("engine", lambda r: r.engine),
        field("namespace", lambda r: r.namespace),
        field("by", lambda r: r.by, "who submitted it"),
        field("message", lambda r: r.message),
        field("priority", lambda r: r.priority, measure=Measure.NUMBER),
        field("count", lambda r: r.count, measure=Measure.NUMBER),
        field("failed", lambda r: r.failed, measure=Measure.NUMBER),
        field("age", lambda r: r.created, "10m, 2h, 3d", measure=Measure.AGE),
        Field(name="took", get=job_length_ns, measure=Measure.LENGTH, help="90s, 10m"),
    ),
    search=lambda row: f"{row.id} {row.name}".lower(),
    state=lambda row: row.state,
    counted=("Running", "Queued", "Pending", "Failed"),
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


def exit_known(code: int) -> bool:
    """Whether a completed program's exit code is known."""
    from bacalhau_protocol.models.execution import EXIT_CODE_UNKNOWN  # noqa: PLC0415  after the first frame

    return code != EXIT_CODE_UNKNOWN


def exit_text(code: int) -> str:
    """Return a completed program's exit code as it is shown."""
    return str(code) if exit_known(code) else "-"


def execution_length_ns(row: ExecutionRow, now_ns: int) -> int:
    """Return how long an execution has taken until now, or took."""
    return max(0, (row.modified if row.state in _ENDED else now_ns) - row.created)


def _calm_length(row: ExecutionRow, now_ns: int) -> Cell:
    if row.state in _ENDED:
        return Cell(fmt.duration(execution_length_ns(row, now_ns)))
    return Cell(fmt.calm_age(row.created, now_ns))


EXECUTIONS: Layout[ExecutionRow] = Layout(
    columns=(
        Column(key="id", title="ID", width=10, cell=text_cell(lambda r: short_id(r.id)), order=by(lambda r: r.id)),
        Column(
            key="partition",
            title="PART",
            width=4,
            cell=text_cell(lambda r: str(r.partition)),
            order=by(lambda r: (r.partition, r.created)),
            right=True,
        ),
        Column(
            key="node",
            title="NODE",
            width=10,
            cell=text_cell(lambda r: short_id(r.node_id)),
            order=by(lambda r: r.node_id),
            middle=True,
        ),
        Column(key="state", title="STATE", width=11, cell=state_cell(execution_state), order=by(execution_state)),
        Column(
            key="exit",
            title="EXIT",
            width=4,
            cell=text_cell(execution_exit),
            order=by(lambda r: r.exit_code),
            right=True,
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
            cell=text_cell(execution_note),
            order=by(execution_note),
            flexible=True,
        ),
    ),
    fields=fields_of(
        field("id", lambda r: r.id),
        field("job", lambda r: r.job_id),
        field("node", lambda r: r.node_id),
        field("state", execution_state, "running, completed, failed, cancelled, …", prefix=True),
        field("message", lambda r: r.message),
        field("partition", lambda r: r.partition, measure=Measure.NUMBER),
        field("exit", lambda r: r.exit_code, measure=Measure.NUMBER),
        field("age", lambda r: r.created, "10m, 2h, 3d", measure=Measure.AGE),
    ),
    search=lambda row: f"{row.id} {row.node_id}".lower(),
    order="partition",
    problem=lambda row: (
        row.state in ("Failed", "AskForBidRejected", "BidRejected")
        or (row.exit_code != 0 and exit_known(row.exit_code))
    ),
)
