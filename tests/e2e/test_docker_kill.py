"""Compute daemons and dockerd are killed while containers prepare, run and publish: one end, results, nothing left."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.results import fetch_results
from bacalhau_protocol.models.job import Job, ResultPath, SpecConfig, Task, TimeoutConfig
from bacalhau_protocol.models.states import ComputeStateType, JobStateType
from tests.builders_docker import IMAGE, client, load_image
from tests.dockerd import OwnDockerd
from tests.e2e.cluster import client_of, ended, successes, wait_for
from tests.registry import SlowLine, push, registry, registry_program

pytestmark = [pytest.mark.needs_docker, pytest.mark.usefixtures("busybox"), pytest.mark.timeout(180)]

KILLS, KILLS_SOAK = 3, 20
LATER_MAX_S = 0.2  # between seeing a phase and the kill
NODE = "n-docker"
LINES = 40
NEEDS_REGISTRY = pytest.mark.skipif(
    not registry_program(), reason="there is no docker-registry here, so this was NOT tested"
)


def job(*lines: str, image: str = IMAGE, publisher: str = "", execution_timeout_s: int = 0) -> Job:
    """Return a job that runs these lines and has one output."""
    task = Task(
        name="main",
        engine=SpecConfig(
            type="docker", params={"Image": image, "Entrypoint": ["/bin/sh", "-c"], "Parameters": ["\n".join(lines)]}
        ),
        publisher=SpecConfig(type=publisher or "nats"),
        result_paths=(ResultPath(name="out", path="/out"),),
        timeouts=TimeoutConfig(execution=execution_timeout_s),
    )
    return Job(type="batch", tasks=(task,))


def counting(seconds: float, image: str = IMAGE) -> Job:
    """Return a job that prints numbers for so long, and writes one file."""
    pause_us = int(seconds / LINES * 1e6)
    return job(
        f"for n in $(seq {LINES}); do echo line $n; usleep {pause_us}; done", "echo done > /out/file", image=image
    )


COUNTED = "".join(f"line {n}\n" for n in range(1, LINES + 1))


async def phase_of(client: Client, job_id: str) -> str:
    """Return what a job's execution does now."""
    page = await client.list_executions(job_id)
    phases = [page.phases[one.id].name for one in page.executions if one.id in page.phases]
    return phases[-1] if phases else ""


async def in_phase(client: Client, job_id: str, phase: str) -> bool:
    """Wait for a phase and return whether it was seen; a job that is over has passed it."""
    seen = False

    async def there() -> bool:
        nonlocal seen
        if await phase_of(client, job_id) == phase:
            seen = True
            return True
        return (await client.get_job(job_id)).job.state.state_type.terminal

    await wait_for(there, f"the job is {phase}")
    return seen


async def one_end(client: Client, job_id: str, directory: Path, stdout: str) -> None:
    """Check that a job completed in its first execution, with all its output and its file."""
    full = await ended(client, job_id, 90)
    assert full.job.state.state_type is JobStateType.COMPLETED, full.job.state
    assert successes(full.executions) == {0: 1}
    assert len(full.executions) == 1, [one.compute_state for one in full.executions]
    assert (await logs(client, job_id, directory)) == stdout


async def logs(client: Client, job_id: str, directory: Path) -> str:
    """Fetch the results and return what was printed."""
    await fetch_results(client, job_id, directory)
    assert (directory / "out" / "file").exists()
    return (directory / "stdout").read_text()


def left(node: str = NODE, socket: str = "") -> list[str]:
    """Return the names of a node's containers."""
    with client(socket) as made:
        found = made.containers(all=True, filters={"label": f"bacalhau.node={node}"})
        return [name for container in found for name in container["Names"]]


async def nothing_is_left(node: str, socket: str = "") -> None:
    """Wait until no container of a node is there any more."""

    async def gone() -> bool:
        return not await asyncio.to_thread(left, node, socket)

    await wait_for(gone, f"no container of {node} is left")


async def killed_in(phase: str, stack: DevStack, submitted: Callable[[], Job], kills: int, stdout: str) -> None:
    """Kill the compute daemon again and again while a job of its is in this phase, and look at what comes of each."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when it fails
    dice = random.Random(seed)
    node = f"n-{secrets.token_hex(4)}"
    orchestrator = stack.orchestrator()
    compute = stack.compute(node)
    hits = 0
    async with client_of(orchestrator) as client:
        for number in range(kills):
            job_id = (await client.submit_job(submitted())).job_id
            hits += await in_phase(client, job_id, phase)
            await asyncio.wait([asyncio.get_running_loop().create_future()], timeout=dice.uniform(0, LATER_MAX_S))
            await again(compute)
            await one_end(client, job_id, stack.directory / f"results-{number}", stdout)
        await nothing_is_left(node)
        assert hits * 2 > kills, f"{phase} was met {hits} times"


async def again(daemon: Daemon) -> None:
    """Kill a daemon and start it again."""
    daemon.kill()
    daemon.start()
    await asyncio.to_thread(daemon.ready)


def soaked(kills: int) -> list[object]:
    """Return the numbers of kills: a few for every day, many for a soak."""
    return [kills, pytest.param(KILLS_SOAK, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])]


@pytest.fixture
def slow_image(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Give a maker of images that take a second and a half to come, each under a name of its own."""
    made: list[str] = []
    with registry(tmp_path / "registry") as address, SlowLine(address, 2_000_000) as line:

        def make() -> str:
            name = f"tests/{secrets.token_hex(4)}:1"
            push(load_image(f"{address}/{name}", filler=secrets.token_bytes(2_000_000)), f"{address}/{name}")
            made.append(f"{line.address}/{name}")
            return made[-1]

        yield make
    with client() as docker:
        for image in made:
            for there in docker.images(image):
                docker.remove_image(there["Id"], force=True)


@NEEDS_REGISTRY
@pytest.mark.parametrize("kills", soaked(KILLS))
async def test_killed_while_preparing(stack: DevStack, slow_image: Callable[[], str], kills: int) -> None:
    """The image is asked for again, and the run begins once."""
    await killed_in("Preparing", stack, lambda: counting(0.2, slow_image()), kills, COUNTED)


@pytest.mark.parametrize("kills", soaked(KILLS))
async def test_killed_while_running(stack: DevStack, kills: int) -> None:
    """The container runs on, is found, and every line that it printed is there once."""
    await killed_in("Running", stack, lambda: counting(2.0), kills, COUNTED)


@pytest.mark.parametrize("kills", soaked(KILLS))
async def test_killed_while_publishing(stack: DevStack, kills: int) -> None:
    """The run is not repeated; its results are published by the next daemon."""
    stack.config_dir.mkdir(parents=True)
    (stack.config_dir / "daemon.toml").write_text("[publishers.local]\nport = 0\n")
    write = "dd if=/dev/urandom of=/out/file bs=1M count=20 2>/dev/null"  # takes a second to compress
    await killed_in("Publishing", stack, lambda: job("echo ran", write, publisher="local"), kills, "ran\n")


async def test_a_daemon_that_is_stopped_leaves_containers_to_the_next(stack: DevStack) -> None:
    """Also in good order: a restart for a new version costs no run."""
    node = f"n-{secrets.token_hex(4)}"
    stack.config_dir.mkdir(parents=True)
    (stack.config_dir / "daemon.toml").write_text("stop_grace_s = 0.2\n")
    orchestrator, compute = stack.orchestrator(), stack.compute(node)
    async with client_of(orchestrator) as client:
        job_id = (await client.submit_job(counting(4.0))).job_id
        await in_phase(client, job_id, "Running")
        assert await asyncio.to_thread(compute.stop) == 0
        compute.start()
        await asyncio.to_thread(compute.ready)
        await one_end(client, job_id, stack.directory / "results", COUNTED)
        await nothing_is_left(node)


async def test_a_stop_while_the_daemon_is_away_is_carried_out(stack: DevStack) -> None:
    """A job that is stopped meanwhile is stopped when the node is back; its container goes."""
    node = f"n-{secrets.token_hex(4)}"
    orchestrator, compute = stack.orchestrator(), stack.compute(node)
    async with client_of(orchestrator) as client:
        job_id = (await client.submit_job(counting(60.0))).job_id
        await in_phase(client, job_id, "Running")
        compute.kill()
        await client.stop_job(job_id)
        assert left(node)
        compute.start()
        await asyncio.to_thread(compute.ready)
        await nothing_is_left(node)


# ── dockerd itself ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def own_dockerd(request: pytest.FixtureRequest) -> Iterator[OwnDockerd]:
    """Give a dockerd of the test's own; the parameter says whether containers outlive it."""
    with OwnDockerd(live_restore=bool(request.param)) as made:
        made.image(IMAGE)
        yield made


def on_own(stack: DevStack, dockerd: OwnDockerd) -> tuple[Daemon, Daemon]:
    """Start an orchestrator and a node that uses this dockerd."""
    stack.config_dir.mkdir(parents=True)
    (stack.config_dir / "daemon.toml").write_text(f'[engines.docker]\nhost = "unix://{dockerd.socket}"\n')
    return stack.orchestrator(), stack.compute(NODE)


@pytest.mark.needs_root
@pytest.mark.skipif(
    not (shutil.which("dockerd") and shutil.which("ip")), reason="no dockerd and ip to start one here: NOT tested"
)
class TestDockerd:
    """dockerd is stopped, killed and started again."""

    @pytest.mark.parametrize("own_dockerd", [True], indirect=True)
    @pytest.mark.parametrize("how", ["stop", "kill"])
    async def test_containers_that_outlive_it_are_found(
        self, stack: DevStack, own_dockerd: OwnDockerd, how: str
    ) -> None:
        """With live-restore the run goes on; every line is there once, and the job has one end."""
        orchestrator, _ = on_own(stack, own_dockerd)
        async with client_of(orchestrator) as client:
            job_id = (await client.submit_job(counting(8.0))).job_id
            await in_phase(client, job_id, "Running")
            await asyncio.to_thread(own_dockerd.stop if how == "stop" else own_dockerd.kill)
            await asyncio.to_thread(own_dockerd.start)
            await one_end(client, job_id, stack.directory / "results", COUNTED)
            await nothing_is_left(NODE, own_dockerd.socket)

    @NEEDS_REGISTRY
    @pytest.mark.parametrize("own_dockerd", [True], indirect=True)
    @pytest.mark.parametrize("how", ["stop", "kill"])
    async def test_a_pull_that_it_breaks_off_is_taken_up(
        self, stack: DevStack, own_dockerd: OwnDockerd, slow_image: Callable[[], str], how: str
    ) -> None:
        """A run that waits for its image waits on; the job has one end."""
        orchestrator, _ = on_own(stack, own_dockerd)
        async with client_of(orchestrator) as client:
            job_id = (await client.submit_job(counting(0.2, slow_image()))).job_id
            assert await in_phase(client, job_id, "Preparing")
            await asyncio.to_thread(own_dockerd.stop if how == "stop" else own_dockerd.kill)
            await asyncio.to_thread(own_dockerd.start)
            await one_end(client, job_id, stack.directory / "results", COUNTED)
            await nothing_is_left(NODE, own_dockerd.socket)

    @pytest.mark.parametrize("own_dockerd", [False], indirect=True)
    async def test_containers_that_it_takes_along_are_run_again(self, stack: DevStack, own_dockerd: OwnDockerd) -> None:
        """Without live-restore the run fails in words, a fault of the node, and the job is run again to its end."""
        orchestrator, _ = on_own(stack, own_dockerd)
        async with client_of(orchestrator) as client:
            job_id = (await client.submit_job(counting(4.0))).job_id
            await in_phase(client, job_id, "Running")
            await asyncio.to_thread(own_dockerd.stop)
            await asyncio.to_thread(own_dockerd.start)
            full = await ended(client, job_id, 90)
            assert full.job.state.state_type is JobStateType.COMPLETED, full.job.state
            assert successes(full.executions) == {0: 1}
            failed = [
                one.compute_state.message
                for one in full.executions
                if one.compute_state.state_type is ComputeStateType.FAILED
            ]
            assert failed
            assert all("dockerd" in str(words) for words in failed), failed
            assert await logs(client, job_id, stack.directory / "results") == COUNTED
            await nothing_is_left(NODE, own_dockerd.socket)

    @pytest.mark.parametrize("own_dockerd", [True], indirect=True)
    async def test_the_node_says_within_15_s_what_it_can_do(self, stack: DevStack, own_dockerd: OwnDockerd) -> None:
        """Both ways; a job that wants docker meanwhile is told why it waits or fails."""
        orchestrator, _ = on_own(stack, own_dockerd)
        async with client_of(orchestrator) as client:

            async def able(wanted: bool) -> bool:
                node = await client.get_node(NODE)
                return ("docker" in (node.node.info.compute_node_info.execution_engines or ())) is wanted

            await wait_for(lambda: able(True), "the node has docker", 15)
            await asyncio.to_thread(own_dockerd.stop)
            await wait_for(lambda: able(False), "the node has no docker any more", 15)
            full = await ended(client, (await client.submit_job(counting(0.1))).job_id)
            assert "docker" in str(full.job.state.message)
            await asyncio.to_thread(own_dockerd.start)
            await wait_for(lambda: able(True), "the node has docker again", 15)
            await one_end(client, (await client.submit_job(counting(0.1))).job_id, stack.directory / "r", COUNTED)


# ── a slow registry ───────────────────────────────────────────────────────────────────────────────────────────────────


@NEEDS_REGISTRY
@pytest.mark.parametrize("seconds", [8, pytest.param(30, marks=pytest.mark.soak)])
async def test_a_slow_pull_is_no_part_of_the_timeout(stack: DevStack, tmp_path: Path, seconds: int) -> None:
    """Eight seconds of pulling under an execution time-out of five: bytes are shown, the job completes."""
    size = 4_000_000
    node = f"n-{secrets.token_hex(4)}"
    with registry(tmp_path / "registry") as address, SlowLine(address, size / seconds) as line:
        name = f"tests/{secrets.token_hex(4)}:1"
        push(load_image(f"{address}/{name}", filler=secrets.token_bytes(size)), f"{address}/{name}")
        orchestrator, _ = stack.orchestrator(), stack.compute(node)
        async with client_of(orchestrator) as client:
            slow = job("echo done > /out/file", image=f"{line.address}/{name}", execution_timeout_s=5)
            job_id = (await client.submit_job(slow)).job_id
            shown: set[tuple[str, int]] = set()

            async def over() -> bool:
                page = await client.list_executions(job_id)
                shown.update(
                    (phase.what, phase.done_bytes) for phase in page.phases.values() if phase.name == "Preparing"
                )
                return (await client.get_job(job_id)).job.state.state_type.terminal

            await wait_for(over, "the job is over", seconds + 40)
            await one_end(client, job_id, tmp_path / "results", "")
    counts = sorted(done for what, done in shown if what == f"pull {line.address}/{name}" and done)
    assert len(counts) >= 5, shown
