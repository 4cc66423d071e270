"""The rows around a body: the header that becomes a banner when the link is lost, the crumb, tabs, and hints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from bacalhau_tui.data.format import Tone, calm_age, clean, cut, mark, moment
from bacalhau_tui.data.session import Link, LinkState
from bacalhau_tui.keymap import Act, key_name
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Painted, Span

Part = tuple[str, str]
"""Clean text and the name of its style; a blank name is the bar's own."""


class Bar(Painted, inherit_bindings=False):
    """One row of text: parts from the left, parts at the right; these are cut when there is no room for both."""

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.left: Sequence[Part] = ()
        self.right: Sequence[Part] = ()
        self.base = ""

    def put(self, left: Iterable[Part], right: Iterable[Part] = (), *, base: str = "") -> None:
        """Show these parts; nothing is written when they are the same."""
        self.left, self.right, self.base = tuple(left), tuple(right), base
        self.repaint()

    def strip_at(self, y: int) -> Strip:
        """Return the row."""
        base = self.style(self.base) if self.base else Style.null()
        room = self.size.width
        left = self._styled(self.left, base)
        right = self._styled(self.right, base)
        left, room = self._fitting(left, room)
        right, room = self._fitting(right, room)
        return self.strip([*left, (" " * room, base), *right], base=base)

    def _fitting(self, spans: Iterable[Span], room: int) -> tuple[list[Span], int]:
        """Cut what does not fit; return the room that is left too."""
        fitting: list[Span] = []
        for text, style in spans:
            if room > 0:
                fitting.append((cut(text, room, ellipsis=self.look.ellipsis), style))
                room = max(0, room - cell_len(fitting[-1][0]))
        return fitting, room

    def _styled(self, parts: Iterable[Part], base: Style) -> list[Span]:
        return [(text, base + self.style(name) if name else base) for text, name in parts]


class Header(Bar, inherit_bindings=False):
    """Who and where, and how the link is; a banner in an alarming colour while what is shown may be old."""

    def tell(self, link: Link, *, profile: str, cluster: str, read_only: bool, now_ns: int, work: str = "") -> None:
        """Show the state of the link, and what goes on in the background (`work`)."""
        where = f" {clean(profile)}" + (f" {self.look.dot} {clean(cluster)}" if cluster else "")
        if link.state in (LinkState.LIVE, LinkState.LOADING, LinkState.CONNECTING):
            tone = Tone.GOOD if link.state is LinkState.LIVE else Tone.WAITING
            state: list[Part] = [(f"{work}  ", "busy")] if work else []
            state += [("read-only ", "waiting")] if read_only else []
            glyph = self.look.mark(mark("connected" if link.state is LinkState.LIVE else "pending"))
            state.append((f"{glyph} {link.state.value} ", tone.value))
            self.put([(" bacalhau", "lines--key"), (where, "")], state, base="lines--head")
            return
        since = f"since {moment(link.since)[11:]} UTC ({calm_age(link.since, now_ns)})"
        words = {
            LinkState.STALE: "no word from the orchestrator",
            LinkState.DOWN: "link lost",
            LinkState.REFUSED: "refused",
        }[link.state]
        text = f" {words} {since}: {clean(link.reason)}"
        hint = f"; {clean(link.hint)}" if link.hint else ""
        self.put([(text + hint, "")], base="lines--alarm")


class Tabs(Bar, inherit_bindings=False):
    """The parts of a detail screen by number; the one that is seen stands out, with brackets too."""

    class Clicked(Message):
        """A tab was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, look: Look, names: Sequence[str]) -> None:
        super().__init__(look)
        self.names = tuple(names)
        self.chosen = self.names[0]
        self.choose(self.chosen)

    def choose(self, name: str) -> None:
        """Show which one is seen."""
        self.chosen = name
        parts: list[Part] = [(" ", "")]
        for number, each in enumerate(self.names, 1):
            text = f"[{number} {each}]" if each == name else f" {number} {each} "
            parts.append((text, "lines--title" if each == name else "lines--dim"))
        self.put(parts)

    def on_click(self, event: events.Click) -> None:
        """Choose what was clicked."""
        position = 1
        for number, name in enumerate(self.names, 1):
            position += len(f" {number} {name} ")
            if 1 <= event.x < position:
                self.post_message(self.Clicked(name))
                return


class Hints(Bar, inherit_bindings=False):
    """Keys that work here and now. What every screen has stands at the right, and never gives way."""

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.base = "lines--head"
        self._own: list[tuple[Part, Part]] = []

    def offer(self, own: Iterable[tuple[str, Act, bool]], common: Iterable[tuple[str, Act, bool]]) -> None:
        """Show keys with their words; disabled ones are dim."""
        self._own = [_hint(*key) for key in own]
        self.right = [part for key in common for part in _hint(*key)]
        self.repaint()

    def strip_at(self, y: int) -> Strip:
        """Leave out what does not fit, whole keys at a time."""
        room = self.size.width - sum(cell_len(text) for text, _ in self.right)
        shown: list[Part] = []
        for key, words in self._own:
            room -= cell_len(key[0]) + cell_len(words[0])
            if room < 0:
                break
            shown += [key, words]
        self.left = shown
        return super().strip_at(y)


def _hint(key: str, act: Act, enabled: bool) -> tuple[Part, Part]:
    return (f" {key_name(key)}", "lines--key" if enabled else "lines--dim"), (f" {act.hint} ", "lines--dim")
