"""Logs and results of a node: opened by tickets, resumable, verified, never outside of an execution's results."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from bacalhau_daemon.compute import serving
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.models.job import Job, ResultPath
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl.logstream import LogClosed, LogConsumer, LogLine
from bacalhau_protocol.transport.base import Message
from tests.builders_compute import NODE, execution
from tests.builders_node import Orchestrator, Site, cluster

Pair = tuple[Site, Orchestrator]
B = TypeVar("B", bound=m.Body)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with cluster(tmp_path) as pair:
        yield pair


def noop(number: int = 1, **params: Any) -> Any:
    made = execution(number, cpu=0.1, params=params)
    assert isinstance(made.job, Job)
    task = msgspec.structs.replace(made.job.task, result_paths=(ResultPath(name="outputs", path="/o"),))
    return msgspec.structs.replace(made, job=msgspec.structs.replace(made.job, tasks=(task,)))


async def begin(pair: Pair, run: Any) -> None:
    """Offer and approve, and go on."""
    _, orchestrator = pair
    await orchestrator.say(ncl.ask_for_bid(run))
    await orchestrator.report(run.id)
    await orchestrator.say(ncl.BidAccepted(execution_id=run.id))


async def log_read(pair: Pair, number: int = 1, **fields: Any) -> m.LogChunk:
    site, orchestrator = pair
    ticket = fields.pop("ticket", None) or orchestrator.ticket(f"e-{number}")
    answer = await site.ask("log.read", m.LogRead(ticket=ticket, execution_id=f"e-{number}", **fields))
    return msgspec.json.decode(answer.data, type=m.LogChunk)


async def listed(pair: Pair, number: int = 1, **fields: Any) -> m.FilePage:
    site, orchestrator = pair
    request = m.FileList(ticket=orchestrator.ticket(f"e-{number}"), execution_id=f"e-{number}", **fields)
    return msgspec.json.decode((await site.ask("file.list", request)).data, type=m.FilePage)


async def file_read(pair: Pair, path: str, number: int = 1, **fields: Any) -> Message:
    site, orchestrator = pair
    ticket = fields.pop("ticket", None) or orchestrator.ticket(f"e-{number}")
    return await site.ask("file.read", m.FileRead(ticket=ticket, execution_id=f"e-{number}", path=path, **fields))


async def test_a_log_is_read_piece_by_piece_to_its_end(pair: Pair) -> None:
    """From any offset; the last piece says how it ended."""
    await pair[1].run(noop(Stdout="0123456789", Stderr="err", ExitCode=3))
    first = await log_read(pair, limit=4)
    assert (first.stdout, first.stderr, first.stdout_size, first.ended) == (b"0123", b"err", 10, False)
    last = await log_read(pair, stdout_offset=4, stderr_offset=3)
    assert (last.stdout, last.stderr, last.ended, last.exit_code, last.outcome) == (b"456789", b"", True, 3, "exited")


async def test_a_reader_waits_for_output_and_for_the_end(pair: Pair) -> None:
    """One request hangs until there is something new."""
    await begin(pair, noop(DelayMs=300, Stdout="begin\n"))
    first = await log_read(pair, wait_ms=20_000)
    while not first.stdout:
        first = await log_read(pair, wait_ms=20_000)
    assert (first.stdout, first.ended) == (b"begin\n", False)
    last = await log_read(pair, stdout_offset=6, wait_ms=20_000)
    assert (last.stdout, last.ended) == (b"", True)


async def test_many_readers_at_once_and_then_busy(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bacalhau serves one per node; we serve a bounded many."""
    monkeypatch.setattr(serving, "REQUESTS_MAX", 20)
    await begin(pair, noop(DelayMs=60_000))
    waiting = [asyncio.create_task(log_read(pair, wait_ms=20_000)) for _ in range(20)]
    await wait_until(lambda: len(pair[0].serving._tasks) == 20)
    with pytest.raises(errors.Busy):
        await log_read(pair)
    await pair[1].say(ncl.CancelExecution(execution_id="e-1"))
    assert all(chunk.ended for chunk in await asyncio.gather(*waiting))


async def test_results_come_as_a_tree_with_hashes(pair: Pair) -> None:
    """Listed in pages, read in chunks, each with its hash."""
    content = {f"outputs/{letter}/f.txt": letter * 1000 for letter in "abc"}
    await pair[1].run(noop(Stdout="out", Files=content))
    whole = await listed(pair)
    assert [entry.path for entry in whole.files] == ["exitCode", *content, "stderr", "stdout"]
    assert whole.complete
    assert whole.files[1].sha256 == hashlib.sha256(b"a" * 1000).hexdigest()

    paged, after = [], ""
    while True:
        page = await listed(pair, after=after, limit=2)
        paged += page.files
        if not (after := page.next_after):
            break
    assert paged == whole.files

    chunk = await file_read(pair, "outputs/b/f.txt", offset=990, limit=100)
    assert chunk.data == b"b" * 10
    assert chunk.headers == {
        m.FILE_OFFSET: "990", m.FILE_SIZE: "1000", m.FILE_SHA256: hashlib.sha256(b"b" * 10).hexdigest(),
    }  # fmt: skip


async def test_chunks_are_bounded(pair: Pair) -> None:
    """Whatever is asked for."""
    await pair[1].run(noop(OutputBytes=600_000))
    assert len((await file_read(pair, "stdout", limit=10**9)).data) == 256 * 1024
    assert (await file_read(pair, "stdout", offset=10**12)).data == b""
    assert len((await log_read(pair, limit=10**9)).stdout) == 256 * 1024


async def test_a_running_execution_lists_what_it_has_without_hashes(pair: Pair) -> None:
    """And says that it is not complete."""
    await begin(pair, noop(DelayMs=60_000, Files={"outputs/early.txt": "x"}))
    site = pair[0]
    await wait_until((site.root / "e-1/results/outputs/early.txt").exists)
    page = await listed(pair)
    assert not page.complete
    assert {entry.path: entry.sha256 for entry in page.files}["outputs/early.txt"] == ""


async def test_a_bare_run_has_a_log_and_results_all_the_same(tmp_path: Path) -> None:
    """Its directory is made when somebody asks for it."""
    async with cluster(tmp_path) as pair:
        await pair[1].run(execution(1, cpu=0.1, params={"ExitCode": 5}))
        assert list(pair[0].root.iterdir()) == []
        assert (await log_read(pair)).exit_code == 5
        assert [entry.path for entry in (await listed(pair)).files] == ["exitCode", "stderr", "stdout"]
        assert (await file_read(pair, "exitCode")).data == b"5"


async def test_results_survive_a_restart(pair: Pair) -> None:
    """They are on disk, and so is how it ended."""
    await pair[1].run(noop(Stdout="out", ExitCode=2))
    await pair[0].crash()
    await pair[0].start()
    assert (await log_read(pair)).exit_code == 2
    assert (await file_read(pair, "stdout")).data == b"out"


@pytest.mark.parametrize(
    "path", ["../outcome.json", "/etc/passwd", "outputs/../../outcome.json", "", ".", "outputs/./x", "a\0b"]
)
async def test_no_path_leads_out(pair: Pair, path: str) -> None:
    """Said as a mistake of the caller."""
    await pair[1].run(noop(Stdout="out"))
    with pytest.raises(errors.UsageError):
        await file_read(pair, path)


async def test_no_link_leads_out(pair: Pair) -> None:
    """Links that a job plants are listed as links and not followed, for files, directories and streams."""
    site, orchestrator = pair
    await begin(pair, noop(DelayMs=60_000, Files={"outputs/x": "x"}))
    results = site.root / "e-1/results"
    await wait_until((results / "outputs/x").exists)
    secret = site.path / "secret"
    secret.write_text("hunter2")
    (results / "outputs/file").symlink_to(secret)
    (results / "outputs/dir").symlink_to(site.path)
    (results / "stdout").unlink()
    (results / "stdout").symlink_to(secret)
    os.mkfifo(results / "outputs/pipe")

    assert (await log_read(pair)).stdout == b""
    for path in ("outputs/file", "outputs/dir/secret", "stdout", "outputs/pipe"):
        with pytest.raises(errors.NotFound):
            await file_read(pair, path)
    await orchestrator.say(ncl.CancelExecution(execution_id="e-1"))
    await wait_until(lambda: not site.node.machine.state.runs)
    page = await listed(pair)
    assert {entry.path: entry.link for entry in page.files if entry.link}["outputs/file"] == str(secret)
    assert "outputs/pipe" not in [entry.path for entry in page.files]


async def test_tickets_are_looked_at(pair: Pair) -> None:
    """Of another execution, user or path, expired, forged, missing: nothing is read."""
    site, orchestrator = pair
    await orchestrator.run(noop(Stdout="out"))
    refused = {
        orchestrator.ticket("e-2"): errors.Forbidden,
        orchestrator.ticket("e-1", user="mallory"): errors.Forbidden,
        orchestrator.ticket("e-1", prefix="outputs"): errors.Forbidden,
        orchestrator.ticket("e-1", ttl_s=-1): errors.Unauthenticated,
        orchestrator.ticket("e-1")[:-4] + "AAAA": errors.Unauthenticated,
        "x": errors.Unauthenticated,
    }
    for ticket, error in refused.items():
        with pytest.raises(error):
            await file_read(pair, "stdout", ticket=ticket)
    site.serving.keys = ()
    with pytest.raises(errors.Unavailable):
        await file_read(pair, "stdout")


@pytest.mark.parametrize("id_", ["../n-1", "", "e-1/../../x", "x" * 100])
async def test_an_execution_id_is_one_token(pair: Pair, id_: str) -> None:
    """It becomes a directory's name."""
    site, orchestrator = pair
    with pytest.raises(errors.UsageError):
        await site.ask("log.read", m.LogRead(ticket=orchestrator.ticket(id_), execution_id=id_))


async def test_what_is_not_here_is_said(pair: Pair) -> None:
    """Unknown executions, absent files, requests that cannot be read."""
    site, orchestrator = pair
    await orchestrator.run(noop(Stdout="out"))
    with pytest.raises(errors.NotFound, match="nothing of execution"):
        await log_read(pair, number=9)
    with pytest.raises(errors.NotFound):
        await file_read(pair, "outputs/absent")
    with pytest.raises(errors.UsageError):
        await site.ask("log.read", m.Empty())


@pytest.mark.parametrize("verb", ["log.read", "file.list", "file.read"])
async def test_a_request_that_nests_without_end_is_refused_in_words(pair: Pair, verb: str) -> None:
    """It cannot be read."""
    site, _ = pair
    client = site.broker.connect("alice")
    answer = await client.request(subjects.to_node(NODE, verb), b'{"x":' + b"[" * 100_000, timeout_s=20)
    await client.close()

    assert "the request cannot be read" in str(errors.from_wire(answer.data))


async def test_bacalhaus_orchestrator_follows_several_logs_at_once(tmp_path: Path) -> None:
    """Over Bacalhau's own framing, to the end; an unknown execution is an error, in its words."""
    async with cluster(tmp_path, own=False) as (site, orchestrator):
        consumer = LogConsumer("x1")
        heard: list[Any] = []

        async def receive(message: Message) -> None:
            heard.extend(consumer.message(message, 0))

        for subject in consumer.subscriptions:
            await orchestrator.bus.subscribe(subject, receive)
        for number in (1, 2):
            await begin((site, orchestrator), noop(number, DelayMs=400, Stdout=f"out {number}\n", Stderr="err\n"))
        for stream, wanted in (("s1", "e-1"), ("s2", "e-2"), ("s3", "../e-1")):
            for send in consumer.open(stream, NODE, wanted, now=0):
                await orchestrator.bus.publish(send.subject, send.data, reply=send.reply)  # type: ignore[union-attr]
        await wait_until(lambda: len([event for event in heard if isinstance(event, LogClosed)]) == 3)

    lines = {(event.stream_id, event.text) for event in heard if isinstance(event, LogLine)}
    assert lines == {("s1", "out 1\n"), ("s1", "err\n"), ("s2", "out 2\n"), ("s2", "err\n")}
    closed = {event.stream_id: (event.code, event.text) for event in heard if isinstance(event, LogClosed)}
    assert closed["s1"] == (1000, "")
    assert closed["s3"] == (5000, "error in handler : execution ../e-1 not found")
