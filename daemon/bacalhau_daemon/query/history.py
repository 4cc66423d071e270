"""A job's history, read from the log: the query side only knows in which records there is something."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import msgspec

from bacalhau_daemon.core.events import CODEC, AnyEvent
from bacalhau_daemon.core.state import ExecutionState
from bacalhau_daemon.log.base import LogReader
from bacalhau_daemon.query import rows
from bacalhau_daemon.query.batch import ABOUT_EXECUTION, ABOUT_JOB
from bacalhau_daemon.query.lines import Place, line_of
from bacalhau_protocol.api.messages import PAGE_BYTES_MAX, HistoryPage
from bacalhau_protocol.models.event import JobHistory

PAGE_BYTES = PAGE_BYTES_MAX - 4096  # room for what is not items
RECORDS_READ_MAX = 64  # per page, so that a page of a job of ten thousand executions does not take seconds


class HistoryReader:
    """Reads one job's history; made for one question."""

    def __init__(self, database: sqlite3.Connection, log: LogReader, j: int, job_id: str) -> None:
        self._db = database
        self._log = log
        self._j = j
        self._job_id = job_id
        self._executions: dict[int, ExecutionState] = {}

    def page(self, after: int, limit: int, execution: str) -> HistoryPage:
        """Return the lines after event number `after`; of one execution only, if `execution` is the start of an id.

        A page that is not the last may be short, even empty; `next_after` leads on. It is 0 on the last page.
        """
        items: list[JobHistory] = []
        size, records, seen = 0, 0, after
        for seq in self._places(after):
            if records == RECORDS_READ_MAX:
                return HistoryPage(items=items, next_after=seen)
            records += 1
            for number, line in self._lines(seq):
                if number <= after:
                    continue
                if line is not None and (line.execution_id or "").startswith(execution):
                    size += len(msgspec.json.encode(line)) + 1
                    if len(items) == limit or size > PAGE_BYTES:
                        return HistoryPage(items=items, next_after=seen)
                    items.append(line)
                seen = number
        return HistoryPage(items=items)

    def _places(self, after: int) -> Iterator[int]:
        """Yield the first event about the job in each record that may have one after `after`."""
        start = self._db.execute("SELECT max(seq) FROM history WHERE j = ? AND seq <= ?", (self._j, after)).fetchone()
        found = self._db.execute(
            "SELECT seq FROM history WHERE j = ? AND seq >= ? ORDER BY seq LIMIT ?",
            (self._j, start[0] or 0, RECORDS_READ_MAX + 1),
        )
        yield from [seq for (seq,) in found]

    def _lines(self, seq: int) -> Iterator[tuple[int, JobHistory | None]]:
        """Yield the number and the line of each event about the job in the record that holds event `seq`."""
        held = self._log.holding(seq)
        if held is None:
            return  # older than the log is kept
        record = CODEC.decode(held[1])
        about = [
            (number, event)
            for number, event in enumerate(record.events, record.first_event)
            if number >= seq and self._is_about(event)
        ]
        for index, (number, event) in enumerate(about):
            following = about[index + 1][1] if index + 1 < len(about) else None
            yield number, line_of(event, Place(number, record.at, self._job_id), self._execution, following)

    def _is_about(self, event: AnyEvent) -> bool:
        kind = type(event)
        if kind in ABOUT_JOB:
            return event.j == self._j  # type: ignore[union-attr]
        return kind in ABOUT_EXECUTION and self._execution(event.x).j == self._j  # type: ignore[union-attr]

    def _execution(self, x: int) -> ExecutionState:
        if x not in self._executions:
            (body,) = self._db.execute("SELECT body FROM executions WHERE x = ?", (x,)).fetchone()
            self._executions[x] = rows.read_execution(body)
        return self._executions[x]
