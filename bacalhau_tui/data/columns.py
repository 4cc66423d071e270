"""What a list is made of: cells, columns, and the layout that names them all. `tables` has the lists there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.query import Field, Measure

Row = TypeVar("Row")


class Cell(msgspec.Struct, frozen=True):
    """What stands in one place of a table: clean text, and what it means. A state has a glyph to stand before it."""

    text: str
    tone: fmt.Tone = fmt.Tone.PLAIN
    glyph: str = ""
    ascii_glyph: str = ""


class Column(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """One column. `width` is in cells; a `flexible` one gets what is left. Sorting compares `order(row, now_ns)`."""

    key: str
    title: str
    width: int
    cell: Callable[[Row, int], Cell]
    order: Callable[[Row, int], Any]
    right: bool = False  # numbers stand at the right
    flexible: bool = False
    wide: bool = False  # only where there is room (from 120 columns)
    middle: bool = False  # too long text loses its middle (names, ids), not its end
    calm: Callable[[Row, int], Cell] | None = None  # for screens that stay open: changes once a minute at most


class Layout(msgspec.Struct, Generic[Row], frozen=True, kw_only=True):
    """A list: what it shows, what can be asked of it, how it is sorted at first."""

    columns: tuple[Column[Row], ...]
    fields: Mapping[str, Field]
    search: Callable[[Row], str]  # lower-case text that bare filter words look in
    order: str  # key of a column
    reverse: bool = False
    problem: Callable[[Row], bool] = lambda row: False  # whether a person should look at this row
    state: Callable[[Row], str] = lambda row: ""  # what rows are counted by
    counted: tuple[str, ...] = ()  # states whose counts stand over the list, in this order

    def column(self, key: str) -> Column[Row] | None:
        """Return a column by its key."""
        return next((column for column in self.columns if column.key == key), None)


def widths(columns: Iterable[Column[Any]], room: int, *, gap: int = 2) -> list[int]:
    """Share `room` cells among columns: each has its width, flexible ones share the rest (each at least its width)."""
    columns = list(columns)
    spare = max(0, room - sum(column.width for column in columns) - gap * (len(columns) - 1))
    flexible = sum(column.flexible for column in columns)
    shares = iter([(spare + place) // flexible for place in range(flexible)])
    return [column.width + (next(shares) if column.flexible else 0) for column in columns]


def text_cell(get: Callable[[Row], str]) -> Callable[[Row, int], Cell]:
    """Return what makes a cell of some text of a row, cleaned."""
    return lambda row, now: Cell(fmt.clean(get(row)))


def state_cell(get: Callable[[Row], str]) -> Callable[[Row, int], Cell]:
    """Return what makes a cell of a state of a row, with its glyph."""

    def cell(row: Row, now: int) -> Cell:
        mark = fmt.mark(get(row))
        return Cell(mark.word, mark.tone, mark.glyph, mark.ascii)

    return cell


def by(get: Callable[[Row], Any]) -> Callable[[Row, int], Any]:
    """Return an order by something of a row."""
    return lambda row, now: get(row)


def field(
    name: str, get: Callable[[Any], Any], help_text: str = "", *, measure: Measure = Measure.TEXT, prefix: bool = False
) -> Field:
    """Return a field of the filter language that looks at something of a row."""
    return Field(name=name, get=lambda row, now: get(row), measure=measure, help=help_text, prefix=prefix)


def fields_of(*fields: Field) -> dict[str, Field]:
    """Return fields by their names."""
    return {field.name: field for field in fields}
