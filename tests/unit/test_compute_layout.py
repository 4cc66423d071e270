"""What is written of an execution: streams within their limits, whole outcome files, texts cut at characters."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacalhau_daemon.compute import layout
from bacalhau_daemon.core.compute_reports import Phase
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import Outcome, OutcomeKind

RECORD = layout.OutcomeRecord(
    attempt=2, outcome=Outcome(kind=OutcomeKind.EXITED, exit_code=4294967295), phases=(Phase("Running", 5),)
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    layout.create(tmp_path / "e-1", (ResultPath(name="outputs", path="/o"),))
    return tmp_path / "e-1"


def test_the_result_tree_is_completed(directory: Path) -> None:
    """Empty streams, the whole exit code (Bacalhau keeps four characters of it), the outcome beside the tree."""
    ending = layout.finish(directory, RECORD, durable=True)
    results = directory / "results"
    assert sorted(path.name for path in results.iterdir()) == ["exitCode", "outputs", "stderr", "stdout"]
    assert (results / "exitCode").read_text() == "4294967295"
    assert layout.read_outcome(directory, 2) == RECORD
    assert ending.output.exit_code == 4294967295


def test_an_outcome_of_another_attempt_is_not_taken(directory: Path) -> None:
    """Nor one that cannot be read."""
    layout.finish(directory, RECORD, durable=True)
    assert layout.read_outcome(directory, 3) is None
    (directory / "outcome.json").write_text("{")
    assert layout.read_outcome(directory, 2) is None


def test_a_huge_stream_is_cut_with_a_note(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not silently, and not longer than the limit."""
    monkeypatch.setattr(layout, "STREAM_BYTES_MAX", 1000)
    (directory / "results/stdout").write_bytes(b"x" * 1001)
    (directory / "results/stderr").write_bytes(b"y" * 1000)
    layout.finish(directory, RECORD, durable=True)
    cut = (directory / "results/stdout").read_bytes()
    assert len(cut) == 1000
    assert cut.endswith(b"[bacalhau: output cut off here after 1000 of 1001 bytes]\n")
    assert (directory / "results/stderr").read_bytes() == b"y" * 1000


@pytest.mark.parametrize(
    ("data", "text", "cut"),
    [
        (b"x" * 2048, "x" * 2048, False),
        (b"x" * 2049, "x" * 2048, True),
        ("ä".encode() * 1024 + b"x", "ä" * 1024, True),
        (b"x" + "ä".encode() * 1024, "x" + "ä" * 1023, True),
        (b"a\xffb", "a\ufffdb", False),
        (b"ends in the middle \xc3", "ends in the middle \ufffd", False),
    ],
)
def test_the_first_two_kilobytes_are_reported(directory: Path, data: bytes, text: str, cut: bool) -> None:
    """Cut between characters; what is not UTF-8 shows as such."""
    (directory / "results/stdout").write_bytes(data)
    output = layout.finish(directory, RECORD, durable=True).output
    assert (output.stdout, output.stdout_truncated) == (text, cut)


def test_the_end_of_a_stream_is_kept(directory: Path) -> None:
    """64 kB of it, with its place."""
    (directory / "results/stdout").write_bytes(b"a" * 10 + b"b" * 64 * 1024)
    tail = layout.finish(directory, RECORD, durable=True).stdout
    assert (tail.data, tail.offset) == (b"b" * 64 * 1024, 10)


def test_links_and_directories_in_place_of_streams_are_replaced(directory: Path, tmp_path: Path) -> None:
    """Nothing is written or read through them."""
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    (directory / "results/stdout").symlink_to(secret)
    (directory / "results/stderr").mkdir()
    (directory / "results/exitCode").symlink_to(secret)
    ending = layout.finish(directory, RECORD, durable=True)
    assert (ending.output.stdout, ending.output.stderr) == ("", "")
    assert secret.read_text() == "hunter2"
    assert not (directory / "results/exitCode").is_symlink()


def test_a_new_attempt_starts_clean(directory: Path) -> None:
    """What the old one wrote is gone, its outcome first of all."""
    layout.finish(directory, RECORD, durable=True)
    layout.start_over(directory)
    assert list(directory.iterdir()) == []
