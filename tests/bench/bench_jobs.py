"""Jobs through the whole durable system: client, NATS, log, scheduler, NCL, journal, engine, and back.

A no-op job's way has three records of the orchestrator (submitted and planned; bid approved; ended), three commits of
the node's journal (asked; accepted; ended) and six messages, which are three round trips. That sum is the floor.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.tokens import decode_credential
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig, Task
from bacalhau_protocol.models.resources import ResourcesConfig
from bacalhau_protocol.transport.base import Message
from tests.bench import floors

RECORDS, COMMITS, ROUND_TRIPS = 3, 3, 3
LATENCY_JOBS, WARM_UP_JOBS = 300, 50
THROUGHPUT_JOBS, IN_FLIGHT = 5_000, 256
WASM_JOBS = 1_500
SMALL = ResourcesConfig(cpu="1m", memory="1mb")  # so that the node has room for all that are in flight
ENDED = frozenset({"Completed", "Failed", "Stopped"})
ROOT = Path(__file__).resolve().parents[2]


class Ends:
    """Hears of the ends of jobs on the feed."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}
        self._waiting: dict[str, asyncio.Future[str]] = {}

    async def listen(self, client: Client) -> None:
        """Subscribe to the feed of jobs."""
        await client.bus.subscribe(f"{subjects.FEED}.*.job.*", self._on_row)

    async def _on_row(self, message: Message) -> None:
        row = msgspec.json.decode(message.data, type=m.FeedRow).row
        if row.get("State") in ENDED:
            self.ended[row["ID"]] = row["State"]
            waiting = self._waiting.pop(row["ID"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(row["State"])

    async def end_of(self, job_id: str) -> str:
        """Wait for a job's end and return its state."""
        if job_id in self.ended:
            return self.ended[job_id]
        future = self._waiting[job_id] = asyncio.get_running_loop().create_future()
        return await asyncio.wait_for(future, 60)


def noop() -> Job:
    """Return a job that does nothing."""
    return Job(type="batch", tasks=(Task(name="main", engine=SpecConfig(type="noop"), resources=SMALL),))


def wasm(module: Path) -> Job:
    """Return a job that runs the smallest module of the examples."""
    source = SpecConfig(type="localDirectory", params={"SourcePath": str(module)})
    engine = SpecConfig(type="wasm", params={"EntryModule": "/app.wasm", "Entrypoint": "_start"})
    inputs = (InputSource(source=source, target="/app.wasm"),)
    task = Task(name="main", engine=engine, input_sources=inputs, resources=SMALL)
    return Job(type="batch", tasks=(task,))


async def run_one(client: Client, ends: Ends, job: Job) -> float:
    """Submit a job and wait for its end; return the milliseconds."""
    start = time.perf_counter()
    answer = await client.submit_job(job)
    state = await ends.end_of(answer.job_id)
    assert state == "Completed", f"{answer.job_id} ended as {state}"
    return (time.perf_counter() - start) * 1e3


async def latency(client: Client, ends: Ends, job: Job) -> list[float]:
    """Return the milliseconds from submission to end of jobs that run one after another."""
    for _ in range(WARM_UP_JOBS):
        await run_one(client, ends, job)
    return [await run_one(client, ends, job) for _ in range(LATENCY_JOBS)]


async def throughput(client: Client, ends: Ends, job: Job, count: int) -> float:
    """Return jobs per second with 256 in flight."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one() -> None:
        async with gate:
            await run_one(client, ends, job)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
    return count / (time.perf_counter() - start)


def memory_mb(daemon: Daemon) -> float:
    """Return the resident set of a daemon's own process (its nats-server and fork server are beside it)."""
    return float(psutil.Process(daemon.process.pid).memory_info().rss) / 1e6


class Cpu:
    """Processor time of all that takes part, user and system: the figure that holds on a machine that others use."""

    def __init__(self, orchestrator: Daemon, node: Daemon) -> None:
        self._orchestrator = psutil.Process(orchestrator.process.pid)
        (self._server,) = self._orchestrator.children()  # its nats-server
        self._compute = psutil.Process(node.process.pid)
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {
            "orchestrator": cpu_s(self._orchestrator),
            "nats-server": cpu_s(self._server),
            "compute": cpu_s(self._compute),
            "its processes": sum(map(cpu_s, self._compute.children(recursive=True))),
            "client": cpu_s(psutil.Process()),
        }

    def per_job(self, jobs: int) -> str:
        """Return the milliseconds per job since this was made, or since the last call."""
        now = self._now()
        used = {part: (now[part] - before) * 1e3 / jobs for part, before in self._before.items()}
        self._before = now
        parts = ", ".join(f"{part} {ms:.2f}" for part, ms in used.items())
        return f"CPU per job       {sum(used.values()):.2f} ms ({parts})"


def cpu_s(process: psutil.Process) -> float:
    """Return the seconds that a process has computed, with its children that have ended; 0 when it has ended itself."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


async def measure(stack: DevStack, orchestrator: Daemon, node: Daemon, floor: tuple[float, float]) -> None:
    """Print the figures."""
    append_ms, round_trip_ms = floor
    floor_ms = (RECORDS + COMMITS) * append_ms + ROUND_TRIPS * round_trip_ms
    path = orchestrator.data_dir / "admin.json"
    credential = decode_credential(path.read_bytes(), str(path))
    client, ends = await Client.connect(credential), Ends()
    await ends.listen(client)
    print(f"idle memory       orchestrator {memory_mb(orchestrator):.0f} MB, compute {memory_mb(node):.0f} MB")
    cpu = Cpu(orchestrator, node)
    took = await latency(client, ends, noop())
    middle = statistics.median(took)
    print(f"no-op latency     p50 {middle:.1f} ms, p99 {floors.p(took, 99):.1f} ms; floor {floor_ms:.1f} ms", end="")
    print(f" ({RECORDS}+{COMMITS} appends of {append_ms:.2f}, {ROUND_TRIPS} round trips of {round_trip_ms:.2f})")
    print(f"                  ratio {middle / floor_ms:.2f}")
    print(cpu.per_job(WARM_UP_JOBS + LATENCY_JOBS))
    before = memory_mb(orchestrator), memory_mb(node)
    rate = await throughput(client, ends, noop(), THROUGHPUT_JOBS)
    after = memory_mb(orchestrator), memory_mb(node)
    print(f"no-op throughput  {rate:.0f} jobs/s ({THROUGHPUT_JOBS} jobs, {IN_FLIGHT} in flight)")
    print(cpu.per_job(THROUGHPUT_JOBS))
    print(
        f"memory            orchestrator {before[0]:.0f} → {after[0]:.0f} MB, node {before[1]:.0f} → {after[1]:.0f} MB"
    )
    rate = await throughput(client, ends, noop(), THROUGHPUT_JOBS)
    print(f"once more         {rate:.0f} jobs/s, {memory_mb(orchestrator):.0f} MB and {memory_mb(node):.0f} MB")
    print(cpu.per_job(THROUGHPUT_JOBS))
    took = await latency(client, ends, wasm(ROOT / "examples/wasm/hello.wasm"))
    print(f"wasm latency      p50 {statistics.median(took):.1f} ms, p99 {floors.p(took, 99):.1f} ms")
    print(cpu.per_job(WARM_UP_JOBS + LATENCY_JOBS))
    rate = await throughput(client, ends, wasm(ROOT / "examples/wasm/hello.wasm"), WASM_JOBS)
    print(f"wasm throughput   {rate:.0f} jobs/s ({WASM_JOBS} jobs, {IN_FLIGHT} in flight)")
    print(cpu.per_job(WASM_JOBS))
    print(f"memory            orchestrator {memory_mb(orchestrator):.0f} MB, compute {memory_mb(node):.0f} MB")
    await client.close()


def main() -> None:
    """Run one orchestrator and one compute node, as processes."""
    with tempfile.TemporaryDirectory(prefix="bench-jobs-") as where:
        floor = floors.measure(Path(where))
        print(f"new directories   {floors.new_directories_ms(Path(where)):.2f} ms for two and a file")
        with DevStack(Path(where) / "cluster") as stack:
            orchestrator = stack.orchestrator()
            node = stack.compute("bench", "--allow-path", f"{ROOT}/examples/**")
            asyncio.run(measure(stack, orchestrator, node, floor))


if __name__ == "__main__":
    main()
