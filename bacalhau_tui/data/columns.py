"""What a list is made of: cells, columns, and the layout that names them all. `tables` has the lists there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.query import Field

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

    def column(self, key: str) -> Column[Row] | None:
        """Return a column by its key."""
        return next((column for column in self.columns if column.key == key), None)


def widths(columns: Iterable[Column[Any]], room: int, *, gap: int = 2) -> list[int]:
    """Share `room` cells among columns: each has its width, the flexible one the rest (at least its width)."""
    columns = list(columns)
    fixed = sum(column.width for column in columns) + gap * (len(columns) - 1)
    return [column.width + (max(0, room - fixed) if column.flexible else 0) for column in columns]
