"""The beginning of a result file, under a line that says what is shown of it; a table's head stays on top."""

from __future__ import annotations

from rich.style import Style
from textual.message import Message
from textual.strip import Strip

from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Tone, clean
from bacalhau_tui.data.pages import Page, PageLine, paragraph
from bacalhau_tui.data.peek import Peek
from bacalhau_tui.data.preview import Preview, Shape
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.page import PageView


class PreviewView(PageView):
    """Shows what a `Peek` has."""

    BINDINGS = bindings("preview")

    class Wanted(Message):
        """A key for whoever holds the tree: `more`, `write`, `zoom`."""

        def __init__(self, what: str) -> None:
            super().__init__()
            self.what = what

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.name_shown = ""
        self.state = ""
        self.head: PageLine | None = None
        self._key = ""

    def say(self, name: str, page: Page) -> None:
        """Show words about what is no file."""
        self._key, self.top, self.left, self.wanted = "", 0, 0, ""
        self.name_shown, self.state, self.head, self.wrap = clean(name), "", None, True
        self.show(page)
        self.repaint()

    def take(self, peek: Peek, name: str) -> None:
        """Show what is known of the file that is looked at."""
        shown = peek.shown
        if peek.at != self._key:
            self._key, self.top, self.left, self.wanted = peek.at, 0, 0, ""
        self.name_shown = clean(name)
        self.state = _state(peek, shown)
        if shown is not None:
            self.head, self.wrap = shown.head, shown.shape is Shape.TEXT
            self.show(shown.page)
        elif peek.error is not None:
            self.head = None
            self.show(paragraph(f"{peek.error}; {peek.error.hint}" if peek.error.hint else str(peek.error), indent=1))
        else:
            self.head = None
            self.show([PageLine((Cell(" loading" if peek.loading else "", Tone.OFF),))])
        self.repaint()

    @property
    def page_lines(self) -> int:
        """How many lines of the file are seen: without the title, without a table's head."""
        return max(1, self.size.height - self._above)

    @property
    def _above(self) -> int:
        return 1 + (self.head is not None)

    def strip_at(self, y: int) -> Strip:
        """Return the title, a table's head, or a line of the file."""
        if y == 0:
            return self._title()
        if y == 1 and self.head is not None:
            spans = [(cell.text, self.style("lines--title")) for cell in self.head.cells]
            return self.strip(spans, bar=(" ", Style.null()), left=self.left)
        return self.line_at(y - self._above, self.size.height - self._above)

    def _title(self) -> Strip:
        base = self.style("lines--head")
        focus = self.style("lines--title") if self.has_focus else Style.null()
        state = f" {self.state} "
        name = self.fit(f" {self.name_shown}", max(0, self.size.width - len(state)), middle=True)
        return self.strip([(name, base + focus), (state, base + self.style("lines--dim"))], base=base)

    def on_focus(self) -> None:
        """Show that keys go here."""
        self.repaint()

    def on_blur(self) -> None:
        """Show that keys go elsewhere."""
        self.repaint()

    def action_more(self) -> None:
        """Ask for more of the file."""
        self.post_message(self.Wanted("more"))

    def action_write(self) -> None:
        """Ask for the file."""
        self.post_message(self.Wanted("write"))

    def action_zoom(self) -> None:
        """Ask for more room."""
        self.post_message(self.Wanted("zoom"))


def _state(peek: Peek, shown: Preview | None) -> str:
    if peek.loading:
        return "loading"
    if peek.error is not None:
        return "not to be had"
    if shown is None:
        return ""
    more = "; + for more" if not shown.whole and shown.shape is not Shape.HEX else ""
    return f"{shown.words}{more}"
