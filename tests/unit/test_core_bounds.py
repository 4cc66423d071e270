"""What nodes say is bounded before it enters the log: a node that is not ours, or has gone mad, cannot fill it."""

from __future__ import annotations

import re
import zlib

import msgspec
import pytest

from bacalhau_daemon.core.policy import INFO_BYTES_MAX, RESULT_BYTES_MAX
from bacalhau_daemon.core.state import Status
from bacalhau_daemon.testing import World, a_job, a_node
from bacalhau_protocol.models.event import Event
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.models.nesting import DEPTH_MAX
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.ncl import envelope, messages, subjects
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.transport.base import Message

RECORD_BYTES = 8 * 1024


@pytest.fixture
def world() -> World:
    """A world with a node."""
    world = World()
    world.join("n-1")
    return world


def info_of(name: str, label_bytes: int) -> NodeInfo:
    """Return what a node with a label of that size says of itself."""
    return msgspec.structs.replace(a_node(name), labels={"bulk": "x" * label_bytes})


def nested(levels: int) -> bytes:
    """Return lists in lists, as JSON."""
    return b"[" * levels + b"]" * levels


def complete(world: World, result: bytes) -> str:
    """Run a job to its end; its node says with these parameters where the results are. Return the job."""
    job = world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution)
    event = Event(message="Completed successfully", topic="Execution")
    spec = SpecConfig("s3", {"Key": "here"})
    report = messages.RunResult(execution.id, job, "batch", (event,), spec, RunOutput(stdout="hello\n"))
    data = envelope.encode(envelope.metadata(report, source="n-1", now=world.now, seq=99), report)
    body = data[5:].replace(b'"here"', result)
    sealed = b"\x01" + zlib.crc32(body).to_bytes(4) + body
    world.machine.message(Message(subjects.subject("n-1", Plane.OUT_MSGS), sealed, "_R.n-1.99"), world.now)
    world.run()
    return job


# ── results ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_result_that_is_too_large_is_dropped_and_the_execution_still_completes(world: World) -> None:
    """Its end says what was dropped and how large it was; the log stays small."""
    job = complete(world, b'"' + b"x" * RESULT_BYTES_MAX + b'"')

    (execution,) = world.executions(job)
    assert (world.job(job).state, execution.status) == (JobStateType.COMPLETED, Status.COMPLETED)
    assert execution.result is None
    assert execution.message == (
        "Completed successfully. Where its results are was dropped: 65,569 bytes, the limit is 65,536"
    )
    assert execution.output == RunOutput(stdout="hello\n")
    assert all(len(data) < RECORD_BYTES for _, data in world.log.read(1))


def test_a_result_at_the_limit_is_kept(world: World) -> None:
    """To the byte."""
    frame = len(msgspec.json.encode(SpecConfig("s3", {"Key": ""})))
    job = complete(world, b'"' + b"x" * (RESULT_BYTES_MAX - frame) + b'"')

    (execution,) = world.executions(job)
    assert execution.result is not None
    assert len(msgspec.json.encode(execution.result)) == RESULT_BYTES_MAX
    assert execution.message == "Completed successfully"


def test_a_result_that_nests_too_deep_is_dropped_in_words(world: World) -> None:
    """What one process could just read, the next could not store, or not read again after a restart."""
    job = complete(world, nested(DEPTH_MAX))

    (execution,) = world.executions(job)
    assert (execution.status, execution.result) == (Status.COMPLETED, None)
    assert execution.message.endswith("Where its results are was dropped: lists and objects nested more than 64 deep")


@pytest.mark.parametrize("levels", [DEPTH_MAX - 1, *range(930, 1000)])
def test_no_depth_of_a_result_harms_the_orchestrator(world: World, levels: int) -> None:
    """Near the interpreter's own limit it could be read and not be written: the process ended."""
    complete(world, nested(levels))

    assert not world.machine.loop.parked
    world.start()


# ── what nodes say of themselves ──────────────────────────────────────────────────────────────────────────────────


def test_a_node_that_says_too_much_of_itself_is_refused_with_the_reason(world: World) -> None:
    """It is told how large that was, and what to do; nothing of it enters the log."""
    before = world.log.last()
    world.infos["n-2"] = info_of("n-2", INFO_BYTES_MAX)
    world.join("n-2")

    _, answer = world.replies[-1]
    assert isinstance(answer, messages.HandshakeResponse)
    assert not answer.accepted
    words = r"what the node says of itself has 6\d,\d\d\d bytes, the limit is 65,536; give it fewer labels"
    assert re.fullmatch(words, str(answer.reason))
    assert (world.log.last(), list(world.machine.state.nodes)) == (before, ["n-1"])
    assert world.machine.link.counters["Ignored"] == 1


def test_a_known_node_that_comes_back_with_too_much_is_refused_too(world: World) -> None:
    """What it was stays known."""
    known = world.machine.state.nodes["n-1"].info
    world.infos["n-1"] = info_of("n-1", INFO_BYTES_MAX)
    world.join("n-1")

    assert "accepted=False" in str(world.replies[-1][1])
    assert world.machine.state.nodes["n-1"].info == known


def test_a_change_that_is_too_large_is_ignored_and_counted(world: World) -> None:
    """The session goes on with what the node was before."""
    before = world.log.last()
    request = messages.UpdateNodeInfoRequest(info=info_of("n-1", INFO_BYTES_MAX))
    data = envelope.encode(envelope.metadata(request, source="n-1", now=world.now, seq=99), request)
    world.machine.message(Message(subjects.subject("n-1", Plane.OUT_CTRL), data, "_R.n-1.99"), world.now)
    world.run()

    assert world.log.last() == before
    assert world.machine.link.counters["Ignored"] == 1
    world.submit(a_job())
    assert world.offers("n-1")


def test_what_a_node_says_of_itself_may_reach_the_limit(world: World) -> None:
    """A node with many labels is welcome."""
    world.infos["n-2"] = info_of("n-2", INFO_BYTES_MAX - 2048)
    world.join("n-2")

    assert "n-2" in world.machine.state.nodes
