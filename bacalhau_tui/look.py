"""How things look: our themes, and the glyphs that stand for states and lines, in ASCII too."""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping

import msgspec
from textual.theme import Theme

from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Mark


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The glyphs in use."""

    ascii: bool = False
    ellipsis: str = "…"
    thumb: str = "█"
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
    return ASCII if ascii_only or "utf" not in locale.getpreferredencoding(False).lower() else UNICODE


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
    """Return a theme's full name. By default ours where true colour is announced, else the terminal's own colours."""
    if name:
        return f"bacalhau-{name}" if name in ("dark", "light", "ansi") else name
    return DARK.name if environment.get("COLORTERM", "") in ("truecolor", "24bit") else ANSI.name
