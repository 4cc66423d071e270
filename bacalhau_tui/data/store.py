"""What the client knows: rows by id, fed by snapshots and by the feed. No I/O, no clock, one thread.

A writer (`session.Session`, tests) calls `put`, `remove` and `snapshot`; a reader looks at `rows` and learns through a
`Changes` subscription which ids to look at again. Changes gather until they are taken, so a screen that takes four
times a second pays for four updates, however many rows changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

if TYPE_CHECKING:
    from bacalhau_protocol.api.messages import JobRow
    from bacalhau_protocol.models.node import NodeState

Row = TypeVar("Row")

JOBS_MAX, NODES_MAX = 20_000, 20_000
EVICT_SHARE = 20  # when a table is full, one twentieth of it goes at once, so that making room stays cheap


class Change(msgspec.Struct, frozen=True):
    """What happened since it was last taken. After a `reset` any row may have changed."""

    revision: int
    changed: frozenset[str] = frozenset()  # new ones too
    removed: frozenset[str] = frozenset()
    reset: bool = False

    def __bool__(self) -> bool:
        return bool(self.reset or self.changed or self.removed)


class Changes:
    """One reader's gathered changes of one table."""

    def __init__(self, leave: Callable[[Changes], None], wake: Callable[[], None] | None) -> None:
        self._leave = leave
        self._wake = wake
        self._changed: set[str] = set()
        self._removed: set[str] = set()
        self._reset = True  # whoever comes new looks at everything
        self._awake = False

    def take(self, revision: int) -> Change:
        """Return what gathered and begin anew."""
        change = Change(revision, frozenset(self._changed), frozenset(self._removed), self._reset)
        self._changed, self._removed, self._reset, self._awake = set(), set(), False, False
        return change

    def note(self, changed: Iterable[str] = (), removed: Iterable[str] = (), *, reset: bool = False) -> None:
        """Gather; wake the reader at most once until it takes."""
        changed, removed = set(changed), set(removed)
        self._changed = (self._changed | changed) - removed
        self._removed = (self._removed - changed) | removed
        self._reset = self._reset or reset
        if self._wake is not None and not self._awake:
            self._awake = True
            self._wake()

    def close(self) -> None:
        """Stop gathering."""
        self._leave(self)


class _Entry(msgspec.Struct, Generic[Row]):
    row: Row
    seq: int  # log position of this state of the row
    revision: int


class Table(Generic[Row]):
    """The rows of one kind. `revision` grows with every change, `revision_of` with every change of that row."""

    def __init__(self, rows_max: int, evictable: Callable[[Row], int | None]) -> None:
        """`evictable` gives a row's rank among those that may be dropped (smallest first), None: never."""
        self.rows_max = rows_max
        self.revision = 0
        self.dropped = 0  # rows that were known and made room
        self.position = 0  # log position of the last snapshot
        self._evictable: Callable[[Row], int | None] = evictable
        self._entries: dict[str, _Entry[Row]] = {}
        self._readers: list[Changes] = []

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def get(self, key: str) -> Row | None:
        """Return a row, or None."""
        entry = self._entries.get(key)
        return entry.row if entry else None

    def ids(self) -> list[str]:
        """Return all ids, in no order that means anything."""
        return list(self._entries)

    def rows(self) -> Mapping[str, Row]:
        """Return a copy by id."""
        return {key: entry.row for key, entry in self._entries.items()}

    def revision_of(self, key: str) -> int:
        """Return the number of a row's last change, 0 when there is no such row."""
        entry = self._entries.get(key)
        return entry.revision if entry else 0

    def changes(self, wake: Callable[[], None] | None = None) -> Changes:
        """Subscribe. `wake` is called, in the writer's call, when the first change gathers after each `take`."""
        reader = Changes(self._readers.remove, wake)
        self._readers.append(reader)
        return reader

    def put(self, key: str, row: Row, seq: int) -> bool:
        """Add or replace a row, unless a newer state of it is here. Returns whether it was taken."""
        entry = self._entries.get(key)
        if entry is not None and entry.seq > seq:
            return False
        self.revision += 1
        self._entries[key] = _Entry(row, seq, self.revision)
        removed = self._make_room() if len(self._entries) > self.rows_max else ()
        self._tell((key,), removed)
        return True

    def remove(self, key: str, seq: int) -> bool:
        """Forget a row, unless a newer state of it is here."""
        entry = self._entries.get(key)
        if entry is None or entry.seq > seq:
            return False
        del self._entries[key]
        self.revision += 1
        self._tell((), (key,))
        return True

    def snapshot(self, rows: Mapping[str, Row], position: int, *, complete: bool) -> None:
        """Take what the orchestrator answered at a log position; rows that the feed has since brought stay.

        `complete`: rows that are not in the answer are gone, unless they are newer than it.
        """
        changed, removed = [], []
        for key, row in rows.items():
            entry = self._entries.get(key)
            if entry is None or (entry.seq <= position and entry.row != row):
                self.revision += 1
                self._entries[key] = _Entry(row, position, self.revision)
                changed.append(key)
        if complete:
            removed = [key for key, entry in self._entries.items() if key not in rows and entry.seq <= position]
            for key in removed:
                del self._entries[key]
        self.position = max(self.position, position)
        removed.extend(self._make_room() if len(self._entries) > self.rows_max else ())
        if changed or removed:
            self.revision += 1
            self._tell(changed, removed)

    def clear(self) -> None:
        """Forget everything (another cluster)."""
        self._entries.clear()
        self.revision += 1
        self.dropped = self.position = 0
        for reader in self._readers:
            reader.note(reset=True)

    def _make_room(self) -> list[str]:
        ranked = [
            (rank, key) for key, entry in self._entries.items() if (rank := self._evictable(entry.row)) is not None
        ]
        excess = len(self._entries) - self.rows_max + self.rows_max // EVICT_SHARE
        gone = [key for _, key in sorted(ranked)[:excess]]
        for key in gone:
            del self._entries[key]
        self.dropped += len(gone)
        return gone

    def _tell(self, changed: Iterable[str], removed: Iterable[str]) -> None:
        for reader in self._readers:
            reader.note(changed, removed)


class Store:
    """The tables that follow the whole cluster. Executions are followed per job, by `detail.JobDetail`."""

    def __init__(self, *, jobs_max: int = JOBS_MAX, nodes_max: int = NODES_MAX) -> None:
        self.jobs: Table[JobRow] = Table(jobs_max, lambda row: row.modified if row.ended else None)
        self.nodes: Table[NodeState] = Table(nodes_max, lambda row: None)

    def clear(self) -> None:
        """Forget everything (another cluster)."""
        self.jobs.clear()
        self.nodes.clear()
