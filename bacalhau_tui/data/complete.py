"""Which names are valid where the cursor stands in a job file. They come from the structs that files are bound to.

Keys are the fields of `Job` and below, parameters those of the tables in `models.params`, values the enumerations that
validation uses: whatever is added there is offered here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import inspect

from bacalhau_protocol.models import params
from bacalhau_protocol.models.binding import fields_of, info_of, without_null
from bacalhau_protocol.models.constraints import Operator
from bacalhau_protocol.models.job import Constraint, Job, NetworkConfig, SpecConfig
from bacalhau_protocol.models.spec import NOT_SETTABLE
from bacalhau_protocol.models.states import JobType
from bacalhau_tui.data.yamlscan import Path, Scan, State, scan_line

OFFERED_MAX = 100

_WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_!="
_KIND_NAMES = {"Engine": params.ENGINE_NAMES, "Publisher": params.PUBLISHER_NAMES, "Source": params.STORAGE_NAMES}
_KIND_TABLES = {"Engine": params.ENGINES, "Publisher": params.PUBLISHERS, "Source": params.STORAGES}


class Offer(NamedTuple):
    """One name: what is shown beside it, and what is put behind it when it is taken (`↵` stands for a new line)."""

    name: str
    words: str
    tail: str = ""


class Offers(NamedTuple):
    """What may stand at `start` to `end` of a line (characters from 0), the likeliest first."""

    start: int
    end: int
    offers: tuple[Offer, ...]


class Place(NamedTuple):
    """Where a word stands: as a key of the object at `path`, or as the value of its key `key`."""

    path: Path
    key: str
    is_key: bool
    in_flow: bool


NOTHING = Offers(0, 0, ())


def offers_at(scan: Scan, row: int, column: int) -> Offers:
    """Return what may stand at the cursor, given what is typed of it; everything valid there when that is nothing."""
    text = scan.texts[row] if row < len(scan.texts) else ""
    start, end = _word(text, column)
    place = place_of(scan.state_before(row), text, start)
    if place is None:
        return NOTHING
    given = {(entry.path, entry.key.lower()): entry.value for entry in scan.entries()}
    offered = list(_keys(place, given) if place.is_key else _values(place, given))
    if place.is_key:
        offered = _without_tails(offered) if place.in_flow else offered
        has_colon = text[end:].lstrip().startswith(":")
        own = text[start:end].lower()
        offered = [
            each._replace(tail="") if has_colon else each
            for each in offered
            if each.name.lower() == own or (place.path, each.name.lower()) not in given
        ]
    return Offers(start, end, tuple(_likeliest(offered, text[start:column], text[start:end]))[:OFFERED_MAX])


def _word(text: str, column: int) -> tuple[int, int]:
    start = end = min(column, len(text))
    while start and text[start - 1] in _WORD:
        start -= 1
    while end < len(text) and text[end] in _WORD:
        end += 1
    return start, end


def _likeliest(offered: Sequence[Offer], typed: str, word: str) -> Iterator[Offer]:
    """Yield those that begin with what is typed, else those that hold it, else those that were probably meant."""
    low = (typed or word).lower()
    begin = [each for each in offered if each.name.lower().startswith(low)]
    hold = [each for each in offered if low in each.name.lower()]
    if begin or hold:
        yield from begin or hold
        return
    by_fold = {each.name.lower(): each for each in offered}
    yield from (by_fold[name] for name in difflib.get_close_matches(word.lower(), by_fold, n=3, cutoff=0.6))


# ── where ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def place_of(state: State, text: str, start: int) -> Place | None:
    """Return what a word that begins at `start` would be; None inside of texts and comments."""
    before = text[:start]
    after = scan_line(before + "\0", state)
    if after.after.quote or after.after.block is not None or any(t.end > start for t in after.tokens):
        return None
    probe = scan_line(f"{before}{_PROBE_KEY}: x", state)
    known = next((entry for entry in probe.entries if entry.key == _PROBE_KEY), None)
    if known is not None and known.column == start:
        return Place(known.path, "", True, bool(probe.after.flows))
    value = after.after
    step = value.step
    while isinstance(step, int) and value.path:  # an element of a list has what the list's key says
        step, value = value.path[-1], _up(value)
    return Place(value.path, str(step), False, bool(value.flows)) if step else None


_PROBE_KEY = "x\u2063probe"


def _up(state: State) -> State:
    if state.flows:
        return msgspec.structs.replace(state, flows=state.flows[:-1])
    return msgspec.structs.replace(state, levels=state.levels[:-1])


# ── what ──────────────────────────────────────────────────────────────────────────────────────────────────────────

Given = Mapping[tuple[Path, str], str]


def _kind_at(path: Path, given: Given) -> inspect.Type | params.Table | None:
    """Return what the document may hold at a path: a type of the structs, a table of parameters, or nothing known."""
    found: inspect.Type | params.Table | None = info_of(Job)
    for at, step in enumerate(path):
        match found:
            case inspect.StructType(cls=cls) if isinstance(step, str):
                found = _below(cls, step, path[:at], given)
            case inspect.VarTupleType(item_type=item) if isinstance(step, int):
                found = without_null(item)
            case inspect.DictType(value_type=value):
                found = value
            case Mapping():
                param = next((found[name] for name in found if name.lower() == str(step).lower()), None)
                found = param.table if param is not None and param.table else None
            case _:
                return None
    return found


def _below(struct: type, key: str, path: Path, given: Given) -> inspect.Type | params.Table | None:
    fields = fields_of(struct)
    name = next((each for each in fields if each.lower() == key.lower()), "")
    if struct is SpecConfig and name == "Params":
        role = _role(path)
        return _KIND_TABLES.get(role, {}).get(given.get((path, "type"), "").strip().lower())
    return without_null(_present(fields[name].type)) if name else None


def _present(kind: inspect.Type) -> inspect.Type:
    """Return a field's type without `UNSET`."""
    if isinstance(kind, inspect.UnionType):
        rest = [each for each in kind.types if not isinstance(each, inspect.CustomType)]
        return rest[0] if len(rest) == 1 else inspect.UnionType(tuple(rest))
    return kind


def _role(path: Path) -> str:
    """Return which typed bag is at a path: `Engine`, `Publisher` or `Source`, in the spelling of the structs."""
    return next((role for role in _KIND_TABLES if path and str(path[-1]).lower() == role.lower()), "")


def _keys(place: Place, given: Given) -> Iterator[Offer]:
    match _kind_at(place.path, given):
        case inspect.StructType(cls=cls):
            for name, field in fields_of(cls).items():
                if place.path or name not in NOT_SETTABLE:
                    yield _field(name, field)
        case Mapping() as table:
            for name, param in table.items():
                words = f"{param.kind.words}, needed" if param.required else param.kind.words
                yield Offer(name, words, _TAILS["list"] if param.kind is params.TEXTS else ": ")


_TAILS = {"object": ":↵", "list": ":↵- ", "": ": "}


def _field(name: str, field: inspect.Field) -> Offer:
    match without_null(_present(field.type)):
        case inspect.StructType() | inspect.DictType():
            return Offer(name, "object", _TAILS["object"])
        case inspect.VarTupleType():
            return Offer(name, "list", _TAILS["list"])
        case inspect.IntType():
            return Offer(name, "number", ": ")
        case inspect.EnumType(cls=cls):
            return Offer(name, ", ".join(str(member.value) for member in cls), ": ")
        case inspect.AnyType():
            return Offer(name, "object", _TAILS["object"])
        case _:
            return Offer(name, "text", ": ")


def _without_tails(offers: Iterable[Offer]) -> list[Offer]:
    return [offer._replace(tail=": ") for offer in offers]


def _values(place: Place, given: Given) -> Iterator[Offer]:
    found = _kind_at(place.path, given)
    if isinstance(found, inspect.StructType):
        for value in _enumerated(found.cls, place):
            yield Offer(str(value), "")
    elif isinstance(found, Mapping):
        param = next((found[name] for name in found if name.lower() == place.key.lower()), None)
        if param is not None and param.kind is params.FLAG:
            yield from (Offer("true", ""), Offer("false", ""))


def _enumerated(struct: type, place: Place) -> Iterable[str]:
    key = place.key.lower()
    if struct is SpecConfig and key == "type":
        return _KIND_NAMES.get(_role(place.path), ())
    if struct is Job and key == "type":
        return tuple(JobType)
    if struct is Constraint and key == "operator":
        return tuple(Operator)
    if struct is NetworkConfig and key == "type":
        kind = fields_of(NetworkConfig)["Type"].type
        assert isinstance(kind, inspect.EnumType), "a network's type is an enumeration"
        return tuple(str(member.value) for member in kind.cls)
    return ()
