"""Results: byte-identical, resumed, verified, and never outside of the directory."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import AsyncMock

import msgspec
import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client import transfer
from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.results import FetchProgress, OnProgress, fetch_results
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.client.threads import in_thread
from bacalhau_protocol.client.tree import PART_SUFFIX
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker

BIG = b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(40_000))  # 1.28 MB: 5 chunks


@pytest.fixture
async def fake() -> AsyncIterator[FakeOrchestrator]:
    fake = await FakeOrchestrator(MemoryBroker()).start()
    yield fake
    await fake.close()


def completed(fake: FakeOrchestrator, files: dict[str, FakeFile], *, exit_code: int = 0, count: int = 1) -> str:
    job = fake.add_job(count=count)
    for partition in range(count):
        execution = fake.place(job, f"n-{partition}", partition=partition)
        fake.nodes.write(execution, stdout=b"out %d\n" % partition)
        fake.finish(execution, exit_code, files=files)
    return job


def tree_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def chunks_asked(fake: FakeOrchestrator) -> list[tuple[str, int]]:
    return [(body.path, body.offset) for _, body in fake.nodes.requests if isinstance(body, m.FileRead)]


async def test_one_execution_s_tree_lies_in_the_directory(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """As Bacalhau lays it out: stdout, stderr, exitCode and outputs; modes and empty directories too."""
    files = {"out/big": FakeFile(BIG), "out/run": FakeFile(b"#!", 0o755), "empty/": FakeFile(), "nil": FakeFile()}
    job = completed(fake, files, exit_code=3)

    done = await fetch_results(fake.client(), job, tmp_path / "r")

    assert tree_of(tmp_path / "r") == {
        "stdout": b"out 0\n",
        "stderr": b"",
        "exitCode": b"3",
        "out/big": BIG,
        "out/run": b"#!",
        "nil": b"",
    }
    assert (tmp_path / "r/out/run").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "r/empty").is_dir()
    (fetched,) = done.fetched
    assert fetched.exit_code == 3
    assert fetched.received_bytes == fetched.size_bytes == len(BIG) + 2 + 6 + 1


async def test_several_executions_have_a_directory_each(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Nothing is merged, so nothing is lost."""
    job = completed(fake, {}, count=2)

    done = await fetch_results(fake.client(), job, tmp_path)

    assert {fetched.directory.name: (fetched.directory / "stdout").read_bytes() for fetched in done.fetched} == {
        "e-00000002": b"out 0\n",
        "e-00000003": b"out 1\n",
    }


async def test_an_interrupted_download_fetches_only_the_rest(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The verified beginning stays as a part; the second run asks only for what is missing."""
    job = completed(fake, {"big": FakeFile(BIG)})

    def stop_at_half(progress: FetchProgress) -> None:
        if progress.done_bytes > len(BIG) // 2:
            raise errors.UsageError("interrupted")

    with pytest.raises(errors.UsageError):
        await fetch_results(fake.client(), job, tmp_path, progress=stop_at_half)
    had = max(part.stat().st_size for part in tmp_path.glob(f".*{PART_SUFFIX}"))
    assert had > len(BIG) // 2
    assert not (tmp_path / "big").exists()
    fake.nodes.requests.clear()
    done = await fetch_results(fake.client(), job, tmp_path)

    assert (tmp_path / "big").read_bytes() == BIG
    assert min(offset for path, offset in chunks_asked(fake) if path == "big") == had
    assert done.fetched[0].received_bytes <= len(BIG) - had + 10
    assert not list(tmp_path.glob(f".*{PART_SUFFIX}"))


async def test_what_is_here_is_not_fetched_again(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A third run asks for no file at all."""
    job = completed(fake, {"big": FakeFile(BIG)})
    await fetch_results(fake.client(), job, tmp_path)
    fake.nodes.requests.clear()

    done = await fetch_results(fake.client(), job, tmp_path)

    assert chunks_asked(fake) == []
    assert done.fetched[0].received_bytes == 0


async def test_a_part_that_rotted_on_our_disk_is_noticed(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The hash of the whole decides; a bad beginning is thrown away and fetched anew."""
    job = completed(fake, {"big": FakeFile(BIG)})
    with pytest.raises(errors.UsageError):
        await fetch_results(fake.client(), job, tmp_path, progress=_stop_after(600_000))
    part = max(tmp_path.glob(f".*{PART_SUFFIX}"), key=lambda path: path.stat().st_size)
    part.write_bytes(b"?" + part.read_bytes()[1:])

    await fetch_results(fake.client(), job, tmp_path)

    assert (tmp_path / "big").read_bytes() == BIG


def _stop_after(size_bytes: int) -> OnProgress:
    def stop(progress: FetchProgress) -> None:
        if progress.done_bytes > size_bytes:
            raise errors.UsageError("interrupted")

    return stop


async def test_damaged_chunks_are_asked_for_again(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A chunk whose hash is wrong is not written; too many of them are an error."""
    job = completed(fake, {"big": FakeFile(BIG)})
    fake.nodes.damage = 2
    await fetch_results(fake.client(), job, tmp_path / "a")

    fake.nodes.damage = 1000
    with pytest.raises(errors.NodeFailed, match="damaged"):
        await fetch_results(fake.client(), job, tmp_path / "b")

    assert (tmp_path / "a/big").read_bytes() == BIG
    assert not (tmp_path / "b/big").exists()


async def test_other_content_in_the_way_is_refused(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Nobody's files are overwritten unasked."""
    job = completed(fake, {"data": FakeFile(b"theirs")})
    (tmp_path / "data").write_bytes(b"mine")

    with pytest.raises(errors.Conflict, match="already there"):
        await fetch_results(fake.client(), job, tmp_path)
    assert (tmp_path / "data").read_bytes() == b"mine"
    await fetch_results(fake.client(), job, tmp_path, overwrite=True)

    assert (tmp_path / "data").read_bytes() == b"theirs"


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "./a", "a\0b", "a/./b"])
async def test_paths_that_lead_out_are_refused(fake: FakeOrchestrator, tmp_path: Path, path: str) -> None:
    """A hostile node cannot write anywhere else."""
    job = completed(fake, {path: FakeFile(b"x")})

    with pytest.raises(errors.NodeFailed, match="not plain"):
        await fetch_results(fake.client(), job, tmp_path / "in")

    assert not (tmp_path / "evil").exists()


async def test_links_stay_inside(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Links within the tree are made, others are left out and named."""
    files = {
        "data": FakeFile(b"x"),
        "d/good": FakeFile(link="../data"),
        "bad": FakeFile(link="../../outside"),
        "worse": FakeFile(link="/etc/passwd"),
    }
    job = completed(fake, files)

    done = await fetch_results(fake.client(), job, tmp_path / "in")

    assert (tmp_path / "in/d/good").read_bytes() == b"x"
    assert not (tmp_path / "in/bad").is_symlink()
    assert set(done.fetched[0].skipped) == {"bad -> ../../outside", "worse -> /etc/passwd"}


async def test_no_file_goes_through_a_link(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A directory that is a link, in the tree or in the target, is never written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "door").symlink_to(outside)
    job = completed(fake, {"door/file": FakeFile(b"x")})

    with pytest.raises(errors.Conflict, match="in the way"):
        await fetch_results(fake.client(), job, inside)

    assert list(outside.iterdir()) == []


async def test_an_expired_ticket_is_renewed(
    fake: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long download outlives its ticket."""
    job = completed(fake, {"big": FakeFile(BIG)})
    client = fake.client()
    access = await client.result_access(job)
    stale = msgspec.structs.replace(
        access, executions=[msgspec.structs.replace(one, ticket="old") for one in access.executions]
    )
    answers = iter([stale])
    ask = client.result_access

    async def result_access(job: str, **where: str) -> m.AccessPage:
        return next(answers, None) or await ask(job, **where)

    monkeypatch.setattr(client, "result_access", result_access)

    await fetch_results(client, job, tmp_path)

    assert (tmp_path / "big").read_bytes() == BIG


@pytest.mark.parametrize("paths", [[], ["a"]], ids=["empty pages", "the same page"])
async def test_a_list_that_does_not_go_forward_is_refused(
    fake: FakeOrchestrator, monkeypatch: pytest.MonkeyPatch, paths: list[str]
) -> None:
    """A node that always names a next page, and nothing new, is not asked for ever."""
    access = m.Access(execution_id="e-1", node_id="n-1", state="Completed", partition=0, ticket="t")
    files = transfer.NodeFiles(fake.client(), access, AsyncMock(return_value="t"))
    entries = [m.FileEntry(path=path, size=0, mode=0o644, sha256="") for path in paths]
    page = msgspec.json.encode(m.FilePage(files=entries, next_after="a", complete=True))
    ask = AsyncMock(side_effect=[Message(subject="", data=page)] * 3)
    monkeypatch.setattr(files, "_ask", ask)

    with pytest.raises(errors.NodeFailed, match="does not go forward"):
        await files.list()


async def test_many_pages_and_many_files(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Lists come in pages."""
    fake.nodes.page_rows = 7
    job = completed(fake, {f"out/{number:03}": FakeFile(str(number).encode()) for number in range(100)})

    done = await fetch_results(fake.client(), job, tmp_path)

    assert done.fetched[0].files == 103
    assert len(tree_of(tmp_path)) == 103


async def test_what_is_not_there_says_so(
    fake: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No end yet, nothing left, node forgot, node silent: each in its own words."""
    client = fake.client()
    pending = fake.add_job()
    with pytest.raises(errors.Conflict, match="no results yet"):
        await fetch_results(client, pending, tmp_path)

    job = completed(fake, {})
    fake.nodes.silent.add("n-0")
    monkeypatch.setattr(transfer, "PATIENCE_S", 0.02)
    monkeypatch.setattr(transfer, "LIST_ANSWER_S", 0.01)
    with pytest.raises(errors.TimedOut, match="n-0"):
        await fetch_results(client, job, tmp_path)
    fake.nodes.silent.clear()
    fake.nodes.runs.clear()
    with pytest.raises(errors.NotFound, match="n-0 does not have the results"):
        await fetch_results(client, job, tmp_path)


async def test_other_publishers_are_named(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Results in S3 are not fetched from here; the answer has where they are."""
    job = completed(fake, {})
    ((execution_id, execution),) = [(key, one) for key, one in fake.executions.items() if one.job_id == job]
    result = SpecConfig(type="s3", params={"Bucket": "b", "Key": "k"})
    fake.executions[execution_id] = msgspec.structs.replace(execution, published_result=result)

    done = await fetch_results(fake.client(), job, tmp_path)

    (left,) = done.not_fetched
    assert left.result["Params"] == {"Bucket": "b", "Key": "k"}
    assert "'s3'" in left.reason


async def test_a_cancelled_caller_waits_for_its_thread() -> None:
    """What a cancelled transfer cleans up is not in use any more; the system's refusals are words."""
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        may_end.wait(10)
        ended.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.01, may_end.set)
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended.is_set()
    with pytest.raises(errors.UsageError, match="cannot write here: No such file"):
        await in_thread(lambda: Path("/nope/nope").write_bytes(b""))
