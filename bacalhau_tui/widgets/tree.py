"""The tree of result files."""

from __future__ import annotations

from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data.filetree import FileTree, Kind, TreeRow
from bacalhau_tui.data.format import count, mark
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Lines, Span

SIZE_WIDTH = 11


class TreeView(Lines):
    """Shows a `FileTree`; the cursor is a key."""

    BINDINGS = bindings("results")

    class Moved(Message):
        """The cursor is on another row."""

        def __init__(self, row: TreeRow | None) -> None:
            super().__init__()
            self.row = row

    class Opened(Message):
        """Enter on a file."""

        def __init__(self, row: TreeRow) -> None:
            super().__init__()
            self.row = row

    class WriteWanted(Message):
        """The user wants to have files; no rows: everything."""

        def __init__(self, rows: list[TreeRow]) -> None:
            super().__init__()
            self.rows = rows

    class ZoomWanted(Message):
        """The user wants the file to have the whole screen, or half of it."""

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.files = FileTree()
        self.cursor = ""
        self.marked: set[str] = set()
        self.top = 0

    @property
    def row(self) -> TreeRow | None:
        """The row under the cursor."""
        place = self._place()
        return self.files.rows[place] if place < len(self.files.rows) else None

    def take_changes(self) -> None:
        """Repaint after the tree changed."""
        if self.files.rows and self.row is not None and not self.cursor:
            self._put(0)
        self.repaint()

    @property
    def chosen(self) -> list[TreeRow]:
        """The marked rows that are shown; without any, the one under the cursor. Notes are none."""
        rows = [row for row in self.files.rows if row.key in self.marked] or ([self.row] if self.row else [])
        return [row for row in rows if row.kind is not Kind.NOTE]

    def _place(self) -> int:
        return self.files.place_of(self.cursor) or 0

    # ── painting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def strip_at(self, y: int) -> Strip:
        """Return one row."""
        place = self.top + y
        rows = self.files.rows
        bar = self.scrollbar(y, self.size.height, self.top, len(rows))
        if place >= len(rows):
            return self.strip([], bar=bar)
        row = rows[place]
        base = self.style("lines--cursor") if row.key == self.cursor and self.has_focus else Style.null()
        if (row.key == self.cursor and not self.has_focus) or (row.key in self.marked and row.key != self.cursor):
            base = self.style("lines--marked")
        size = format_bytes(row.size) if row.kind is not Kind.NOTE else ""
        room = self.size.width - 1 - SIZE_WIDTH
        spans = [*self._words(row, room, base), (self.fit(size, SIZE_WIDTH, right=True), base)]
        return self.strip(spans, base=base, bar=bar)

    def _words(self, row: TreeRow, room: int, base: Style) -> list[Span]:
        sign = " "
        if row.opens:
            sign = self.look.open if row.key in self.files.open else self.look.closed
        text = f"{'*' if row.key in self.marked else ' '}{'  ' * row.depth}{sign} {row.name}"
        if row.kind is not Kind.EXECUTION:
            style = base + self.style("lines--dim") if row.kind is Kind.NOTE else base
            return [(self.fit(text, room), style)]
        state = mark(row.note)
        words = f"  {self.look.mark(state)} {state.word}"
        files = f"  {count(row.files)} files" if row.files else ""
        head = self.fit(text, max(0, room - len(words) - len(files))).rstrip()
        space = " " * max(0, room - len(head) - len(words) - len(files))
        return [(head, base), (words, base + self.style(state.tone.value)), (files, base), (space, base)]

    # ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def scroll_lines(self, lines: int) -> None:
        """Move the cursor."""
        self._put(self._place() + lines)

    def scroll_to_end(self, *, start: bool) -> None:
        """Move the cursor to the first or the last row."""
        self._put(0 if start else len(self.files.rows) - 1)

    def _put(self, place: int) -> None:
        rows = self.files.rows
        if not rows:
            return
        place = max(0, min(place, len(rows) - 1))
        self.cursor = rows[place].key
        height = self.page_lines
        self.top = max(0, min(self.top, len(rows) - height))
        self.top = min(max(self.top, place - height + 1), place)
        self.post_message(self.Moved(rows[place]))
        self.repaint()

    def on_focus(self) -> None:
        """Show that keys go here."""
        self.repaint()

    def on_blur(self) -> None:
        """Show that keys go elsewhere."""
        self.repaint()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row; the second click opens it."""
        if self.top + event.y < len(self.files.rows):
            self._put(self.top + event.y)
            if event.chain == 2:
                self.action_expand(1)

    def on_resize(self) -> None:
        """Keep the cursor in sight."""
        if self.files.rows:
            self._put(self._place())
        super().on_resize()

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def action_expand(self, step: int) -> None:
        """Open or close what is under the cursor; on something closed, `left` goes to what holds it."""
        row = self.row
        if row is None:
            return
        if step > 0 and row.opens:
            self.files.turn(row.key, to_open=row.key not in self.files.open)
        elif step > 0:
            self.post_message(self.Opened(row))
        elif not (row.opens and self.files.turn(row.key, to_open=False)):
            self._put(self.files.parent_of(self._place()))
        self.take_changes()

    def action_mark(self) -> None:
        """Mark the row, or take its mark away; go to the next."""
        row = self.row
        if row is not None and row.kind is not Kind.NOTE:
            self.marked ^= {row.key}
            self.scroll_lines(1)
            self.repaint()

    def action_write(self) -> None:
        """Ask for what is chosen."""
        if chosen := self.chosen:
            self.post_message(self.WriteWanted(chosen))

    def action_write_all(self) -> None:
        """Ask for everything."""
        self.post_message(self.WriteWanted([]))

    def action_zoom(self) -> None:
        """Ask for more room for the file."""
        self.post_message(self.ZoomWanted())
