"""How things look: our themes, the glyphs that stand for states and lines (in ASCII too), and the styles of text.

Widgets of ours take styles by name from here and not from style sheets: a dozen names in each of a dozen widgets cost a
tenth of the time to the first frame.
"""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from rich.style import Style
from textual.color import Color
from textual.theme import BUILTIN_THEMES, Theme

from bacalhau_protocol.errors import UsageError
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Mark, Tone


class Paint(NamedTuple):
    """A style: variables of the theme for text and ground, attributes, and other ones where colours cannot carry it."""

    text: str = ""
    ground: str = ""
    attributes: str = ""
    ansi: str | None = None  # in the terminal's own sixteen colours
    nocolor: str | None = None


PAINTS: dict[str, Paint] = {
    Tone.PLAIN.value: Paint("foreground"),
    Tone.GOOD.value: Paint("success"),
    Tone.BUSY.value: Paint("busy"),
    Tone.WAITING.value: Paint("waiting"),
    Tone.BAD.value: Paint("error"),
    Tone.OFF.value: Paint("dim", ansi="dim"),
    Tone.UNKNOWN.value: Paint("unknown"),
    "lines--base": Paint("foreground", "background"),
    "lines--cursor": Paint(ground="cursor", attributes="bold", ansi="reverse", nocolor="reverse"),
    "lines--marked": Paint(ground="marked", ansi="bold", nocolor="bold"),
    "lines--head": Paint(ground="bar", ansi="", nocolor=""),
    "lines--columns": Paint("dim", "bar", ansi="underline", nocolor="underline"),
    "lines--found": Paint(ground="found", attributes="underline", ansi="reverse", nocolor="reverse"),
    "lines--dim": Paint("dim", ansi="dim"),
    "lines--title": Paint("primary", attributes="bold"),
    "lines--bar": Paint("dim", ansi="dim"),
    "lines--key": Paint("primary", attributes="bold"),
    "lines--alarm": Paint("alarm-text", "alarm", "bold", nocolor="bold reverse"),
}
"""By name: the tones of the data layer, and what widgets need."""


def styles(variables: Mapping[str, str], *, ansi: bool, no_color: bool) -> dict[str, Style]:
    """Return the styles for a theme's variables."""
    return {name: _style(paint, variables, ansi, no_color) for name, paint in PAINTS.items()}


def _style(paint: Paint, variables: Mapping[str, str], ansi: bool, no_color: bool) -> Style:
    text, ground = (
        Color.parse(variables[name]).rich_color if name and not _terminals_own(variables[name]) else None
        for name in (paint.text, paint.ground)
    )
    other = paint.nocolor if no_color and paint.nocolor is not None else paint.ansi if ansi else None
    return Style(color=text, bgcolor=ground) + Style.parse(paint.attributes if other is None else other)


def _terminals_own(color: str) -> bool:
    return color == "ansi_default"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The glyphs in use."""

    ascii: bool = False
    ellipsis: str = "…"
    thumb: str = "┃"
    track: str = "│"
    up: str = "▲"
    down: str = "▼"
    dot: str = "·"
    line: str = "─"
    open: str = "▾"
    closed: str = "▸"
    full: str = "█"
    half: str = "▒"
    empty: str = "░"
    into: str = "»"
    styles: dict[str, Style] = msgspec.field(default_factory=dict)  # of the theme of now; the app fills it

    def style(self, name: str) -> Style:
        """Return a style of `PAINTS` for the theme of now."""
        return self.styles[name]

    def mark(self, mark: Mark) -> str:
        """Return the glyph of a state."""
        return mark.ascii if self.ascii else mark.glyph

    def cell(self, cell: Cell) -> str:
        """Return a cell's text with its glyph before it."""
        glyph = cell.ascii_glyph if self.ascii else cell.glyph
        return f"{glyph} {cell.text}" if glyph else cell.text


UNICODE = Look()
ASCII = Look(
    ascii=True,
    ellipsis="~",
    thumb="#",
    track="|",
    up="^",
    down="v",
    dot="-",
    line="-",
    open="v",
    closed=">",
    full="#",
    half="=",
    empty=".",
    into=">",
)


def choose_look(*, ascii_only: bool) -> Look:
    """Return the glyphs that were asked for, or that the terminal's locale can show."""
    plain = ascii_only or "utf" not in locale.getpreferredencoding(False).lower()
    return msgspec.structs.replace(ASCII if plain else UNICODE, styles={})


DARK = Theme(
    name="bacalhau-dark",
    primary="#5fafd7",
    secondary="#87afaf",
    accent="#ffaf5f",
    warning="#e5b567",
    error="#ff7b72",
    success="#7ec699",
    foreground="#d8dee4",
    background="#12161b",
    surface="#12161b",
    panel="#232b35",
    dark=True,
    variables={
        "cursor": "#2f4b63",
        "marked": "#3b3557",
        "bar": "#1f2730",
        "dim": "#93a1ae",
        "found": "#6b5a16",
        "unknown": "#c397d8",
        "busy": "#6fc3df",
        "waiting": "#e5b567",
        "alarm": "#8c1d18",
        "alarm-text": "#ffffff",
    },
)
LIGHT = Theme(
    name="bacalhau-light",
    primary="#005f87",
    secondary="#4f6f6f",
    accent="#8a4b00",
    warning="#7a5600",
    error="#b3261e",
    success="#1e6e3a",
    foreground="#1c2126",
    background="#ffffff",
    surface="#ffffff",
    panel="#dfe5ea",
    dark=False,
    variables={
        "cursor": "#c3dcec",
        "marked": "#e2d9f3",
        "bar": "#e9edf1",
        "dim": "#565f69",
        "found": "#ffe08a",
        "unknown": "#6b3fa0",
        "busy": "#005f87",
        "waiting": "#7a5600",
        "alarm": "#b3261e",
        "alarm-text": "#ffffff",
    },
)
ANSI = Theme(
    name="bacalhau-ansi",
    ansi=True,
    primary="ansi_cyan",
    secondary="ansi_cyan",
    accent="ansi_magenta",
    warning="ansi_yellow",
    error="ansi_red",
    success="ansi_green",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    dark=True,
    variables={
        "cursor": "ansi_default",
        "marked": "ansi_default",
        "bar": "ansi_default",
        "dim": "ansi_default",
        "found": "ansi_default",
        "unknown": "ansi_magenta",
        "busy": "ansi_cyan",
        "waiting": "ansi_default",
        "alarm": "ansi_red",
        "alarm-text": "ansi_bright_white",
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
    },
)
"""The terminal's own sixteen colours: the cursor and the like are shown by reverse, underline and bold."""

OURS = (DARK, LIGHT, ANSI)


def variable_defaults() -> dict[str, str]:
    """Return what our style sheets ask of themes, for themes that are not ours."""
    return dict(DARK.variables)


def choose_theme(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a theme's full name. By default ours where true colour is announced, else the terminal's own colours.

    Raises
    ------
    UsageError
        for a name that no theme has, with those there are.
    """
    if not name:
        return DARK.name if environment.get("COLORTERM", "") in ("truecolor", "24bit") else ANSI.name
    there = {theme.name.removeprefix("bacalhau-"): theme.name for theme in OURS} | {
        each: each for each in BUILTIN_THEMES
    }
    if name.removeprefix("bacalhau-") not in there:
        raise UsageError(f"no theme {name!r}", hint=f"there are: {', '.join(there)}", place="[tui] theme")
    return there[name.removeprefix("bacalhau-")]
