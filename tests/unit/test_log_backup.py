"""Backup of a log in use, restore with verification, and the full check."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from bacalhau_daemon.log.backup import backup, check, restore
from bacalhau_daemon.log.base import Stored
from bacalhau_daemon.log.records import Chain, LogDamaged, LogTooNew
from bacalhau_daemon.log.sqlite import SqliteLog
from bacalhau_protocol.errors import Conflict, NotFound
from tests.builders_log import fill, records, sealed


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    """A log of twenty records, closed."""
    log = SqliteLog(tmp_path / "log.db")
    fill(log, 20)
    log.close()
    return tmp_path / "log.db"


def read_all(path: Path) -> list[bytes]:
    log = SqliteLog(path)
    try:
        return [data for _, data in log.read(1)]
    finally:
        log.close()


def test_a_backup_restores_to_the_same_records(log_path: Path, tmp_path: Path) -> None:
    """Header, records and end come back; so do the files that were attached."""
    written = read_all(log_path)
    made = backup(log_path, tmp_path / "one.backup", attachments={"keys.json": b"{}\n\xff"})
    elsewhere = tmp_path / "elsewhere.db"
    found = restore(tmp_path / "one.backup", elsewhere)
    assert found == made
    assert found.header.attachments == {"keys.json": b"{}\n\xff"}
    assert found.end.records == 20
    assert read_all(elsewhere) == written
    assert check(elsewhere) == check(log_path) == found.end.chain


def test_a_restored_log_goes_on(log_path: Path, tmp_path: Path) -> None:
    """The next record follows the last one of the backup; what was there before is kept beside it."""
    chain = check(log_path)
    backup(log_path, tmp_path / "one.backup")
    log = SqliteLog(log_path)
    log.append(20, sealed(chain, "after the backup")[0])
    log.close()
    restore(tmp_path / "one.backup", log_path)
    restored = SqliteLog(log_path)
    assert restored.append(20, sealed(chain, "another")[0]) == Stored(21)
    restored.close()
    assert len(read_all(tmp_path / "log.db.replaced-1")) == 21


def test_a_trimmed_log_is_backed_up_from_its_origin(log_path: Path, tmp_path: Path) -> None:
    """The chain starts where the trim left it."""
    log = SqliteLog(log_path)
    log.trim(11)
    log.close()
    assert backup(log_path, tmp_path / "one.backup").end.records == 10
    restore(tmp_path / "one.backup", tmp_path / "elsewhere.db")
    assert read_all(tmp_path / "elsewhere.db") == read_all(log_path)


def test_a_backup_of_a_log_in_use_is_a_prefix_of_it(tmp_path: Path) -> None:
    """While a writer appends, each backup is complete up to a record and the writer never waits for it to end."""
    path = tmp_path / "log.db"
    log = SqliteLog(path)
    stop = threading.Event()

    def write() -> None:
        for n, data in enumerate(records(5000, size_bytes=500)):
            if stop.is_set():
                return
            assert log.append(n, data) == Stored(n + 1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        ends = [backup(path, tmp_path / f"{number}.backup").end for number in range(5)]
    finally:
        stop.set()
        writer.join()
    everything = dict(enumerate(log.verify(), 1))
    log.close()
    for number, end in enumerate(ends):
        assert end.chain == everything.get(end.records, Chain())
        restore(tmp_path / f"{number}.backup", tmp_path / f"{number}.db")


def test_a_backup_never_overwrites(log_path: Path, tmp_path: Path) -> None:
    """An existing file is refused and stays."""
    (tmp_path / "one.backup").write_text("mine")
    with pytest.raises(Conflict, match="the file exists"):
        backup(log_path, tmp_path / "one.backup")
    assert (tmp_path / "one.backup").read_text() == "mine"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """Neither a missing log nor a missing backup is a traceback."""
    with pytest.raises(NotFound, match="there is no log"):
        backup(tmp_path / "log.db", tmp_path / "one.backup")
    with pytest.raises(NotFound, match="the backup cannot be read"):
        restore(tmp_path / "one.backup", tmp_path / "log.db")
    assert list(tmp_path.iterdir()) == []


def damaged(lines: list[bytes], how: str) -> list[bytes]:
    match how:
        case "record changed":
            lines[5] = lines[5].replace(b'"cause":"test"', b'"cause":"TEST"')
        case "record missing":
            del lines[5]
        case "end missing":
            del lines[-1]
        case "cut in a record":
            lines[15:] = [lines[15][:40]]
        case "end of another":
            lines[-1] = lines[-1].replace(b'"records":20', b'"records":19')
        case "header changed":
            header = json.loads(lines[0])
            lines[0] = json.dumps(header | {"taken": 1}).encode()
        case "no header":
            del lines[0]
        case "empty":
            lines.clear()
    return lines


@pytest.mark.parametrize(
    ("how", "place"),
    [
        ("record changed", "line 7"),
        ("record missing", "line 6"),
        ("end missing", "line 22"),
        ("cut in a record", "line 16"),
        ("end of another", "line 22"),
        ("header changed", "line 22"),
        ("no header", "line 1"),
        ("empty", "line 1"),
    ],
)
def test_a_damaged_backup_changes_nothing(how: str, place: str, log_path: Path, tmp_path: Path) -> None:
    """Refused with the line; the log that was there is untouched, and nothing is left over."""
    source = tmp_path / "one.backup"
    backup(log_path, source)
    before = read_all(log_path)
    source.write_bytes(b"\n".join(damaged(source.read_bytes().splitlines(), how)) + b"\n")
    with pytest.raises(LogDamaged) as caught:
        restore(source, log_path)
    assert caught.value.place == f"{source}, {place}"
    assert caught.value.hint == "use another backup file; nothing was changed"
    assert read_all(log_path) == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.db", "log.db-tip", "one.backup"]


def test_a_backup_of_a_newer_format_is_refused(log_path: Path, tmp_path: Path) -> None:
    """The file's own format has a version."""
    source = tmp_path / "one.backup"
    backup(log_path, source)
    source.write_bytes(source.read_bytes().replace(b'"version":1', b'"version":2', 1))
    with pytest.raises(LogTooNew, match="version 2 is not known"):
        restore(source, log_path)


def test_a_damaged_log_is_not_backed_up(log_path: Path, tmp_path: Path) -> None:
    """A backup that could not be restored is not made."""
    log = SqliteLog(log_path)
    log._writer.execute("UPDATE records SET data = CAST(replace(data, 'test', 'TEST') AS BLOB) WHERE n = 7")
    log.close()
    with pytest.raises(LogDamaged, match="record 8"):
        backup(log_path, tmp_path / "one.backup")
    with pytest.raises(LogDamaged, match="record 7"):
        check(log_path)
    assert not list(tmp_path.glob("one.backup*"))
