"""All keys of the screen that it was called from, as they are bound now, and the filter language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from textual.binding import ActiveBinding
from textual.widget import Widget

from bacalhau_tui.commands import COMMANDS
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Tone
from bacalhau_tui.data.pages import Page, PageLine, title
from bacalhau_tui.data.query import Field
from bacalhau_tui.keymap import ACTS, GROUPS, bindings, key_name
from bacalhau_tui.screens.tabbed import TabbedFrame
from bacalhau_tui.widgets.bars import Part
from bacalhau_tui.widgets.page import PageView

KEYS_WIDTH = 14
GROUP_TITLES = {
    "app": "EVERYWHERE",
    "frame": "EVERYWHERE",
    "root": "LISTS",
    "move": "MOVING",
    "sideways": "MOVING",
    "search": "SEARCHING",
    "table": "THIS LIST",
}


def help_page(active: Mapping[str, ActiveBinding], fields: Mapping[str, Field] | None) -> Page:
    """Return the page for some live bindings; `fields` are those of a list's filter."""
    keys: dict[str, list[str]] = {}
    for key, binding in active.items():
        if binding.binding.id in ACTS:
            keys.setdefault(binding.binding.id, []).append(key_name(key))
    sections: dict[str, Page] = {}
    for group, acts in GROUPS.items():
        for act in acts:
            if act.id in keys:
                words = f"  {' '.join(keys[act.id])}".ljust(KEYS_WIDTH)
                line = PageLine((Cell(f"{words} ", Tone.BUSY), Cell(act.help)), hang=KEYS_WIDTH + 1)
                sections.setdefault(GROUP_TITLES.get(group, "HERE"), []).append(line)
    page: Page = []
    for name in ("HERE", "THIS LIST", "SEARCHING", "LISTS", "MOVING", "EVERYWHERE"):
        if name in sections:
            page += [title(name), *sections[name], PageLine()]
    return page + _commands() + (_filter(fields) if fields else [])


def _commands() -> Page:
    lines = [
        PageLine((Cell(f"  :{name}".ljust(KEYS_WIDTH + 1), Tone.BUSY), Cell(command.help)), hang=KEYS_WIDTH + 1)
        for name, command in COMMANDS.items()
    ]
    return [title("COMMANDS"), *lines, PageLine()]


def _filter(fields: Mapping[str, Field]) -> Page:
    examples = [
        ("etl", "rows with etl in the id or the name"),
        ("state:failed,stopped", "the state begins with one of these"),
        ('name:"my job"', "quotes keep blanks; = and != compare exactly"),
        ("age<10m", "numbers, sizes and times compare with < <= > >="),
        ("-state:completed", "not"),
    ]
    page: Page = [title("FILTER")]
    page += [PageLine((Cell(f"  {text}".ljust(26), Tone.BUSY), Cell(words)), hang=26) for text, words in examples]
    names = ", ".join(f"{field.name} ({field.help})" if field.help else field.name for field in fields.values())
    return [*page, PageLine((Cell(f"  fields: {names}"),), hang=10)]


class HelpScreen(TabbedFrame, inherit_bindings=False):
    """The help page; escape goes back."""

    TABS = ("help",)
    BINDINGS = bindings("frame")

    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page

    def body(self) -> Iterable[Widget]:
        """Return the page."""
        view = PageView(self.cluster.look)
        view.show(self._page)
        self.bodies[self.tab] = view
        yield view

    def make(self, name: str) -> Widget:
        """Everything is in the body."""
        raise AssertionError("there is one tab")

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Say what this is."""
        return [(" Help", "lines--title")], []
