"""A compute node that can only dial out, in another network namespace: jobs, logs, results, and links that break."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol.client.tree import PART_SUFFIX
from tests.e2e.cluster import client_of, ended, noop, wait_until
from tests.e2e.network import Namespace
from tests.e2e.test_hybrid import EXAMPLES, MODULES, noop_file

pytestmark = pytest.mark.needs_root

BYTES = 24_000_000
WIRE_OVERHEAD = 1.25  # of what a file's bytes take on the link, all envelopes and hand-shakes counted
IN_FLIGHT_BYTES = 8 * 256 * 1024  # chunks on their way when a download is interrupted come again


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@pytest.fixture
def far(namespace: Namespace, stack: DevStack) -> DevStack:
    """Give a cluster whose only node is in the namespace, where nothing but the NATS port can be reached."""
    orchestrator = stack.orchestrator(listen=f"{namespace.host}:0")
    namespace.only_dial(int(orchestrator.ready()["address"].rpartition(":")[2]))
    allowed = ("--allow-path", f"{stack.directory}/**", "--allow-path", f"{MODULES}/**")
    stack.compute("n-far", "--label", "zone=far", *allowed, prefix=namespace.prefix)
    return stack


def test_a_node_that_only_dials_out_does_everything(far: DevStack, tmp_path: Path) -> None:
    """A module over the node's data runs there; its log is followed; its results are the same bytes."""
    data = far.directory / "data"
    data.mkdir()
    for number in range(3):
        (data / f"m{number}.py").write_text(f"value_{number} = {number}\n" * 1000)
    variables = ["-V", "zone=far", "-V", f"data={data}", "-V", f"modules={MODULES}"]

    waited = far.command("job", "run", str(EXAMPLES / "wordcount.yaml"), *variables, "--wait")
    followed = far.command(
        "job", "run", noop_file(tmp_path, "talks", Stdout="from afar\n", ExitCode=6), "-f", check=False
    )
    place = far.command("job", "results", "wordcount-far", "-d", str(tmp_path / "r")).stdout.strip()

    (kept,) = (path for path in (far.directory / "n-far/compute/executions").glob("*/results/out/identifiers.csv"))
    assert "n-far" in waited.stdout
    assert (followed.returncode, followed.stdout) == (6, "from afar\n")
    assert (Path(place) / "out/identifiers.csv").read_bytes() == kept.read_bytes()
    assert b"value_0,1000" in kept.read_bytes()


def test_an_interrupted_download_sends_only_the_rest(far: DevStack, namespace: Namespace, tmp_path: Path) -> None:
    """Interrupted at half, the same command fetches the other half: the link carries that and no more."""
    far.command("job", "run", noop_file(tmp_path, "large", OutputBytes=BYTES), "--wait")
    place = tmp_path / "r"
    command = [sys.executable, "-m", "bacalhau_tui", "job", "results", "large", "-d", str(place)]
    running = subprocess.Popen(command, env=far.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    parts = f".*{PART_SUFFIX}"
    while running.poll() is None and not any(size_of(path) >= BYTES // 2 for path in place.glob(parts)):
        pass  # it is to be interrupted as soon as half is there
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)
    (had,) = (size_of(path) for path in place.glob(parts))
    before = namespace.sent_bytes

    done = json.loads(far.command("job", "results", "large", "-d", str(place), "-o", "json").stdout)

    sent = namespace.sent_bytes - before
    (kept,) = (far.directory / "n-far/compute/executions").glob("*/results/stdout")
    assert running.returncode == 130
    assert BYTES // 2 <= had < BYTES
    assert done["Fetched"][0]["ReceivedBytes"] <= BYTES - had + 1  # the exit code's file has a byte too
    assert sent <= (BYTES - had) * WIRE_OVERHEAD + IN_FLIGHT_BYTES
    assert (place / "stdout").read_bytes() == kept.read_bytes()


async def test_work_goes_on_while_the_link_is_down(far: DevStack, namespace: Namespace) -> None:
    """The link goes down in the middle of a job; the node finishes it and reports when the link is back: one run."""
    (orchestrator, node) = far.daemons
    outcome = far.directory / "n-far/compute/executions"
    async with client_of(orchestrator) as client:
        job_id = (await client.submit_job(noop(delay_ms=1500, stdout="done alone\n"))).job_id
        await wait_until(lambda: list(outcome.glob("*/results/stdout")), "the job runs")
        namespace.cut()
        await wait_until(lambda: list(outcome.glob("*/outcome.json")), "the job ends while the link is down")
        namespace.mend()
        full = await ended(client, job_id)

    assert node.running
    assert full.job.state.state_type == "Completed"
    assert len(full.executions) == 1
