"""JSON text to nodes with places. Strict JSON, except that a repeated key is kept for a warning, not refused."""

from __future__ import annotations

import bisect
import re
from json import JSONDecodeError, decoder

from bacalhau_protocol.models.nesting import DEPTH_MAX
from bacalhau_protocol.models.nodes import (
    Entry,
    Node,
    Scalar,
    Style,
    Value,
    entries,
    is_finite,
    is_text,
    items,
    too_deep,
)
from bacalhau_protocol.models.problems import Problem, spec_error

_BLANK = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: dict[str, Value] = {"true": True, "false": False, "null": None}
_DIGITS_MAX = 400


def read_json(text: str) -> Node | None:
    """Return the document, or None when the text is blank. Raises `SpecError` with the place that is not JSON."""
    reader = _Reader(text)
    return reader.document() if text.strip() else None


class _Reader:
    """Recursive, to a depth of `DEPTH_MAX`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def document(self) -> Node:
        node, at = self._value(self._skip(0), 0)
        if self._skip(at) != len(self._text):
            raise self._error("found text after the document", self._skip(at))
        return node

    def _place(self, at: int) -> tuple[int, int]:
        line = bisect.bisect_right(self._starts, at)
        return line, at - self._starts[line - 1] + 1

    def _skip(self, at: int) -> int:
        found = _BLANK.match(self._text, at)
        return found.end() if found else at

    def _error(self, words: str, at: int) -> Exception:
        line, column = self._place(at)
        return spec_error([Problem("", f"not JSON: {words}", line=line, column=column)])

    def _value(self, at: int, depth: int) -> tuple[Node, int]:
        line, column = self._place(at)
        if depth > DEPTH_MAX:
            raise spec_error([too_deep(line, column)])
        match self._text[at : at + 1]:
            case "{":
                return self._object(at, depth)
            case "[":
                return self._list(at, depth)
            case '"':
                text, end = self._string(at)
                return Scalar(text, text, Style.QUOTED, line, column), end
        for word, value in _WORDS.items():
            if self._text.startswith(word, at):
                return Scalar(value, word, Style.PLAIN, line, column), at + len(word)
        return self._number(at)

    def _number(self, at: int) -> tuple[Node, int]:
        found = _NUMBER.match(self._text, at)
        if found is None:
            what = f"{self._text[at]!r}" if at < len(self._text) else "the end of the text"
            raise self._error(f"found {what}, expected a value", at)
        value: int | float = float(found[0])
        if found[1] is None and found[2] is None and len(found[0]) <= _DIGITS_MAX:
            value = int(found[0])
        if not is_finite(value):
            raise self._error("the number is too large", at)
        return Scalar(value, found[0], Style.PLAIN, *self._place(at)), found.end()

    def _string(self, at: int) -> tuple[str, int]:
        try:
            text, end = decoder.scanstring(self._text, at + 1, True)  # type: ignore[attr-defined]  # the C scanner
        except JSONDecodeError as error:
            raise self._error(error.msg, error.pos) from error
        if not is_text(text):
            raise self._error("the text has half of a surrogate pair", at)
        return text, end

    def _list(self, at: int, depth: int) -> tuple[Node, int]:
        nodes: list[Node] = []
        position, more = self._first(at, "]")
        while more:
            node, position = self._value(position, depth + 1)
            nodes.append(node)
            position, more = self._next(position, "]")
        return items(nodes, *self._place(at)), position

    def _object(self, at: int, depth: int) -> tuple[Node, int]:
        pairs: list[Entry] = []
        position, more = self._first(at, "}")
        while more:
            place = self._place(position)
            key, position = self._key(position)
            node, position = self._value(position, depth + 1)
            pairs.append(Entry(key, node, *place))
            position, more = self._next(position, "}")
        return entries(pairs, *self._place(at)), position

    def _key(self, at: int) -> tuple[str, int]:
        if self._text[at : at + 1] != '"':
            raise self._error("expected a key in double quotes", at)
        key, end = self._string(at)
        colon = self._skip(end)
        if self._text[colon : colon + 1] != ":":
            raise self._error("expected : after the key", colon)
        return key, self._skip(colon + 1)

    def _first(self, at: int, closing: str) -> tuple[int, bool]:
        """Step over the opening bracket; say whether an element follows, else step over the closing one too."""
        position = self._skip(at + 1)
        return (position + 1, False) if self._text[position : position + 1] == closing else (position, True)

    def _next(self, at: int, closing: str) -> tuple[int, bool]:
        """Step over a comma, then an element follows, or over the closing bracket."""
        position = self._skip(at)
        found = self._text[position : position + 1]
        if found == closing:
            return position + 1, False
        if found != ",":
            raise self._error(f"expected , or {closing}", position)
        return self._skip(position + 1), True
