"""A sorted and filtered index over a table of the store: what a list widget looks at.

The index is ids; rows stay in the store. Single changes are put in place by bisection; many at once, a new filter or a
new order build it again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable
from typing import Any, Generic

import msgspec

from bacalhau_tui.data.columns import Layout
from bacalhau_tui.data.query import Filter, parse_filter
from bacalhau_tui.data.store import Row, Table

REBUILD_SHARE = 8  # changes of more than one eighth of the rows: sorting again is cheaper than bisecting
TIMED_REFRESH_NS = 1_000_000_000  # a filter on ages is asked again this often

_Key = tuple[Any, str]


class ViewChange(msgspec.Struct, frozen=True):
    """What a refresh did: rows of the index that look different, and whether rows came, went or moved."""

    changed: frozenset[str] = frozenset()
    moved: bool = False

    def __bool__(self) -> bool:
        return self.moved or bool(self.changed)


class TableView(Generic[Row]):
    """An index over one table. Call `refresh` when woken (or four times a second), then look at `ids`."""

    def __init__(self, table: Table[Row], layout: Layout[Row], wake: Callable[[], None] | None = None) -> None:
        self.table = table
        self.layout = layout
        self.order, self.reverse = layout.order, layout.reverse
        self.filter = Filter("", ())
        self._changes = table.changes(wake)
        self._sorted: list[_Key] = []
        self._keys: dict[str, _Key] = {}
        self._ids: list[str] | None = None
        self._places: dict[str, int] | None = None
        self._stale = True
        self._asked_at_ns = 0
        self._tally: dict[str, int] = {}
        self._tallied = -1

    @property
    def ids(self) -> list[str]:
        """The ids that pass the filter, in order. Do not change it; it is replaced, not mutated."""
        if self._ids is None:
            self._ids = [key for _, key in self._sorted]
            if self.reverse:
                self._ids.reverse()
        return self._ids

    @property
    def total(self) -> int:
        """How many rows there are without the filter."""
        return len(self.table)

    def tally(self) -> dict[str, int]:
        """Return how many rows of the table, filtered or not, are in each of the states that the layout counts."""
        if self._tallied != self.table.revision:
            states = Counter(self.layout.state(row) for row in self.table.rows().values())
            self._tally = {state: states[state] for state in self.layout.counted if states[state]}
            self._tallied = self.table.revision
        return self._tally

    def place_of(self, key: str) -> int | None:
        """Return where an id stands now, or None when it does not pass the filter."""
        if self._places is None:
            self._places = {key: place for place, key in enumerate(self.ids)}
        return self._places.get(key)

    def set_filter(self, text: str, *, problems: bool = False) -> None:
        """Filter anew at the next refresh; `problems`: only rows that a person should look at.

        Raises
        ------
        FilterError
            when the text cannot be understood; then the filter before stays.
        """
        understood = parse_filter(text, self.layout.fields, self.layout.search)
        if problems:
            problem = self.layout.problem
            predicates = (*understood.predicates, lambda row, now: problem(row))
            understood = msgspec.structs.replace(understood, predicates=predicates)
        self.filter = understood
        self._stale = True

    def set_order(self, key: str, *, reverse: bool) -> None:
        """Sort by a column at the next refresh."""
        assert self.layout.column(key) is not None, f"a column of this list, not {key}"
        self.order, self.reverse, self._stale = key, reverse, True

    def refresh(self, now_ns: int) -> ViewChange:
        """Take the changes that gathered; say what is to be painted again."""
        change = self._changes.take(self.table.revision)
        old = self._asked_at_ns + TIMED_REFRESH_NS <= now_ns
        many = len(change.changed) * REBUILD_SHARE > len(self._keys)
        if self._stale or change.reset or many or (self.filter.timed and (old or change)):
            return self._rebuild(change.changed, now_ns)
        moved = False
        for key in change.removed:
            moved |= self._take_out(key)
        for key in change.changed:
            moved |= self._put_in(key, now_ns)
        if moved:
            self._ids = self._places = None
        return ViewChange(frozenset(key for key in change.changed if key in self._keys), moved)

    def close(self) -> None:
        """Stop listening to the table."""
        self._changes.close()

    def _rebuild(self, changed: frozenset[str], now_ns: int) -> ViewChange:
        before = self.ids
        rows = self.table.rows()
        order = self._order_of()
        self._keys = {key: (order(rows[key], now_ns), key) for key in self.filter.select(rows, now_ns)}
        self._sorted = sorted(self._keys.values())
        self._ids = self._places = None
        self._stale, self._asked_at_ns = False, now_ns
        return ViewChange(frozenset(key for key in changed if key in self._keys), moved=self.ids != before)

    def _order_of(self) -> Callable[[Row, int], Any]:
        column = self.layout.column(self.order)
        assert column is not None, "set_order checked it"
        return column.order

    def _take_out(self, key: str) -> bool:
        entry = self._keys.pop(key, None)
        if entry is None:
            return False
        del self._sorted[bisect_left(self._sorted, entry)]
        return True

    def _put_in(self, key: str, now_ns: int) -> bool:
        row = self.table.get(key)
        if row is None or not self.filter.matches(row, now_ns):
            return self._take_out(key)
        entry = (self._order_of()(row, now_ns), key)
        if self._keys.get(key) == entry:
            return False
        self._take_out(key)
        self._keys[key] = entry
        insort(self._sorted, entry)
        return True
