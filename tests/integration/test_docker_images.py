"""Images: what is missing, forbidden, for another machine or slow to come is said, and what to do about it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.testing import wait_until
from bacalhau_engines.docker import DockerEngine
from bacalhau_engines.testing import Started, perform, run_request
from bacalhau_protocol.errors import BacalhauError, NodeFailed, SpecError
from bacalhau_protocol.plugins import OutcomeKind, RunRequest
from tests.builders_docker import IMAGE, client, docker_engine, load_image, make_image, shell
from tests.registry import PASSWORD, USER, SlowLine, push, registry, registry_program

pytestmark = [
    pytest.mark.needs_docker,
    pytest.mark.usefixtures("busybox"),
    pytest.mark.skipif(not registry_program(), reason="there is no docker-registry here, so this was NOT tested"),
]
FILLER_BYTES = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give a registry for everybody."""
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give a registry with a password."""
    with registry(tmp_path_factory.mktemp("private"), private=True) as address:
        yield address


@pytest.fixture
def name() -> Iterator[str]:
    """Give a repository and tag that nobody else has; whatever is there of it in the end is removed."""
    made = f"tests/{secrets.token_hex(4)}:1"
    yield made
    with client() as docker:
        for image in docker.images():
            for tag in image["RepoTags"] or ():
                if tag.endswith(made):
                    docker.remove_image(tag, force=True)


async def refusal(engine: DockerEngine, run: RunRequest) -> BacalhauError:
    """Return why preparing fails."""
    with pytest.raises(BacalhauError) as caught:
        await engine.prepare(run, lambda what, done, total: None)
    return caught.value


async def test_an_image_is_pulled_and_its_digest_recorded(tmp_path: Path, public: str, name: str) -> None:
    """Where it is not here; the outcome says exactly what ran."""
    pushed = push(IMAGE, f"{public}/{name}")
    async with docker_engine(tmp_path) as engine:
        outcome = await perform(engine, run_request(tmp_path, shell("true", image=pushed)))
    assert outcome.kind is OutcomeKind.EXITED
    assert outcome.details["Image"].startswith(f"{public}/{name.removesuffix(':1')}@sha256:")


async def test_a_digest_is_a_name(tmp_path: Path, public: str, name: str) -> None:
    """An image can be pinned."""
    pushed = push(load_image(f"{public}/{name}", filler=secrets.token_bytes(8)), f"{public}/{name}")
    async with docker_engine(tmp_path) as engine:
        outcome = await perform(engine, run_request(tmp_path, shell("true", image=pushed)))
        await engine.removed("e-1", 1)
        with client() as docker:
            docker.remove_image(docker.inspect_image(pushed)["Id"], force=True)
            assert not docker.images(pushed)
        pinned = run_request(tmp_path, shell("echo pinned", image=outcome.details["Image"]), execution_id="e-2")
        assert (await perform(engine, pinned)).kind is OutcomeKind.EXITED


async def test_policies(tmp_path: Path, public: str, name: str) -> None:
    """`missing` keeps an image whose tag has moved, `always` sees that, `never` says whose wish it is."""
    image = f"{public}/{name}"
    push(IMAGE, image)
    run = run_request(tmp_path, shell("ls /filler 2>/dev/null; true", image=image))

    async def printed(number: int, **settings: str) -> str:
        async with docker_engine(tmp_path, **settings) as engine:
            again = run_request(
                tmp_path, shell("ls /filler 2>/dev/null; true", image=image), execution_id=f"e-{number}"
            )
            await perform(engine, again)
        return again.stdout_path.read_text()

    async with docker_engine(tmp_path, pull="never") as engine:
        error = await refusal(engine, run)
    assert isinstance(error, NodeFailed)
    assert 'pull = "missing"' in error.hint
    assert await printed(1) == ""
    with client() as docker:
        kept = docker.inspect_image(image)["Id"]
        push(make_image("bacalhau-test/filled:1", extra=b"x"), image)
        docker.tag(kept, image.removesuffix(":1"), "1")
    assert await printed(2) == ""
    assert await printed(3, pull="always") == "/filler\n"


async def test_an_image_that_is_not_there(tmp_path: Path, public: str, name: str) -> None:
    """Said with its registry, as a fault of the job file."""
    async with docker_engine(tmp_path) as engine:
        error = await refusal(engine, run_request(tmp_path, shell("true", image=f"{public}/{name}")))
    assert isinstance(error, SpecError)
    assert f"there is no image {public}/{name} at {public}" in error.message
    assert "check name and tag" in error.hint


async def test_a_registry_that_is_not_there(tmp_path: Path, name: str) -> None:
    """A fault of the node, or of its line."""
    async with docker_engine(tmp_path) as engine:
        error = await refusal(engine, run_request(tmp_path, shell("true", image=f"localhost:1/{name}")))
    assert isinstance(error, NodeFailed)
    assert "localhost:1" in error.message
    assert "can the node reach the registry" in error.hint


async def test_an_image_for_another_machine(tmp_path: Path, public: str, name: str) -> None:
    """In the registry, and on this machine: said with both platforms and what to do."""
    image = f"{public}/{name}"
    load_image(image, architecture="arm64" if os.uname().machine == "x86_64" else "amd64")
    async with docker_engine(tmp_path, pull="never") as engine:
        here = await refusal(engine, run_request(tmp_path, shell("true", image=image)))
    push(image, image + "x")
    push(image, image)
    async with docker_engine(tmp_path) as engine:
        there = await refusal(engine, run_request(tmp_path, shell("true", image=image)))
    for error in (here, there):
        assert isinstance(error, SpecError)
        assert "is not for this node's platform, linux/" in error.message
        assert "os_arch" in error.hint


async def test_a_private_registry(tmp_path: Path, private: str, name: str) -> None:
    """Without credentials it is said how to give some; they are docker's own, and are read when they are needed."""
    image = push(IMAGE, f"{private}/{name}")
    config = tmp_path / "config.json"
    async with docker_engine(tmp_path, docker_config=str(config)) as engine:
        run = run_request(tmp_path, shell("echo in", image=image))
        error = await refusal(engine, run)
        assert isinstance(error, NodeFailed)
        assert f"docker login {private}" in error.hint
        other = {"auths": {"elsewhere.example": {"auth": _basic(USER, PASSWORD)}}}
        config.write_text(json.dumps(other))
        assert isinstance(await refusal(engine, run), NodeFailed), "credentials of other registries are not handed over"
        config.write_text(json.dumps({"auths": {private: {"auth": _basic(USER, PASSWORD)}}}))
        assert (await perform(engine, run)).kind is OutcomeKind.EXITED


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_slow_pull_shows_its_bytes_and_happens_once(tmp_path: Path, public: str, name: str) -> None:
    """Two runs that want the same image wait for one pull; both see it come."""
    load_image(f"{public}/{name}", filler=secrets.token_bytes(FILLER_BYTES))
    push(f"{public}/{name}", f"{public}/{name}")
    seen: list[list[tuple[str, int, int]]] = [[], []]
    with SlowLine(public, FILLER_BYTES / 1.5) as line:
        async with docker_engine(tmp_path) as engine:
            runs = [
                run_request(tmp_path, shell("true", image=f"{line.address}/{name}"), execution_id=f"e-{n}")
                for n in (0, 1)
            ]

            async def prepare(number: int) -> None:
                await engine.prepare(runs[number], lambda what, done, total: seen[number].append((what, done, total)))

            await asyncio.gather(prepare(0), prepare(1))
            assert (await engine.run(runs[0], Started())).kind is OutcomeKind.EXITED
    for told in seen:
        assert {what for what, _, _ in told} == {f"pull {line.address}/{name}"}
        assert len({done for _, done, _ in told}) >= 3
        assert told[-1][1] == told[-1][2] >= FILLER_BYTES


async def test_a_pull_is_given_up_with_its_last_run(tmp_path: Path, public: str, name: str) -> None:
    """Who stops waiting does not stop the others; when nobody waits any more, dockerd is told."""
    load_image(f"{public}/{name}", filler=secrets.token_bytes(FILLER_BYTES))
    push(f"{public}/{name}", f"{public}/{name}")
    with SlowLine(public, FILLER_BYTES / 60) as line:
        async with docker_engine(tmp_path) as engine:
            told: list[int] = []
            run = run_request(tmp_path, shell("true", image=f"{line.address}/{name}"))
            tasks = [
                asyncio.create_task(engine.prepare(run, lambda what, done, total: told.append(done))) for _ in range(2)
            ]
            await wait_until(lambda: any(told), what="it comes in")
            tasks[0].cancel()
            await asyncio.wait([tasks[0]])
            assert not tasks[1].done()
            tasks[1].cancel()
            await asyncio.wait([tasks[1]])
            again = asyncio.create_task(engine.prepare(run, lambda what, done, total: None))
            await wait_until(lambda: engine.pulling, what="it is asked for again")
            assert not again.done()
            again.cancel()
            await asyncio.wait([again])
            assert again.cancelled()
            await wait_until(lambda: not engine.pulling, what="the pull has ended")
