"""A `JobQuery` as SQL: filters, label selectors, order, keyset paging. Values are always parameters, never text."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from bacalhau_protocol.api.messages import PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, JobQuery
from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.constraints import Operator, parse_selector, values_of
from bacalhau_protocol.models.job import Constraint
from bacalhau_protocol.models.problems import nearest
from bacalhau_protocol.models.states import JobStateType, JobType

TEXT_MAX = 256  # characters of a text filter
INTEGER_MAX = 2**63 - 1  # SQLite's
WHOLE = (  # a label that is a whole number of at most 19 digits, as a number
    "(label GLOB '[0-9]*' OR label GLOB '[+-][0-9]*') AND substr(label, 2) NOT GLOB '*[^0-9]*'"
    " AND length(ltrim(label, '+-')) <= 19 AND CAST(label AS INTEGER)"
)
ALL_NAMESPACES = ("", "*")

# column to sort by, and whether the greatest comes first; `j` is the order of creation
ORDERS = {
    "created": ("j", True),
    "modified": ("modified", True),
    "name": ("coalesce(name, id)", False),
    "priority": ("priority", True),
}

Condition = tuple[str, tuple[Any, ...]]


class PageToken(msgspec.Struct, frozen=True, array_like=True):
    """What a page token says: which list it continues, after which row, and how many rows there were in all."""

    order_by: str
    reverse: bool
    filters: int
    key: str | int
    j: int
    total: int


class JobSelection(msgspec.Struct, frozen=True):
    """A list of jobs as SQL over `jobs`. `conditions` leave the page out."""

    conditions: tuple[Condition, ...]
    order_by: str
    reverse: bool
    filters: int  # a digest
    limit: int
    after: PageToken | None

    def rows(self) -> tuple[str, tuple[Any, ...]]:
        """Return the statement for the page's rows, one more than its limit: (key, j, body, spec)."""
        key, descending = ORDERS[self.order_by]
        direction, comparison = ("DESC", "<") if descending is not self.reverse else ("ASC", ">")
        conditions = list(self.conditions)
        if self.after is not None:
            conditions.append((f"({key}, j) {comparison} (?, ?)", (self.after.key, self.after.j)))
        where, values = _join(conditions)
        order = f"{direction}, j {direction}"
        chosen = f"SELECT {key} AS place, j FROM jobs WHERE {where} ORDER BY {key} {order} LIMIT ?"  # noqa: S608
        statement = (  # sorting narrow rows, then fetching wide ones: ten times faster
            f"SELECT place, jobs.j, body, specs.spec FROM ({chosen}) AS chosen"  # noqa: S608
            " JOIN jobs ON jobs.j = chosen.j JOIN specs ON specs.seq = jobs.spec"
            f" ORDER BY place {direction}, jobs.j {direction}"
        )
        return statement, (*values, self.limit + 1)

    def count(self) -> tuple[str, tuple[Any, ...]]:
        """Return the statement for the number of rows on all pages."""
        where, values = _join(self.conditions)
        return f"SELECT count(*) FROM jobs WHERE {where}", values  # noqa: S608

    def next_page(self, key: str | int, j: int, total: int) -> str:
        """Return the token of the page after this row."""
        token = PageToken(self.order_by, self.reverse, self.filters, key, j, total)
        return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def select_jobs(query: JobQuery) -> JobSelection:
    """Check a query. The order of a page token wins over the query's; its filters must be the same.

    Raises
    ------
    UsageError
        when a field is wrong; says which, and what is allowed.
    """
    if query.limit < 0:
        raise UsageError(f"{query.limit} is not a limit", place="Limit", hint=f"give 1 to {PAGE_ROWS_MAX}")
    filters = zlib.crc32(msgspec.json.encode((query.namespace, query.states, query.types, query.labels, query.text)))
    after = _read_page(query.page, filters) if query.page else None
    return JobSelection(
        conditions=tuple(_conditions(query)),
        order_by=after.order_by if after else _known(query.order_by or "created", tuple(ORDERS), "OrderBy"),
        reverse=after.reverse if after else query.reverse,
        filters=filters,
        limit=min(query.limit or PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX),
        after=after,
    )


def _read_page(page: str, filters: int) -> PageToken:
    try:
        token = msgspec.json.decode(base64.urlsafe_b64decode(page + "=" * (-len(page) % 4)), type=PageToken)
    except ValueError as error:
        hint = "use NextPage of the answer before, or leave it out to begin anew"
        raise UsageError("this page token cannot be read", place="Page", hint=hint) from error
    if token.filters != filters or token.order_by not in ORDERS:
        hint = "repeat the query that the token came from, or leave the token out"
        raise UsageError("this page token belongs to another query", place="Page", hint=hint)
    return token


def _join(conditions: Sequence[Condition]) -> Condition:
    where = " AND ".join(text for text, _ in conditions) or "1"
    return where, tuple(value for _, values in conditions for value in values)


def _conditions(query: JobQuery) -> Iterator[Condition]:
    if query.namespace not in ALL_NAMESPACES:
        yield "namespace = ?", (query.namespace,)
    if query.states:
        yield _in("state", [_known(state, tuple(JobStateType), "States") for state in query.states])
    if query.types:
        yield _in("type", [_known(kind, tuple(JobType), "Types") for kind in query.types])
    for constraint in parse_selector(query.labels):
        yield _label(constraint)
    if query.text:
        if len(query.text) > TEXT_MAX:
            raise UsageError(f"the text has {len(query.text)} characters; the limit is {TEXT_MAX}", place="Text")
        escaped = query.text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        yield "(id LIKE ? ESCAPE '\\' OR name LIKE ? ESCAPE '\\')", (f"%{escaped}%",) * 2


def _known(found: str, allowed: Sequence[str], place: str) -> str:
    by_fold = {choice.lower(): choice for choice in allowed}
    if found.lower() in by_fold:
        return str(by_fold[found.lower()])
    guess = nearest(found, allowed)
    hint = f"did you mean {guess}?" if guess else "allowed are " + ", ".join(allowed)
    raise UsageError(f"{found!r} is not known", place=place, hint=hint)


def _in(column: str, values: Sequence[str]) -> Condition:
    return f"{column} IN ({', '.join('?' * len(values))})", tuple(values)


def _label(constraint: Constraint) -> Condition:
    """One constraint on a job's labels, as `models.constraints.matches` decides it."""
    label, path = "json_extract(labels, ?)", f'$."{constraint.key}"'
    values = values_of(constraint)
    match constraint.operator:
        case Operator.EXISTS:
            return f"{label} IS NOT NULL", (path,)
        case Operator.NOT_EXISTS:
            return f"{label} IS NULL", (path,)
        case Operator.GREATER | Operator.LESS:
            sign = ">" if constraint.operator == Operator.GREATER else "<"
            limit = max(-INTEGER_MAX, min(int(values[0]), INTEGER_MAX))
            return f"EXISTS (SELECT 1 FROM (SELECT {label} AS label) WHERE {WHOLE} {sign} ?)", (path, limit)  # noqa: S608
    among, parameters = _in(label, values)
    if constraint.operator in (Operator.NOT_IN, Operator.NOT_EQUALS):
        return f"({label} IS NULL OR NOT {among})", (path, path, *parameters)
    return among, (path, *parameters)
