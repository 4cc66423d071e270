"""Small parts of the docker engine: frames of output, ends in words, layers of a pull, links, accounts."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bacalhau_engines.docker import life, outcomes, outputs, watch
from bacalhau_engines.docker.engine import can_limit_disk
from bacalhau_engines.docker.images import Layers, explain
from bacalhau_engines.docker.life import Ended
from bacalhau_engines.docker.outcomes import Context
from bacalhau_engines.docker.spec import Reference
from bacalhau_engines.docker.streams import STDERR, STDOUT, Sink, Sinks, frames
from bacalhau_protocol.errors import NodeFailed, SpecError
from bacalhau_protocol.models.times import parse_time
from bacalhau_protocol.plugins import OutcomeKind

SECOND = 10**9


def frame(number: int, data: bytes) -> bytes:
    return struct.pack(">BxxxL", number, len(data)) + data


# ── output ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(
    st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=8),
    st.lists(st.integers(1, 50), max_size=20),
)
def test_frames_do_not_care_how_they_arrive(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    """Cut anywhere, both streams come out whole and in order."""
    wire = b"".join(frame(number, data) for number, data in parts)
    chunks, at = [], 0
    for cut in cuts:
        chunks.append(wire[at : at + cut])
        at += cut
    chunks.append(wire[at:])
    got = {STDOUT: b"", STDERR: b""}
    for number, data in frames(chunks):
        got[number] += data
    for stream, whole in got.items():
        assert whole == b"".join(data for number, data in parts if number == stream)


def sinks(tmp_path: Path, *, base: int = 0, limit: int = 100) -> tuple[Sinks, list[str]]:
    told: list[str] = []
    return (
        Sinks(Sink(tmp_path / "stdout", base, limit), Sink(tmp_path / "stderr", 0, limit), told.append),
        told,
    )


def test_a_log_that_is_read_again_adds_what_is_new(tmp_path: Path) -> None:
    """Whatever stood in the file before the container, and however often it is read."""
    (tmp_path / "stdout").write_bytes(b"before ")
    made, _ = sinks(tmp_path, base=7)
    made.take([frame(STDOUT, b"one "), frame(STDERR, b"bad ")])
    for _ in range(2):
        made.again()
        made.take([frame(STDOUT, b"one t"), frame(STDERR, b"bad "), frame(STDOUT, b"wo "), frame(STDERR, b"worse")])
    made.note(["a note"])
    made.close()
    assert (tmp_path / "stdout").read_bytes() == b"before one two "
    assert (tmp_path / "stderr").read_bytes() == b"bad worse[bacalhau: a note]\n"


def test_too_much_output_is_told_once(tmp_path: Path) -> None:
    """Of the stream that it was; nothing is written after it."""
    made, told = sinks(tmp_path, limit=5)
    made.take([frame(STDOUT, b"123456"), frame(STDOUT, b"789"), frame(STDERR, b"x")])
    made.again()
    made.take([frame(STDOUT, b"123456789")])
    made.close()
    assert told == ["stdout"]
    assert made.overflowed
    assert (tmp_path / "stdout").read_bytes() == b"123456"


def test_a_stream_is_not_written_through_a_link(tmp_path: Path) -> None:
    """What stands in its place is not followed."""
    (tmp_path / "stdout").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        Sink(tmp_path / "stdout", 0, 10)


# ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "more", "kind", "words"),
    [
        (0, {}, OutcomeKind.EXITED, ""),
        (1, {}, OutcomeKind.EXITED, ""),
        (126, {}, OutcomeKind.EXITED, ""),
        (127, {}, OutcomeKind.EXITED, ""),
        (128, {}, OutcomeKind.EXITED, ""),
        (130, {}, OutcomeKind.EXITED, ""),
        (255, {}, OutcomeKind.EXITED, ""),
        (137, {}, OutcomeKind.SIGNALLED, "SIGKILL"),
        (139, {}, OutcomeKind.SIGNALLED, "SIGSEGV"),
        (134, {}, OutcomeKind.SIGNALLED, "SIGABRT"),
        (127, {"init_error": "exec x failed"}, OutcomeKind.COULD_NOT_RUN, "exec x failed"),
        (137, {"interrupted_until": 100 * SECOND}, OutcomeKind.COULD_NOT_RUN, "dockerd"),
        (255, {"interrupted_until": 100 * SECOND}, OutcomeKind.COULD_NOT_RUN, "dockerd"),
        (1, {"interrupted_until": 100 * SECOND}, OutcomeKind.EXITED, ""),
        (137, {"interrupted_until": 50 * SECOND}, OutcomeKind.SIGNALLED, "SIGKILL"),
        (137, {"reason": outcomes.stopped(OutcomeKind.TIMED_OUT)}, OutcomeKind.TIMED_OUT, ""),
    ],
)
def test_ends_in_words(code: int, more: dict[str, Any], kind: OutcomeKind, words: str) -> None:
    """Exit codes, signals, dockerd's restarts and our own reasons are kept apart; the code is always there."""
    ended = Ended(exit_code=code, started_at=1 * SECOND, ended_at=99 * SECOND)
    outcome = outcomes.outcome(ended, Context(image="x@sha256:1", **more))
    assert (outcome.kind, outcome.exit_code) == (kind, code)
    assert words in outcome.message
    assert (outcome.started_at, outcome.ended_at) == (1 * SECOND, 99 * SECOND)
    assert outcome.details == {"Image": "x@sha256:1"}


@pytest.mark.parametrize(
    ("started", "finished", "times"),
    [
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:03Z", (1, 3)),
        ("2026-01-01T00:00:05Z", "2026-01-01T00:00:03Z", (3, 3)),
        ("2026-01-01T00:00:05Z", "0001-01-01T00:00:00Z", (5, None)),
    ],
    ids=["in order", "a start noted after the end", "an end nobody saw"],
)
def test_a_container_begins_no_later_than_it_ends(started: str, finished: str, times: tuple[int, int | None]) -> None:
    """dockerd writes down the start of a short container after its end."""
    state = {"ExitCode": 0, "StartedAt": started, "FinishedAt": finished}
    ended = life.ended({"Id": "c-1", "Image": "sha256:1", "State": state})
    midnight = parse_time("2026-01-01T00:00:00Z")
    known = [None if at == 0 else (at - midnight) // SECOND for at in (ended.started_at, ended.ended_at)]
    assert tuple(known) == times


def test_memory_is_said_even_when_the_program_shrugs() -> None:
    """With its limit, which is its peak."""
    ended = Ended(exit_code=0, out_of_memory=True)
    outcome = outcomes.outcome(ended, Context(memory_bytes=64 * 1024**2))
    assert (outcome.kind, outcome.memory_peak_bytes) == (OutcomeKind.OUT_OF_MEMORY, 64 * 1024**2)
    assert "64 MiB" in outcome.message


def test_the_words_of_process_1_count_only_when_they_are_the_last(tmp_path: Path) -> None:
    """A program that prints them and goes on has started."""
    path = tmp_path / "stderr"
    assert outcomes.init_error(path) == ""
    path.write_text("[FATAL tini (7)] exec nope failed: No such file or directory\n")
    assert outcomes.init_error(path) == "exec nope failed: No such file or directory"
    path.write_text("[FATAL tini (7)] exec nope failed: fake\nand on it goes\n")
    assert outcomes.init_error(path) == ""


# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_add_up() -> None:
    """Known totals, each as far as it has come; what is complete counts whole, extracting changes nothing."""
    layers = Layers()
    lines: list[dict[str, Any]] = [
        {"status": "Pulling from library/x", "id": "1"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "a"},
        {"status": "Downloading", "progressDetail": {"current": 10, "total": 100}, "id": "a"},
        {"status": "Downloading", "progressDetail": {"current": 5, "total": 50}, "id": "b"},
        {"status": "Download complete", "progressDetail": {}, "id": "a"},
        {"status": "Extracting", "progressDetail": {"current": 1, "total": 100}, "id": "a"},
    ]
    assert [layers.add(line) for line in lines] == [(0, 0), (0, 0), (10, 100), (15, 150), (105, 150), (105, 150)]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ("manifest for x:1 not found: manifest unknown", SpecError, "there is no image"),
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            NodeFailed,
            "docker login",
        ),
        ("unauthorized: authentication required", NodeFailed, "docker login"),
        (
            "no matching manifest for linux/amd64 in the manifest list entries",
            SpecError,
            "not for this node's platform",
        ),
        ("image with reference x was found but does not match the specified platform", SpecError, "os_arch"),
        ("dial tcp: lookup registry.example: no such host", NodeFailed, "can the node reach"),
    ],
)
def test_a_failed_pull_in_words(words: str, kind: type[Exception], said: str) -> None:
    """Whose fault, where, and what to do."""
    error = explain(Reference(name="registry.example/x", host="registry.example", tag="1"), words, "linux/amd64")
    assert isinstance(error, kind)
    assert said in f"{error.message} {error.hint}"
    assert "registry.example/x:1" in error.message


# ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("target", "depth", "out"),
    [
        ("file", 0, False),
        ("./a/b", 0, False),
        ("../file", 1, False),
        ("../../file", 1, True),
        ("..", 0, True),
        ("/etc/passwd", 5, True),
        ("a/../b", 3, True),  # `a` may be a link
        ("../a/b", 2, False),
    ],
)
def test_links_that_lead_out(target: str, depth: int, out: bool) -> None:
    """By their text alone: nothing is followed."""
    assert outputs.leads_out(target, depth) is out


def test_outputs_are_settled_without_following_anything(tmp_path: Path) -> None:
    """An output that was itself replaced by a link is left alone."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "link").symlink_to("/etc/passwd")
    (tmp_path / "out").symlink_to(victim)
    assert outputs.settle(tmp_path, ["out", "absent"]) == []
    assert (victim / "link").is_symlink()


def test_notes_are_bounded(tmp_path: Path) -> None:
    """All links go; the first twenty are named."""
    (tmp_path / "out").mkdir()
    for number in range(50):
        (tmp_path / "out" / f"{number}").symlink_to("/etc/passwd")
    assert len(outputs.settle(tmp_path, ["out"])) == outputs.NOTES_MAX
    assert list((tmp_path / "out").iterdir()) == []


# ── accounts ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_usage_under_either_version_of_control_groups(tmp_path: Path) -> None:
    """Peak of memory and processor time, where the kernel keeps them."""
    for path, text in (
        ("memory/docker/x/memory.max_usage_in_bytes", "4096\n"),
        ("cpuacct/docker/x/cpuacct.usage", "1500000000\n"),
        ("system.slice/docker-x.scope/memory.peak", "8192\n"),
        ("system.slice/docker-x.scope/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    one = watch.accounts_in("9:memory:/docker/x\n5:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n", tmp_path)
    two = watch.accounts_in("0::/system.slice/docker-x.scope\n", tmp_path)
    assert watch.usage_of(one) == watch.Usage(cpu_seconds=1.5, memory_peak_bytes=4096)
    assert watch.usage_of(two) == watch.Usage(cpu_seconds=2.5, memory_peak_bytes=8192)
    assert watch.usage_of(()) == watch.Usage()
    assert watch.accounts_in("0::/\n", tmp_path) == ()


def test_sizes_are_those_on_disk(tmp_path: Path) -> None:
    """Links are not followed, and what cannot be read counts nothing."""
    (tmp_path / "a").write_bytes(b"x" * 10_000)
    (tmp_path / "loop").symlink_to(tmp_path)
    assert 10_000 <= watch.size_of(str(tmp_path)) < 40_000
    assert watch.size_of(str(tmp_path / "absent")) == 0


@pytest.mark.parametrize(
    ("driver", "backing", "can"),
    [("overlay2", "xfs", True), ("overlay2", "extfs", False), ("btrfs", "", True), ("vfs", "xfs", False)],
)
def test_quotas_of_the_container(driver: str, backing: str, can: bool) -> None:
    """Only few drivers have them."""
    info = {"Driver": driver, "DriverStatus": [["Backing Filesystem", backing]]}
    assert can_limit_disk(info) is can
