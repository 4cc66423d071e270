"""Result trees: walked in order, never followed out of, listed with hashes, removed whatever their modes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bacalhau_daemon.compute import manifest, retention, tree
from bacalhau_protocol.errors import NodeFailed, NotFound, UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a secret beside it and links that lead to it."""
    results = tmp_path / "results"
    (results / "a" / "deep").mkdir(parents=True)
    (results / "empty").mkdir()
    for name in ("a-b", "a/deep/x", "a/y", "stdout"):
        (results / name).write_text(name)
    (tmp_path / "secret").write_text("hunter2")
    (results / "link").symlink_to("../secret")
    (results / "up").symlink_to("..")
    return results


def paths(root: Path, after: str = "") -> list[str]:
    return [entry.path for entry in tree.walk(root, after)]


def test_a_walk_is_in_order_and_can_be_taken_up_anywhere(root: Path) -> None:
    """Beginning behind any path gives exactly the rest."""
    whole = paths(root)
    assert whole == ["a/deep/x", "a/y", "a-b", "empty/", "link", "stdout", "up"]
    for position, path in enumerate(whole):
        assert paths(root, path) == whole[position + 1 :]


def test_links_are_reported_not_followed(root: Path) -> None:
    """With their target, without content."""
    links = {entry.path: entry.link for entry in tree.walk(root) if entry.link}
    assert links == {"link": "../secret", "up": ".."}


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../secret", "a/../../secret", "./stdout", "a//y", "a\0", "a/", "x" * 5000]
)
def test_only_plain_relative_paths_are_opened(root: Path, path: str) -> None:
    """Said as a mistake of the caller."""
    with pytest.raises(UsageError):
        tree.open_file(root, path)


@pytest.mark.parametrize("path", ["link", "up/secret", "absent", "a", "stdout/x", "n" * 300])
def test_nothing_is_reached_through_a_link(root: Path, path: str) -> None:
    """A link at the end or on the way is no file; nor is a directory."""
    with pytest.raises(NotFound):
        tree.open_file(root, path)


def test_devices_and_pipes_are_left_out(root: Path) -> None:
    """And opening a pipe does not hang."""
    os.mkfifo(root / "pipe")
    assert "pipe" not in paths(root)
    with pytest.raises(NotFound):
        tree.open_file(root, "pipe")


def test_names_that_are_not_utf8_travel_and_open(root: Path) -> None:
    """As `%XX`; a name that really holds a per cent sign still opens."""
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe")).write_text("odd")
    (root / "50%AB").write_text("plain")
    assert {"%FF%FE", "50%AB"} <= set(paths(root))
    for path, content in (("%FF%FE", b"odd"), ("50%AB", b"plain")):
        descriptor = tree.open_file(root, path)
        assert os.read(descriptor, 10) == content
        os.close(descriptor)


def test_an_absent_tree_is_empty(tmp_path: Path) -> None:
    """Nothing was written."""
    assert paths(tmp_path / "absent") == []
    assert manifest.build(tmp_path / "absent") == []


def test_too_many_entries_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is complete or an error, never cut."""
    monkeypatch.setattr(manifest, "ENTRIES_MAX", 2)
    with pytest.raises(NodeFailed, match="more than 2 entries"):
        manifest.build(root)


def test_a_very_deep_tree_is_refused(tmp_path: Path) -> None:
    """Depth is bounded, so no job exhausts our stack or descriptors, and nothing is left out in silence."""
    deep = tmp_path / "r"
    deep.joinpath(*["d"] * 200).mkdir(parents=True)
    with pytest.raises(NodeFailed, match="nested 128 deep"):
        manifest.build(deep)
    assert tree.total_bytes(deep) == 0


def test_a_manifest_lists_hashes_and_is_read_back(root: Path, tmp_path: Path) -> None:
    """Links and empty directories without a hash."""
    made = manifest.build(root)
    manifest.write(tmp_path, made)
    assert manifest.read(tmp_path) == made
    assert {entry.path: entry.sha256 for entry in made}["a/y"] == hashlib.sha256(b"a/y").hexdigest()
    (tmp_path / manifest.NAME).write_text("broken")
    assert manifest.read(tmp_path) is None


def test_removing_gets_over_modes_taken_away(root: Path, tmp_path: Path) -> None:
    """And leaves what links point to alone."""
    (root / "a" / "deep").chmod(0)
    (root / "a").chmod(0o500)
    retention.remove(root)
    retention.remove(root)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def execution(root: Path, name: str, size: int, age_s: float) -> None:
    (root / name / "results").mkdir(parents=True)
    (root / name / "results" / "stdout").write_bytes(b"x" * size)
    os.utime(root / name, (10_000 - age_s, 10_000 - age_s))


@pytest.mark.parametrize(
    ("limits", "gone"),
    [
        (retention.Limits(keep_s=25, bytes_max=10**9), ["e-3"]),
        (retention.Limits(keep_s=1000, bytes_max=250), ["e-3"]),
        (retention.Limits(keep_s=1000, bytes_max=0), ["e-1", "e-2", "e-3"]),
        (retention.Limits(keep_s=1000, bytes_max=10**9), []),
    ],
)
def test_the_oldest_executions_go_first(tmp_path: Path, limits: retention.Limits, gone: list[str]) -> None:
    """By age and by bytes; what is not over stays."""
    for number in (1, 2, 3):
        execution(tmp_path, f"e-{number}", 100, age_s=10.0 * number)
    execution(tmp_path, "e-running", 10_000, age_s=5000)

    removed = retention.prune_executions(tmp_path, lambda name: name != "e-running", limits, now_s=10_000)
    assert sorted(removed) == gone
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"e-1", "e-2", "e-3", "e-running"} - set(gone))


def test_removals_that_a_crash_interrupted_are_finished(tmp_path: Path) -> None:
    """At the next start."""
    (tmp_path / ".gone-e-1" / "results").mkdir(parents=True)
    (tmp_path / "e-2").mkdir()
    retention.sweep_removed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["e-2"]


def test_the_watermark_is_the_smaller_of_bytes_and_share() -> None:
    """256 MB, or 2 % of a small disk."""
    big, small = 10**12, 10**9
    assert retention.Disk(300 * 1024**2, big).low is False
    assert retention.Disk(200 * 1024**2, big).low is True
    assert retention.Disk(30 * 10**6, small).low is False
    assert retention.Disk(10 * 10**6, small).low is True
