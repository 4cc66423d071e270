"""What every implementation of the log port does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.log.base import Fenced, Log, Stored
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.log.records import RECORD_BYTES_MAX, Chain, LogDamaged
from bacalhau_daemon.log.sqlite import SqliteLog
from tests.builders_log import CODEC, fill, records, sealed

Reopen = Callable[[], Log]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """A function that opens the log; called again, it closes it first and opens it anew."""
    memory = MemoryLog()
    opened: list[SqliteLog] = []

    def open_memory() -> Log:
        return memory

    def open_sqlite() -> Log:
        while opened:
            opened.pop().close()
        opened.append(SqliteLog(tmp_path / "log.db"))
        return opened[-1]

    yield open_memory if request.param == "memory" else open_sqlite
    while opened:
        opened.pop().close()


@pytest.fixture
def log(reopen: Reopen) -> Log:
    """An empty log."""
    return reopen()


def test_an_empty_log_ends_at_zero(log: Log) -> None:
    """A new log has no records and its chain starts at nothing."""
    assert log.last() == 0
    assert log.origin == Chain()
    assert list(log.read(0)) == []
    assert log.holding(1) is None


def test_records_come_back_as_they_were_appended(reopen: Reopen) -> None:
    """Records are read in order, byte for byte, from any number on, also after the log was opened again."""
    written = list(records(150))
    log = reopen()
    for n, data in enumerate(written):
        assert log.append(n, data) == Stored(n + 1)
    for _ in range(2):
        assert log.last() == 150
        assert list(log.read(1)) == list(enumerate(written, 1))
        assert list(log.read(149)) == [(149, written[148]), (150, written[149])]
        assert list(log.read(151)) == []
        log = reopen()


def test_the_same_bytes_again_are_stored_again(log: Log) -> None:
    """A writer that does not know whether its record was stored sends the same bytes again and is told the truth."""
    data, chain = sealed(Chain())
    assert log.append(0, data) == Stored(1)
    assert log.append(0, data) == Stored(1)
    following, _ = sealed(chain)
    assert log.append(1, following) == Stored(2)
    assert log.append(0, data) == Stored(1)
    assert log.last() == 2


def test_of_two_writers_one_is_fenced(log: Log) -> None:
    """Of two different records with the same number the second is refused, and changes nothing."""
    chain = fill(log, 3)
    ours, _ = sealed(chain, "ours")
    theirs, _ = sealed(chain, "theirs")
    assert log.append(3, theirs) == Stored(4)
    assert isinstance(log.append(3, ours), Fenced)
    assert log.append(3, theirs) == Stored(4)
    assert [data for _, data in log.read(4)] == [theirs]


def test_a_deposed_writer_stays_fenced_when_it_goes_on(log: Log) -> None:
    """A writer whose last record lost cannot go on behind the winner: the hash that it names is not the winner's."""
    chain = fill(log, 3)
    lost, after_lost = sealed(chain, "lost")
    won, _ = sealed(chain, "won")
    log.append(3, won)
    assert isinstance(log.append(3, lost), Fenced)
    assert isinstance(log.append(4, sealed(after_lost)[0]), Fenced)
    assert log.last() == 4


def test_a_log_shorter_than_what_was_acknowledged_stops_its_writer(log: Log) -> None:
    """Appending behind the end means that acknowledged records are gone: never filled up, always an error."""
    chain = fill(log, 2)
    for data in records(2, chain):
        chain = chain.verify(data)
    with pytest.raises(LogDamaged, match="record 4 was acknowledged, but the log ends at 2"):
        log.append(4, sealed(chain)[0])


def test_the_record_that_holds_an_event_is_found(log: Log) -> None:
    """Every event number leads to the record that holds it; numbers before and after lead to nothing."""
    fill(log, 20)
    for n, data in log.read(1):
        record = CODEC.decode(data)
        for event in range(record.first_event, record.last_event + 1):
            assert log.holding(event) == (n, data)
    assert log.holding(0) is None
    assert log.holding(record.last_event + 1) is None


def test_trimming_keeps_numbers_and_chain(reopen: Reopen) -> None:
    """After a trim the numbers go on, the chain can be verified from its new origin, and old events are not found."""
    log = reopen()
    end = fill(log, 600)
    log.trim(590)
    for _ in range(2):
        chain = log.origin
        assert chain.n == 589
        for _, data in log.read(1):
            chain = chain.verify(data)
        assert chain == end
        assert log.holding(chain.event) is not None
        assert log.holding(log.origin.event) is None
        log = reopen()
    assert log.append(600, sealed(end)[0]) == Stored(601)


def test_trimming_never_takes_the_newest_record(reopen: Reopen) -> None:
    """Whatever is asked, the newest record stays: it is what the next one links to."""
    log = reopen()
    end = fill(log, 5)
    log.trim(100)
    log = reopen()
    assert [n for n, _ in log.read(0)] == [5]
    assert log.append(5, sealed(end)[0]) == Stored(6)


def test_trimming_what_is_gone_changes_nothing(log: Log) -> None:
    """A trim below the origin, or of an empty log, does nothing."""
    log.trim(10)
    fill(log, 5)
    log.trim(3)
    log.trim(2)
    assert [n for n, _ in log.read(0)] == [3, 4, 5]


def test_one_input_may_exceed_the_record_limit_alone(log: Log) -> None:
    """A record of twice the usual limit is stored like any other."""
    data, _ = sealed(Chain(), "x" * 2 * RECORD_BYTES_MAX)
    assert log.append(0, data) == Stored(1)
    assert list(log.read(1)) == [(1, data)]
