"""How data leaves: plain tables, JSON, YAML on stdout; talk on stderr.

On a terminal, whatever other people wrote is escaped and states have colours (not with NO_COLOR). In a pipe, data is as
it is and nothing is cut.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import msgspec

from bacalhau_tui.data.columns import Cell, Layout
from bacalhau_tui.data.format import Tone, cell_width, clean, cut

GAP = "  "
WIDTH_MIN, COLUMN_MIN = 40, 8
_COLOURS = {
    Tone.GOOD: "32",
    Tone.BUSY: "36",
    Tone.WAITING: "33",
    Tone.BAD: "31",
    Tone.OFF: "2",
    Tone.UNKNOWN: "35",
}
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class Head(msgspec.Struct, frozen=True):
    """A column of a plain table. A `flexible` one is cut when the terminal is narrow."""

    title: str
    right: bool = False
    flexible: bool = False
    middle: bool = False


class Output:
    """Where one run writes. `stdout` and `stderr` are looked up at each use, so that tests can replace them."""

    def __init__(self, output_format: str, environment: Mapping[str, str] = os.environ) -> None:
        self.format = output_format
        self._environment = environment

    @property
    def terminal(self) -> bool:
        """Whether a person looks at stdout."""
        return sys.stdout.isatty()

    @property
    def colour(self) -> bool:
        """Whether states get a colour."""
        return self.terminal and not self._environment.get("NO_COLOR") and self._environment.get("TERM") != "dumb"

    @property
    def room(self) -> int | None:
        """How many cells a line has; None in a pipe, where nothing is cut."""
        return max(WIDTH_MIN, shutil.get_terminal_size().columns) if self.terminal else None

    # ── talk ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def say(self, text: str) -> None:
        """Talk to the person, one line or more."""
        write(sys.stderr, "\n".join(clean(line) for line in text.split("\n")) + "\n")

    def progress(self, text: str) -> None:
        """Show one line that the next replaces; nothing when stderr is no terminal."""
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            write(sys.stderr, f"\r\x1b[K{cut(clean(text), width)}")

    def progress_end(self) -> None:
        """Take the progress line away."""
        if sys.stderr.isatty():
            write(sys.stderr, "\r\x1b[K")

    # ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def line(self, text: str = "") -> None:
        """Print one line of data."""
        write(sys.stdout, f"{clean(text)}\n")

    def value(self, value: Any) -> None:
        """Print a value as JSON or YAML, by names of Bacalhau's models."""
        plain = msgspec.to_builtins(value, str_keys=True)
        if self.format == "yaml":
            write(sys.stdout, as_yaml(plain))
            return
        text = msgspec.json.format(msgspec.json.encode(plain), indent=2).decode()
        if self.terminal:
            text = _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
        write(sys.stdout, text + "\n")

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print `Key = value` lines; empty values are left out."""
        shown = [(key, value) for key, value in pairs if value]
        width = max((len(key) for key, _ in shown), default=0)
        for key, value in shown:
            first, *rest = value.split("\n")
            self.line(f"{key.ljust(width)} = {first}")
            for line in rest:
                self.line(" " * (width + 3) + line)

    def table(self, heads: Sequence[Head], rows: Iterable[Sequence[Cell | str]]) -> None:
        """Print a table with its heads."""
        cells = [[cell if isinstance(cell, Cell) else Cell(clean(cell)) for cell in row] for row in rows]
        widths = _widths(heads, cells, self.room)
        lines = [GAP.join(_pad(head.title, width, head) for head, width in zip(heads, widths, strict=True)).rstrip()]
        for row in cells:
            parts = [self._paint(cell, width, head) for cell, width, head in zip(row, widths, heads, strict=True)]
            lines.append(GAP.join(parts).rstrip())
        write(sys.stdout, "\n".join(lines) + "\n")

    def rows(self, layout: Layout[Any], rows: Iterable[Any], now_ns: int, *, wide: bool) -> None:
        """Print rows as a list screen would show them."""
        columns = [column for column in layout.columns if wide or not column.wide]
        heads = [Head(column.title, column.right, column.flexible, column.middle) for column in columns]
        self.table(heads, [[column.cell(row, now_ns) for column in columns] for row in rows])

    def _paint(self, cell: Cell, width: int, head: Head) -> str:
        text = _pad(cut(cell.text, width, middle=head.middle), width, head)
        colour = _COLOURS.get(cell.tone, "") if self.colour else ""
        return f"\x1b[{colour}m{text}\x1b[0m" if colour else text


def write(stream: TextIO, text: str) -> None:
    """Write and flush; what the stream's encoding cannot say is escaped."""
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal in the C locale: shown as well as it can
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _pad(text: str, width: int, head: Head) -> str:
    space = " " * (width - cell_width(text))
    return space + text if head.right else text + space


def _widths(heads: Sequence[Head], rows: list[list[Cell]], room: int | None) -> list[int]:
    widths = [
        max([len(head.title), *(cell_width(row[place].text) for row in rows)]) for place, head in enumerate(heads)
    ]
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - (room or sys.maxsize)
    flexible = sorted((place for place, head in enumerate(heads) if head.flexible), key=lambda place: -widths[place])
    for place in flexible:
        less = max(0, min(excess, widths[place] - COLUMN_MIN))
        widths[place] -= less
        excess -= less
    return widths


def as_yaml(plain: Any) -> str:
    """Return a plain value as YAML, keys in their order."""
    import io  # noqa: PLC0415

    from ruamel.yaml import YAML  # noqa: PLC0415  slow to import, and seldom needed

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    buffer = io.StringIO()
    yaml.dump(plain, buffer)
    return buffer.getvalue()
