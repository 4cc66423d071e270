"""The docker engine on a real dockerd: parameters, limits, networks, ends kept apart, and runs that are found again."""

from __future__ import annotations

import asyncio
import socket
import stat
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.testing import wait_until
from bacalhau_engines.docker import DockerEngine, create
from bacalhau_engines.testing import OUTPUT, Program, Started, local_input, perform, run_request
from bacalhau_protocol.models.job import NetworkConfig, NetworkType, Port, SpecConfig
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import Outcome, OutcomeKind, RunRequest
from tests.builders_docker import IMAGE, client, containers, context, docker_engine, make_image, shell, sweep

pytestmark = [pytest.mark.needs_docker, pytest.mark.usefixtures("busybox")]


async def printed(tmp_path: Path, program: Program, **request: Any) -> str:
    """Run with a fresh engine and return what was printed."""
    run = run_request(tmp_path, program, **request)
    async with docker_engine(tmp_path) as engine:
        await perform(engine, run)
    return run.stdout_path.read_text()


# ── parameters ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("image", "params", "shown"),
    [
        ("none", {"Entrypoint": ["echo"], "Parameters": ["p"]}, "p\n"),
        ("none", {"Parameters": ["echo", "only"]}, "only\n"),
        ("cmd", {}, "cmd\n"),
        ("cmd", {"Parameters": ["echo", "p"]}, "p\n"),
        ("entry", {}, "entry\n"),
        ("entry", {"Parameters": ["p"]}, "entry p\n"),
        ("both", {}, "entry cmd\n"),
        ("both", {"Entrypoint": ["echo", "mine"]}, "mine\n"),
        ("both", {"Parameters": ["p"]}, "entry p\n"),
        ("both", {"Entrypoint": ["echo", "mine"], "Parameters": ["p"]}, "mine p\n"),
    ],
)
async def test_entry_points_and_commands(tmp_path: Path, image: str, params: dict[str, Any], shown: str) -> None:
    """Both of the image and of the job, as docker combines them: an entry point drops the image's command."""
    entry, cmd = 'ENTRYPOINT ["echo", "entry"]', 'CMD ["echo", "cmd"]'
    changes = {"none": [], "cmd": [cmd], "entry": [entry], "both": [entry, 'CMD ["cmd"]']}[image]
    name = make_image(f"bacalhau-test/{image}:1", changes=changes)
    assert await printed(tmp_path, Program(SpecConfig(type="docker", params={"Image": name, **params}))) == shown


async def test_variables_and_directory(tmp_path: Path) -> None:
    """The engine's list is stronger than the job's variables; a working directory is made when it is not there."""
    program = shell(
        "pwd", "echo $MODE $LEVEL", WorkingDirectory="/some/where", EnvironmentVariables=["MODE=fast", "LEVEL=2=3"]
    )
    assert await printed(tmp_path, program, env={"MODE": "slow"}) == "/some/where\nfast 2=3\n"


async def test_limits_are_the_kernels(tmp_path: Path) -> None:
    """Memory without swap, processor time and processes, as the control groups of either version show them."""
    show = shell(
        "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory.max 2>/dev/null | head -1",
        "cat cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 cpu.max",
        "cat pids/pids.max pids.max 2>/dev/null | head -1",
    )
    run = run_request(tmp_path, show, memory_bytes=100 * 1024**2)
    run = msgspec.structs.replace(run, resources=Resources(cpu=0.5, memory=100 * 1024**2))
    async with docker_engine(tmp_path, processes_max=77) as engine:
        await perform(engine, run)
    assert run.stdout_path.read_text().split() == [str(100 * 1024**2), "50000", "77"]


async def test_any_user_writes_outputs_and_reads_inputs(tmp_path: Path) -> None:
    """Images that run as somebody else work like those that run as root, which has no privileges here."""
    name = make_image("bacalhau-test/nobody:1", changes=["USER nobody"])
    run = run_request(tmp_path, shell("cat /in/a > /out/b; id -u", image=name))
    copied = run.execution_dir / "inputs" / "0"
    copied.mkdir(parents=True, mode=0o700)
    (copied / "a").write_text("data")
    (copied / "a").chmod(0o600)
    run = msgspec.structs.replace(run, inputs=(local_input(copied, "/in"),))
    async with docker_engine(tmp_path) as engine:
        assert (await perform(engine, run)).exit_code == 0
    assert (run.results_dir / OUTPUT.name / "b").read_text() == "data"
    assert run.stdout_path.read_text() == "65534\n"
    assert stat.S_IMODE((run.results_dir / OUTPUT.name).stat().st_mode) == 0o755


async def test_the_image_is_recorded(tmp_path: Path) -> None:
    """By what cannot move: its digest, or its id when no registry knows it."""
    async with docker_engine(tmp_path) as engine:
        outcome = await perform(engine, run_request(tmp_path, shell("true")))
    with client() as made:
        assert outcome.details["Image"] == made.inspect_image(IMAGE)["Id"]


async def test_what_it_used_is_recorded(tmp_path: Path) -> None:
    """Of a run that is long enough to be looked at: processor time and the peak of its memory."""
    async with docker_engine(tmp_path) as engine:
        run = run_request(tmp_path, shell("while [ ! -e /out/enough ]; do :; done"))
        running = asyncio.create_task(perform(engine, run))
        await wait_until(lambda: any(one.usage.cpu_seconds for one in engine._active.values()), what="it is looked at")
        (run.results_dir / "out" / "enough").touch()
        outcome = await running
    assert outcome.cpu_seconds > 0
    assert 0 < outcome.memory_peak_bytes <= 64 * 1024**2


# ── ends ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("line", "kind", "code", "words"),
    [
        ("exit 7", OutcomeKind.EXITED, 7, ""),
        ("kill -SEGV $$", OutcomeKind.SIGNALLED, 139, "SIGSEGV"),
        ("kill -9 $$", OutcomeKind.SIGNALLED, 137, "SIGKILL"),
        ("exec tail /dev/zero", OutcomeKind.OUT_OF_MEMORY, 137, "64 MiB"),
        ("exec /no/such/program", OutcomeKind.EXITED, 127, ""),
    ],
)
async def test_ends_are_kept_apart(tmp_path: Path, line: str, kind: OutcomeKind, code: int, words: str) -> None:
    """An exit code, a signal, and memory are three things."""
    async with docker_engine(tmp_path) as engine:
        outcome = await perform(engine, run_request(tmp_path, shell(line)))
    assert (outcome.kind, outcome.exit_code) == (kind, code)
    assert words in outcome.message


@pytest.mark.parametrize("init", [True, False])
async def test_a_program_that_is_not_there_is_said(tmp_path: Path, init: bool) -> None:
    """With and without docker's own process 1."""
    program = Program(SpecConfig(type="docker", params={"Image": IMAGE, "Entrypoint": ["no-such-program"]}))
    async with docker_engine(tmp_path, init=init) as engine:
        outcome = await perform(engine, run_request(tmp_path, program))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.COULD_NOT_RUN, 127)
    assert "no-such-program" in outcome.message
    assert "Entrypoint" in outcome.hint


async def test_a_cancelled_run_may_tidy_up(tmp_path: Path) -> None:
    """It gets the stop signal, and its grace."""
    run, started = (
        run_request(tmp_path, shell("trap 'echo tidy; exit 0' TERM", "echo up", "sleep 60 & wait")),
        Started(),
    )
    async with docker_engine(tmp_path) as engine:
        task = asyncio.create_task(perform(engine, run, started))
        await wait_until(
            lambda: run.stdout_path.exists() and run.stdout_path.read_text() == "up\n", what="the trap is set"
        )
        await engine.cancel(run.execution_id, 20.0)
        outcome = await task
    assert outcome.kind is OutcomeKind.CANCELLED
    assert run.stdout_path.read_text() == "up\ntidy\n"


async def test_a_cancelled_run_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    """After the grace."""
    run, started = run_request(tmp_path, shell("trap '' TERM", "echo up", "while true; do sleep 1; done")), Started()
    async with docker_engine(tmp_path) as engine:
        task = asyncio.create_task(perform(engine, run, started))
        await wait_until(
            lambda: run.stdout_path.exists() and run.stdout_path.read_text() == "up\n", what="the trap is set"
        )
        await engine.cancel(run.execution_id, 0.3)
        assert (await task).kind is OutcomeKind.CANCELLED


async def test_a_cancellation_while_it_begins_is_not_lost(tmp_path: Path) -> None:
    """The container does not start, or is stopped at once; nothing of it stays."""
    async with docker_engine(tmp_path) as engine:
        for number in range(6):
            run = run_request(tmp_path, shell("sleep 60"), execution_id=f"e-{number}")
            await engine.prepare(run, lambda what, done, total: None)
            task = asyncio.create_task(engine.run(run, Started()))
            for _ in range(number + 1):  # at six points of its way
                await asyncio.sleep(0)
            await engine.cancel(run.execution_id, 0.0)
            assert (await task).kind is OutcomeKind.CANCELLED
            await engine.forget(run.execution_id, run.attempt)
        await wait_until(lambda: not containers(tmp_path), what="all containers are gone")


# ── networks and ports ────────────────────────────────────────────────────────────────────────────────────────────────


def networked(run: RunRequest, kind: NetworkType, *ports: Port) -> RunRequest:
    """Have a run's task ask for a network."""
    task = msgspec.structs.replace(run.task, network=NetworkConfig(type=kind, ports=ports))
    return msgspec.structs.replace(run, job=msgspec.structs.replace(run.job, tasks=(task,)))


@pytest.mark.parametrize("kind", [NetworkType.BRIDGE, NetworkType.HOST])
async def test_a_port_is_reached_from_this_machine(tmp_path: Path, kind: NetworkType) -> None:
    """At the number that the task is told in its environment, on either network."""
    run = run_request(
        tmp_path,
        shell(
            "echo up > /tmp/index.html",
            "echo $BACALHAU_HOST_PORT_web $BACALHAU_PORT_web",
            "httpd -f -p $BACALHAU_PORT_web -h /tmp",
        ),
    )
    target = Port(name="web", target=8080) if kind is NetworkType.BRIDGE else Port(name="web")
    run = networked(run, kind, target)
    async with docker_engine(tmp_path, networks=["bridge", "host"]) as engine:
        assert engine.check(run.task, Resources()) == []
        task = asyncio.create_task(perform(engine, run))
        await wait_until(lambda: run.stdout_path.exists() and run.stdout_path.read_text(), what="it says its port")
        host, inside = run.stdout_path.read_text().split()

        def page() -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{host}/", timeout=2) as answer:
                read: bytes = answer.read()
                return read

        async def answers() -> bool:
            try:
                return await asyncio.to_thread(page) == b"up\n"
            except OSError:
                return False

        await wait_until(answers, what="the page is served")
        await engine.cancel(run.execution_id, 0.0)
        await task
    assert 20000 <= int(host) <= 32000
    assert inside == ("8080" if kind is NetworkType.BRIDGE else host)


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """By its number, with what to do; the next run is not harmed."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = Port(name="web", static=server.getsockname()[1], target=80)
        run = networked(run_request(tmp_path, shell("true")), NetworkType.BRIDGE, port)
        async with docker_engine(tmp_path, networks=["bridge"]) as engine:
            outcome = await perform(engine, run)
    assert outcome.kind is OutcomeKind.COULD_NOT_RUN
    assert (
        f"port {server.getsockname()[1] if server.fileno() > 0 else port.static} of this node is in use"
        in outcome.message
    )
    assert "BACALHAU_HOST_PORT" in outcome.hint


# ── found again ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def begin(engine: DockerEngine, run: RunRequest) -> asyncio.Task[Outcome]:
    """Start a run and wait until its own code runs."""
    started = Started()
    await engine.prepare(run, lambda what, done, total: None)
    task = asyncio.create_task(engine.run(run, started))
    async with asyncio.timeout(20):
        await started.event.wait()
    return task


async def test_a_running_container_is_found_with_all_its_output(tmp_path: Path) -> None:
    """An engine goes away, the container prints on; the next finds it, every byte of both streams is there once."""
    lines = ["for n in $(seq 1 40); do echo out $n; echo err $n >&2; usleep 50000; done", "printf end", "exit 5"]
    run = run_request(tmp_path, shell(*lines))
    run.stdout_path.write_text("before\n")
    first = DockerEngine(context(tmp_path))
    task = await begin(first, run)
    await wait_until(lambda: "out 3\n" in run.stdout_path.read_text(), what="it prints")
    await first.close()
    await asyncio.wait([task])
    assert task.cancelled()
    async with docker_engine(tmp_path) as second:
        started = Started()
        assert await second.holds(run.execution_id, run.attempt)
        assert await second.sweep(frozenset({(run.execution_id, run.attempt)})) == 0
        outcome = await second.run(run, started)
        assert (outcome.kind, outcome.exit_code, started.count) == (OutcomeKind.EXITED, 5, 1)
        assert run.stdout_path.read_text() == "before\n" + "".join(f"out {n}\n" for n in range(1, 41)) + "end"
        assert run.stderr_path.read_text() == "".join(f"err {n}\n" for n in range(1, 41))
        await second.forget(run.execution_id, run.attempt)
        await wait_until(lambda: not containers(tmp_path), what="it is removed once its end is on disk")


async def test_a_container_that_ended_meanwhile_is_collected(tmp_path: Path) -> None:
    """And not started a second time."""
    run = run_request(tmp_path, shell("date +%s%N > /out/when", "usleep 300000", "echo bye", "exit 4"))
    first = DockerEngine(context(tmp_path))
    await begin(first, run)
    await first.close()
    await wait_until(lambda: containers(tmp_path)[0]["State"] == "exited", what="it ends alone")
    when = (run.results_dir / "out" / "when").read_text()
    async with docker_engine(tmp_path) as second:
        assert await second.holds(run.execution_id, run.attempt)
        outcome = await second.run(run, Started())
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXITED, 4)
    assert run.stdout_path.read_text() == "bye\n"
    assert (run.results_dir / "out" / "when").read_text() == when


async def test_the_timeout_counts_from_the_true_beginning(tmp_path: Path) -> None:
    """A run that is found again has used up some of its time."""
    run = run_request(tmp_path, shell("sleep 60"), timeout_s=2.0)
    first = DockerEngine(context(tmp_path))
    await begin(first, run)
    await first.close()
    async with docker_engine(tmp_path) as second:
        assert await second.holds(run.execution_id, run.attempt)
        outcome = await second.run(run, Started())
    assert outcome.kind is OutcomeKind.TIMED_OUT
    assert 2.0e9 <= outcome.ended_at - outcome.started_at < 10e9


async def test_a_container_that_never_began_is_made_anew(tmp_path: Path) -> None:
    """A daemon that ended between creating and starting has left one that refers to inputs of its own."""
    run = run_request(tmp_path, shell("echo once"))
    first = DockerEngine(context(tmp_path))
    await perform(first, run)  # so that there is an image
    with client() as made:
        owner = create.owner_of(context(tmp_path))
        name = create.name_of(owner, "e-new", 1)
        made.create_container(IMAGE, ["echo", "stale"], name=name, labels={create.OWNER: owner})
    await first.close()
    again = run_request(tmp_path, shell("echo new"), execution_id="e-new")
    async with docker_engine(tmp_path) as second:
        assert not await second.holds("e-new", 1)
        await perform(second, again)
    assert again.stdout_path.read_text() == "new\n"


async def test_nothing_is_held_of_others(tmp_path: Path) -> None:
    """Neither unknown runs, nor another node's of the same name; leftovers of this node go, and only those."""
    (tmp_path / "other").mkdir()
    run = run_request(tmp_path, shell("sleep 60"))
    first = DockerEngine(context(tmp_path))
    await begin(first, run)
    await first.close()
    async with docker_engine(tmp_path / "other") as other:
        assert not await other.holds("e-unknown", 1)
        assert not await other.holds(run.execution_id, run.attempt)
        assert await other.sweep(frozenset()) == 0
        outcome = await perform(other, run_request(tmp_path / "other", shell("true")))
        assert outcome.kind is OutcomeKind.EXITED
    assert len(containers(tmp_path)) == 1
    assert await sweep(tmp_path) == 1
    assert containers(tmp_path) == []
