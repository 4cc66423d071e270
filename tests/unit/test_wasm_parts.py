"""The parts of the wasm engine that need no process: frames, disk usage, what the fork server makes of its children."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import socket
from pathlib import Path

import msgspec
import pytest

from bacalhau_engines.wasm import usage
from bacalhau_engines.wasm.cache import Cache
from bacalhau_engines.wasm.children import CompileChild, Worker, signal_name
from bacalhau_engines.wasm.wire import (
    FRAME_LIMIT,
    Ended,
    Frames,
    Kill,
    Loaded,
    Message,
    ModuleFile,
    ModuleInfo,
    NotLoaded,
    Report,
    Run,
    Started,
    frame,
    to_server,
)

USED = resource.getrusage(resource.RUSAGE_SELF)
MODULE = ModuleFile(digest="d", path="/m")


class Silent(Worker):
    """A worker without a process."""

    killed = False

    def kill(self) -> None:
        self.killed = True


class Recorder:
    """A run's worker without a process: what it tells the daemon, and whether it was killed."""

    def __init__(self, tmp_path: Path, **changes: object) -> None:
        self.sent: list[Message] = []
        values = {
            "id": 1, "modules": (MODULE,), "entry_point": "_start", "argv": ("",), "env": (), "preopens": (),
            "stdout": str(tmp_path / "stdout"), "stderr": str(tmp_path / "stderr"),
            "memory_limit": 1, "output_limit": 0, "stream_limit": 10,
        }  # fmt: skip
        self.rests: list[Worker] = []
        run = Run(**(values | changes))  # type: ignore[arg-type]
        self.child = Silent(run, 0, 0, self.sent.append, self.rests.append)

    @property
    def killed(self) -> bool:
        return self.child.killed

    @property
    def end(self) -> Ended:
        (ended,) = [message for message in self.sent if isinstance(message, Ended)]
        return ended


def test_frames_come_out_however_they_are_cut() -> None:
    """Byte by byte or all at once."""
    messages = [Kill(id=n) for n in range(3)]
    data = b"".join(map(frame, messages))
    for step in (1, 3, len(data)):
        frames = Frames()
        bodies = [body for start in range(0, len(data), step) for body in frames.feed(data[start : start + step])]
        assert [to_server.decode(body) for body in bodies] == messages


def test_a_frame_above_the_limit_is_refused() -> None:
    """Before its content is waited for."""
    with pytest.raises(ValueError, match="above the limit"):
        list(Frames().feed((FRAME_LIMIT + 1).to_bytes(4, "big")))


def test_usage_counts_blocks_and_entries_and_follows_no_links(tmp_path: Path) -> None:
    """Whole blocks, at least one per entry, nothing behind a link, no hole of a sparse file."""
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").write_bytes(b"x" * 5000)
    (tree / "empty").write_bytes(b"")
    with (tree / "sparse").open("wb") as file:
        file.truncate(10**9)
    (tmp_path / "outside").write_bytes(b"x" * 10**6)
    (tree / "link").symlink_to(tmp_path / "outside")
    (tree / "up").symlink_to("..")
    assert usage.total([str(tree)]) == (2 + 5) * usage.ENTRY_BYTES  # 5000 bytes are two blocks; five others are one
    assert usage.total([str(tmp_path / "missing")]) == 0


def test_usage_goes_in_steps(tmp_path: Path) -> None:
    """A large directory does not hold up whoever walks it."""
    for n in range(1000):
        (tmp_path / str(n)).touch()
    assert len(list(usage.walk([str(tmp_path)]))) > 3


def test_a_run_that_reports_nonsense_is_ended(tmp_path: Path) -> None:
    """A guest that has taken over its process cannot confuse the fork server, nor speak twice."""
    for data in (b"junk", b"\x81\xa4kind\xa5wrong", b""):
        recorder = Recorder(tmp_path)
        recorder.child.received(data)
        recorder.child.received(b"\x81\xa4kind\xa6exited")
        assert recorder.killed
        recorder.child.ended(signal.SIGKILL, USED)
        assert (recorder.end.kind, recorder.end.exit_code) == ("signalled", 137)


def test_the_first_report_counts(tmp_path: Path) -> None:
    """What happens to the process afterwards changes nothing."""
    recorder = Recorder(tmp_path)
    assert recorder.child.running
    recorder.child.running.started()
    recorder.child.received(b"\x81\xa4kind\xa6exited")
    recorder.child.running.condemn("cancelled", "too late")
    recorder.child.received(b"junk")
    recorder.child.ended(signal.SIGSEGV, USED)
    assert not recorder.killed
    assert [type(message) for message in recorder.sent] == [Started, Ended]
    assert recorder.end.kind == "exited"


def test_a_worker_that_rests_has_nothing_to_say(tmp_path: Path) -> None:
    """What it says unasked is the word of a guest that has taken it over: that is its end, and nobody's outcome."""
    recorder = Recorder(tmp_path)
    recorder.child.received(msgspec.msgpack.encode(Report(kind="exited", again=True)))
    assert recorder.rests == [recorder.child]
    assert not recorder.killed
    recorder.child.received(msgspec.msgpack.encode(Report(kind="exited", again=True)))
    assert recorder.killed
    recorder.child.ended(signal.SIGKILL, USED)
    assert recorder.end.kind == "exited", "there was one run, and one end"


def test_a_worker_without_work_is_sent_away_and_then_ended(tmp_path: Path) -> None:
    """It may not want to go."""
    recorder = Recorder(tmp_path)
    recorder.child.received(msgspec.msgpack.encode(Report(kind="exited", again=True)))
    recorder.child.channel, theirs = socket.socketpair()
    with recorder.child.channel, theirs:
        again = recorder.child.look(100.0)
        assert theirs.recv(1) == b"", "it reads that there is no more"
        assert not recorder.killed
        assert again is not None
        assert recorder.child.look(again) is None
        assert recorder.killed


def test_a_run_that_writes_too_much_is_ended_and_cut(tmp_path: Path) -> None:
    """The stream keeps its first bytes up to the limit."""
    recorder = Recorder(tmp_path)
    (tmp_path / "stderr").write_bytes(b"x" * 50)
    assert recorder.child.look(0.0) is None
    assert recorder.killed
    recorder.child.ended(signal.SIGKILL, USED)
    assert recorder.end.kind == "over-limit"
    assert "stderr" in recorder.end.message
    assert (tmp_path / "stderr").stat().st_size == 10


def test_a_run_is_looked_at_again_while_it_keeps_its_limits(tmp_path: Path) -> None:
    """And not after its deadline."""
    recorder = Recorder(tmp_path, timeout_s=3600.0)
    again = recorder.child.look(100.0)
    assert again is not None
    assert 100.0 < again < 101.0
    assert recorder.child.look(1e12) is None
    assert recorder.killed


def test_a_compiler_that_dies_or_lies_is_told_in_words() -> None:
    """Out of time, crashed, or speaking of another module: there is one answer, for the right module."""
    for status, data, words in (
        (signal.SIGXCPU, b"", "CPU time"),
        (signal.SIGSEGV, b"", "SIGSEGV"),
        (0, frame(Loaded(digest="other", info=ModuleInfo())), "crashed"),
    ):
        answers: list[Loaded | NotLoaded] = []
        child = CompileChild(MODULE, 7, answers.append)
        child.received(data)
        child.ended(status, USED)
        (answer,) = answers
        assert isinstance(answer, NotLoaded)
        assert answer.digest == "d"
        assert words in answer.message


def test_signals_have_names() -> None:
    """Real-time ones as well, and an ordinary exit has none."""
    assert signal_name(signal.SIGSEGV) == "SIGSEGV"
    assert signal_name(40) == "signal 40"
    assert signal_name(3 << 8) == ""


def test_the_cache_drops_the_least_recently_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding counts as use; what has just been stored stays."""
    monkeypatch.setattr("bacalhau_engines.wasm.cache.CACHE_BYTES_MAX", 250)
    cache = Cache(tmp_path / "1")

    def info(code: bytes) -> ModuleInfo:
        return ModuleInfo(compiled_digest=hashlib.sha256(code).hexdigest(), compiled_bytes=len(code))

    for digest, age in (("a", 30), ("b", 20)):
        cache.store(digest, b"x" * 100, info(b"x" * 100))
        os.utime(cache.code(digest), (age, age))
    assert cache.find("a")
    cache.store("c", b"y" * 100, info(b"y" * 100))
    assert [digest for digest in "abc" if cache.find(digest)] == ["a", "c"]
