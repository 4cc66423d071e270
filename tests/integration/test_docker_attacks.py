"""Hostile containers: each is stopped and said, and the engine goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.testing import wait_until
from bacalhau_engines.docker import DockerEngine
from bacalhau_engines.testing import OUTPUT, Program, Started, local_input, perform, run_request
from bacalhau_protocol.models.job import NetworkConfig, NetworkType, ResultPath
from bacalhau_protocol.models.resources import Resources, ResourcesConfig
from bacalhau_protocol.plugins import Outcome, OutcomeKind, RunRequest
from tests.builders_docker import client, containers, docker_engine, make_image, shell

pytestmark = [pytest.mark.needs_docker, pytest.mark.usefixtures("busybox")]

MIB = 1024 * 1024
PROCESSES = 32
STREAM_BYTES = 1_000_000
ATTACK_S = 30.0  # if nothing else stops it


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[DockerEngine]:
    """An engine with small limits; after the attack it works."""
    async with docker_engine(tmp_path, processes_max=PROCESSES, stream_bytes=STREAM_BYTES) as engine:
        yield engine
        outcome, printed, _ = await play(engine, tmp_path, shell("echo fine"), execution_id="e-after")
        assert (outcome.kind, printed) == (OutcomeKind.EXITED, "fine\n")


async def play(
    engine: DockerEngine, tmp_path: Path, program: Program, *, disk: int = 0, **request: Any
) -> tuple[Outcome, str, str]:
    """Run and return the outcome, stdout and stderr."""
    run = with_disk(run_request(tmp_path, program, **{"timeout_s": ATTACK_S, **request}), disk)
    outcome = await perform(engine, run)
    return outcome, run.stdout_path.read_text(errors="replace"), run.stderr_path.read_text(errors="replace")


def with_disk(run: RunRequest, disk: int) -> RunRequest:
    """Have a task ask for so many bytes of disk."""
    if not disk:
        return run
    task = msgspec.structs.replace(run.task, resources=ResourcesConfig(disk=str(disk)))
    job = msgspec.structs.replace(run.job, tasks=(task,))
    return msgspec.structs.replace(run, job=job, resources=msgspec.structs.replace(run.resources, disk=disk))


async def test_more_memory_is_the_end(engine: DockerEngine, tmp_path: Path) -> None:
    """Of the program itself: said as such, with the limit, and never taken for an exit code."""
    outcome, _, _ = await play(engine, tmp_path, shell("tail /dev/zero"), memory_bytes=16 * MIB)
    assert (outcome.kind, outcome.failed) == (OutcomeKind.OUT_OF_MEMORY, True)
    assert "16 MiB" in outcome.message
    assert "Resources.Memory" in outcome.hint


async def test_more_memory_in_a_child_is_not_a_success(engine: DockerEngine, tmp_path: Path) -> None:
    """A program that shrugs off its child's death for memory has not completed."""
    outcome, _, _ = await play(engine, tmp_path, shell("tail /dev/zero", "sleep 1", "exit 0"), memory_bytes=16 * MIB)
    assert outcome.kind is OutcomeKind.OUT_OF_MEMORY


async def test_processes_are_counted(engine: DockerEngine, tmp_path: Path) -> None:
    """A bomb of processes stays within its limit; the machine does not notice."""
    bomb = shell("for n in $(seq 100); do sleep 30 & done", "echo never")
    outcome, printed, said = await play(engine, tmp_path, bomb, timeout_s=5.0)
    assert "never" not in printed
    assert "can't fork" in said
    assert outcome.exit_code != 0


async def test_a_container_that_fills_its_disk_is_stopped(engine: DockerEngine, tmp_path: Path) -> None:
    """What it writes outside of its outputs counts."""
    fill = shell("while true; do dd if=/dev/zero of=/var/$RANDOM bs=1M count=8 2>/dev/null; usleep 100000; done")
    outcome, _, _ = await play(engine, tmp_path, fill, disk=20 * MIB)
    assert (outcome.kind, outcome.failed) == (OutcomeKind.OVER_LIMIT, True)
    assert "disk limit exceeded" in outcome.message
    assert "20 MiB are allowed" in outcome.message


async def test_outputs_count_as_disk(engine: DockerEngine, tmp_path: Path) -> None:
    """The directories that are published are the node's own disk."""
    fill = shell("while true; do dd if=/dev/zero of=/out/$RANDOM bs=1M count=8 2>/dev/null; usleep 100000; done")
    outcome, _, _ = await play(engine, tmp_path, fill, disk=20 * MIB)
    assert outcome.kind is OutcomeKind.OVER_LIMIT
    assert "disk limit exceeded" in outcome.message


async def test_volumes_of_the_image_count_as_disk(engine: DockerEngine, tmp_path: Path) -> None:
    """An image cannot bring along a place that nobody looks at; its volumes go with the container."""
    name = make_image("bacalhau-test/volume:1", changes=["VOLUME /vol"])
    fill = shell("while true; do cat /bin/busybox >> /vol/x; usleep 20000; done", image=name)
    run = with_disk(run_request(tmp_path, fill, timeout_s=ATTACK_S), 20 * MIB)
    started = Started()
    await engine.prepare(run, lambda what, done, total: None)
    task = asyncio.create_task(engine.run(run, started))
    with client() as docker:
        await wait_until(lambda: started.count, what="it runs")
        (mount,) = (
            one for one in docker.inspect_container(containers(tmp_path)[0]["Id"])["Mounts"] if one["Type"] == "volume"
        )
        outcome = await task
        await engine.forget("e-1", 1)
        await engine.removed("e-1", 1)
        left = [one["Name"] for one in docker.volumes()["Volumes"] or ()]
    assert outcome.kind is OutcomeKind.OVER_LIMIT
    assert mount["Name"] not in left


async def test_a_stream_without_end_is_stopped(engine: DockerEngine, tmp_path: Path) -> None:
    """Endless output ends the run, with what was printed so far."""
    outcome, printed, _ = await play(engine, tmp_path, shell("yes"))
    assert outcome.kind is OutcomeKind.OVER_LIMIT
    assert "stdout is larger than 1.0 MB" in outcome.message
    assert STREAM_BYTES <= len(printed) < STREAM_BYTES + MIB


async def test_without_a_network_there_is_nobody(engine: DockerEngine, tmp_path: Path) -> None:
    """No interface but the container's own loopback; a server on this machine is not reached."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        program = shell(
            "ls /sys/class/net",
            f"for host in 127.0.0.1 172.17.0.1; do nc -w 1 $host {port} </dev/null && echo in; done",
        )
        outcome, printed, _ = await play(engine, tmp_path, program)
    assert printed.split() == ["lo"]
    assert outcome.exit_code != 0


@pytest.mark.parametrize("kind", [NetworkType.HOST, NetworkType.FULL, NetworkType.BRIDGE, NetworkType.HTTP])
async def test_networks_are_refused_in_words(engine: DockerEngine, tmp_path: Path, kind: NetworkType) -> None:
    """Where the operator has not allowed them; the words say what to set."""
    task = msgspec.structs.replace(
        run_request(tmp_path, shell("true")).task, network=NetworkConfig(type=kind, domains=("example.org",))
    )
    (problem,) = engine.check(task, Resources())
    assert "HTTP" in problem if kind is NetworkType.HTTP else 'networks = ["' in problem


async def test_other_containers_are_out_of_reach(engine: DockerEngine, tmp_path: Path) -> None:
    """No socket of dockerd, no process of anybody else, no signal to them, no namespace to enter."""
    program = shell(
        "ls /var/run/docker.sock /run/docker.sock 2>/dev/null",
        "ls -d /proc/[0-9]* | wc -l",
        "nsenter -t 1 -m true && echo entered",
        "mount -t proc none /root && echo mounted",
        "mknod /tmp/disk b 8 0 && echo made",
        "chroot / true && echo rooted",
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status",
    )
    _, printed, _ = await play(engine, tmp_path, program)
    lines = printed.splitlines()
    assert int(lines[0]) <= 4
    assert [line.split() for line in lines[1:]] == [
        ["CapEff:", "0" * 16],
        ["CapBnd:", "0" * 16],
        ["NoNewPrivs:", "1"],
    ]


async def test_root_cannot_write_inputs(engine: DockerEngine, tmp_path: Path) -> None:
    """Neither into them, nor after mounting them anew, nor below a mount that lies in them."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("mine")
    program = shell(
        "id -u",
        "echo x > /data/a.txt", "rm /data/a.txt", "touch /data/b", "chmod 777 /data", "mount -o remount,rw /data",
        "cat /data/a.txt",
    )  # fmt: skip
    _, printed, said = await play(engine, tmp_path, program, inputs=[local_input(data, "/data")])
    assert printed == "0\nmine"
    assert said.count("Read-only file system") == 4
    assert (data / "a.txt").read_text() == "mine"
    assert stat.S_IMODE(data.stat().st_mode) != 0o777


async def test_what_leads_out_of_outputs_is_taken_away(engine: DockerEngine, tmp_path: Path) -> None:
    """Links, pipes and programs of their owner's: said on stderr; what stays inside stays."""
    program = shell(
        "mkdir -p /out/deep/er; echo text > /out/deep/file",
        "ln -s /etc/passwd /out/absolute",
        "ln -s ../../../../../../etc/passwd /out/deep/up",
        "ln -s er /out/deep/er2; ln -s er2/../../../x /out/deep/tricky",
        "ln -s ../deep/file /out/deep/inside",
        "mkfifo /out/pipe",
        "cp /bin/busybox /out/tool; chmod 4755 /out/tool",
    )
    run = run_request(tmp_path, program)
    outcome = await perform(engine, run)
    out, said = run.results_dir / OUTPUT.name, run.stderr_path.read_text()
    assert outcome.kind is OutcomeKind.EXITED
    assert sorted(path.name for path in out.iterdir()) == ["deep", "tool"]
    assert sorted(path.name for path in (out / "deep").iterdir()) == ["er", "er2", "file", "inside"]
    assert (out / "tool").stat().st_mode & stat.S_ISUID == 0
    for name in ("out/absolute", "out/deep/up", "out/deep/tricky", "out/pipe", "out/tool"):
        assert name in said


async def test_an_output_path_with_dots_stays_in_the_container(engine: DockerEngine, tmp_path: Path) -> None:
    """`..` in a path is a path of the container; in a name it never gets this far."""
    (tmp_path / "victim").mkdir()
    outputs = [ResultPath(name="out", path="/a/../../../../x/./y")]
    run = run_request(tmp_path, shell("echo text > /x/y/file"), outputs=outputs)
    outcome = await perform(engine, run)
    assert outcome.exit_code == 0
    assert (run.results_dir / "out" / "file").read_text() == "text\n"
    task = msgspec.structs.replace(run.task, result_paths=(ResultPath(name="o", path="/../"),))
    assert "root directory" in engine.check(task, Resources())[0]
