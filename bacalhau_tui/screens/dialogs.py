"""Questions. They cover what is below (no see-through: that would repaint it all), and begin on Cancel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.strip import Strip

from bacalhau_tui.data.format import clean
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Painted, Span

if TYPE_CHECKING:
    from bacalhau_tui.app import ClusterApp

CANCEL = "Cancel"


class Question(Painted, can_focus=True, inherit_bindings=False):
    """Lines of text, and under them the choices; the focused one has brackets and another colour."""

    def __init__(self, look: Look, lines: Sequence[str], choices: Sequence[str]) -> None:
        super().__init__(look)
        self.lines = [clean(line) for line in lines]
        self.choices = list(choices)
        self.chosen = self.choices.index(CANCEL)
        self.styles.height = len(self.lines) + 2

    def choose(self, place: int) -> None:
        """Put the focus on a choice."""
        self.chosen = place % len(self.choices)
        self.repaint()

    def strip_at(self, y: int) -> Strip:
        """Return a line of the text, or the choices."""
        if y < len(self.lines):
            return self.strip([(self.fit(self.lines[y], self.size.width), self.style("plain"))])
        if y == len(self.lines):
            return self.strip([])
        spans: list[Span] = []
        for place, choice in enumerate(self.choices):
            chosen = place == self.chosen
            text = f"[ {choice} ]" if chosen else f"  {choice}  "
            spans += [(text, self.style("lines--cursor" if chosen else "lines--dim")), ("  ", self.style("plain"))]
        return self.strip(spans)

    def on_click(self, event: events.Click) -> None:
        """Take what was clicked."""
        position = 0
        for place, choice in enumerate(self.choices):
            if event.y == len(self.lines) + 1 and position <= event.x < position + len(choice) + 4:
                self.choose(place)
                self.screen.dismiss(place == 0)
            position += len(choice) + 6


class ConfirmScreen(ModalScreen[bool], inherit_bindings=False):
    """Asks before something is done that cannot be undone. Enter on a fresh one cancels."""

    BINDINGS = bindings("dialog")

    def __init__(self, lines: Sequence[str], verb: str) -> None:
        super().__init__()
        self.question = Question(cast("ClusterApp", self.app).look, lines, [verb, CANCEL])

    def compose(self) -> ComposeResult:
        """Show the question."""
        yield self.question

    def on_mount(self) -> None:
        """Give it the focus."""
        self.question.focus()

    def action_choose(self, step: int) -> None:
        """Go to the next choice."""
        self.question.choose(self.question.chosen + step)

    def action_take(self) -> None:
        """Take the choice."""
        self.dismiss(self.question.chosen == 0)

    def action_yes(self) -> None:
        """Do it."""
        self.dismiss(True)

    def action_cancel(self) -> None:
        """Leave it."""
        self.dismiss(False)
