"""A job's history as a list, and its events in words."""

from __future__ import annotations

from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell, Column, Layout
from bacalhau_tui.data.query import Field, Measure


def event_text(item: JobHistory) -> str:
    """Return an event's words, as Bacalhau's command line puts them: `Error: …`, `Hint: …`."""
    details = item.event.details if isinstance(item.event.details, dict) else {}
    prefix = "Error: " if is_error(item) else ""
    hint = f"; Hint: {details['Hint']}" if details.get("Hint") else ""
    return f"{prefix}{item.event.message}{hint}"


def is_error(item: JobHistory) -> bool:
    """Whether an event tells of something that went wrong."""
    details = item.event.details if isinstance(item.event.details, dict) else {}
    return details.get("IsError") == "true"


def execution_of(item: JobHistory) -> str:
    """Return the id of the execution that an event is about, blank when it is about the job."""
    return item.execution_id if isinstance(item.execution_id, str) else ""


def _at(item: JobHistory) -> int:
    return fmt.nanoseconds(item.time)


HISTORY: Layout[JobHistory] = Layout(
    columns=(
        Column(
            key="at",
            title="TIME",
            width=19,
            cell=lambda item, now: Cell(fmt.moment(_at(item))),
            order=lambda item, now: item.seq,
        ),
        Column(
            key="execution",
            title="ABOUT",
            width=10,
            cell=lambda item, now: Cell(fmt.clean(short_id(execution_of(item))) or "job"),
            order=lambda item, now: (execution_of(item), item.seq),
        ),
        Column(
            key="topic",
            title="TOPIC",
            width=14,
            cell=lambda item, now: Cell(fmt.clean(item.event.topic)),
            order=lambda item, now: (item.event.topic, item.seq),
            wide=True,
        ),
        Column(
            key="event",
            title="EVENT",
            width=20,
            cell=lambda item, now: Cell(
                fmt.clean(event_text(item)), fmt.Tone.BAD if is_error(item) else fmt.Tone.PLAIN
            ),
            order=lambda item, now: (event_text(item), item.seq),
            flexible=True,
        ),
        Column(
            key="version",
            title="VERSION",
            width=7,
            cell=lambda item, now: Cell(str(item.job_version)),
            order=lambda item, now: (item.job_version, item.seq),
            right=True,
            wide=True,
        ),
    ),
    fields={
        field.name: field
        for field in (
            Field(name="execution", get=lambda item, now: execution_of(item)),
            Field(name="topic", get=lambda item, now: item.event.topic),
            Field(name="event", get=lambda item, now: event_text(item)),
            Field(name="version", get=lambda item, now: item.job_version, measure=Measure.NUMBER),
            Field(name="age", get=lambda item, now: _at(item), measure=Measure.AGE, help="10m, 2h, 3d"),
        )
    },
    search=lambda item: f"{execution_of(item)} {item.event.topic} {event_text(item)}".lower(),
    order="at",
    problem=is_error,
)
