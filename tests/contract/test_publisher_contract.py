"""Every installed publisher keeps the contract of `plugins.Publisher`. A new one adds a row to SETTINGS."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from bacalhau_daemon.compute import manifest
from bacalhau_protocol import plugins
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.job import Job, ResultPath, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources

SETTINGS: dict[str, dict[str, Any]] = {"local": {"port": 0}, "nats": {}, "noop": {}}


def request(tmp_path: Path, execution: str = "e-1") -> plugins.RunRequest:
    """A run with stdout and an output in a directory of its own."""
    directory = tmp_path / execution
    (directory / "results" / "outputs").mkdir(parents=True)
    (directory / "results" / "stdout").write_text("hello\n")
    (directory / "results" / "outputs" / "a.bin").write_bytes(bytes(range(256)))
    return plugins.RunRequest(
        execution_id=execution,
        attempt=1,
        job=Job(id="j-1", tasks=(Task(name="main", engine=SpecConfig(type="noop")),)),
        resources=Resources(),
        env={},
        inputs=(),
        outputs=(),
        execution_dir=directory,
        timeout_s=0,
    )


@pytest.fixture(params=plugins.names(plugins.PUBLISHERS))
async def publisher(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[plugins.Publisher]:
    kind = str(request.param)
    assert kind in SETTINGS, f"publisher {kind!r} has no row in SETTINGS"
    data_dir = tmp_path / "plugin"
    data_dir.mkdir(mode=0o700)
    context = plugins.PluginContext(node_id="n-1", data_dir=data_dir, settings=SETTINGS[kind])
    made = cast("plugins.Publisher", plugins.load(plugins.PUBLISHERS, kind, context))
    assert (await made.ability()).available
    yield made
    await made.close()


def ignore(what: str, done: int, total: int) -> None:
    pass


def test_it_is_a_publisher(publisher: plugins.Publisher) -> None:
    """Each class fits the protocol."""
    assert isinstance(publisher, plugins.Publisher)


def test_unknown_parameters_are_ignored(publisher: plugins.Publisher) -> None:
    """Bare is fine; a parameter that nobody knows changes nothing: whoever submitted it has been warned."""
    bare = publisher.check(SpecConfig(type="x"))
    assert bare == publisher.check(SpecConfig(type="x", params={"Nonsense": "b"}))


async def test_publishing_says_where_and_how_much(publisher: plugins.Publisher, tmp_path: Path) -> None:
    """The result has a type and parameters; the tree is untouched."""
    run = request(tmp_path)
    published = await publisher.publish(run, ignore)
    assert published.result.type
    assert published.result.values
    assert published.size_bytes > 0
    assert run.stdout_path.read_text() == "hello\n"


async def test_publishing_twice_gives_the_same(publisher: plugins.Publisher, tmp_path: Path) -> None:
    """Idempotent by execution: a restart in between does no harm."""
    run = request(tmp_path)
    assert await publisher.publish(run, ignore) == await publisher.publish(run, ignore)


async def test_progress_reaches_its_total(publisher: plugins.Publisher, tmp_path: Path) -> None:
    """Bytes done grow up to what was announced."""
    seen: list[tuple[int, int]] = []
    await publisher.publish(request(tmp_path), lambda _what, done, total: seen.append((done, total)))
    assert seen[-1] == (262, 262)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_results_that_could_not_be_fetched_are_refused_in_words(
    publisher: plugins.Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too deep, too many, a path too long: when they are published, not when somebody asks for them."""
    deep = with_outputs(request(tmp_path, "e-deep"))
    (deep.results_dir / "outputs").joinpath(*["d"] * 130).mkdir(parents=True)
    with pytest.raises(NodeFailed, match="nested 128 deep or more, too deep to be kept"):
        await publisher.publish(deep, ignore)

    long = with_outputs(request(tmp_path, "e-long"))
    write_at(long.results_dir / "outputs", ["n" * 200] * 21)
    with pytest.raises(NodeFailed, match=r"a path of 4\d{3} characters, the limit is 4096"):
        await publisher.publish(long, ignore)

    monkeypatch.setattr(manifest, "ENTRIES_MAX", 1)
    with pytest.raises(NodeFailed, match="the results have more than 1 entries"):
        await publisher.publish(with_outputs(request(tmp_path, "e-many")), ignore)


def with_outputs(run: plugins.RunRequest) -> plugins.RunRequest:
    """Return the run of a job that has an output."""
    return msgspec.structs.replace(run, outputs=(ResultPath(name="outputs", path="/o"),))


def write_at(top: Path, parts: list[str]) -> None:
    """Write a file below directories whose path is longer than the system takes in one piece."""
    directory = os.open(top, os.O_RDONLY)
    for part in parts:
        os.mkdir(part, dir_fd=directory)
        inner = os.open(part, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
    os.close(directory)
