"""Nodes to structs: a document becomes a `Job`, every mismatch becomes a problem with its place, nothing stops early.

As Go's decoder does it: keys of structs match without letter case, `null` leaves the zero value, nothing is coerced
(`1` is no text, `"1"` no number). What Go ignores silently, unknown and repeated keys, becomes a warning here. A value
of the wrong kind counts as not given, so that the rest of the document is still looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.nodes import Entries, Entry, Items, Node, Scalar, Style, describe, plain
from bacalhau_protocol.models.problems import PROBLEMS_MAX, Problem, join, nearest, quote
from bacalhau_protocol.models.times import SECOND, parse_duration

Place = tuple[int, int, str]
"""Line, column, source."""
INT_MIN, INT_MAX = -(2**63), 2**63 - 1
NOTHING = object()
"""What binding gives for a value that cannot be used; the field keeps its default."""


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, inspect.Field]:
    """Return a struct's fields by their wire names."""
    return {field.encode_name: field for field in info_of(struct).fields}


@cache
def info_of(struct: type[msgspec.Struct]) -> inspect.StructType:
    """Return what a struct's fields may hold; asking msgspec costs 5 ms."""
    found = inspect.type_info(struct)
    assert isinstance(found, inspect.StructType), "asked only of structs"
    return found


def without_null(kind: inspect.Type) -> inspect.Type:
    """Return the one type of a union with null."""
    if isinstance(kind, inspect.UnionType):
        return next(each for each in kind.types if not isinstance(each, inspect.NoneType))
    return kind


class Binder:
    """Binds one document. Afterwards `problems` has problems and warnings, `places` every path's place.

    `refused` are keys of the root that a document may not set. Where there are any, an unknown key of the root is a
    problem too, as on Bacalhau's command line; else all are warnings or nothing, as in its API.
    """

    def __init__(self, refused: Sequence[str] = ()) -> None:
        self._refused = refused
        self.problems: list[Problem] = []
        self.places: dict[str, Place] = {}
        self.unusable: set[str] = set()  # paths whose value is missing because it was of the wrong kind

    def bind(self, node: Node, struct: type[msgspec.Struct], path: str = "") -> Any:
        """Return the struct, with defaults where the document says nothing usable."""
        self.places.setdefault(path, (node.line, node.column, node.source))
        bound = self._struct(node, info_of(struct), path)
        return struct() if bound is NOTHING else bound

    def report(self, path: str, words: str, hint: str = "", near: str = "", *, warning: bool = False) -> None:
        """Add a problem at the place of a path, or of the nearest path above it that has a place."""
        self.problems.append(self.placed(Problem(path, words, hint, near, warning=warning)))

    def placed(self, problem: Problem) -> Problem:
        """Return the problem with the place of its path."""
        line, column, source = self.place(problem.path)
        return msgspec.structs.replace(problem, line=line, column=column, source=source)

    def place(self, path: str) -> Place:
        """Return where a path stands in the document."""
        while path and path not in self.places:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.places.get(path, (0, 0, ""))

    def _value(self, node: Node, kind: inspect.Type, path: str) -> Any:
        kind = without_null(kind)
        if isinstance(kind, inspect.AnyType):
            self._remember(node, path)
            return plain(node)
        if isinstance(node, Scalar) and node.value is None:
            blank = node.style is Style.SETTING and isinstance(kind, inspect.StrType)
            return node.text if blank else NOTHING
        match kind:
            case inspect.StructType():
                return self._struct(node, kind, path)
            case inspect.DictType():
                return self._map(node, kind, path)
            case inspect.VarTupleType():
                return self._list(node, kind, path)
            case inspect.StrType():
                return self._text(node, path)
            case inspect.IntType():
                return self._number(node, path)
            case inspect.EnumType():
                return self._choice(node, kind, path)
            case _:
                raise AssertionError(f"no field of a job is a {kind}")

    def _mismatch(self, node: Node, needed: str, path: str, hint: str = "") -> Any:
        self.report(path, f"found {describe(node)}, {needed} is needed", hint)
        self.unusable.add(path)
        return NOTHING

    def _struct(self, node: Node, kind: inspect.Type, path: str) -> Any:
        assert isinstance(kind, inspect.StructType), "called for structs"
        if not isinstance(node, Entries):
            return self._mismatch(node, "an object", path, f"its keys are {self._names(kind.cls, path)}")
        fields = fields_of(kind.cls)
        by_fold = {name.lower(): name for name in fields}
        values: dict[str, Any] = {}
        for entry in node.entries:
            name = entry.key if entry.key in fields else by_fold.get(entry.key.lower(), "")
            if not name:
                self._unknown(entry, kind.cls, path)
                continue
            place = join(path, name)
            self._enter(entry, place)
            if not path and name in self._refused:
                self.report(place, "is not allowed in a job file: the orchestrator sets it")
            value = self._value(entry.node, fields[name].type, place)
            if value is not NOTHING:
                values[fields[name].name] = value
        return kind.cls(**values)

    def _enter(self, entry: Entry, place: str) -> None:
        if place in self.places:
            line = self.places[place][0]
            self.places[place] = (entry.line, entry.column, entry.source)
            self.report(place, f"the key is repeated, the one of line {line} is ignored", warning=True)
        self.places[place] = (entry.line, entry.column, entry.source)

    def _unknown(self, entry: Entry, struct: type[msgspec.Struct], path: str) -> None:
        place = join(path, entry.key)
        self.places.setdefault(place, (entry.line, entry.column, entry.source))
        near = nearest(entry.key, fields_of(struct)) if len(self.problems) < PROBLEMS_MAX else ""
        hint = "" if near else f"known are {self._names(struct, path)}"
        if not self._refused or path:
            self.report(place, "unknown key is ignored", hint, near, warning=True)
        elif isinstance(entry.node, Entries) and entry.key.lower() == "job":
            self.report(place, "this is the body of a request", "put what is below it at the top of the file")
        else:
            self.report(place, "unknown key", hint, near)

    def _names(self, struct: type[msgspec.Struct], path: str) -> str:
        return ", ".join(name for name in fields_of(struct) if path or name not in self._refused)

    def _map(self, node: Node, kind: inspect.DictType, path: str) -> Any:
        if not isinstance(node, Entries):
            return self._mismatch(node, "an object", path, "KEY: value, one for each")
        values: dict[str, Any] = {}
        for entry in node.entries:
            place = join(path, entry.key)
            self._enter(entry, place)
            if entry.read_as:
                self.report(place, f"the key is read as {entry.read_as}", "put it in quotes", warning=True)
            value = self._value(entry.node, kind.value_type, place)
            if value is NOTHING and place not in self.unusable:
                value = "" if isinstance(kind.value_type, inspect.StrType) else None
            if value is not NOTHING:
                values[entry.key] = value
        return values

    def _list(self, node: Node, kind: inspect.VarTupleType, path: str) -> Any:
        if not isinstance(node, Items):
            return self._mismatch(node, "a list", path, "begin each element with a hyphen, or write [a, b]")
        values = []
        for index, item in enumerate(node.items):
            place = f"{path}[{index}]"
            self.places[place] = (item.line, item.column, item.source)
            value = self._value(item, kind.item_type, place)
            if value is NOTHING and place not in self.unusable:
                self._mismatch(item, "a value", place)
            values.append(_filler(kind.item_type) if value is NOTHING else value)
        return tuple(values)

    def _text(self, node: Node, path: str) -> Any:
        if isinstance(node, Scalar):
            if isinstance(node.value, str):
                return node.value
            if node.style is Style.SETTING:
                return node.text
            return self._mismatch(node, "a text", path, f'put it in quotes: "{node.text}"')
        return self._mismatch(node, "a text", path)

    def _number(self, node: Node, path: str) -> Any:
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            if INT_MIN <= value <= INT_MAX:
                return value
            return self._mismatch(node, "a number of at most 64 bits", path)
        hint = _number_hint(value, path) if isinstance(value, str) else ""
        return self._mismatch(node, "a whole number", path, hint)

    def _choice(self, node: Node, kind: inspect.EnumType, path: str) -> Any:
        text = self._text(node, path)
        if text is NOTHING:
            return NOTHING
        try:
            return kind.cls(text)
        except ValueError:
            allowed = [str(member.value) for member in kind.cls]
            self.report(
                path, f"unknown type {quote(text)}", f"allowed are {', '.join(allowed)}", nearest(text, allowed)
            )
            self.unusable.add(path)
            return NOTHING

    def _remember(self, node: Node, path: str) -> None:
        """Keep the places of everything below, and say what is repeated."""
        match node:
            case Items():
                for index, item in enumerate(node.items):
                    self.places[f"{path}[{index}]"] = (item.line, item.column, item.source)
                    self._remember(item, f"{path}[{index}]")
            case Entries():
                for entry in node.entries:
                    place = join(path, entry.key)
                    self._enter(entry, place)
                    self._remember(entry.node, place)


def _number_hint(text: str, path: str) -> str:
    if text.strip().lstrip("+-").isdecimal():
        return "write it without quotes"
    if not path.endswith("Timeout"):
        return ""
    try:
        return f"timeouts are whole seconds: {parse_duration(text) // SECOND}"
    except UsageError:
        return "timeouts are whole seconds"


def _filler(kind: inspect.Type) -> Any:
    """Return what stands in a list for an element that cannot be used, so that indices stay what they are."""
    kind = without_null(kind)
    return kind.cls() if isinstance(kind, inspect.StructType) else ""
