"""The commands and the client against real daemons: run, wait, follow, fetch, and what happens when things die."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_protocol.api.tokens import decode_credential
from bacalhau_protocol.client.client import Client, Timing
from bacalhau_protocol.client.logs import LogEnd, LogPiece, LogSource, follow_logs
from bacalhau_protocol.client.results import FetchProgress, fetch_results
from bacalhau_protocol.client.tree import PART_SUFFIX
from bacalhau_protocol.client.watch import watch_job
from bacalhau_tui.data.session import LinkState, Session
from bacalhau_tui.data.store import Store
from tests.e2e.cluster import all_ended, client_of, noop, pause

BYTES, ENOUGH_BYTES = 40_000_000, 1_000_000
QUICK = Timing(read_s=30, write_s=30, attempt_s=2)


def a_file(directory: Path, name: str, **params: object) -> str:
    path = directory / "job.json"
    engine = {"Type": "noop", "Params": params}
    job = {"Name": name, "Type": "batch", "Count": 1, "Tasks": [{"Name": "main", "Engine": engine}]}
    path.write_text(json.dumps(job))
    return str(path)


def size_of(path: Path) -> int:
    """Return a file's size, 0 when it has just become another."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_run_wait_logs_results(shared: DevStack, tmp_path: Path) -> None:
    """`job run --wait` prints state, node, phases, exit code; `logs -f` ends as the job did; `results` has the tree."""
    spec = a_file(tmp_path, "hello", PrepareMs=300, DelayMs=300, ExitCode=3, Stdout="out\n", Stderr="err\n")

    waited = shared.command("job", "run", spec, "--wait", check=False)
    logs = shared.command("job", "logs", "hello", "-f", check=False)
    results = shared.command("job", "results", "hello", "-d", str(tmp_path / "r"))
    job = json.loads(shared.command("job", "get", "hello", "-o", "json").stdout)

    assert waited.returncode == 3
    for words in ("State     = Completed", "Exit code = 3", "n-one", "Preparing ", "Running "):
        assert words in waited.stdout
    assert (logs.returncode, logs.stdout) == (3, "out\n")
    assert "err\n" in logs.stderr
    assert results.stdout == f"{tmp_path / 'r'}\n"
    assert {path.name: path.read_text() for path in (tmp_path / "r").iterdir()} == {
        "stdout": "out\n",
        "stderr": "err\n",
        "exitCode": "3",
    }
    assert job["State"]["StateType"] == "Completed"


def test_every_look_works_on_a_real_cluster(shared: DevStack, tmp_path: Path) -> None:
    """Tables, or JSON, of everything there is to look at."""
    shared.command("job", "run", a_file(tmp_path, "looked-at"), "--wait")

    for line in (
        ["job", "list"],
        ["job", "describe", "looked-at"],
        ["job", "executions", "looked-at", "-o", "json"],
        ["job", "history", "looked-at"],
        ["job", "explain", "looked-at"],
        ["node", "list", "--labels", "zone=a", "-o", "json"],
        ["node", "get", "n-one"],
        ["credential", "list"],
        ["cluster", "info", "-o", "json"],
        ["version"],
    ):
        printed = shared.command(*line).stdout
        assert printed.strip(), line
        if "json" in line:
            json.loads(printed)


def test_a_node_says_why_it_cannot_do_something(tmp_path: Path) -> None:
    """Where it is shown, and to whom it refuses a job."""
    with DevStack(tmp_path / "cluster") as stack:
        stack.config_dir.mkdir(parents=True)
        (stack.config_dir / "daemon.toml").write_text('[engines.docker]\nhost = "unix:///nowhere.sock"\n')
        stack.hybrid("--name", "n-one")
        job = {
            "Name": "no",
            "Type": "batch",
            "Tasks": [{"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": "a"}}}],
        }

        shown = stack.command("node", "get", "n-one").stdout
        refused = stack.command("job", "run", "-", "--wait", stdin=json.dumps(job), check=False)

    assert re.search(r"Lacks +=? *engine docker: .*/nowhere.sock", shown), shown
    assert "/nowhere.sock" in refused.stdout + refused.stderr
    assert refused.returncode != 0


def test_wrong_requests_have_exit_codes(shared: DevStack, tmp_path: Path) -> None:
    """A job that is not there, one that has ended, a role that may not, an address where nobody is."""
    shared.command("job", "run", a_file(tmp_path, "over"), "--wait")
    viewer = tmp_path / "viewer.json"
    shared.command("credential", "issue", "bob", "--role", "viewer", "--file", str(viewer))

    codes = [
        shared.command(*line, check=False).returncode
        for line in (
            ["job", "get", "nope"],
            ["job", "stop", "over"],
            ["--creds", str(viewer), "job", "run", a_file(tmp_path, "over")],
            ["--nats", "nats://127.0.0.1:1", "job", "list"],
        )
    ]

    assert codes == [4, 7, 5, 6]


def test_an_interrupted_download_goes_on(shared: DevStack, tmp_path: Path) -> None:
    """^C in the middle leaves a verified beginning; the same command fetches the rest."""
    shared.command("job", "run", a_file(tmp_path, "large", OutputBytes=BYTES), "--wait")
    place = tmp_path / "r"
    command = [sys.executable, "-m", "bacalhau_tui", "job", "results", "large", "-d", str(place)]
    running = subprocess.Popen(command, env=shared.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    parts = f".*{PART_SUFFIX}"
    while running.poll() is None and not any(size_of(path) >= ENOUGH_BYTES for path in place.glob(parts)):
        pass  # it is to be interrupted as soon as there is enough
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)

    done = json.loads(shared.command("job", "results", "large", "-d", str(place), "-o", "json").stdout)

    received = done["Fetched"][0]["ReceivedBytes"]
    assert running.returncode == 130
    assert received <= BYTES - ENOUGH_BYTES + 1  # the exit code's file has a byte too
    assert (place / "stdout").stat().st_size == BYTES


async def test_a_download_lives_through_a_new_orchestrator(stack: DevStack, port: int, tmp_path: Path) -> None:
    """Killed with its NATS in the middle and started again: the bytes arrive, the hash is right."""
    orchestrator = stack.orchestrator(listen=f"127.0.0.1:{port}")
    node = stack.compute("n-one")
    async with client_of(orchestrator) as client:
        submitted = await client.submit_job(noop(output_bytes=BYTES))
        async with contextlib.aclosing(watch_job(client, submitted.job_id)) as updates:
            _ = [update async for update in updates]
        restarts: list[asyncio.Task[object]] = []

        def kill_in_the_middle(progress: FetchProgress) -> None:
            if progress.done_bytes > BYTES // 3 and not restarts:
                orchestrator.kill()
                restarts.append(asyncio.create_task(asyncio.to_thread(lambda: orchestrator.start().ready())))

        done = await fetch_results(client, submitted.job_id, tmp_path / "r", progress=kill_in_the_middle)
        await asyncio.gather(*restarts)

    (execution,) = (node.data_dir / "compute/executions").iterdir()
    theirs = hashlib.sha256((execution / "results/stdout").read_bytes()).hexdigest()
    assert hashlib.sha256((tmp_path / "r/stdout").read_bytes()).hexdigest() == theirs
    assert restarts
    assert done.fetched[0].received_bytes < 2 * BYTES


async def test_a_followed_log_lives_through_a_new_orchestrator(stack: DevStack, port: int) -> None:
    """The job goes on meanwhile; the follower sees its output once, and its end."""
    orchestrator = stack.orchestrator(listen=f"127.0.0.1:{port}")
    stack.compute("n-one")
    async with client_of(orchestrator) as client:
        submitted = await client.submit_job(noop(delay_ms=4000, stdout="hello\n", exit_code=5))
        events = []
        async for event in follow_logs(client, submitted.job_id):
            events.append(event)
            if isinstance(event, LogPiece):
                orchestrator.kill()
                await asyncio.to_thread(lambda: orchestrator.start().ready())

    assert b"".join(event.data for event in events if isinstance(event, LogPiece)) == b"hello\n"
    assert any(isinstance(event, LogSource) for event in events)
    assert isinstance(events[-1], LogEnd)
    assert events[-1].job.exit_status == 5


async def test_a_log_outlives_its_node(stack: DevStack) -> None:
    """The end of the log is kept by the orchestrator when the node is gone."""
    orchestrator = stack.orchestrator()
    node = stack.compute("n-one")
    async with client_of(orchestrator) as client:
        submitted = await client.submit_job(noop(stdout="last words\n"))
        async with contextlib.aclosing(watch_job(client, submitted.job_id)) as updates:
            _ = [update async for update in updates]
        await asyncio.to_thread(node.stop)
        events = [event async for event in follow_logs(client, submitted.job_id)]

    assert b"".join(event.data for event in events if isinstance(event, LogPiece)) == b"last words\n"


async def until(session: Session, *states: LinkState) -> None:
    while session.link.state not in states:
        await pause()


async def session_of(orchestrator: Daemon) -> Session:
    path = orchestrator.data_dir / "admin.json"
    credential = decode_credential(path.read_bytes(), str(path))
    return Session(lambda session: Client.connect(credential, timing=QUICK, on_link=session.on_link), Store())


@pytest.mark.timeout(120)
async def test_a_session_goes_on_by_itself_after_kill_9(stack: DevStack, port: int) -> None:
    """Down is noticed, the rows stay; back, the store equals what the orchestrator answers; new jobs come soon."""
    orchestrator = stack.hybrid(listen=f"127.0.0.1:{port}")
    session = await session_of(orchestrator)
    session.start()
    async with asyncio.timeout(100), client_of(orchestrator) as client:
        first = (await client.submit_job(noop())).job_id
        await until(session, LinkState.LIVE)
        while first not in session.store.jobs:
            await pause()

        orchestrator.kill()
        await until(session, LinkState.DOWN)
        assert first in session.store.jobs
        await asyncio.to_thread(lambda: orchestrator.start().ready())
        second = (await client.submit_job(noop())).job_id
        await until(session, LinkState.LIVE)
        while second not in session.store.jobs:
            await pause()
        async with contextlib.aclosing(watch_job(client, second)) as updates:
            _ = [update async for update in updates]
        truth = {row.id: row for row in await all_ended(client)}
        while session.store.jobs.rows() != truth:
            await pause()
    await session.close()
