"""Styled text that can be scrolled and searched: explanations, specifications, help."""

from __future__ import annotations

import re
from bisect import bisect_left

from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Tone, cell_width, clean_lines, count
from bacalhau_tui.data.pages import Page, PageLine
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Lines, Span

SIDE_STEP = 8
MARGIN = 1
WRAP_LINES_MAX = 5_000  # a longer page is not wrapped but cut, and scrolls sideways

_Piece = tuple[str, Tone]
_Row = tuple[tuple[_Piece, ...], bool]


class PageView(Lines):
    """Shows a `Page`. Long lines are wrapped, or cut when `wrap` is off; then it scrolls sideways."""

    BINDINGS = bindings("sideways", "search")

    class SearchWanted(Message):
        """The user wants to type what to look for."""

        def __init__(self, view: PageView) -> None:
            super().__init__()
            self.view = view

    class Said(Message):
        """A word about the search, for the flash line."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, look: Look, *, wrap: bool = True, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.wrap = wrap
        self.page: Page = []
        self.top = 0
        self.left = 0
        self.wanted = ""
        self._rows: list[_Row] = []
        self._hits: list[int] = []

    def show(self, page: Page) -> None:
        """Show a page; where it was scrolled to stays."""
        if page == self.page:
            return
        self.page = page
        self._lay_out()
        self.repaint()

    @property
    def plain(self) -> str:
        """The words alone, for copying."""
        return "\n".join(line.text for line in self.page)

    # ── layout ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _lay_out(self) -> None:
        width = self.size.width - MARGIN - 1
        wrap = self.wrap and len(self.page) <= WRAP_LINES_MAX and width > 0
        rows: list[_Row] = []
        for line in self.page:
            pieces = [(self.look.cell(cell), cell.tone) for cell in line.cells]
            broken = wrapped(pieces, width, line.hang) if wrap else [pieces]
            rows.extend((tuple(row), line.title) for row in broken)
        self._rows = rows
        self.top = max(0, min(self.top, len(rows) - self.page_lines))
        self._find()

    def on_resize(self) -> None:
        """Wrap anew."""
        self._lay_out()

    def strip_at(self, y: int) -> Strip:
        """Return one line of the text, with the scroll bar."""
        return self.line_at(y, self.size.height)

    def line_at(self, y: int, height: int) -> Strip:
        """Return line `y` of the `height` lines that are seen of the text."""
        place = self.top + y
        bar = self.scrollbar(y, height, self.top, len(self._rows))
        if place >= len(self._rows):
            return self.strip([])
        pieces, is_title = self._rows[place]
        base = self.style("lines--title") if is_title else Style.null()
        found = bool(self._hits) and self._is_hit(place)
        spans: list[Span] = [(" " * MARGIN, Style.null())]
        for text, tone in pieces:
            style = base if tone is Tone.PLAIN else base + self.style(tone.value)
            spans.extend(marked(text, self.wanted, style, self.style("lines--found")) if found else [(text, style)])
        return self.strip(spans, bar=bar, left=self.left)

    def _is_hit(self, place: int) -> bool:
        at = bisect_left(self._hits, place)
        return at < len(self._hits) and self._hits[at] == place

    # ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def scroll_lines(self, lines: int) -> None:
        """Scroll."""
        self._put_top(self.top + lines)

    def scroll_to_end(self, *, start: bool) -> None:
        """Scroll to the beginning or the end."""
        self._put_top(0 if start else len(self._rows))

    def _put_top(self, top: int) -> None:
        self.top = max(0, min(top, len(self._rows) - self.page_lines))
        self.repaint()

    def action_sideways(self, steps: int) -> None:
        """Scroll sideways, when lines are cut."""
        self.left = max(0, self.left + steps * SIDE_STEP) if not self.wrap else 0
        self.repaint()

    def on_click(self, event: events.Click) -> None:
        """Clicks only give the focus."""
        event.stop()

    # ── search ────────────────────────────────────────────────────────────────────────────────────────────────────

    def action_search(self) -> None:
        """Ask what to look for."""
        self.post_message(self.SearchWanted(self))

    def search(self, text: str) -> None:
        """Look for text (any case); go to the first place from here on."""
        self.wanted = text
        self._find()
        if text and not self._hits:
            self.post_message(self.Said(f"{text!r} is not in here"))
        self._go_to_hit(bisect_left(self._hits, self.top))

    def action_next(self, step: int) -> None:
        """Go to the next place, or the one before."""
        at = bisect_left(self._hits, self.top)
        here = at < len(self._hits) and self._hits[at] == self.top
        self._go_to_hit(at + step if step < 0 or here else at)

    def _go_to_hit(self, at: int) -> None:
        if self._hits:
            at %= len(self._hits)
            self.post_message(self.Said(f"{count(at + 1)} of {count(len(self._hits))} lines with {self.wanted!r}"))
            self._put_top(self._hits[at])
        self.repaint()

    def _find(self) -> None:
        wanted = self.wanted.lower()
        self._hits = [
            place
            for place, (row, _) in enumerate(self._rows)
            if wanted and wanted in "".join(t for t, _ in row).lower()
        ]


def marked(text: str, wanted: str, style: Style, found: Style) -> list[Span]:
    """Cut text so that what was looked for (any case) has a style of its own."""
    spans: list[Span] = []
    lower, position = text.lower(), 0
    if len(lower) != len(text):  # a letter whose lower case is longer: positions would not fit
        return [(text, style)]
    while wanted and (start := lower.find(wanted.lower(), position)) >= 0:
        spans += [(text[position:start], style), (text[start : start + len(wanted)], style + found)]
        position = start + len(wanted)
    return [*spans, (text[position:], style)]


def wrapped(pieces: list[_Piece], width: int, hang: int) -> list[list[_Piece]]:
    """Break pieces into rows of at most `width` cells, at blanks where there are any; later rows are indented."""
    text = "".join(piece for piece, _ in pieces)
    if cell_width(text) <= width:
        return [pieces]
    hang = min(hang, width // 2)
    rows: list[list[_Piece]] = []
    for start, end in _breaks(text, width, hang):
        row: list[_Piece] = [(" " * hang, Tone.PLAIN)] if rows and hang else []
        position = 0
        for piece, tone in pieces:
            part = piece[max(0, start - position) : max(0, end - position)]
            position += len(piece)
            if part:
                row.append((part, tone))
        rows.append(row)
    return rows


def _breaks(text: str, width: int, hang: int) -> list[tuple[int, int]]:
    """Return where rows begin and end."""
    found: list[tuple[int, int]] = []
    start = 0
    while start < len(text):
        room = width - (hang if found else 0)
        end, cells = start, 0
        while end < len(text) and cells + (size := cell_width(text[end])) <= room:
            cells += size
            end += 1
        end = max(end, start + 1)
        blank = text.rfind(" ", start + 1, end + 1) if end < len(text) else -1
        stop = blank if blank > start and text[start:blank].strip() else end
        found.append((start, stop))
        start = stop
        while start < len(text) and text[start] == " ":
            start += 1
    return found


_YAML_LINE = re.compile(r"^(?P<lead>\s*(?:- )*)(?P<key>[^\s#\"':][^:#]*:)?(?P<rest>(?:\s.*)?)$")


def yaml_page(text: str) -> Page:
    """Return YAML as a page, keys apart from values."""
    page: Page = []
    for line in clean_lines(text).rstrip("\n").split("\n"):
        match = _YAML_LINE.match(line)
        parts = (match["lead"], match["key"] or "", match["rest"]) if match else (line, "", "")
        lead, key, rest = parts
        page.append(PageLine((Cell(lead), Cell(key, Tone.BUSY), Cell(rest))))
    return page
