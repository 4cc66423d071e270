"""YAML text to nodes, in the dialect that Go's library reads: scalars of YAML 1.1, but no base-60 and no timestamps.

ruamel.yaml gives events with places; composing and resolving is done here, because aliases, depth and the dialect must
be under control. Nothing recurses, so no text can exhaust the stack.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from bacalhau_protocol.models.nesting import DEPTH_MAX
from bacalhau_protocol.models.nodes import (
    Entries,
    Entry,
    Items,
    Node,
    Scalar,
    Style,
    Value,
    check_limits,
    entries,
    is_finite,
    is_text,
    items,
    number_text,
    too_deep,
)
from bacalhau_protocol.models.problems import Problem, quote, spec_error

_BOOLEANS: dict[str, bool] = {
    **{spelling: True for word in ("y", "yes", "true", "on") for spelling in (word, word.title(), word.upper())},
    **{spelling: False for word in ("n", "no", "false", "off") for spelling in (word, word.title(), word.upper())},
}
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_INFINITE = re.compile(r"[+-]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|[1-9][0-9]*|0)")
_FLOAT = re.compile(r"[+-]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][+-]?[0-9]+)?")
_DIGITS_MAX = 400
_TAG = "tag:yaml.org,2002:"
_MERGE = "<<"


def read_yaml(text: str) -> Node | None:
    """Return the one document of a text, or None when it is empty. Raises `SpecError` with places."""
    from ruamel.yaml import YAML  # noqa: PLC0415 - 40 ms, only who reads YAML pays
    from ruamel.yaml.error import MarkedYAMLError  # noqa: PLC0415
    from ruamel.yaml.reader import ReaderError  # noqa: PLC0415

    try:
        return _Composer(text).compose(YAML(typ="base", pure=True).parse(text))
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        found = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise spec_error([Problem("", found, line=line, column=column)]) from error
    except MarkedYAMLError as error:
        raise spec_error([_syntax_problem(error)]) from error


def _syntax_problem(error: Any) -> Problem:
    mark = error.problem_mark or error.context_mark
    words = str(error.problem or error.context or "the text is not YAML")
    if "\\t" in words:
        words, hint = "a tab cannot be used here", "indent with spaces"
    else:
        hint = str(error.context) if error.context and error.problem else ""
    return Problem(
        "", f"not YAML: {words}", hint, line=mark.line + 1 if mark else 1, column=mark.column + 1 if mark else 1
    )


class _Frame:
    """A list or an object that is not finished. Of an object, `key` holds what waits for its value."""

    def __init__(self, event: Any, *, mapping: bool) -> None:
        self.anchor: str | None = event.anchor
        self.line, self.column = event.start_mark.line + 1, event.start_mark.column + 1
        self.mapping = mapping
        self.nodes: list[Node] = []
        self.pairs: list[Entry] = []
        self.merged: list[Entry] = []
        self.key: Entry | None = None


class _Composer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._anchors: dict[str, Node | None] = {}  # None: not finished yet
        self._stack: list[_Frame] = []
        self._root: Node | None = None
        self._documents = 0
        self._merged_weight = 0  # bytes, of all that `<<` took over so far

    def compose(self, events: Iterator[Any]) -> Node | None:
        for event in events:
            match type(event).__name__:
                case "DocumentStartEvent":
                    self._anchors.clear()
                case "ScalarEvent":
                    self._scalar(event)
                case "AliasEvent":
                    self._alias(event)
                case "SequenceStartEvent" | "MappingStartEvent":
                    self._start(event)
                case "SequenceEndEvent" | "MappingEndEvent":
                    self._end()
        return self._root

    def _start(self, event: Any) -> None:
        frame = _Frame(event, mapping=type(event).__name__ == "MappingStartEvent")
        if len(self._stack) >= DEPTH_MAX:
            raise spec_error([too_deep(frame.line, frame.column)])
        _check_tag(event, "map" if frame.mapping else "seq")
        if frame.anchor:
            self._anchors[frame.anchor] = None
        self._stack.append(frame)

    def _end(self) -> None:
        frame = self._stack.pop()
        node: Node
        if frame.mapping:
            own = {pair.key for pair in frame.pairs}
            inherited = [pair for pair in frame.merged if pair.key not in own]
            node = entries([*inherited, *frame.pairs], frame.line, frame.column)
        else:
            node = items(frame.nodes, frame.line, frame.column)
        self._add(node, frame.anchor)

    def _scalar(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        self._add(_resolve(event, line, column), event.anchor)

    def _alias(self, event: Any) -> None:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if event.anchor not in self._anchors:
            raise _refuse(f"alias *{event.anchor} has no anchor before it", line, column)
        node = self._anchors[event.anchor]
        if node is None:
            raise _refuse(f"alias *{event.anchor} stands inside of its own anchor", line, column)
        self._add(msgspec.structs.replace(node, line=line, column=column), None)

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = node
        if not self._stack:
            self._document(node)
        elif not self._stack[-1].mapping:
            self._stack[-1].nodes.append(node)
        elif (key := self._stack[-1].key) is None:
            self._stack[-1].key = _key(node)
        else:
            frame, frame.key = self._stack[-1], None
            if key.key == _MERGE and key.read_as == _MERGE:
                self._merged_weight += node.weight
                check_limits(self._merged_weight, node.height, node.line, node.column)
                frame.merged += _merged(node)
            else:
                frame.pairs.append(msgspec.structs.replace(key, node=node))

    def _document(self, node: Node) -> None:
        empty = isinstance(node, Scalar) and node.value is None
        if self._root is not None and not empty:
            raise spec_error(
                [
                    Problem(
                        "",
                        "a second document begins here; Bacalhau would run only the first and not say so",
                        "keep one job in a file",
                        line=node.line,
                        column=node.column,
                    )
                ]
            )
        if not empty:
            self._root = node


def _key(node: Node) -> Entry:
    if not isinstance(node, Scalar):
        raise _refuse("a key must be a word, not a list or an object", node.line, node.column)
    match node.value:
        case str():
            read_as = _MERGE if node.style is Style.PLAIN and node.value == _MERGE else ""
            return Entry(node.value, node, node.line, node.column, read_as=read_as)
        case bool():
            return Entry(str(node.value).lower(), node, node.line, node.column, read_as="a boolean")
        case None:
            raise _refuse("a key is empty", node.line, node.column)
        case int() | float():
            text = number_text(node.value)
            return Entry(text, node, node.line, node.column, read_as="" if text == node.text else "a number")


def _merged(node: Node) -> list[Entry]:
    """Return what `<<:` takes over: of several objects the first that has a key gives it."""
    sources = node.items if isinstance(node, Items) else (node,)
    taken: dict[str, Entry] = {}
    for source in sources:
        if not isinstance(source, Entries):
            raise _refuse("<< takes over an object or a list of objects", source.line, source.column)
        for entry in source.entries:
            taken.setdefault(entry.key, entry)
    return list(taken.values())


# ── scalars ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _resolve(event: Any, line: int, column: int) -> Scalar:
    text = str(event.value)
    if not is_text(text):
        raise _refuse("the text has half of a surrogate pair", line, column)
    tag = _check_tag(event, "str", "int", "float", "bool", "null", "timestamp")
    style = Style.PLAIN if event.style is None or event.style == "" else Style.QUOTED
    if tag == "str" or (style is Style.QUOTED and tag in ("", "timestamp")):
        return Scalar(text, text, Style.QUOTED, line, column)
    value = resolve_plain(text)
    if not is_finite(value):
        raise _refuse(f"{text} is not a number that a job can hold", line, column)
    if tag == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    kinds: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float,), "bool": (bool,), "null": (type(None),)}
    if tag in kinds and (not isinstance(value, kinds[tag]) or (tag == "int" and isinstance(value, bool))):
        raise _refuse(f"{quote(text)} is not of the tag !!{tag}", line, column)
    return Scalar(value, text, style, line, column)


def resolve_plain(text: str) -> Value:
    """Return what an unquoted scalar means: null, a boolean, a number, or the text itself."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INFINITE.fullmatch(text):
        return float("nan")
    digits = text.replace("_", "") if text[0] != "." else text
    if not _INTEGER.fullmatch(digits):
        return float(digits) if _FLOAT.fullmatch(digits) else text
    return _integer(digits) if len(digits) <= _DIGITS_MAX else float("inf")


def _integer(digits: str) -> int | float:
    sign, body = (-1, digits[1:]) if digits[0] == "-" else (1, digits.lstrip("+"))
    prefix = body[:2].lower()
    base = {"0x": 16, "0b": 2, "0o": 8}.get(prefix, 8 if len(body) > 1 and body[0] == "0" else 10)
    value = sign * int(body[2:] if prefix in ("0x", "0b", "0o") else body, base)
    return value if -(2**63) <= value < 2**64 else float(value)


def _check_tag(event: Any, *allowed: str) -> str:
    """Return the short name of an explicit tag, blank when there is none."""
    tag = str(event.tag or "")
    if tag in ("", "!"):
        return "str" if tag and "str" in allowed else ""
    name = tag.removeprefix(_TAG)
    if name == tag or name not in allowed:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        raise _refuse(f"the tag {quote(tag)} is not supported here", line, column)
    return name


def _refuse(words: str, line: int, column: int) -> Exception:
    return spec_error([Problem("", words, line=line, column=column)])
