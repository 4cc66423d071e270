"""The filter language and the `:` commands: one parser for both, and for the command line's `--filter`.

A filter is terms with blanks between them; a row must satisfy all of them::

    etl                     the id or the name has `etl` in it (any case)
    state:failed,stopped    the state begins with one of these words
    name:"my job"           quotes keep blanks
    node=n-1  node!=n-1     exactly equal, not equal
    age<10m  priority>=5    numbers, with the units that the field knows
    -state:completed        not

A `:` command is a name, its arguments, and for a list a filter: `:jobs state:failed`, `:logs j-849169ae`.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from bacalhau_protocol.errors import BacalhauError, UsageError
from bacalhau_protocol.models.quantities import parse_bytes
from bacalhau_protocol.models.times import parse_duration

TEXT_MAX = 1000
"""Longest filter or command, in characters."""

Predicate = Callable[[Any, int], bool]
"""`predicate(row, now_ns)`."""


class Measure(enum.StrEnum):
    """What a field holds, and so which signs and units it takes."""

    TEXT = "text"
    NUMBER = "number"
    BYTES = "bytes"
    AGE = "age"  # the field holds a time (ns); it compares as "how long ago"
    LENGTH = "length"  # a duration (ns)


class Field(msgspec.Struct, frozen=True):
    """A name that filters may use. `get(row, now)` returns text, or a number, by measure."""

    name: str
    get: Callable[[Any, int], Any]
    measure: Measure = Measure.TEXT
    help: str = ""
    prefix: bool = False  # `:` compares with the beginning (states) rather than with any part


class FilterError(UsageError):
    """A filter that cannot be understood; `details` has `start` and `end`, positions in the text."""


class Filter(msgspec.Struct, frozen=True):
    """A filter that was understood. A blank one lets everything through."""

    text: str
    predicates: tuple[Predicate, ...]
    timed: bool = False  # the answer changes with the clock

    def matches(self, row: Any, now_ns: int) -> bool:
        """Whether a row satisfies all terms."""
        return all(predicate(row, now_ns) for predicate in self.predicates)

    def select(self, rows: Mapping[str, Any], now_ns: int) -> list[str]:
        """Return the ids of the rows that satisfy all terms."""
        keys = list(rows)
        for predicate in self.predicates:
            keys = [key for key in keys if predicate(rows[key], now_ns)]
        return keys


class Term(msgspec.Struct, frozen=True):
    """One word of the text as it was written, with its place."""

    start: int
    end: int
    negated: bool
    field: str  # blank: a bare word
    sign: str  # `:`, `=`, `!=`, `<`, `<=`, `>`, `>=`; blank for a bare word
    value: str


_TERM = re.compile(
    r"""(?P<not>-)?(?:(?P<field>[A-Za-z_]+)(?P<sign><=|>=|!=|[:=<>]))?(?P<value>(?:"[^"]*"?|[^\s"])*)""", re.VERBOSE
)
_COMMAND = re.compile(r":?\s*(?P<name>[^\s]*)\s*(?P<rest>.*)", re.DOTALL)


def split(text: str) -> list[Term]:
    """Cut text into terms. Never fails: an open quote ends with the text."""
    terms: list[Term] = []
    position = 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        match = _TERM.match(text, position)
        assert match is not None, "the pattern matches any text"
        end = max(match.end(), position + 1)
        terms.append(
            Term(
                start=position,
                end=end,
                negated=match["not"] is not None,
                field=(match["field"] or "").lower(),
                sign=match["sign"] or "",
                value=match["value"].replace('"', ""),
            )
        )
        position = end
    return terms


def nearest(word: str, known: list[str]) -> str:
    """Return `did you mean …?` for the nearest known word, or all of them."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def parse_filter(text: str, fields: Mapping[str, Field], search: Callable[[Any], str]) -> Filter:
    """Understand a filter over rows with these fields; `search(row)` is the lower-case text that bare words look in.

    Raises
    ------
    FilterError
        for an unknown field, a sign or a value that the field does not take; with its place in the text.
    """
    if len(text) > TEXT_MAX:
        raise FilterError(f"a filter has at most {TEXT_MAX} characters", start=0, end=len(text))
    terms = [term for term in split(text) if term.sign or term.value]
    predicates = tuple(_predicate(term, fields, search) for term in terms)
    return Filter(text, predicates, timed=any(_timed(fields.get(term.field)) for term in terms))


def _timed(field: Field | None) -> bool:
    return field is not None and field.measure in (Measure.AGE, Measure.LENGTH)


def _predicate(term: Term, fields: Mapping[str, Field], search: Callable[[Any], str]) -> Predicate:
    if not term.sign:
        positive = _contains(lambda row, now: search(row), term.value.lower())
    elif term.field not in fields:
        raise _wrong(term, f"no field {term.field!r}", nearest(term.field, sorted(fields)))
    elif not term.value:
        raise _wrong(term, f"{term.field}{term.sign} needs a value", fields[term.field].help)
    elif fields[term.field].measure is Measure.TEXT:
        positive = _text(term, fields[term.field])
    else:
        positive = _number(term, fields[term.field])
    return (lambda row, now: not positive(row, now)) if term.negated else positive


def _wrong(term: Term, message: str, hint: str) -> FilterError:
    return FilterError(message, hint=hint, start=term.start, end=term.end)


def _contains(get: Callable[[Any, int], str], word: str) -> Predicate:
    return lambda row, now: word in get(row, now)


def _text(term: Term, field: Field) -> Predicate:
    wanted = tuple(word for word in term.value.lower().split(",") if word)
    get = field.get
    if term.sign == "=":
        return lambda row, now: get(row, now).lower() in wanted
    if term.sign == "!=":
        return lambda row, now: get(row, now).lower() not in wanted
    if term.sign != ":":
        raise _wrong(term, f"{field.name} is text and has no order", f"write {field.name}:{term.value}")
    if field.prefix:
        return lambda row, now: get(row, now).lower().startswith(wanted)
    if len(wanted) == 1:
        return _contains(lambda row, now: get(row, now).lower(), wanted[0])
    return lambda row, now: any(word in get(row, now).lower() for word in wanted)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    ":": lambda have, want: bool(have == want),
    "=": lambda have, want: bool(have == want),
    "!=": lambda have, want: bool(have != want),
    "<": lambda have, want: bool(have < want),
    "<=": lambda have, want: bool(have <= want),
    ">": lambda have, want: bool(have > want),
    ">=": lambda have, want: bool(have >= want),
}


def _number(term: Term, field: Field) -> Predicate:
    want, compare, get = _amount(term, field), _COMPARE[term.sign], field.get
    if field.measure is Measure.AGE:
        return lambda row, now: compare(now - get(row, now), want)
    return lambda row, now: compare(get(row, now), want)


_DAYS = re.compile(r"(\d+)d")


def _amount(term: Term, field: Field) -> float:
    try:
        match field.measure:
            case Measure.BYTES:
                return parse_bytes(term.value, field.name)
            case Measure.AGE | Measure.LENGTH:
                days = _DAYS.fullmatch(term.value)
                return parse_duration(f"{int(days[1]) * 24}h" if days else term.value)
            case _:
                return float(term.value)
    except (BacalhauError, ValueError) as error:
        hint = {"bytes": "for instance 10MB, 1Gi", "age": "for instance 10m, 2h, 3d", "length": "for instance 90s"}
        raise _wrong(
            term, f"{term.value!r} is not a value for {field.name}", hint.get(field.measure, "a number")
        ) from error


class Command(msgspec.Struct, frozen=True):
    """A `:` command: a name that is known, and the rest of the line."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        """The rest as words, quotes taken off."""
        return [self.rest[term.start : term.end].replace('"', "") for term in split(self.rest)]


def parse_command(text: str, names: list[str], aliases: Mapping[str, str] | None = None) -> Command:
    """Understand `:name rest`; a name may be shortened as long as it means one command.

    Raises
    ------
    FilterError
        when there is no such command or several begin so.
    """
    match = _COMMAND.fullmatch(text.strip())
    assert match is not None, "the pattern matches any text"
    word = match["name"].lower()
    full = (aliases or {}).get(word, word)
    candidates = [full] if full in names else [name for name in names if word and name.startswith(word)]
    if len(candidates) == 1:
        return Command(candidates[0], match["rest"].strip())
    place = {"start": str(match.start("name")), "end": str(match.end("name"))}
    if candidates:
        raise FilterError(f"{word!r} could be {', '.join(candidates)}", hint="write one more letter", details=place)
    raise FilterError(f"no command {word!r}", hint=nearest(word, names), details=place)
