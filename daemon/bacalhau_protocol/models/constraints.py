"""Constraints on labels: operators, matching with findings, soft preferences, and selector strings.

A selector string has Kubernetes' grammar, `env=prod,tier!=web,zone in (a,b),gpu,!spot,cores>4`, and means the same as
the list of constraints that it is parsed into; job files use the list, flags and list filters use the string.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.job import Constraint
from bacalhau_protocol.models.problems import Problem, join, nearest, quote

FAVOUR = "favour_"
"""A constraint whose key has this prefix does not filter nodes: it raises the rank of those that match without it."""
SELECTOR_MAX = 4096
"""Longest selector string, in characters."""


class Operator(enum.StrEnum):
    """Operators as they stand in job files; they are compared with their letter case."""

    IN = "in"
    NOT_IN = "notin"
    EXISTS = "exists"
    NOT_EXISTS = "!"
    EQUALS = "="
    DOUBLE_EQUALS = "=="
    NOT_EQUALS = "!="
    GREATER = "gt"
    LESS = "lt"


_SETS = frozenset({Operator.IN, Operator.NOT_IN})
_BARE = frozenset({Operator.EXISTS, Operator.NOT_EXISTS})
_ORDER = frozenset({Operator.GREATER, Operator.LESS})
_POSITIVE = frozenset({Operator.IN, Operator.EQUALS, Operator.DOUBLE_EQUALS})
_NEGATIVE = frozenset({Operator.NOT_IN, Operator.NOT_EQUALS})
_OPERATORS = frozenset(Operator)

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}")
_NAME_HINT = "at most 63 letters, digits and - _ . beginning and ending with a letter or digit"


class Match(msgspec.Struct, frozen=True):
    """What came of one constraint on one set of labels, in words."""

    passed: bool
    required: str  # `zone in (a, b)`
    actual: str  # `zone=c`, `no label zone`


def values_of(constraint: Constraint) -> tuple[str, ...]:
    """Return the values, never None."""
    return constraint.values or () if isinstance(constraint.values, tuple) else ()


def matches(constraint: Constraint, labels: Mapping[str, str]) -> bool:
    """Whether these labels satisfy a constraint. An operator that we do not know is never satisfied."""
    label, operator = labels.get(constraint.key), constraint.operator
    if operator in _POSITIVE:
        return label is not None and label in values_of(constraint)
    if operator in _NEGATIVE:
        return label is None or label not in values_of(constraint)
    if operator in _BARE:
        return (label is not None) == (operator == Operator.EXISTS)
    if operator in _ORDER and label is not None and len(values_of(constraint)) == 1:
        have, limit = _integer(label), _integer(values_of(constraint)[0])
        if have is None or limit is None:
            return False
        return have > limit if operator == Operator.GREATER else have < limit
    return False


def matches_all(constraints: Iterable[Constraint] | None, labels: Mapping[str, str]) -> bool:
    """Whether these labels satisfy every hard constraint; preferences do not count."""
    return all(matches(each, labels) for each in constraints or () if not each.key.startswith(FAVOUR))


def match(constraint: Constraint, labels: Mapping[str, str]) -> Match:
    """Say what a constraint requires and what the labels have."""
    label = labels.get(constraint.key)
    actual = f"no label {constraint.key}" if label is None else f"{constraint.key}={label}"
    return Match(matches(constraint, labels), format_constraint(constraint), actual)


def required(constraints: Iterable[Constraint] | None) -> tuple[Constraint, ...]:
    """Return the constraints that a node must satisfy."""
    return tuple(each for each in constraints or () if not each.key.startswith(FAVOUR))


def preferred(constraints: Iterable[Constraint] | None) -> tuple[Constraint, ...]:
    """Return the preferences, with the prefix `favour_` taken off: each that matches raises a node's rank."""
    return tuple(
        msgspec.structs.replace(each, key=each.key.removeprefix(FAVOUR))
        for each in constraints or ()
        if each.key.startswith(FAVOUR)
    )


def format_constraint(constraint: Constraint) -> str:
    """Write a constraint as a selector string would: `zone in (a, b)`, `!spot`, `cores>4`."""
    key, operator, values = constraint.key, constraint.operator, values_of(constraint)
    if operator == Operator.EXISTS:
        return key
    if operator == Operator.NOT_EXISTS:
        return f"!{key}"
    if operator in _ORDER:
        return f"{key}{'>' if operator == Operator.GREATER else '<'}{','.join(values)}"
    if operator in (Operator.EQUALS, Operator.DOUBLE_EQUALS, Operator.NOT_EQUALS):
        return f"{key}{operator}{','.join(values)}"
    return f"{key} {operator} ({', '.join(values)})"


def check_constraint(constraint: Constraint, path: str) -> Iterator[Problem]:
    """Yield what is wrong with a constraint. Stricter than Bacalhau, which lets such jobs wait for ever."""
    key, operator, values = constraint.key, constraint.operator, values_of(constraint)
    yield from _check_key(key, join(path, "Key"))
    if operator not in _OPERATORS:
        found = f"unknown operator {quote(operator)}" if operator else "missing operator"
        allowed = "allowed are " + " ".join(Operator)
        yield Problem(join(path, "Operator"), found, allowed, nearest(operator, [*Operator]))
        return
    if operator in _SETS and not values:
        yield Problem(join(path, "Values"), f"operator {operator} needs at least one value, found none")
    elif operator in _BARE and values:
        yield Problem(join(path, "Values"), f"operator {operator} takes no values, found {len(values)}")
    elif operator not in _SETS | _BARE and len(values) != 1:
        hint = f"write {'in' if operator in _POSITIVE else 'notin'} for a set" if operator not in _ORDER else ""
        yield Problem(join(path, "Values"), f"operator {operator} needs exactly one value, found {len(values)}", hint)
    for index, value in enumerate(values):
        if operator in _ORDER:
            if _integer(value) is None:
                yield Problem(
                    f"{path}.Values[{index}]", f"operator {operator} needs a whole number, found {quote(value)}"
                )
        elif value and not _NAME.fullmatch(value):
            yield Problem(f"{path}.Values[{index}]", f"malformed label value {quote(value)}", _NAME_HINT)


def _check_key(key: str, path: str) -> Iterator[Problem]:
    bare = key.removeprefix(FAVOUR)
    if not bare.strip():
        yield Problem(path, "the key of a label is missing" if not key.strip() else f"{FAVOUR} without a label's key")
        return
    prefix, slash, name = bare.rpartition("/")
    if not _NAME.fullmatch(name):
        yield Problem(path, f"malformed label key {quote(key)}", _NAME_HINT)
    elif slash and not _DOMAIN.fullmatch(prefix):
        yield Problem(path, f"malformed label key {quote(key)}", "what stands before / is a DNS name in lower case")


def _integer(text: str) -> int | None:
    return int(text) if _INTEGER.fullmatch(text) else None


# ── selector strings ──────────────────────────────────────────────────────────────────────────────────────────────

_TOKEN = re.compile(r"\s*(==|!=|[=!(),<>]|[^\s=!(),<>]+)")
_COMPARISONS = {
    "=": Operator.EQUALS,
    "==": Operator.DOUBLE_EQUALS,
    "!=": Operator.NOT_EQUALS,
    ">": Operator.GREATER,
    "<": Operator.LESS,
}
_PUNCTUATION = frozenset({*_COMPARISONS, "!", "(", ")", ","})


def parse_selector(text: str) -> tuple[Constraint, ...]:
    """Read a selector string; a blank one is no constraints. Raises `UsageError` with the column that is wrong."""
    if len(text) > SELECTOR_MAX:
        raise UsageError(f"the selector has {len(text)} characters; the limit is {SELECTOR_MAX}")
    constraints = _Parser(text).parse()
    for constraint in constraints:
        for problem in check_constraint(constraint, ""):
            words = "; ".join(part for part in (problem.message, problem.hint) if part)
            raise UsageError(f"selector {quote(text)}, at {format_constraint(constraint)}: {words}")
    return constraints


def format_selector(constraints: Iterable[Constraint]) -> str:
    """Write constraints as a selector string that `parse_selector` reads again."""
    return ",".join(format_constraint(each) for each in constraints)


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [(found[1], found.start(1)) for found in _TOKEN.finditer(text)]
        self._at = 0

    def parse(self) -> tuple[Constraint, ...]:
        if not self._tokens:
            return ()
        constraints = [self._requirement()]
        while self._peek():
            self._expect(",")
            constraints.append(self._requirement())
        return tuple(constraints)

    def _requirement(self) -> Constraint:
        if self._peek() == "!":
            self._next()
            return Constraint(self._word("a label's key"), Operator.NOT_EXISTS)
        key = self._word("a label's key")
        token = self._peek()
        if token in ("", ","):
            return Constraint(key, Operator.EXISTS)
        if token in (Operator.IN, Operator.NOT_IN):
            return Constraint(key, self._next(), self._set())
        if token not in _COMPARISONS:
            raise self._error("one of = == != in notin > < or a comma")
        operator = _COMPARISONS[self._next()]
        value = "" if self._peek() in ("", ",") else self._word("a value")
        return Constraint(key, operator, (value,))

    def _set(self) -> tuple[str, ...]:
        self._expect("(")
        values = [self._element()]
        while self._peek() == ",":
            self._next()
            values.append(self._element())
        self._expect(")")
        return tuple(dict.fromkeys(values))

    def _element(self) -> str:
        return "" if self._peek() in (",", ")") else self._word("a value")

    def _word(self, what: str) -> str:
        if self._peek() in _PUNCTUATION or not self._peek():
            raise self._error(what)
        return self._next()

    def _expect(self, token: str) -> None:
        if self._peek() != token:
            raise self._error(quote(token))
        self._next()

    def _peek(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        self._at += 1
        return self._tokens[self._at - 1][0]

    def _error(self, wanted: str) -> UsageError:
        ended = self._at >= len(self._tokens)
        found = "the end" if ended else quote(self._peek())
        column = len(self._text) + 1 if ended else self._tokens[self._at][1] + 1
        return UsageError(
            f"selector {quote(self._text)}, column {column}: found {found}, expected {wanted}",
            hint="for instance env=prod,tier!=web,zone in (a,b),gpu,!spot,cores>4",
        )
