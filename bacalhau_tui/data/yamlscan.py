"""YAML as an editor needs it, line by line: what each part of a line is, and where in the document a place lies. Pure.

What is being typed is seldom whole, so nothing is refused here; whether it is right, `read_spec` says. What a line
means depends only on its text and on the state at its beginning: after an edit, scanning goes on from the first changed
line, and ends where text and state are what they were before.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

Step = str | int
Path = tuple[Step, ...]


class Part(enum.StrEnum):
    """What a piece of text is."""

    KEY = "key"
    MARK = "mark"  # punctuation, anchors, tags
    TEXT = "text"  # quoted, or a line of a block
    NUMBER = "number"
    WORD = "word"  # true, null …
    COMMENT = "comment"


class Token(NamedTuple):
    """A piece of a line, in characters."""

    start: int
    end: int
    part: Part


class Entry(NamedTuple):
    """A key of the object at `path`, with what follows it on its line (blank for what opens an object or a list)."""

    path: Path
    key: str
    value: str
    column: int


class Level(NamedTuple):
    """An object or list that is open in block style. `item` counts a list's elements, -1: an object."""

    indent: int
    key: str
    item: int


class Flow(NamedTuple):
    """An object or list that is open in flow style. `step` is its last key or its element; `valued`: after a colon."""

    is_list: bool
    step: Step
    valued: bool


class State(msgspec.Struct, frozen=True):
    """What is open at the beginning of a line."""

    levels: tuple[Level, ...] = ()
    flows: tuple[Flow, ...] = ()
    quote: str = ""  # a quoted text that goes on
    block: int | None = None  # a block text goes on while lines are indented by more than this
    below: bool = False  # the last key has no value yet

    @property
    def path(self) -> Path:
        """The path of the innermost object or list that is open."""
        return tuple(self._steps())[:-1]

    @property
    def step(self) -> Step:
        """The last key or element in it; blank when there is none."""
        return next(reversed(list(self._steps())), "")

    def _steps(self) -> Iterator[Step]:
        for level in self.levels:
            yield level.key if level.item < 0 else level.item
        for flow in self.flows:
            yield flow.step


class Line(NamedTuple):
    """A scanned line: its pieces, the keys on it, and the state after it."""

    tokens: tuple[Token, ...]
    entries: tuple[Entry, ...]
    after: State


_QUOTED = r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|"""
_KEY = re.compile(_QUOTED + r"""[^\s#\-?"'\[\]{},&*!|>%@`:](?:[^#:]|(?<!\s)#|:(?=\S))*|-[^\s#:][^#:]*)\s*:(?=\s|$)""")
_FLOW_KEY = re.compile(_QUOTED + r"""[^\s#"'\[\]{},:][^"'\[\]{},:]*)\s*:(?=\s|$|[\[{"'])""")
_QUOTES = {'"': re.compile(r'"(?:[^"\\]|\\.)*("|\\?$)'), "'": re.compile(r"'(?:[^']|'')*('|$)")}
_ENDS = {'"': re.compile(r'(?:[^"\\]|\\.)*("|\\?$)'), "'": re.compile(r"(?:[^']|'')*('|$)")}
_BLOCK = re.compile(r"[|>][-+0-9]*\s*(?=#|$)")
_PLAIN = re.compile(r"[^\s#](?:[^#]|(?<!\s)#)*")
_FLOW_PLAIN = re.compile(r"[^\s,\[\]{}#](?:[^,\[\]{}#:]|(?<!\s)#|:(?!\s|$))*")
_TAG = re.compile(r"[&*!][^\s,\[\]{}]*")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?([eE][-+]?[0-9]+)?|0x[0-9a-fA-F]+)")
_WORDS = frozenset({"true", "false", "null", "~", "yes", "no", "on", "off"})


class _Scanner:
    """Scans one line."""

    def __init__(self, text: str, state: State) -> None:
        self.text, self.at = text, 0
        self.levels, self.flows = list(state.levels), list(state.flows)
        self.quote, self.block, self.below = state.quote, state.block, state.below
        self.tokens: list[Token] = []
        self.entries: list[Entry] = []

    def run(self) -> Line:
        indent = len(self.text) - len(self.text.lstrip(" "))
        if self.block is not None:
            if indent > self.block or not self.text.strip():
                self._token(indent, len(self.text), Part.TEXT)
                return self._line()
            self.block = None
        if self.quote:
            self._go_on()
        elif self.flows:
            self._flow()
        elif self.text.strip() and self.text[:3] not in ("---", "..."):
            self.at = indent
            self._block_line()
        elif self.text[:3] in ("---", "..."):
            self._token(0, 3, Part.MARK)
            self.levels = []
        return self._line()

    def _line(self) -> Line:
        state = State(tuple(self.levels), tuple(self.flows), self.quote, self.block, self.below)
        return Line(tuple(self.tokens), tuple(self.entries), state)

    def _token(self, start: int, end: int, part: Part) -> None:
        if end > start:
            self.tokens.append(Token(start, end, part))

    def _path(self) -> Path:
        return State(tuple(self.levels), tuple(self.flows)).path

    # ── block style ───────────────────────────────────────────────────────────────────────────────────────────────

    def _block_line(self) -> None:
        """Dashes and a key at the beginning of a line open and close levels; then comes a value."""
        while self.text[self.at] == "-" and self.text[self.at + 1 : self.at + 2] in ("", " "):
            self._dash(self.at)
            self._token(self.at, self.at + 1, Part.MARK)
            self.at += 1
            self._blanks()
            if self.at >= len(self.text):
                return
        if (key := _KEY.match(self.text, self.at)) is not None:
            self._key(key)
        self._value()

    def _dash(self, indent: int) -> None:
        while self.levels and self.levels[-1].indent > indent:
            self.levels.pop()
        top = self.levels[-1] if self.levels else None
        if top is not None and top.item >= 0 and top.indent == indent:
            self.levels[-1] = top._replace(item=top.item + 1)
        else:
            self.levels.append(Level(indent, "", 0))
        self.below = True

    def _key(self, key: re.Match[str]) -> None:
        indent = self.at
        while self.levels and (self.levels[-1].indent > indent or (self._in_list and self.levels[-1].indent == indent)):
            self.levels.pop()
        name = _unquoted(key[1])
        if self.levels and self.levels[-1].indent == indent:
            self.levels[-1] = Level(indent, name, -1)
        else:
            self.levels.append(Level(indent, name, -1))
        value = self.text[key.end() :].strip()
        self.entries.append(Entry(self._path(), name, _unquoted(_PLAIN_VALUE.sub("", value)), indent))
        self._token(key.start(1), key.end(1), Part.KEY)
        self._token(key.end() - 1, key.end(), Part.MARK)
        self.at = key.end()
        self.below = True

    @property
    def _in_list(self) -> bool:
        return self.levels[-1].item >= 0

    def _value(self) -> None:
        while self._blanks() < len(self.text):
            character = self.text[self.at]
            if character == "#":
                self._token(self.at, len(self.text), Part.COMMENT)
                return
            if character in "&*!":
                self._take(_TAG, Part.MARK)
                continue
            self.below = False
            if (block := _BLOCK.match(self.text, self.at)) is not None:
                self._token(self.at, block.end(), Part.MARK)
                self.at = block.end()
                self.block = self.levels[-1].indent if self.levels else -1
            elif character in "[{":
                self._flow()
            elif character in "\"'":
                self._quoted(character)
            else:
                self._take(_PLAIN, None)

    def _blanks(self) -> int:
        while self.at < len(self.text) and self.text[self.at] in " \t":
            self.at += 1
        return self.at

    def _take(self, pattern: re.Pattern[str], part: Part | None) -> None:
        found = pattern.match(self.text, self.at)
        end = max(found.end() if found else 0, self.at + 1)
        words = self.text[self.at : end].rstrip()
        if part is None:
            part = _plain_part(words)
        if part is not None:
            self._token(self.at, self.at + len(words), part)
        self.at = end

    def _quoted(self, quote: str) -> None:
        found = _QUOTES[quote].match(self.text, self.at)
        end = found.end() if found else len(self.text)
        self._token(self.at, end, Part.TEXT)
        self.quote = "" if found is not None and found[1] == quote else quote
        self.at = end

    def _go_on(self) -> None:
        """Go on with a quoted text of the line before."""
        found = _ENDS[self.quote].match(self.text)
        end = found.end() if found else len(self.text)
        self._token(len(self.text) - len(self.text.lstrip()), end, Part.TEXT)
        if found is not None and found[1] == self.quote:
            self.quote, self.at = "", end
            if self.flows:
                self._flow()
            else:
                self._value()

    # ── flow style ────────────────────────────────────────────────────────────────────────────────────────────────

    def _flow(self) -> None:
        """Go through `{…}` and `[…]` until they are closed or the line ends."""
        while self._blanks() < len(self.text) and not self.quote:
            character = self.text[self.at]
            if character == "#" and (self.at == 0 or self.text[self.at - 1].isspace()):
                self._token(self.at, len(self.text), Part.COMMENT)
                return
            if character in "[{]},":
                self._punctuation(character)
                if not self.flows:
                    return
            elif not self._flow_key():
                if character in "\"'":
                    self._quoted(character)
                else:
                    self._take(_TAG if character in "&*!" else _FLOW_PLAIN, Part.MARK if character in "&*!" else None)

    def _punctuation(self, character: str) -> None:
        self._token(self.at, self.at + 1, Part.MARK)
        self.at += 1
        match character:
            case "[":
                self.flows.append(Flow(True, 0, True))
            case "{":
                self.flows.append(Flow(False, "", False))
            case ",":
                top = self.flows[-1]
                self.flows[-1] = Flow(True, int(top.step) + 1, True) if top.is_list else Flow(False, "", False)
            case _:
                self.flows.pop()

    def _flow_key(self) -> bool:
        top = self.flows[-1]
        key = None if top.is_list or top.valued else _FLOW_KEY.match(self.text, self.at)
        if key is None:
            return False
        name = _unquoted(key[1].rstrip())
        value = _FLOW_PLAIN.match(self.text, self._after(key.end()))
        self.flows[-1] = Flow(False, name, True)
        self.entries.append(Entry(self._path(), name, value[0].rstrip(" \"'").lstrip("\"'") if value else "", self.at))
        self._token(key.start(1), key.start(1) + len(key[1].rstrip()), Part.KEY)
        self._token(key.end() - 1, key.end(), Part.MARK)
        self.at = key.end()
        return True

    def _after(self, at: int) -> int:
        return at + len(self.text[at:]) - len(self.text[at:].lstrip())


_PLAIN_VALUE = re.compile(r"\s#.*$|^#.*$|^[\[{|>&*!].*$")


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0] else text


def _plain_part(words: str) -> Part | None:
    if _NUMBER.fullmatch(words):
        return Part.NUMBER
    return Part.WORD if words.lower() in _WORDS else None


def scan_line(text: str, state: State) -> Line:
    """Scan one line."""
    return _Scanner(text, state).run()


class Scan:
    """A whole text, scanned; `update` scans only what an edit may have changed."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.lines: list[Line] = []

    def update(self, texts: Sequence[str]) -> None:
        """Take the text as it is now, line by line."""
        old_texts, old_lines = self.texts, self.lines
        head = _alike(texts, old_texts)
        tail = _alike(texts[head:][::-1], old_texts[head:][::-1])
        lines = old_lines[:head]
        state = lines[-1].after if lines else State()
        shift = len(old_texts) - len(texts)
        for at in range(head, len(texts)):
            if at >= len(texts) - tail and at + shift > 0 and state == old_lines[at + shift - 1].after:
                lines += old_lines[at + shift :]
                break
            line = scan_line(texts[at], state)
            lines.append(line)
            state = line.after
        self.texts, self.lines = list(texts), lines

    def state_before(self, row: int) -> State:
        """Return the state at the beginning of a line."""
        return self.lines[row - 1].after if 0 < row <= len(self.lines) else State()

    def entries(self) -> Iterator[Entry]:
        """Yield all keys of the document."""
        for line in self.lines:
            yield from line.entries


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many lines are the same at the beginning."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
