"""Everything that can be done here, to choose from by typing a part of its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, cast

from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import ActiveBinding
from textual.screen import ModalScreen
from textual.strip import Strip

from bacalhau_tui.keymap import ACTS, GROUPS, bindings, key_name
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Painted, Span

if TYPE_CHECKING:
    from bacalhau_tui.app import ClusterApp

KEYS_WIDTH = 8
_NOT_OFFERED = {act.id for name in ("move", "sideways", "palette", "dialog") for act in GROUPS[name]} | {"palette"}


class Choice(NamedTuple):
    """One line of the palette."""

    words: str
    keys: str
    run: Callable[[], object]


def offered(active: Mapping[str, ActiveBinding], run: Callable[[ActiveBinding], object]) -> list[Choice]:
    """Return the enabled actions among live bindings, each once."""
    found: dict[str, Choice] = {}
    for key, binding in active.items():
        name = binding.binding.id or ""
        if name in ACTS and name not in _NOT_OFFERED and binding.enabled and name not in found:
            found[name] = Choice(ACTS[name].help, key_name(key), partial(run, binding))
    return list(found.values())


class Choices(Painted, can_focus=True, inherit_bindings=False):
    """A line to type in, and the choices that match it."""

    takes_text = True  # letters are text (see `typeahead`)

    def __init__(self, look: Look, choices: Sequence[Choice]) -> None:
        super().__init__(look)
        self.choices = list(choices)
        self.text = ""
        self.at = 0
        self.matching = list(choices)

    def strip_at(self, y: int) -> Strip:
        """Return the typed line, or a choice."""
        if y == 0:
            cursor: Span = (" ", Style(reverse=True))
            hint = "" if self.text else "type a part of what you want"
            return self.strip(
                [("> ", self.style("lines--key")), (self.text, Style.null()), cursor, (hint, self.style("lines--dim"))]
            )
        place = y - 1 + max(0, self.at - (self.size.height - 2))
        if place >= len(self.matching):
            return self.strip([])
        choice = self.matching[place]
        base = self.style("lines--cursor") if place == self.at else Style.null()
        keys = (self.fit(f" {choice.keys}", KEYS_WIDTH), base + self.style("lines--key"))
        return self.strip([keys, (self.fit(f" {choice.words}", self.size.width - KEYS_WIDTH), base)], base=base)

    def move(self, step: int) -> None:
        """Go up or down."""
        if self.matching:
            self.at = (self.at + step) % len(self.matching)
            self.repaint()

    def on_key(self, event: events.Key) -> None:
        """Type."""
        if event.key == "backspace":
            self._set(self.text[:-1])
        elif event.key == "ctrl+u":
            self._set("")
        elif event.is_printable and event.character is not None:
            self._set(self.text + event.character)
        else:
            return
        event.stop()
        event.prevent_default()

    def _set(self, text: str) -> None:
        self.text, self.at = text, 0
        words = text.lower().split()
        self.matching = [choice for choice in self.choices if all(word in choice.words.lower() for word in words)]
        self.repaint()


class PaletteScreen(ModalScreen[Choice | None], inherit_bindings=False):
    """Returns what was chosen."""

    BINDINGS = bindings("palette")

    def __init__(self, choices: Sequence[Choice]) -> None:
        super().__init__()
        self.choices = Choices(cast("ClusterApp", self.app).look, choices)

    def compose(self) -> ComposeResult:
        """Show the choices."""
        yield self.choices

    def on_mount(self) -> None:
        """Give them the focus."""
        self.choices.focus()

    def action_move(self, step: int) -> None:
        """Go up or down."""
        self.choices.move(step)

    def action_take(self) -> None:
        """Take what the cursor is on."""
        matching = self.choices.matching
        self.dismiss(matching[self.choices.at] if matching else None)

    def action_close(self) -> None:
        """Take nothing."""
        self.dismiss(None)
