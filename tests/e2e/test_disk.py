"""A disk that runs full, of an orchestrator and of a node: refusals say so, what was promised is kept, space heals."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client, Timing
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.states import JobStateType
from tests.e2e.cluster import all_ended, client_of, ended, noop, nothing_is_lost, wait_for, wait_until
from tests.e2e.faults import MEGABYTE, SmallDisk

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(180)]

IMPATIENT = Timing(read_s=20, write_s=1.5, attempt_s=5)
MIN_FREE_BYTES = MEGABYTE


@pytest.fixture
def on_disk(small_disk: SmallDisk, tmp_path: Path) -> DevStack:
    """Give a stack whose daemons live on the small disk; it ends them before the disk goes."""
    return DevStack(small_disk.path / "cluster")


def settings(stack: DevStack, min_free_bytes: int) -> tuple[str, str]:
    """Return the arguments that set how much must stay free."""
    path = stack.directory / "daemon.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"[orchestrator]\nmin_free_bytes = {min_free_bytes}\n")
    return "--config", str(path)


async def test_below_the_mark_jobs_are_refused_and_stops_pass(small_disk: SmallDisk, on_disk: DevStack) -> None:
    """The refusal names the path and both figures; a stop still works; with space jobs are taken again."""
    with on_disk as stack:
        orchestrator = stack.hybrid(*settings(stack, MIN_FREE_BYTES))
        async with client_of(orchestrator, IMPATIENT) as client:
            running = (await client.submit_job(noop(delay_ms=600_000))).job_id
            small_disk.fill(leave_bytes=MIN_FREE_BYTES * 3 // 4)  # above the node's own mark
            await wait_for(lambda: is_accepting(client, False), "submissions are refused")

            with pytest.raises(errors.Unavailable) as refused:
                await client.submit_job(noop())
            info = await client.cluster_info()
            await client.stop_job(running)
            stopped = await ended(client, running)
            small_disk.relieve()
            await wait_for(lambda: is_accepting(client, True), "submissions are taken again")
            await wait_until(lambda: has_room(orchestrator), "the node has room again")
            completed = await ended(client, (await client.submit_job(noop())).job_id)

    assert str(orchestrator.data_dir) in str(refused.value)
    assert "free" in str(refused.value)
    assert int(info.disk_free_bytes) < info.disk_min_free_bytes == MIN_FREE_BYTES
    assert str(orchestrator.data_dir) in info.reason
    assert stopped.job.state.state_type == "Stopped"
    assert completed.job.state.state_type == "Completed"


def has_room(daemon: Daemon) -> bool:
    """Whether each role of a daemon that has said that its disk is low has said since that it is not."""
    said = daemon.log_path.read_text()
    return said.count("disk.low") == said.count("disk.has_room")


async def is_accepting(client: Client, wanted: bool) -> bool:
    return (await client.cluster_info()).accepting is wanted


async def submitted_or_refused(client: Client, job: Job, number: int, acknowledged: dict[str, str]) -> str:
    """Submit; return the refusal's words, blank when it was acknowledged."""
    try:
        acknowledged[f"request-{number}"] = (await client.submit_job(job, request_id=f"request-{number}")).job_id
    except (errors.Unavailable, errors.TimedOut) as error:
        return str(error)
    return ""


async def test_nothing_acknowledged_is_lost_on_a_full_disk(small_disk: SmallDisk, on_disk: DevStack) -> None:
    """Without a mark the disk fills to its last byte: callers are told, and with space it goes on, nothing lost."""
    with on_disk as stack:
        orchestrator = stack.hybrid(*settings(stack, 0))
        acknowledged: dict[str, str] = {}
        refusals: set[str] = set()
        async with client_of(orchestrator, IMPATIENT) as client:
            small_disk.fill()
            number = 0
            while not refusals:
                found = (submitted_or_refused(client, noop(delay_ms=20), number + n, acknowledged) for n in range(50))
                refusals |= set(await asyncio.gather(*found)) - {""}
                number += 50
                small_disk.fill()
            assert number < 20_000, "the disk is full at last"
            small_disk.relieve()
        async with client_of(orchestrator) as client:  # a patient one: the log is not tried again at once
            after = await client.submit_job(noop(), request_id="after")

            await all_ended(client)
            await nothing_is_lost(client, {**acknowledged, "after": after.job_id}, unsure=number)
        orchestrator.stop()
        orchestrator.start().ready()
        async with client_of(orchestrator) as client:
            assert {row.id for row in await all_ended(client)} >= set(acknowledged.values())

    assert all("disk" in words or "space" in words or "full" in words for words in refusals), refusals


async def test_an_orchestrator_killed_on_a_full_disk_comes_back(small_disk: SmallDisk, on_disk: DevStack) -> None:
    """Killed when nothing can be written, and started when there is space: what was acknowledged is there."""
    with on_disk as stack:
        orchestrator = stack.hybrid(*settings(stack, 0))
        acknowledged: dict[str, str] = {}
        async with client_of(orchestrator, IMPATIENT) as client:
            number = 50
            await asyncio.gather(*(submitted_or_refused(client, noop(delay_ms=20), n, acknowledged) for n in range(50)))
            small_disk.fill()
            while not await submitted_or_refused(client, noop(delay_ms=20), number, acknowledged):
                number += 1
                small_disk.fill()
        orchestrator.kill()
        small_disk.relieve()
        orchestrator.start().ready()
        async with client_of(orchestrator) as client:
            rows = await all_ended(client)

    assert {row.id for row in rows} >= set(acknowledged.values())
    assert len(acknowledged) >= 50
    assert len(rows) <= len(acknowledged) + 1, "the last one was not acknowledged: it may be there, and nothing else"


@pytest.fixture
def node_on_disk(small_disk: SmallDisk, stack: DevStack) -> tuple[Daemon, Daemon]:
    """Give an orchestrator, and a node whose data directory lies on the small disk."""
    (stack.directory / "n-small").symlink_to(small_disk.path)
    orchestrator = stack.orchestrator()
    return orchestrator, stack.compute("n-small")


async def test_a_node_below_its_mark_takes_no_work(small_disk: SmallDisk, node_on_disk: tuple[Daemon, Daemon]) -> None:
    """The job waits, and its reasons have the node's words; with space the node takes work at once."""
    orchestrator, node = node_on_disk
    async with client_of(orchestrator) as client:
        await ended(client, (await client.submit_job(noop())).job_id)
        small_disk.fill(leave_bytes=64 * 1024)
        await wait_until(lambda: "disk.low" in node.log_tail(), "the node notices")
        waiting = (await client.submit_job(noop())).job_id
        await wait_for(lambda: is_refused(client, waiting), "the node refuses")
        assert not JobStateType((await client.get_job(waiting)).job.state.state_type).terminal, (
            "it is asked again later"
        )
        small_disk.relieve()
        await wait_until(lambda: has_room(node), "the node has room again")
        full = await ended(client, (await client.submit_job(noop())).job_id)

    assert full.job.state.state_type == "Completed"


async def is_refused(client: Client, job_id: str) -> bool:
    executions = (await client.get_job(job_id)).executions
    words = json.dumps([str(one.compute_state.message) for one in executions])
    return "disk" in words


async def test_a_node_whose_disk_is_full_tells_the_truth(
    small_disk: SmallDisk, node_on_disk: tuple[Daemon, Daemon]
) -> None:
    """A run whose output finds no room fails and says so; the node lives, and works when there is space."""
    orchestrator, node = node_on_disk
    async with client_of(orchestrator) as client:
        large = (await client.submit_job(noop(delay_ms=300, output_bytes=64 * MEGABYTE))).job_id
        full = await ended(client, large)
        words = json.dumps([str(one.compute_state.message) for one in full.executions])
        await wait_until(lambda: small_disk.free_bytes > 0, "the node has made room")
        again = await ended(client, (await client.submit_job(noop(stdout="x\n"))).job_id)

    assert node.running
    assert full.job.state.state_type == "Failed"
    assert "space" in words, words
    assert again.job.state.state_type == "Completed"


async def test_a_node_with_a_full_journal_loses_nothing(
    small_disk: SmallDisk, node_on_disk: tuple[Daemon, Daemon]
) -> None:
    """While its journal cannot be written the node answers nothing; with space each job runs exactly once."""
    orchestrator, node = node_on_disk
    async with client_of(orchestrator) as client:
        started = [(await client.submit_job(noop(delay_ms=1000))).job_id for _ in range(3)]
        small_disk.fill()
        more = [(await client.submit_job(noop())).job_id for _ in range(30)]
        small_disk.fill()
        await wait_until(lambda: "not_stored" in node.log_tail() or "disk" in node.log_tail(), "the node notices")
        small_disk.relieve()
        acknowledged = {job_id: job_id for job_id in [*started, *more]}
        await nothing_is_lost(client, acknowledged)

    assert node.running
