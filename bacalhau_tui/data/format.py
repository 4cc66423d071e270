"""Words, numbers and marks as screens and commands show them. Pure: "now" is an argument.

Sizes are `models.quantities.format_bytes`, short ids `models.ids.short_id`.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from datetime import UTC, datetime, timedelta

import msgspec

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.times import parse_time

SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


# ── untrusted text ────────────────────────────────────────────────────────────────────────────────────────────────

# Controls (C0, C1, DEL), what changes the direction or is invisible, line separators, lone surrogates, tags.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSAFE_IN_LINES = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
_UNSAFE_BUT_TABS = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0a-\x1f"))
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e"}


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    return _NAMED.get(character) or (f"\\x{code:02x}" if code < 256 else f"\\u{{{code:x}}}")


def clean(text: str) -> str:
    """Return one line that cannot steer a terminal: controls and the like are escaped (`\\e`, `\\n`, `\\u{202e}`)."""
    return _UNSAFE.sub(_escape, text) if not text.isascii() or not text.isprintable() else text


def clean_lines(text: str) -> str:
    """The same for text of several lines: line ends and tabs stay."""
    return _UNSAFE_IN_LINES.sub(_escape, text)


def masked(text: str, mark: str) -> str:
    """The same for text that is edited: every character keeps its place, those that would steer become a mark."""
    return text if text.isascii() and text.isprintable() else _UNSAFE_BUT_TABS.sub(mark, text)


# ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def duration(length_ns: int) -> str:
    """Return at most two units: `350ms`, `1.2s`, `42s`, `3m2s`, `4h1m`, `2d3h`."""
    if length_ns < SECOND_NS:
        return f"{max(length_ns, 0) // 1_000_000}ms"
    if length_ns < 10 * SECOND_NS:
        return f"{length_ns / SECOND_NS:.1f}s"
    return _whole(length_ns // SECOND_NS)


def age(then_ns: int, now_ns: int) -> str:
    """Return how long ago something was, in whole seconds and at most two units; blank when it never was."""
    return _whole(max(now_ns - then_ns, 0) // SECOND_NS) if then_ns > 0 else ""


def calm_age(then_ns: int, now_ns: int) -> str:
    """Return how long ago something was, in words that change once a minute at most: `<1m`, `3m`, `4h1m`, `2d3h`."""
    seconds = max(now_ns - then_ns, 0) // SECOND_NS
    if then_ns <= 0 or seconds < _MINUTE_S:
        return "<1m" if then_ns > 0 else ""
    return _whole(seconds // _MINUTE_S * _MINUTE_S)


_MINUTE_S = 60


def _whole(seconds: int) -> str:
    for position, (unit, length_s) in enumerate(_UNITS):
        if seconds >= length_s:
            count, rest = divmod(seconds, length_s)
            minor_unit, minor_length_s = _UNITS[min(position + 1, len(_UNITS) - 1)]
            minor = rest // minor_length_s
            return f"{count}{unit}{minor}{minor_unit}" if minor and unit != minor_unit else f"{count}{unit}"
    return "0s"


def moment(when_ns: int) -> str:
    """Return `2026-11-23 18:15:21`, UTC; blank for 0."""
    return f"{_EPOCH + timedelta(seconds=when_ns // SECOND_NS):%Y-%m-%d %H:%M:%S}" if when_ns > 0 else ""


def clock(when_ns: int) -> str:
    """Return `18:15:21.792`, UTC; blank for 0."""
    return f"{moment(when_ns)[11:]}.{when_ns % SECOND_NS // 1_000_000:03d}" if when_ns > 0 else ""


def nanoseconds(rfc3339: str) -> int:
    """Return a time as nanoseconds since the epoch; 0 for Go's zero time and for what cannot be read."""
    try:
        return parse_time(rfc3339)
    except UsageError:
        return 0


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def cores(amount: float) -> str:
    """Return CPU cores with one decimal at most: `0.5`, `2`, `1.5`."""
    return f"{amount:.1f}".removesuffix(".0")


def count(number: int) -> str:
    """Return a number with its thousands parted: `9,841`."""
    return f"{number:,}"


def share(part: int, whole: int) -> str:
    """Return `42 %`, or blank when the whole is not known."""
    return f"{part * 100 // whole} %" if whole > 0 else ""


def bar(part: float, whole: float, width: int) -> tuple[str, str]:
    """Return a bar of `width` cells for a share, in line glyphs and in ASCII: what is more than nothing shows."""
    cells = round(part * width / whole) if whole > 0 else 0
    filled = max(0, min(width, max(cells, 1) if part > 0 else cells))
    return "━" * filled + "─" * (width - filled), "#" * filled + "." * (width - filled)


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def cell_width(text: str) -> int:
    """Return how many terminal cells text takes."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int, *, middle: bool = False, ellipsis: str = "…") -> str:
    """Shorten text to at most `width` cells; ids and names lose their middle, sentences their end."""
    if cell_width(text) <= width:
        return text
    room = width - len(ellipsis)
    if room <= 0:
        return ellipsis[:width]
    head = _fit(text, room - room // 3 if middle else room)
    tail = _fit(text[::-1], room // 3)[::-1] if middle else ""
    return f"{head}{ellipsis}{tail}"


def _fit(text: str, width: int) -> str:
    if text.isascii():
        return text[: max(width, 0)]
    taken = 0
    for position, character in enumerate(text):
        taken += _character_width(character)
        if taken > width:
            return text[:position]
    return text


# ── states ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tone(enum.StrEnum):
    """What a state means to a person; a theme gives it a colour. Never the only carrier of the meaning."""

    GOOD = "good"
    BUSY = "busy"
    WAITING = "waiting"
    BAD = "bad"
    OFF = "off"
    UNKNOWN = "unknown"
    PLAIN = "plain"


class Mark(msgspec.Struct, frozen=True):
    """A state as it is shown: one glyph (in ASCII too), one word, one tone."""

    glyph: str
    ascii: str
    word: str
    tone: Tone


_DONE, _BUSY, _WAITING = ("✓", "+", Tone.GOOD), ("▶", ">", Tone.BUSY), ("·", ".", Tone.WAITING)
_FAILED, _STOPPED, _UNKNOWN = ("✗", "x", Tone.BAD), ("-", "-", Tone.OFF), ("?", "?", Tone.UNKNOWN)
_LOOKS = {
    # jobs
    "Pending": _WAITING,
    "Queued": _WAITING,
    "Running": _BUSY,
    "Completed": _DONE,
    "Failed": _FAILED,
    "Stopped": _STOPPED,
    # executions
    "New": _WAITING,
    "AskForBid": _WAITING,
    "AskForBidAccepted": _WAITING,
    "AskForBidRejected": _STOPPED,
    "BidAccepted": _WAITING,
    "BidRejected": _STOPPED,
    "Preparing": _BUSY,
    "Publishing": _BUSY,
    "Cancelled": _STOPPED,
    # nodes
    "connected": ("●", "+", Tone.GOOD),
    "unknown": _UNKNOWN,
    "lost": _FAILED,
    "disconnected": _FAILED,
    "pending": _WAITING,
    "rejected": _STOPPED,
}
_WORDS = {
    "AskForBid": "Asked",
    "AskForBidAccepted": "Bid",
    "AskForBidRejected": "Refused",
    "BidAccepted": "Accepted",
    "BidRejected": "Not chosen",
}


def mark(state: str) -> Mark:
    """Return how a state of a job, an execution or a node is shown; one that is not known shows as `? Word`."""
    glyph, ascii_glyph, tone = _LOOKS.get(state, _UNKNOWN)
    return Mark(glyph=glyph, ascii=ascii_glyph, word=_WORDS.get(state, clean(state) or "Unknown"), tone=tone)
