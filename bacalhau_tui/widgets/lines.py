"""The base of all lists and texts: a widget that paints strips itself and writes only what differs.

Textual's own scroll views lay out anew when their content's size changes and repaint whatever they scroll; over a slow
line that is most of the traffic. Here scrolling is the widget's own: `strip_at(y)` says how a screen line looks,
`repaint()` compares with what was painted and refreshes just the differing cells.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from bacalhau_tui.data.format import clean, cut
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look

WHEEL_LINES = 3

Span = tuple[str, Style]


class Painted(Widget, inherit_bindings=False):
    """Paints strips itself; refreshes only what differs."""

    ALLOW_SELECT = False

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.look = look
        self._painted: dict[int, Strip] = {}
        self._due: dict[int, Strip] = {}  # made to be compared, and about to be painted

    def strip_at(self, y: int) -> Strip:
        """Return how line `y` of the widget looks now."""
        raise AssertionError("a subclass says it")

    def render_line(self, y: int) -> Strip:
        """Paint one line and remember how (Textual's line API)."""
        strip = self._due.pop(y, None) or self.strip_at(y)
        self._painted[y] = strip
        return strip.apply_style(self.style("lines--base")).simplify()

    def repaint(self) -> None:
        """Refresh the cells that look different from what was painted."""
        if not self.is_mounted or not self.size:
            return
        regions = []
        self._due.clear()
        for y in range(self.size.height):
            painted = self._painted.get(y)
            if painted is None:
                continue  # not painted yet: it is due anyway
            strip = self.strip_at(y)
            span = difference(painted, strip)
            if span is not None:
                self._due[y] = strip
                regions.append(Region(span[0], y, span[1] - span[0], 1))
        if len(regions) == self.size.height and all(region.width == self.size.width for region in regions):
            self.refresh()
        elif regions:
            self.refresh(*regions)

    def notify_style_update(self) -> None:
        """Paint everything anew when the theme changes."""
        super().notify_style_update()
        self._due.clear()
        self.refresh()

    def on_resize(self) -> None:
        """Paint what is now elsewhere."""
        self._due.clear()
        self.repaint()

    def style(self, name: str) -> Style:
        """Return a style of the theme: `good`, `bad` … (tones), or `lines--cursor` and the like."""
        return self.look.style(name)

    def strip(
        self, spans: Iterable[Span], *, base: Style | None = None, bar: Span | None = None, left: int = 0
    ) -> Strip:
        """Return a strip as wide as the widget, its first `left` cells scrolled out; `bar` takes the last cell.

        Everything that is shown comes through here, so here is where nothing that steers a terminal gets past, should
        some text not have been cleaned before.
        """
        width = self.size.width - (1 if bar else 0)
        strip = Strip([Segment(clean(text), style) for text, style in spans if text])
        strip = (strip.crop(left) if left else strip).adjust_cell_length(width, base)
        return Strip([*strip, Segment(*bar)], self.size.width) if bar else strip

    def fit(self, text: str, width: int, *, right: bool = False, middle: bool = False) -> str:
        """Cut or pad clean text to exactly `width` cells."""
        shown = cut(text, width, middle=middle, ellipsis=self.look.ellipsis)
        space = width - cell_len(shown)
        if space < 0:  # Textual counts some exotic character otherwise than we do
            return set_cell_size(shown, width)
        return " " * space + shown if right else shown + " " * space

    def scrollbar(self, y: int, height: int, top: int, total: int) -> Span:
        """Return line `y` of a one-cell scroll bar for `total` lines of which `height` are seen from `top` on."""
        if total <= height or height <= 0:
            return " ", Style.null()
        length = max(1, height * height // total)
        start = (height - length) * top // max(1, total - height)
        at_thumb = start <= y < start + length
        return (self.look.thumb if at_thumb else self.look.track), self.style("lines--bar")


class Lines(Painted, can_focus=True, inherit_bindings=False):
    """Many lines of which some are seen. Keys that move are bound here; subclasses say what moving means."""

    BINDINGS = bindings("move")

    def scroll_lines(self, lines: int) -> None:
        """Move the view or the cursor by so many lines (negative: up)."""
        raise AssertionError("a subclass says it")

    def scroll_to_end(self, *, start: bool) -> None:
        """Move to the beginning or to the end."""
        raise AssertionError("a subclass says it")

    @property
    def page_lines(self) -> int:
        """How many lines of content are seen at once."""
        return max(1, self.size.height)

    def action_move(self, lines: int) -> None:
        """Move by lines."""
        self.scroll_lines(lines)

    def action_page(self, share: float) -> None:
        """Move by a share of what is seen."""
        lines = max(1, int(self.page_lines * abs(share)))
        self.scroll_lines(lines if share > 0 else -lines)

    def action_top(self) -> None:
        """Move to the beginning."""
        self.scroll_to_end(start=True)

    def action_bottom(self) -> None:
        """Move to the end."""
        self.scroll_to_end(start=False)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel."""
        event.stop()
        self.scroll_lines(-WHEEL_LINES)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel."""
        event.stop()
        self.scroll_lines(WHEEL_LINES)


def difference(before: Strip, after: Strip) -> tuple[int, int] | None:
    """Return the cells (from, to) in which two strips of one width differ, by whole segments; None when they do not."""
    if before == after:
        return None
    old, new = list(before), list(after)
    start = _equal_cells(old, new)
    end = after.cell_length - _equal_cells(old[::-1], new[::-1])
    return (start, end) if start < end and before.cell_length == after.cell_length else (0, after.cell_length)


def _equal_cells(old: list[Segment], new: list[Segment]) -> int:
    cells = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        cells += one.cell_length
    return cells
