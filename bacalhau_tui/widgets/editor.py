"""The editor of job files: Textual's text area with our own colours, marks at what is wrong, and names to choose from.

Textual's highlighting parses the whole text at every key (30 ms at 1,500 lines) and knows nothing of jobs; ours scans
the lines that an edit touched. And Textual repaints the whole area at every key; here, as in all our widgets, only
cells that look different are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea

from bacalhau_protocol.models.problems import Problem
from bacalhau_protocol.models.submission import JOB_BYTES_MAX
from bacalhau_tui.data.complete import NOTHING, Offers, offers_at
from bacalhau_tui.data.format import clean, cut, masked
from bacalhau_tui.data.indent import INDENT, indent_of, new_line, outdent, tail_text
from bacalhau_tui.data.yamlscan import Part, Scan
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import difference

COLOURED_LINES_MAX = 3_000  # a longer text is shown without colours and names
MENU_ROWS_MAX = 8
NOTE_ROOM_MIN = 12  # cells that have to be free behind a line for words about what is wrong there
PASTE_MAX = 2 * JOB_BYTES_MAX

_PARTS = {
    Part.KEY: "busy",
    Part.MARK: "lines--dim",
    Part.TEXT: "good",
    Part.NUMBER: "unknown",
    Part.WORD: "unknown",
    Part.COMMENT: "off",
}
"""Names of `look.PAINTS`."""
_MARK_WORD = re.compile(r"[\w./-]+")


@lru_cache(maxsize=512)
def _without_ground(style: Style) -> Style:
    return style.without_color + Style(color=style.color)


class Editor(TextArea):
    """See the module. `put` replaces the text; changes are told by `TextArea.Changed`."""

    BINDINGS = bindings("editor")
    DEFAULT_CSS = """
    Editor, Editor:focus {
        border: none;
        padding: 0;
        background: $background;
        color: $foreground;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 0;
        scrollbar-color: $dim;
        scrollbar-background: $background;
    }
    Editor .text-area--cursor { color: $background; background: $foreground; }
    Editor .text-area--gutter { color: $dim; }
    Editor .text-area--matching-bracket { background: $cursor; }
    Editor:ansi .text-area--cursor { color: $foreground; background: $background; text-style: reverse; }
    """

    class Said(Message):
        """A word for the flash line."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.words = text

    def __init__(self, look: Look, text: str = "", *, id: str | None = None) -> None:
        self.look = look
        self.scan = Scan()
        self.offers: Offers = NOTHING
        self.chosen = 0
        self._marks: dict[int, list[Problem]] = {}
        self._painted: dict[int, Strip] = {}
        self._due = False
        super().__init__(text, id=id, soft_wrap=False, show_line_numbers=True, highlight_cursor_line=False)
        self.cursor_blink = False
        self.indent_width = INDENT

    @property
    def takes_text(self) -> bool:
        """Whether letters are text (see `typeahead`)."""
        return not self.read_only

    # ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def put(self, text: str) -> None:
        """Replace the whole text; it can be undone."""
        at = self.cursor_location
        self.replace(text, (0, 0), self.document.end)
        self.go_to(*at)

    def go_to(self, row: int, column: int) -> None:
        """Put the cursor somewhere (from 0), or as near to it as there is text."""
        row = max(0, min(row, self.document.line_count - 1))
        self.move_cursor((row, max(0, min(column, len(self.document.get_line(row))))))

    def _build_highlight_map(self) -> None:
        """Scan what an edit has changed; Textual calls this after each."""
        self._line_cache.clear()
        lines = self.document.lines
        self.scan.update(lines if len(lines) <= COLOURED_LINES_MAX else [])

    def show_problems(self, problems: Iterable[Problem]) -> None:
        """Mark what is wrong, each at its place."""
        marks: dict[int, list[Problem]] = {}
        for problem in problems:
            if problem.line:
                marks.setdefault(problem.line - 1, []).append(problem)
        if marks != self._marks:
            self._marks = marks
            self._line_cache.clear()
            self.refresh()

    def next_problem(self) -> Problem | None:
        """Go to the next marked place, or to the first."""
        places = sorted((p for marked in self._marks.values() for p in marked), key=lambda p: (p.line, p.column))
        here = (self.cursor_location[0] + 1, self.cursor_location[1] + 1)
        found = next((p for p in places if (p.line, p.column) > here), places[0] if places else None)
        if found is not None:
            self.go_to(found.line - 1, found.column - 1)
        return found

    # ── painting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def get_line(self, line_index: int) -> Text:
        """Return a line with its colours (Textual's hook)."""
        plain = self.document.get_line(line_index)
        line = Text(masked(plain, "?" if self.look.ascii else "\ufffd"), end="", no_wrap=True)
        if line_index < len(self.scan.lines):
            for token in self.scan.lines[line_index].tokens:
                line.stylize(self.look.style(_PARTS[token.part]), token.start, token.end)
        for problem in self._marks.get(line_index, ()):
            start = max(0, min(problem.column - 1, len(plain) - 1))
            word = _MARK_WORD.match(plain, start)
            line.stylize(self._mark_style([problem]), start, word.end() if word else start + 1)
        return line

    def _mark_style(self, problems: Sequence[Problem]) -> Style:
        return self._tone(problems) + Style(underline=True, bold=True)

    def _tone(self, problems: Sequence[Problem]) -> Style:
        return self.look.style("waiting" if all(problem.warning for problem in problems) else "bad")

    def _render_line(self, y: int) -> Strip:
        """Put a mark into the gutter, and words behind the line, where something is wrong."""
        strip = super()._render_line(y)
        row = y + self.scroll_offset.y
        problems = self._marks.get(row)
        if not problems:
            return strip
        sign = "!" if all(p.warning for p in problems) else ("x" if self.look.ascii else "✗")
        gutter = self.gutter_width
        marked = [strip.crop(0, gutter - 2), Strip([Segment(f"{sign} ", self._tone(problems))])]
        rest = strip.crop(gutter, strip.cell_length)
        return Strip.join([*marked, self._with_note(rest, row, problems)])

    def _with_note(self, rest: Strip, row: int, problems: Sequence[Problem]) -> Strip:
        end = cell_len(self.document.get_line(row)) - self.scroll_offset.x + 2
        room = self.size.width - self.gutter_width - end - 2
        if room < NOTE_ROOM_MIN or end < 0:
            return rest
        problem = min(problems, key=lambda p: p.warning)
        text = f"did you mean {problem.nearest}?" if problem.nearest else problem.message
        sign = "<" if self.look.ascii else "◂"
        note = f"{sign} {cut(clean(text), room - 2, ellipsis=self.look.ellipsis)}"
        width = cell_len(note)
        words = Strip([Segment(note, self._tone([problem]))], width)
        return Strip.join([rest.crop(0, end), words, rest.crop(end + width, rest.cell_length)])

    def render_line(self, y: int) -> Strip:
        """Paint one line, and over it the names to choose from; remember how."""
        strip = super().render_line(y).adjust_cell_length(self.scrollable_content_region.width)
        strip = self._on_terminal(strip)
        if y + self.scroll_offset.y == self.cursor_location[0]:
            strip = strip.apply_style(self.look.style("lines--head"))
        strip = self._over(y, strip)
        self._painted[y] = strip
        return strip

    def _on_terminal(self, strip: Strip) -> Strip:
        """Paint on the theme's ground, which is the terminal's own in some; Textual's area has its own everywhere."""
        ground = self.rich_style.bgcolor
        clear = [
            Segment(text, _without_ground(style) if style is not None and style.bgcolor == ground else style)
            for text, style, _ in strip
        ]
        return Strip(clear, strip.cell_length).apply_style(self.look.style("lines--base")).simplify()

    def refresh(self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False) -> Editor:
        """Compare before painting: what Textual takes for changed is mostly not."""
        whole = not regions or regions == (self.size.region,)
        if whole and repaint and not layout and not recompose and self._painted and self.is_mounted:
            if not self._due:
                self._due = True
                self.call_next(self._refresh_differences)
            return self
        super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)
        return self

    def _refresh_differences(self) -> None:
        self._due = False
        if not self.is_mounted or not self.size:
            return
        regions = []
        painted = dict(self._painted)
        for y in range(self.size.height):
            before = painted.get(y)
            span = None if before is None else difference(before, self.render_line(y))
            if span is not None:
                regions.append(Region(span[0], y, span[1] - span[0], 1))
        if regions:
            super().refresh(*regions)

    def on_focus(self) -> None:
        """Show the cursor."""
        self._line_cache.clear()
        self.refresh()

    def on_blur(self) -> None:
        """Hide the cursor, and what is offered at it."""
        self._line_cache.clear()
        self.close_menu()
        self.refresh()

    # ── names to choose from ──────────────────────────────────────────────────────────────────────────────────────

    def _menu_box(self) -> tuple[int, int, int, int]:
        """Return the menu's left, top, width and height in cells of the widget."""
        row, _ = self.cursor_location
        text = self.document.get_line(row)
        start = self.gutter_width + cell_len(text[: self.offers.start]) - self.scroll_offset.x - 1
        height = min(MENU_ROWS_MAX, len(self.offers.offers))
        names = max(cell_len(offer.name) for offer in self.offers.offers)
        words = max(cell_len(offer.words) for offer in self.offers.offers)
        room = self.scrollable_content_region.width
        width = min(names + (words + 2 if words else 0) + 2, room)
        y = row - self.scroll_offset.y
        below = self.size.height - y - 1 >= height or y < height
        return max(0, min(start, room - width)), y + 1 if below else y - height, width, height

    def _over(self, y: int, strip: Strip) -> Strip:
        if not self.offers.offers or not self.has_focus:
            return strip
        left, top, width, height = self._menu_box()
        if not top <= y < top + height:
            return strip
        first = max(0, min(self.chosen - height // 2, len(self.offers.offers) - height))
        at = first + y - top
        offer = self.offers.offers[at]
        base = self.look.style("lines--cursor" if at == self.chosen else "lines--marked")
        words = base + self.look.style("lines--dim")
        names = max(cell_len(each.name) for each in self.offers.offers)
        box = Strip([Segment(f" {offer.name:<{names}}", base), Segment(f"  {offer.words} ", words)])
        box = box.adjust_cell_length(width, words)
        return Strip.join([strip.crop(0, left), box, strip.crop(left + width, strip.cell_length)])

    def close_menu(self) -> bool:
        """Offer nothing any more; return whether something was offered."""
        was = bool(self.offers.offers)
        self.offers, self.chosen = NOTHING, 0
        if was:
            self.refresh()
        return was

    def _offer(self, offers: Offers) -> None:
        self.offers, self.chosen = offers, 0
        self.refresh()

    def action_complete(self, key: str = "") -> None:
        """Offer the names that are valid here. Tab takes the only one, and indents where nothing is being typed."""
        row, column = self.cursor_location
        text = self.document.get_line(row)
        if key == "tab" and not text[:column].strip() and column < (wanted := indent_of(self.document.lines, row)):
            self.insert(" " * (wanted - column))
            return
        offers = offers_at(self.scan, row, column)
        if len(offers.offers) == 1 and offers.end > offers.start:
            self._take(offers, 0)
        elif offers.offers:
            self._offer(offers)
        elif key == "tab":
            self.insert(" " * (INDENT - column % INDENT))
        else:
            self.post_message(self.Said("no other name is valid here"))

    def _take(self, offers: Offers, at: int) -> None:
        """Put a name where the word stands, and what belongs behind it."""
        row, _ = self.cursor_location
        offer = offers.offers[at]
        text = self.document.get_line(row)
        tail = tail_text(text, offers.start, offer.tail) if not text[offers.end :].strip() else offer.tail.rstrip("↵- ")
        result = self.replace(f"{offer.name}{tail}", (row, offers.start), (row, offers.end))
        self.move_cursor(result.end_location)
        self.close_menu()

    # ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def on_key(self, event: events.Key) -> None:
        """Move in what is offered and take it; begin a new line under the one before; else do what a key is bound to.

        Textual carries bound keys out some messages later than letters: of keys that come together, as over a slow
        line, the letters would be put in before the cursor has moved. So our own bindings are carried out at once.
        """
        bound = self.screen.active_bindings.get(event.key)
        if self.offers.offers and self._menu_key(event.key):
            pass
        elif event.key == "enter" and not self.read_only:
            row, column = self.cursor_location
            start, end = self.selection
            self.move_cursor(self.replace(new_line(self.document.get_line(row), column), start, end).end_location)
        elif bound is not None and bound.node is self and bound.enabled:
            await self.run_action(bound.binding.action)
        else:
            return
        event.stop()
        event.prevent_default()

    def _menu_key(self, key: str) -> bool:
        match key:
            case "up" | "ctrl+p":
                self.chosen = (self.chosen - 1) % len(self.offers.offers)
            case "down" | "ctrl+n":
                self.chosen = (self.chosen + 1) % len(self.offers.offers)
            case "enter" | "tab":
                self._take(self.offers, self.chosen)
            case "escape":
                self.close_menu()
            case _:
                return False
        self.refresh()
        return True

    def on_text_area_selection_changed(self) -> None:
        """Offer what fits what is typed by now."""
        if self.offers.offers:
            row, column = self.cursor_location
            offers = offers_at(self.scan, row, column)
            self._offer(offers if offers.start == self.offers.start else NOTHING)

    def action_outdent(self) -> None:
        """Take a step of indentation away at the beginning of the line."""
        row, column = self.cursor_location
        taken = outdent(self.document.get_line(row))
        if taken:
            self.delete((row, 0), (row, taken))
            self.go_to(row, column - taken)

    def action_delete_left(self) -> None:
        """Within the indentation, take a step of it away."""
        row, column = self.cursor_location
        before = self.document.get_line(row)[:column]
        step = (column - 1) % INDENT + 1
        if self.selection.is_empty and column > 1 and not before.strip() and before.endswith(" " * step):
            self.delete((row, column - step), (row, column))
        else:
            super().action_delete_left()

    async def _on_paste(self, event: events.Paste) -> None:
        if len(event.text) > PASTE_MAX:
            event.prevent_default()
            self.post_message(self.Said(f"not pasted: a job has at most {JOB_BYTES_MAX:,} bytes"))
            return
        await super()._on_paste(event)
