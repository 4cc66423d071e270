"""The log port: an ordered list of records with compare-and-swap append. Synchronous and blocking.

The shell calls it in one thread of its own, off the loop; the simulator calls it directly. Every implementation
passes `tests/contract/test_log_contract.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from bacalhau_daemon.log.records import Chain


class Stored(msgspec.Struct, frozen=True):
    """The record is in the log, durably, as number `n`."""

    n: int


class Fenced(msgspec.Struct, frozen=True):
    """Another writer's record has that number: halt. Nothing was stored."""

    reason: str


class Unavailable(msgspec.Struct, frozen=True):
    """Surely not stored, for instance because the disk is full; the log goes on working.

    Never said of a record of which an earlier append was `Unknown` and may still arrive: that stays `Unknown`.
    """

    reason: str


class Unknown(msgspec.Struct, frozen=True):
    """Stored or not: append the same bytes again until it is known."""

    reason: str


Outcome = Stored | Fenced | Unavailable | Unknown


class LogReader(Protocol):
    """The reading half; one thread per reader."""

    @property
    def origin(self) -> Chain:
        """Where the chain stands before the oldest record kept: all zero unless the log was trimmed."""
        ...

    def last(self) -> int:
        """Return the number of the newest record, 0 when there never was one."""
        ...

    def read(self, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield records from number `start` (or the oldest kept, if that is later), in order, without a gap.

        Raises
        ------
        LogDamaged
            on a gap or an unreadable page.
        """
        ...

    def holding(self, event: int) -> tuple[int, bytes] | None:
        """Return number and bytes of the record that holds event number `event`; None: trimmed, or not yet there."""
        ...


class Log(LogReader, Protocol):
    """Both halves."""

    def append(self, expected: int, record: bytes) -> Outcome:
        """Store `record` as number `expected + 1` if the newest record is `expected` and the one it names as `prev`.

        The same bytes again are `Stored` again.

        Raises
        ------
        LogDamaged
            when the log is shorter than `expected`, or the disk failed in a way that must not be retried.
        """
        ...

    def trim(self, before: int) -> None:
        """Forget the records below number `before`; the newest is always kept."""
        ...
