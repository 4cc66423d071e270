"""A list of rows: any number of them, of which only the visible ones cost anything. Cursor and marks are ids.

A row that changes is painted cell by cell; when rows come, go or move the cursor stays on its id, at its screen line
where that is possible. Keys are in the keymap's groups `move` and `table`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from bacalhau_tui.data.columns import Cell, Column, widths
from bacalhau_tui.data.format import SECOND_NS, Tone, count
from bacalhau_tui.data.query import FilterError
from bacalhau_tui.data.view import TableView
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Lines, Span

WIDE_FROM = 120
GAP = "  "
AGES_NS = 10 * SECOND_NS  # ages are in minutes; what shows one is this old at most
MADE_MAX = 1_000
MARGIN = 2  # the cell for the mark, and the scroll bar


class Table(Lines):
    """Shows a `TableView`. Call `take_changes` when the view was woken, `repaint` when only the clock moved on."""

    BINDINGS = bindings("table")

    class Opened(Message):
        """Enter or a double click on a row."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table, self.key = table, key

    class Changed(Message):
        """What the crumb says of the list is different: counts, marks, filter, order."""

    class FilterWanted(Message):
        """The user wants to type a filter."""

        def __init__(self, table: Table) -> None:
            super().__init__()
            self.table = table

    def __init__(
        self,
        view: TableView[Any],
        look: Look,
        clock: Callable[[], int],
        *,
        empty: str = "nothing here",
        id: str | None = None,
    ) -> None:
        """`empty` says, in words, why there may be no rows and what to do then."""
        super().__init__(look, id=id)
        self.view = view
        self.empty = empty
        self.cursor = ""  # an id, or blank when there are no rows
        self.at_head = True  # nobody has chosen a row: the cursor stays on the first one, whichever that is
        self.marked: set[str] = set()
        self.top = 0  # place of the first row that is seen
        self.problems_only = False
        self.wide: bool | None = None  # None: by the width of the screen
        self.shift = 0  # so many columns after the first are scrolled out to the left
        self._clock = clock
        self._plan: list[tuple[Column[Any], int]] = []
        self._made: dict[str, tuple[object, Strip]] = {}  # rows as they were last made, and of what

    # ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_mount(self) -> None:
        """Look at the rows for the first time."""
        self.take_changes()

    def take_changes(self) -> None:
        """Take what changed in the view; repaint what is seen of it."""
        place = self.view.place_of(self.cursor) if self.cursor else None
        line = place - self.top if place is not None else 0
        change = self.view.refresh(self._clock())
        if change.moved or not self.cursor:
            self._hold_cursor(place, line)
            self.marked = {key for key in self.marked if key in self.view.table}
            self.post_message(self.Changed())
        self.repaint()

    def _hold_cursor(self, old_place: int | None, line: int) -> None:
        ids = self.view.ids
        if self.at_head:
            self.cursor, self.top = (ids[0] if ids else ""), 0
            return
        place = self.view.place_of(self.cursor) if self.cursor else None
        if place is None:  # its row is gone: the one that took its place
            place = min(old_place or 0, len(ids) - 1)
            self.cursor = ids[place] if ids else ""
        if self.top:  # somebody who looks further down keeps the rows where they are
            self.top = place - line
        self._see(max(0, place))

    def _see(self, place: int) -> None:
        """Scroll as little as it takes for a place to be seen."""
        height = self.page_lines
        self.top = max(0, min(self.top, len(self.view.ids) - height))
        if place < self.top:
            self.top = place
        elif place >= self.top + height:
            self.top = place - height + 1

    @property
    def page_lines(self) -> int:
        """How many rows are seen at once."""
        return max(1, self.size.height - 1)

    @property
    def chosen(self) -> list[str]:
        """The ids that an action is about: the marked ones in their order, else the one under the cursor."""
        marked = [key for key in self.view.ids if key in self.marked]
        return marked or ([self.cursor] if self.cursor else [])

    def set_filter(self, text: str) -> None:
        """Show only what matches. Raises `FilterError`; then nothing changes."""
        self.view.set_filter(text, problems=self.problems_only)
        self.take_changes()
        self.post_message(self.Changed())

    def summary(self) -> str:
        """Return the counts and what is left out, in words."""
        shown, total = len(self.view.ids), self.view.total
        fewer = self.problems_only or bool(self.view.filter.text)
        parts = [f"{count(shown)} of {count(total)}" if fewer else count(total)]
        if self.view.table.dropped:
            parts.append(f"{count(self.view.table.dropped)} older ones left out")
        if self.marked:
            parts.append(f"{count(len(self.marked))} marked")
        if self.problems_only:
            parts.append("problems only")
        if self.view.filter.text:
            parts.append(f"/{self.view.filter.text}")
        return f" {self.look.dot} ".join(parts)

    # ── painting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def strip_at(self, y: int) -> Strip:
        """Return the head for line 0, else a row."""
        if y == 0:
            return self._head()
        place = self.top + y - 1
        bar = self.scrollbar(y - 1, self.page_lines, self.top, len(self.view.ids))
        if place >= len(self.view.ids):
            return self._nothing(y)
        key = self.view.ids[place]
        return self._row(key, self.view.table.get(key), bar)

    def plan(self) -> list[tuple[Column[Any], int]]:
        """Return the columns that are seen with their widths, for the width and the shift of now."""
        wide = self.size.width >= WIDE_FROM if self.wide is None else self.wide
        columns = [column for column in self.view.layout.columns if wide or not column.wide]
        first, *rest = columns
        self.shift = max(0, min(self.shift, len(rest) - 1))
        columns = [first, *rest[self.shift :]]
        room = self.size.width - MARGIN
        planned = list(zip(columns, widths(columns, room), strict=True))
        taken = 0
        for number, (_, width) in enumerate(planned):
            taken += width + (len(GAP) if number else 0)
            if taken > room and number:
                return planned[:number]
        return planned

    def _lay_out(self) -> None:
        plan = self.plan()
        if plan != self._plan:
            self._plan = plan
            self._made.clear()

    def _head(self) -> Strip:
        self._lay_out()
        style = self.style("lines--columns")
        spans: list[Span] = [(" ", style)]
        for number, (column, width) in enumerate(self._plan):
            sign = " "  # stands in the gap behind the column
            if column.key == self.view.order:
                sign = self.look.down if self.view.reverse else self.look.up
            title = column.title if column.right or sign == " " else column.title + sign
            sign = sign if column.right or len(title) > width else " "
            spans.append((GAP[1:] if number else "", style))
            spans.append((self.fit(title, width, right=column.right) + sign, style))
        return self.strip(spans, base=style)

    def _row(self, key: str, row: Any, bar: Span) -> Strip:
        """Return a row's strip; one that is made of the same as before is the same."""
        now = self._clock()
        of = (self.view.table.revision_of(key), key in self.marked, key == self.cursor, self.has_focus, bar[0])
        stamp = (of, now // AGES_NS)
        made = self._made.get(key)
        if made is None or made[0] != stamp:
            if len(self._made) > MADE_MAX:
                self._made.clear()
            made = self._made[key] = stamp, self._make_row(key, row, bar, now)
        return made[1]

    def _make_row(self, key: str, row: Any, bar: Span, now: int) -> Strip:
        base = self._base(key)
        spans: list[Span] = [("*" if key in self.marked else " ", base)]
        for number, (column, width) in enumerate(self._plan or self.plan()):
            if number:
                spans.append((GAP, base))
            cell = (column.calm or column.cell)(row, now)
            text = self.fit(self.look.cell(cell), width, right=column.right, middle=column.middle)
            spans.append((text, self._cell_style(cell, base)))
        return self.strip(spans, base=base, bar=bar)

    def notify_style_update(self) -> None:
        """Make all rows anew when the theme changes."""
        self._made.clear()
        super().notify_style_update()

    def _base(self, key: str) -> Style:
        style = Style.null()
        if key in self.marked:
            style += self.style("lines--marked")
        if key == self.cursor:
            style += self.style("lines--cursor" if self.has_focus else "lines--marked")
        return style

    def _cell_style(self, cell: Cell, base: Style) -> Style:
        # Reversed, a colour of its own would be a block in the cursor's row.
        return base if cell.tone is Tone.PLAIN or base.reverse else base + self.style(cell.tone.value)

    def _nothing(self, y: int) -> Strip:
        if self.view.ids or y != 2:
            return self.strip([])
        words = "nothing matches; esc shows all again" if self.view.total else self.empty
        return self.strip([(self.fit(f"  {words}", self.size.width), self.style("lines--dim"))])

    # ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def scroll_lines(self, lines: int) -> None:
        """Move the cursor."""
        if self.cursor:
            self.put_cursor((self.view.place_of(self.cursor) or 0) + lines)

    def scroll_to_end(self, *, start: bool) -> None:
        """Move the cursor to the first or the last row."""
        self.put_cursor(0 if start else len(self.view.ids) - 1)
        self.at_head = start

    def put_cursor(self, place: int) -> None:
        """Put the cursor on a place, as near as there is one."""
        ids = self.view.ids
        if not ids:
            return
        place = max(0, min(place, len(ids) - 1))
        self.cursor = ids[place]
        self._see(place)
        self.repaint()

    def on_resize(self) -> None:
        """Lay the columns out anew, keep the cursor in sight."""
        self._made.clear()
        self._lay_out()
        self._see(self.view.place_of(self.cursor) or 0)

    def on_key(self) -> None:
        """Whatever a key does, it is about the row that the cursor is on now; `g g` lets go of it."""
        self.at_head = False

    def on_focus(self) -> None:
        """Show that keys go here."""
        self.repaint()

    def on_blur(self) -> None:
        """Show that keys go elsewhere."""
        self.repaint()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row; the second click opens it."""
        place = self.top + event.y - 1
        if event.y >= 1 and place < len(self.view.ids):
            self.at_head = False
            self.put_cursor(place)
            if event.chain == 2:
                self.action_open()

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def action_open(self) -> None:
        """Tell the screen to open the row."""
        if self.cursor:
            self.post_message(self.Opened(self, self.cursor))

    def action_sideways(self, columns: int) -> None:
        """Scroll by columns."""
        self.shift = max(0, self.shift + columns)
        self._lay_out()
        self.repaint()

    def action_filter(self) -> None:
        """Ask for a filter."""
        self.post_message(self.FilterWanted(self))

    def action_problems(self) -> None:
        """Show only what needs attention, or all again."""
        self.problems_only = not self.problems_only
        try:
            self.set_filter(self.view.filter.text)
        except FilterError as error:  # it was understood before
            raise AssertionError(error) from error

    def action_sort(self, step: int) -> None:
        """Sort by the next column to that side."""
        keys = [column.key for column, _ in self.plan()]
        at = keys.index(self.view.order) if self.view.order in keys else 0
        self._set_order(keys[(at + step) % len(keys)], reverse=self.view.reverse)

    def action_turn(self) -> None:
        """Sort the other way round."""
        self._set_order(self.view.order, reverse=not self.view.reverse)

    def _set_order(self, key: str, *, reverse: bool) -> None:
        self.view.set_order(key, reverse=reverse)
        self.take_changes()

    def action_wide(self) -> None:
        """Show more columns, or fewer."""
        shown = self.size.width >= WIDE_FROM if self.wide is None else self.wide
        self.wide, self.shift = not shown, 0
        self._lay_out()
        self.repaint()

    def action_mark(self) -> None:
        """Mark the row, or not; go on to the next."""
        self.marked ^= {self.cursor} if self.cursor else set()
        self.scroll_lines(1)
        self.repaint()
        self.post_message(self.Changed())

    def action_mark_all(self) -> None:
        """Mark all that is shown."""
        self.marked |= set(self.view.ids)
        self.repaint()
        self.post_message(self.Changed())

    def action_unmark(self) -> None:
        """Take all marks away."""
        self.marked.clear()
        self.repaint()
        self.post_message(self.Changed())
