"""The SQLite log and what goes wrong around it: kill -9, a full disk, a failed fsync, flipped bits, cut tails."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bacalhau_daemon.log.base import Fenced, Stored, Unavailable
from bacalhau_daemon.log.records import Chain, LogDamaged, LogTooNew
from bacalhau_daemon.log.scrub import scrub
from bacalhau_daemon.log.sqlite import SIDECARS, SqliteLog
from bacalhau_daemon.log.sqlite_reader import SqliteReader, tip_path
from tests.builders_log import fill, records, sealed

KILLS = 20
WRITER = """
import sys
from pathlib import Path
from bacalhau_daemon.log.sqlite import SqliteLog
from tests.builders_log import records

log = SqliteLog(Path(sys.argv[1]))
chain = log.chain_at(log.last())
print(chain.n, flush=True)
for n, data in enumerate(records(1_000_000, chain, size_bytes=700), chain.n + 1):
    log.append(n - 1, data)
    print(n, flush=True)
"""


def verified(path: Path) -> list[bytes]:
    """Open a log as a daemon does, verify all of it, and return its records."""
    log = SqliteLog(path)
    try:
        assert [chain.n for chain in log.verify()] == list(range(log.origin.n + 1, log.tip.n + 1))
        return [data for _, data in log.read(1)]
    finally:
        log.close()


def test_kill_9_in_the_middle_of_appends_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Killed at twenty random moments: what was acknowledged is there, the chain holds, at most one record is extra."""
    path, acknowledged = tmp_path / "log.db", 0
    chance = random.Random(3)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root / "daemon", root)))}
    for _ in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert child.stdout is not None
        first = int(child.stdout.readline())
        assert first in {acknowledged, acknowledged + 1}
        for _ in range(chance.randrange(1, 40)):
            acknowledged = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, child.stdout.read().split())])
        child.wait()
        child.stdout.close()
        stored = verified(path)
        assert len(stored) in {acknowledged, acknowledged + 1}
        acknowledged = len(stored)


def test_a_full_file_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """SQLITE_FULL is Unavailable: nothing stored, the same connection goes on, the same record is stored later."""
    log = SqliteLog(tmp_path / "log.db")
    chain = fill(log, 3)
    log._writer.execute("PRAGMA max_page_count=10")
    data, _ = sealed(chain, "x" * 100_000)
    outcome = log.append(3, data)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason.startswith(f"the disk is full: the disk of {tmp_path} has ")
    assert log.last() == 3
    log._writer.execute("PRAGMA max_page_count=1000000")
    assert log.append(3, data) == Stored(4)
    log.close()
    assert len(verified(tmp_path / "log.db")) == 4


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small tmpfs: the real full disk was NOT tested")
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a tmpfs here, the real full disk was NOT tested: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.needs_root
def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path) -> None:
    """On a disk that is really full nothing acknowledged is lost; the log goes on when there is space."""
    path = small_disk / "log.db"
    log = SqliteLog(path)
    written: list[bytes] = []
    for data in records(10_000, size_bytes=2000):
        outcome = log.append(len(written), data)
        if isinstance(outcome, Unavailable):
            break
        written.append(data)
    assert isinstance(outcome, Unavailable)
    assert len(written) > 50
    assert [data for _, data in log.read(1)] == written
    again = SqliteReader(path)
    again.check()
    again.close()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert log.append(len(written), data) == Stored(len(written) + 1)
    log.close()
    assert verified(path) == [*written, data]


class FailingDisk:
    """A connection whose next COMMIT fails as SQLite fails when fsync does."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.commits = 0

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            self.commits += 1
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
            raise error
        return self.connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def test_a_failed_fsync_stops_the_log_and_is_never_retried(tmp_path: Path) -> None:
    """After a failed fsync every append raises, without touching the disk again."""
    log = SqliteLog(tmp_path / "log.db")
    chain = fill(log, 2)
    disk = FailingDisk(log._writer)
    log._writer = disk  # type: ignore[assignment]
    data, _ = sealed(chain)
    for _ in range(3):
        with pytest.raises(LogDamaged, match="SQLITE_IOERR_FSYNC"):
            log.append(2, data)
    assert disk.commits == 1
    assert log.last() == 2
    log.close()


def test_two_logs_open_on_one_file_do_not_mix(tmp_path: Path) -> None:
    """Even without the lock on the data directory: one writer wins a number, the other is fenced and stays so."""
    path = tmp_path / "log.db"
    one, two = SqliteLog(path), SqliteLog(path)
    chain = fill(one, 5)
    ours, after = sealed(chain, "ours")
    theirs, _ = sealed(chain, "theirs")
    assert two.append(5, theirs) == Stored(6)
    assert isinstance(one.append(5, ours), Fenced)
    assert isinstance(one.append(6, sealed(after)[0]), Fenced)
    assert one.append(5, theirs) == Stored(6)
    one.close()
    two.close()
    assert len(verified(path)) == 6


# ── damage ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """The files of a log as kill -9 leaves them, with records both in the file and in the write-ahead log."""
    path = tmp_path_factory.mktemp("live") / "log.db"
    log = SqliteLog(path)
    fill(log, 40, size_bytes=3000)
    log._checkpoint("TRUNCATE")
    chain = log.chain_at(40)
    for n, data in enumerate(records(20, chain, size_bytes=3000), 40):
        log.append(n, data)
    written = [data for _, data in log.read(1)]
    left = tmp_path_factory.mktemp("left") / "log.db"
    copy(path, left)
    log.close()
    return left, written


@pytest.fixture(scope="module")
def clean(live: tuple[Path, list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same log after a clean stop: one file and its tip."""
    path = tmp_path_factory.mktemp("clean") / "log.db"
    copy(live[0], path)
    SqliteLog(path).close()
    return path


def copy(source: Path, target: Path) -> None:
    for end in SIDECARS:
        if (file := source.with_name(source.name + end)).exists() and end != "-shm":
            shutil.copy(file, target.with_name(target.name + end))


def refused_or_whole(path: Path, written: list[bytes]) -> bool:
    """Whether the log refuses to start; if it does not, all records must be there and right."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.name.endswith("-shm")}
    try:
        assert verified(path) == written
    except (LogDamaged, LogTooNew) as error:
        refusal = error
    else:
        return False
    assert str(path) in refusal.place
    assert "restore" in refusal.hint
    for name, data in before.items():
        assert (path.parent / name).read_bytes() == data, f"{name} was changed by a start that refused"
    return True


def test_the_untouched_log_starts(live: tuple[Path, list[bytes]], clean: Path, tmp_path: Path) -> None:
    """Neither kill -9 nor a clean stop leaves anything that a start refuses."""
    for number, source in enumerate((live[0], clean)):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "log.db"
        copy(source, path)
        assert not refused_or_whole(path, live[1])


@pytest.mark.parametrize("where", ["file", "wal", "clean file"])
def test_a_flipped_bit_is_refused_or_harmless(
    where: str, live: tuple[Path, list[bytes]], clean: Path, tmp_path: Path
) -> None:
    """One bit flipped anywhere: the start refuses and names the place, or every record is served as it was written."""
    source, written = live
    refusals, chance = 0, random.Random(5)
    for number in range(60):
        path = tmp_path / str(number) / "log.db"
        path.parent.mkdir()
        copy(clean if where == "clean file" else source, path)
        flip(path.with_name("log.db-wal") if where == "wal" else path, chance)
        refusals += refused_or_whole(path, written)
        shutil.rmtree(path.parent)
    assert refusals >= 30, f"only {refusals} of 60 were noticed"


def flip(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    bit = chance.randrange(len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("where", ["file", "wal", "clean file"])
def test_a_cut_tail_is_refused(where: str, live: tuple[Path, list[bytes]], clean: Path, tmp_path: Path) -> None:
    """Cut off anywhere, also to nothing: the start refuses, because the tip file knows how far the log went."""
    source, written = live
    chance = random.Random(7)
    for number in range(20):
        path = tmp_path / str(number) / "log.db"
        path.parent.mkdir()
        copy(clean if where == "clean file" else source, path)
        file = path.with_name("log.db-wal") if where == "wal" else path
        size = file.stat().st_size
        os.truncate(file, 0 if number == 0 else chance.randrange(size - size // 4, size - 1))
        assert refused_or_whole(path, written)
        shutil.rmtree(path.parent)


def test_a_missing_file_is_refused(clean: Path, tmp_path: Path) -> None:
    """A log that is gone is not silently begun anew while its tip says that it was there."""
    copy(clean, tmp_path / "log.db")
    (tmp_path / "log.db").unlink()
    with pytest.raises(LogDamaged, match="it is gone; it held 60 records"):
        SqliteLog(tmp_path / "log.db")


def test_the_missing_tail_is_named(live: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    """The words say which records are gone and what to do."""
    path = tmp_path / "log.db"
    copy(live[0], path)
    (tmp_path / "log.db-wal").unlink()
    with pytest.raises(LogDamaged, match="records 41 to 60 were acknowledged and are missing") as caught:
        SqliteLog(path)
    assert caught.value.place == f"{path}, record 41"


def test_an_unreadable_tip_proves_nothing(clean: Path, live: tuple[Path, list[bytes]], tmp_path: Path) -> None:
    """The tip file is not synced, so a power cut may leave rubbish in it; the log starts and writes it anew."""
    path = tmp_path / "log.db"
    copy(clean, path)
    tip_path(path).write_bytes(b"\0" * 40)
    assert verified(path) == live[1]
    assert b'"n":60' in tip_path(path).read_bytes()


def test_a_record_that_was_replaced_is_named(clean: Path, tmp_path: Path) -> None:
    """Tampering that SQLite cannot see breaks the chain, and the place is named."""
    path = tmp_path / "log.db"
    copy(clean, path)
    database = sqlite3.connect(path)
    database.execute("UPDATE records SET data = replace(data, '29-0', '29-9') WHERE n = 30")
    database.commit()
    database.close()
    with pytest.raises(LogDamaged, match="expected the hash of record 30 to be") as caught:
        verified(path)
    assert caught.value.place == f"{path}, record 31"


def test_a_wrong_index_is_never_believed(clean: Path, tmp_path: Path) -> None:
    """An event that the index leads to the wrong record for is an error, not a line missing from a history."""
    path = tmp_path / "log.db"
    copy(clean, path)
    log = SqliteLog(path)
    event = log.chain_at(30).event
    log._writer.execute("UPDATE records SET event = event - 1 WHERE n = 31")
    with pytest.raises(LogDamaged, match=f"the index finds it for event {event}"):
        log.holding(event)
    log.close()


def test_a_gap_is_refused(clean: Path, tmp_path: Path) -> None:
    """A record that is gone from the middle is noticed by counting."""
    path = tmp_path / "log.db"
    copy(clean, path)
    database = sqlite3.connect(path)
    database.execute("DELETE FROM records WHERE n = 30")
    database.commit()
    database.close()
    with pytest.raises(LogDamaged, match="expected 59 records numbered 1 to 59, found 1 to 60"):
        SqliteLog(path)


def test_only_the_newest_records_are_verified_at_a_start(clean: Path, tmp_path: Path) -> None:
    """A start is bounded; damage in an older part is found by the scrub."""
    path = tmp_path / "log.db"
    copy(clean, path)
    database = sqlite3.connect(path)
    database.execute("UPDATE records SET data = replace(data, '9-0', '9-9') WHERE n = 10")
    database.commit()
    database.close()
    log = SqliteReader(path)
    assert log.check(limit_bytes=20_000).n == log.check(limit_records=10).n == 60
    for verify_all in (log.check, lambda: list(log.verify())):
        with pytest.raises(LogDamaged, match="expected the hash of record 10 to be") as caught:
            verify_all()
        assert caught.value.place == f"{path}, record 11"
    log.close()


def test_the_scrub_verifies_a_log_in_use(clean: Path, tmp_path: Path) -> None:
    """Up to where it stands; it stops when told to."""
    path = tmp_path / "log.db"
    copy(clean, path)
    log = SqliteLog(path)
    stop = threading.Event()
    assert scrub(path, stop, pause_s=0) == log.tip
    log._writer.execute("UPDATE records SET data = CAST(replace(data, '9-0', '9-9') AS BLOB) WHERE n = 40")
    with pytest.raises(LogDamaged, match="expected the hash of record 40 to be"):
        scrub(path, stop, pause_s=0)
    stop.set()
    assert scrub(path, stop) is None
    log.close()


def test_a_format_of_a_newer_release_is_refused(clean: Path, tmp_path: Path) -> None:
    """The file's own format has a version too."""
    path = tmp_path / "log.db"
    copy(clean, path)
    database = sqlite3.connect(path)
    database.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
    database.commit()
    database.close()
    with pytest.raises(LogTooNew, match="log format 2 is not known"):
        SqliteLog(path)


def test_a_start_after_a_crash_before_the_first_record(tmp_path: Path) -> None:
    """An empty log is complete on the disk before it gets its name, so a half-made one is simply made again."""
    (tmp_path / "log.db-new").write_bytes(b"half")
    SqliteLog(tmp_path / "log.db").close()
    assert verified(tmp_path / "log.db") == []
    assert Chain() == SqliteReader(tmp_path / "log.db").origin
