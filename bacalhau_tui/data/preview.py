"""What a result file is, as far as its beginning tells: text, JSON, a table, or bytes. Pure.

Only a beginning is fetched; what is shown says how much of the file it is.
"""

from __future__ import annotations

import codecs
import csv
import enum
import io
import re
from itertools import islice

import msgspec

from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Tone, cell_width, clean, clean_lines, count, cut
from bacalhau_tui.data.pages import Page, PageLine

FIRST_BYTES, MORE_BYTES, ALL_BYTES_MAX = 64 * 1024, 192 * 1024, 1024 * 1024
"""How much is fetched when a file is looked at, each time that more is wanted, and at most."""
HEX_BYTES, HEX_ROW_BYTES = 16 * 1024, 16
LINES_MAX = 20_000
COLUMNS_MAX, CELL_WIDTH_MAX = 60, 40
WIDTHS_OF_ROWS = 500  # so many rows say how wide a column is
LINE_CELLS_MAX = 4_000
CONTROLS_SHARE_MAX = 0.05  # a "text" with more control characters is none

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_JSON_LINE = re.compile(r'^(\s*)("(?:[^"\\]|\\.)*")(:\s)?(.*)$')
_NUMBER = re.compile(r"\s*[-+]?[0-9][0-9_,. ]*(e[-+]?[0-9]+)?\s*%?\s*", re.IGNORECASE)


class Shape(enum.StrEnum):
    """What a file is shown as."""

    EMPTY = "empty"
    TEXT = "text"
    JSON = "JSON"
    TABLE = "table"
    HEX = "bytes"


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """A page, with a line that stays on top (of a table), and how much of the file it shows."""

    shape: Shape
    page: Page
    head: PageLine | None = None
    shown_bytes: int = 0
    size_bytes: int = 0

    @property
    def whole(self) -> bool:
        """Whether the whole file is shown."""
        return self.shown_bytes >= self.size_bytes

    @property
    def words(self) -> str:
        """Return what is shown, in a few words."""
        if self.shape is Shape.EMPTY:
            return "empty"
        size = format_bytes(self.size_bytes)
        return f"{self.shape.value}, {size if self.whole else f'first {format_bytes(self.shown_bytes)} of {size}'}"


def preview(path: str, data: bytes, size_bytes: int) -> Preview:
    """Return how the beginning of a file is shown; `size_bytes` is the whole file's."""
    if not data:
        return Preview(shape=Shape.EMPTY, page=[PageLine((Cell("  empty", Tone.OFF),))], size_bytes=size_bytes)
    whole = len(data) >= size_bytes
    text = _text(data, whole)
    if text is None:
        shown = data[:HEX_BYTES]
        return Preview(shape=Shape.HEX, page=_hex(shown), shown_bytes=len(shown), size_bytes=size_bytes)
    suffix = path.rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else ""
    found: tuple[Shape, PageLine | None, Page] | None = None
    if whole and (suffix in ("json", "geojson", "ipynb") or (not suffix and text.lstrip()[:1] in ("{", "["))):
        found = _json(data)
    elif suffix in ("csv", "tsv", "tab"):
        found = _table(text, "," if suffix == "csv" else "\t", whole=whole)
    shape, head, page = found or (Shape.TEXT, None, _lines(text))
    return Preview(shape=shape, head=head, page=page, shown_bytes=len(data), size_bytes=size_bytes)


def _text(data: bytes, whole: bool) -> str | None:
    """Return the bytes as text; None when they are not. Of a beginning, the last character may be cut."""
    if len(_CONTROL.findall(data)) > len(data) * CONTROLS_SHARE_MAX or b"\0" in data:
        return None
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data.removeprefix(codecs.BOM_UTF8), final=whole)
    except UnicodeDecodeError:
        return None


def _lines(text: str) -> Page:
    lines = clean_lines(text.replace("\r\n", "\n")).removesuffix("\n").split("\n")
    page = [_plain(line) for line in lines[:LINES_MAX]]
    if len(lines) > LINES_MAX:
        page.append(PageLine((Cell(f"… and {count(len(lines) - LINES_MAX)} lines more", Tone.OFF),)))
    return page


def _plain(line: str) -> PageLine:
    return PageLine((Cell(cut(clean(line.expandtabs(8)), LINE_CELLS_MAX)),))


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _json(data: bytes) -> tuple[Shape, None, Page] | None:
    """Indent JSON without changing a number or the order of a key; None when it is no JSON."""
    try:
        msgspec.json.decode(data.removeprefix(codecs.BOM_UTF8))
        pretty = msgspec.json.format(data.removeprefix(codecs.BOM_UTF8), indent=2).decode()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return Shape.JSON, None, [_json_line(line) for line in pretty.split("\n")[:LINES_MAX]]


def _json_line(line: str) -> PageLine:
    found = _JSON_LINE.match(line)
    if found is None or found[3] is None:
        return _plain(line)
    rest = cut(clean(found[4]), LINE_CELLS_MAX)
    tone = Tone.GOOD if rest.startswith('"') else Tone.PLAIN
    return PageLine((Cell(found[1]), Cell(clean(found[2]), Tone.BUSY), Cell(found[3]), Cell(rest, tone)))


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _table(text: str, delimiter: str, *, whole: bool) -> tuple[Shape, PageLine, Page] | None:
    """Return rows with their columns aligned, the first one as the head; None when it is no table."""
    if delimiter == "," and "," not in text.partition("\n")[0] and ";" in text.partition("\n")[0]:
        delimiter = ";"
    try:
        rows = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), LINES_MAX))
    except csv.Error:
        return None
    if not whole and len(rows) > 1:
        rows.pop()  # it may be cut
    rows = [[cut(clean(cell), CELL_WIDTH_MAX) for cell in row[:COLUMNS_MAX]] for row in rows if row]
    if not rows:
        return None
    sample = rows[:WIDTHS_OF_ROWS]
    columns = max(len(row) for row in sample)
    widths = [max((cell_width(row[at]) for row in sample if at < len(row)), default=0) for at in range(columns)]
    numeric = [
        any(_NUMBER.fullmatch(row[at]) for row in sample[1:] if at < len(row))
        and all(not row[at].strip() or _NUMBER.fullmatch(row[at]) for row in sample[1:] if at < len(row))
        for at in range(columns)
    ]
    head, *body = [_row(row, widths, numeric) for row in rows]
    return Shape.TABLE, msgspec.structs.replace(head, title=True), body


def _row(row: list[str], widths: list[int], numeric: list[bool]) -> PageLine:
    cells = []
    for cell, width, right in zip(row, widths, numeric, strict=False):
        space = " " * max(0, width - cell_width(cell))
        cells.append(f"{space}{cell}" if right else f"{cell}{space}")
    return PageLine((Cell(" " + "  ".join(cells)),))


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _hex(data: bytes) -> Page:
    page: Page = []
    for start in range(0, len(data), HEX_ROW_BYTES):
        row = data[start : start + HEX_ROW_BYTES]
        digits = f"{row[:8].hex(' ')}  {row[8:].hex(' ')}"
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        page.append(PageLine((Cell(f"{start:08x}  ", Tone.OFF), Cell(f"{digits:<48}  "), Cell(shown, Tone.GOOD))))
    return page
