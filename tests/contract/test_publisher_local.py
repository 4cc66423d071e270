"""`local`: the archive has Bacalhau's layout, holds nothing that is not the job's, and is served by name only."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bacalhau_daemon.publishers.local import LocalPublisher
from bacalhau_protocol.errors import NodeFailed, UsageError
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import PluginContext, Published, RunRequest


@pytest.fixture
async def publisher(tmp_path: Path) -> AsyncIterator[LocalPublisher]:
    directory = tmp_path / "served"
    directory.mkdir()
    made = LocalPublisher(PluginContext(node_id="n-1", data_dir=directory, settings={"port": 0}))
    await made.ability()
    yield made
    await made.close()


@pytest.fixture
def run(tmp_path: Path) -> RunRequest:
    directory = tmp_path / "e-1"
    results = directory / "results"
    (results / "outputs" / "deep").mkdir(parents=True)
    (results / "empty").mkdir()
    for name, text in (("stdout", "out"), ("stderr", ""), ("exitCode", "0"), ("outputs/deep/a.txt", "a")):
        (results / name).write_text(text)
    task = Task(name="main", engine=SpecConfig(type="noop"))
    return RunRequest(
        execution_id="e-1", attempt=1, job=Job(id="j-1", tasks=(task,)), resources=Resources(), env={}, inputs=(),
        outputs=(), execution_dir=directory, timeout_s=0,
    )  # fmt: skip


async def ask(published: Published, path: str, method: str = "GET", *headers: str) -> tuple[str, bytes]:
    """Send one request to the publisher's server, whatever it is, and return status line with headers, and body."""
    host = str(published.result.values["URL"]).removeprefix("http://").partition("/")[0]
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write("\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode(), body


async def publish(publisher: LocalPublisher, run: RunRequest) -> Published:
    return await publisher.publish(run, lambda *_: None)


async def test_the_archive_has_bacalhaus_layout(publisher: LocalPublisher, run: RunRequest) -> None:
    """Root, streams, exit code, outputs with their directories; fetched whole by its URL."""
    published = await publish(publisher, run)
    head, body = await ask(published, "/e-1.tar.gz")

    assert published.result.type == "urlDownload"
    assert head.startswith("HTTP/1.1 200 ")
    assert len(body) == published.size_bytes
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        names = tar.getnames()
        content = tar.extractfile("outputs/deep/a.txt")
        assert content is not None
        assert content.read() == b"a"
    assert names == [".", "empty", "exitCode", "outputs", "outputs/deep", "outputs/deep/a.txt", "stderr", "stdout"]


async def test_links_planted_by_a_job_are_not_followed(publisher: LocalPublisher, run: RunRequest) -> None:
    """Neither files nor directories of the node get into the archive."""
    secret = run.execution_dir / "secret"
    secret.mkdir()
    (secret / "key").write_text("hunter2")
    (run.results_dir / "file").symlink_to(secret / "key")
    (run.results_dir / "directory").symlink_to(secret)
    os.mkfifo(run.results_dir / "pipe")

    _, body = await ask(await publish(publisher, run), "/e-1.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert tar.getmember("file").issym()
        assert tar.getmember("directory").issym()
        assert "directory/key" not in tar.getnames()
        assert "pipe" not in tar.getnames()
    assert b"hunter2" not in body


@pytest.mark.parametrize(
    "path", ["/", "/../e-1/secret", "/%2e%2e/x.tar.gz", "/.e-1.tar.gz", "/e-2.tar.gz", "//etc/passwd", "/e-1.tar.gz/.."]
)
async def test_nothing_else_is_served(publisher: LocalPublisher, run: RunRequest, path: str) -> None:
    """No listing, no other directory, no half archive."""
    head, _ = await ask(await publish(publisher, run), path)
    assert head.startswith("HTTP/1.1 404 ")


async def test_only_reading(publisher: LocalPublisher, run: RunRequest) -> None:
    """HEAD gives the length without a body; writing is refused; nonsense gets no answer."""
    published = await publish(publisher, run)
    head, body = await ask(published, "/e-1.tar.gz", "HEAD")
    assert (f"Content-Length: {published.size_bytes}" in head, body) == (True, b"")
    assert (await ask(published, "/e-1.tar.gz", "PUT"))[0].startswith("HTTP/1.1 405 ")
    assert (await ask(published, "x" * 20_000))[0] == ""


@pytest.mark.parametrize(
    ("range_", "status", "expected"),
    [
        ("bytes=10-", "206", slice(10, None)),
        ("bytes=0-9", "206", slice(0, 10)),
        ("bytes=999999-", "200", slice(0, None)),
        ("bytes=9-2", "200", slice(0, None)),
        ("lines=1-", "200", slice(0, None)),
    ],
)
async def test_ranges(publisher: LocalPublisher, run: RunRequest, range_: str, status: str, expected: slice) -> None:
    """An interrupted download goes on where it stopped."""
    published = await publish(publisher, run)
    whole = (await ask(published, "/e-1.tar.gz"))[1]
    head, body = await ask(published, "/e-1.tar.gz", "GET", f"Range: {range_}")
    assert (head.split(" ")[1], body) == (status, whole[expected])


async def test_a_taken_port_makes_it_unavailable_not_wrong(run: RunRequest, tmp_path: Path) -> None:
    """It says so, and available again once the port is free."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    publisher = LocalPublisher(PluginContext(node_id="n", data_dir=tmp_path, settings={"port": port}))
    ability = await publisher.ability()
    assert (ability.available, str(port) in ability.reason) == (False, True)
    with pytest.raises(NodeFailed):
        await publish(publisher, run)

    server.close()
    await server.wait_closed()
    assert (await publisher.ability()).available
    await publisher.close()


async def test_old_archives_go(publisher: LocalPublisher, run: RunRequest, tmp_path: Path) -> None:
    """By age, at the next look."""
    await publish(publisher, run)
    path = tmp_path / "served" / "e-1.tar.gz"
    os.utime(path, (0, 0))
    await publisher.ability()
    assert not path.exists()


@pytest.mark.parametrize("address", ["public", "", "a b", "http://x"])
def test_an_address_is_an_address(tmp_path: Path, address: str) -> None:
    """Words that Bacalhau takes and never resolves are refused."""
    with pytest.raises(UsageError, match="address"):
        LocalPublisher(PluginContext(node_id="n", data_dir=tmp_path, settings={"address": address}))
