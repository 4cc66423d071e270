"""Logs of all executions of a job: merged, followed to the end, and still there when the node is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client import logs
from bacalhau_protocol.client.logs import LineCutter, LogEnd, LogEvent, LogNote, LogPiece, LogSource, follow_logs
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.states import ComputeStateType, JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


def running(fake: FakeOrchestrator, job: str, node: str = "n-1", partition: int = 0) -> str:
    execution = fake.place(job, node, partition=partition)
    fake.run(execution)
    return execution


async def read(events: AsyncIterator[LogEvent]) -> list[LogEvent]:
    """Return all events but the naming of sources."""
    return [event async for event in events if not isinstance(event, LogSource)]


def text_of(events: list[LogEvent], stream: str = "stdout") -> bytes:
    return b"".join(event.data for event in events if isinstance(event, LogPiece) and event.stream == stream)


async def test_a_finished_job_s_log_is_read_to_the_end(fake: FakeOrchestrator) -> None:
    """Both streams come whole, larger than a chunk, and then how the job ended."""
    job = fake.add_job()
    execution = running(fake, job)
    fake.nodes.write(execution, stdout=b"x" * 200_000, stderr=b"warn\n")
    fake.finish(execution, exit_code=4)

    events = await read(follow_logs(fake.client(), job))

    assert text_of(events) == b"x" * 200_000
    assert text_of(events, "stderr") == b"warn\n"
    end = events[-1]
    assert isinstance(end, LogEnd)
    assert end.job.exit_status == 4


async def test_following_waits_for_output_and_ends_with_the_job(fake: FakeOrchestrator) -> None:
    """Output arrives as it is written; it says what it waits for before there is any."""
    job = fake.add_job()
    events: list[LogEvent] = []
    execution = ""

    async for event in follow_logs(fake.client(), job):
        events.append(event)
        match event:
            case LogNote():
                execution = running(fake, job)
                fake.nodes.write(execution, stdout=b"one\n")
            case LogPiece(data=b"one\n"):
                fake.nodes.write(execution, stdout=b"two\n")
            case LogPiece():
                fake.finish(execution)
            case LogSource() | LogEnd():
                pass

    assert isinstance(events[0], LogNote)
    assert "no execution runs yet" in events[0].text
    assert text_of(events) == b"one\ntwo\n"
    assert isinstance(events[-1], LogEnd)


async def test_executions_on_several_nodes_are_merged(fake: FakeOrchestrator) -> None:
    """Each piece says whose it is."""
    job = fake.add_job(count=3)
    for partition in range(3):
        execution = running(fake, job, f"n-{partition}", partition)
        fake.nodes.write(execution, stdout=b"from %d\n" % partition)
        fake.finish(execution)

    pieces = [event for event in await read(follow_logs(fake.client(), job)) if isinstance(event, LogPiece)]

    assert {(piece.node_id, piece.partition, piece.data) for piece in pieces} == {
        ("n-0", 0, b"from 0\n"),
        ("n-1", 1, b"from 1\n"),
        ("n-2", 2, b"from 2\n"),
    }


async def test_without_following_it_ends_with_what_is_there(fake: FakeOrchestrator) -> None:
    """A running job's log so far, without waiting."""
    job = fake.add_job()
    fake.nodes.write(running(fake, job), stdout=b"so far")

    events = await read(follow_logs(fake.client(), job, follow=False))

    assert text_of(events) == b"so far"
    end = events[-1]
    assert isinstance(end, LogEnd)
    assert not end.job.ended


async def test_one_execution_and_a_tail(fake: FakeOrchestrator) -> None:
    """One execution by the start of its id, from near the end of its streams."""
    job = fake.add_job(count=2)
    for partition in range(2):
        execution = running(fake, job, partition=partition)
        fake.nodes.write(execution, stdout=b"a long story %d" % partition)
        fake.finish(execution)

    events = await read(follow_logs(fake.client(), job, execution=execution[:10], tail_bytes=7))

    assert text_of(events) == b"story 1"


async def test_an_execution_that_is_not_there(fake: FakeOrchestrator) -> None:
    """An unknown execution is an error, not an empty log."""
    job = fake.add_job()
    fake.finish(running(fake, job))

    with pytest.raises(errors.NotFound, match="no execution 'e-nope'"):
        _ = await read(follow_logs(fake.client(), job, execution="e-nope"))


async def test_a_node_that_is_gone_leaves_the_kept_end(fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the orchestrator kept is shown, with a word about what is missing before it."""
    monkeypatch.setattr(logs, "NODE_PATIENCE_S", 0.02)
    job = fake.add_job()
    execution = running(fake, job)
    fake.finish(execution)
    fake.nodes.silent.add("n-1")
    fake.kept[execution] = m.KeptLog(stdout=b"the end\n", stdout_offset=100)
    monkeypatch.setattr(logs, "ANSWER_S", 0.01)
    monkeypatch.setattr(logs, "POLL_MS", 10)

    events = await read(follow_logs(fake.client(), job))

    assert text_of(events) == b"the end\n"
    (note,) = [event for event in events if isinstance(event, LogNote)]
    assert "100 bytes before it are missing" in note.text


@pytest.mark.parametrize("follow", [False, True])
async def test_a_node_that_refuses_every_ticket_is_not_asked_for_ever(fake: FakeOrchestrator, follow: bool) -> None:
    """Its clock is wrong: that is said, and the kept end is shown."""
    job = fake.add_job()
    execution = running(fake, job)
    fake.nodes.clock_is_wrong = True
    if follow:
        fake.finish(execution)

    events = await read(follow_logs(fake.client(), job, follow=follow))

    notes = [event.text for event in events if isinstance(event, LogNote)]
    assert len(notes) == 1
    assert "the ticket has expired" in notes[0]


async def test_a_node_that_forgot_the_execution(fake: FakeOrchestrator) -> None:
    """Nothing is kept and nothing is there: it says so, and ends."""
    job = fake.add_job()
    execution = running(fake, job)
    fake.finish(execution)
    del fake.nodes.runs[execution]

    events = await read(follow_logs(fake.client(), job))

    assert [type(event) for event in events] == [LogNote, LogEnd]


async def test_a_node_that_does_not_know_the_execution_yet_is_asked_again(fake: FakeOrchestrator) -> None:
    """While an execution lives, "not found" only means "not yet"."""
    job = fake.add_job()
    execution = fake.place(job)
    run = fake.nodes.runs.pop(execution)
    watching = follow_logs(fake.client(), job)
    assert isinstance(await anext(watching), LogSource)
    first = anext(watching)

    task = asyncio.ensure_future(first)
    while not fake.nodes.requests:
        await asyncio.sleep(0)
    fake.nodes.runs[execution] = run
    fake.nodes.write(execution, stdout=b"here\n")

    piece = await task
    assert isinstance(piece, LogPiece)
    assert piece.data == b"here\n"
    await watching.aclose()


async def test_a_reader_s_failure_ends_a_quiet_job_s_log(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job does not change any more; the failure is said all the same, at once."""
    job = fake.add_job()
    running(fake, job)
    failing = asyncio.Event()

    async def fail(reader: object, wait_ms: int, limit: int) -> m.LogChunk:
        await failing.wait()
        raise errors.NodeFailed("the disk is gone")

    monkeypatch.setattr(logs._Reader, "_ask", fail)

    asyncio.get_running_loop().call_later(0.3, failing.set)  # when the watch waits already
    with pytest.raises(errors.NodeFailed, match="the disk is gone"):
        async with asyncio.timeout(5):
            await read(follow_logs(fake.client(), job))


async def test_refused_bids_have_no_log(fake: FakeOrchestrator) -> None:
    """Only executions that were given to a node are read."""
    job = fake.add_job()
    fake.set_execution(fake.place(job, "n-2"), ComputeStateType.ASK_FOR_BID_REJECTED)
    fake.set_job(job, JobStateType.FAILED, "no node")

    events = await read(follow_logs(fake.client(), job))

    assert [type(event) for event in events] == [LogEnd]


def a_piece(data: bytes, execution: str = "e-1", stream: str = "stdout") -> LogPiece:
    return LogPiece(execution_id=execution, node_id="n-1", partition=0, stream=stream, data=data, at=1)


def test_lines_are_whole_per_execution_and_stream() -> None:
    """Pieces of two executions never mix within a line; a character cut in two is put together."""
    cutter = LineCutter()

    lines = [
        *cutter.feed(a_piece(b"he")),
        *cutter.feed(a_piece(b"other\r\n", "e-2")),
        *cutter.feed(a_piece("llo é".encode()[:-1])),
        *cutter.feed(a_piece("é\n".encode()[1:])),
        *cutter.feed(a_piece(b"no end")),
        *cutter.finish(),
    ]

    assert [(line.execution_id, line.text) for line in lines] == [
        ("e-2", "other"),
        ("e-1", "hello é"),
        ("e-1", "no end"),
    ]


def test_a_line_without_end_is_cut() -> None:
    """A program that never ends its line does not fill our memory."""
    cutter = LineCutter()

    lines = cutter.feed(a_piece(b"x" * (logs.LINE_CHARACTERS_MAX * 2 + 5)))

    assert [len(line.text) for line in lines] == [logs.LINE_CHARACTERS_MAX] * 2
    assert [len(line.text) for line in cutter.finish()] == [5]
