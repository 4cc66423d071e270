"""Measure the log and the query side: append latency, rows per job, rebuild, and a start with many jobs."""

from __future__ import annotations

import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.events import CODEC, AnyEvent
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.devstack import DevStack
from bacalhau_daemon.log.backup import backup, check, restore
from bacalhau_daemon.log.base import Stored
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.log.sqlite import SqliteLog, create
from bacalhau_daemon.log.sqlite_reader import SqliteReader
from bacalhau_daemon.orchestrator.loading import log_path as log_path_of
from bacalhau_daemon.query.reader import QueryReader
from bacalhau_daemon.query.restart import catch_up, rebuild
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol.api.messages import HistoryQuery, JobQuery, JobRef
from tests.builders_log import sealed
from tests.builders_query import job_spec, life

ROOT = Path(__file__).parents[2]
JOBS = 100_000
INPUTS_PER_RECORD = 100
LIVE_JOBS = 2000


def main() -> None:
    """Run all measurements."""
    with tempfile.TemporaryDirectory() as directory:
        measure_appends(Path(directory))
        measure_query(Path(directory), JOBS)
        measure_daemon(Path(directory), JOBS)


def show(what: str, figure: str) -> None:
    """Print one line."""
    print(f"{what:<58} {figure}", flush=True)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


# ── the log ───────────────────────────────────────────────────────────────────────────────────────────────────────


def measure_appends(directory: Path) -> None:
    """Latency by size of record, next to the floor: write and fdatasync of the same bytes."""
    for size_bytes in (2_000, 24_000, 64_000, 256_000):
        log = SqliteLog(directory / f"{size_bytes}.db")
        chain, latencies = Chain(), []
        for n in range(400):
            data, chain = sealed(chain, "x" * (size_bytes - 200))
            start = time.perf_counter()
            assert log.append(n, data) == Stored(n + 1)
            latencies.append(time.perf_counter() - start)
        log.close()
        floor = fdatasync_latencies(directory / "floor", data, 400)
        show(f"append of {size_bytes // 1000} kB, p50 / p99", f"{quantiles(latencies)} (floor {quantiles(floor)})")


def fdatasync_latencies(path: Path, data: bytes, number: int) -> list[float]:
    """Append bytes to a plain file, each followed by fdatasync."""
    latencies = []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for _ in range(number):
        start = time.perf_counter()
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        latencies.append(time.perf_counter() - start)
    os.close(descriptor)
    path.unlink()
    return latencies


def quantiles(seconds: Sequence[float]) -> str:
    """Return median and 99th percentile."""
    return f"{statistics.median(seconds) * 1e3:.2f} / {statistics.quantiles(seconds, n=100)[98] * 1e3:.2f} ms"


# ── the query side ────────────────────────────────────────────────────────────────────────────────────────────────


def job_events(jobs: int) -> Iterator[list[AnyEvent]]:
    """Yield the events of records as they come under load; the last jobs stay live."""
    chance = random.Random(1)
    parameters = {f"KEY_{number}": "value " * 10 for number in range(16)}
    for first in range(1, jobs + 1, INPUTS_PER_RECORD):
        group: list[list[list[AnyEvent]]] = []
        for j in range(first, min(first + INPUTS_PER_RECORD, jobs + 1)):
            job_id = f"j-{uuid.UUID(int=chance.getrandbits(128), version=4)}"
            request = str(uuid.UUID(int=chance.getrandbits(128), version=4))
            group.append(life(j, j, job_spec(j, job_id, id=job_id, meta=parameters), request=request))
        steps = 2 if first > jobs - LIVE_JOBS else 3
        for step in range(steps):
            yield [event for events in group for event in events[step]]


def record_bytes(jobs: int) -> Iterator[bytes]:
    """Yield the records of a log of so many jobs."""
    chain = Chain()
    opening: list[AnyEvent] = [ev.ClusterCreated(cluster="c-1"), ev.LeaderStarted(term=1, node="n-0")]
    for number, events in enumerate((opening, *job_events(jobs))):
        at = 1_700_000_000_000_000_000 + number * 1_000_000
        _, data, chain = CODEC.seal(chain, events, cluster="c-1", term=1, at=at, cause="bench", by="n-0")
        yield data


def measure_query(directory: Path, jobs: int) -> None:
    """Rows per job, rebuild, start, reads, backup."""
    log_path, query_path = directory / "log.db", directory / "query.db"
    create(log_path, records=record_bytes(jobs))
    show(f"log of {jobs} jobs", f"{log_path.stat().st_size / jobs:.0f} B/job, {log_path.stat().st_size / 1e6:.0f} MB")
    measure_rows(directory / "rows.db", log_path)
    rebuild_in_child(log_path, query_path, jobs)
    show("query side", f"{query_path.stat().st_size / jobs:.0f} B/job")
    measure_start(log_path, query_path)
    measure_reads(log_path, query_path)
    wall, _ = timed(lambda: backup(log_path, directory / "backup"))
    show("backup", f"{wall:.2f} s")
    wall, _ = timed(lambda: restore(directory / "backup", directory / "restored.db"))
    show("restore", f"{wall:.2f} s")
    wall, _ = timed(lambda: check(log_path))
    show("full check", f"{wall:.2f} s")


def measure_rows(path: Path, log_path: Path) -> None:
    """CPU of the writing half alone, gathered as 20 ms under load gather: five records per transaction."""
    log, store, restored = SqliteReader(log_path), QueryStore(path), Restored()
    projects = [restored.add(data) for _, data in zip(range(601), (data for _, data in log.read(1)), strict=False)]
    jobs = restored.state.next_j - 1

    def write() -> None:
        for first in range(0, len(projects), 5):
            store.apply(projects[first : first + 5])

    wall, cpu = timed(write)
    show(
        "rows, 5 records of 100 inputs per transaction",
        f"{cpu / jobs * 1e6:.0f} us CPU/job, {wall / jobs * 1e6:.0f} us wall/job",
    )
    store.close()
    log.close()


def rebuild_in_child(log_path: Path, query_path: Path, jobs: int) -> None:
    """Rebuild in a process of its own, for its memory's sake."""
    command = [sys.executable, "-m", "tests.bench.bench_log", str(log_path), str(query_path)]
    wall, _ = timed(lambda: subprocess.run(command, check=True, cwd=ROOT))
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    show("rebuild", f"{wall:.1f} s, {jobs / wall:.0f} jobs/s, peak {peak_mb:.0f} MB")


def measure_start(log_path: Path, query_path: Path) -> None:
    """What a daemon does with both files after kill -9, the page cache warm."""
    for _ in range(3):
        start = time.perf_counter()
        log = SqliteLog(log_path)
        verified = time.perf_counter()
        store = QueryStore(query_path)
        catch_up(store, log)
        loaded = time.perf_counter()
        log.close()
        store.close()
        show("start: log verified / live state loaded", f"{verified - start:.2f} / {loaded - verified:.2f} s")


def measure_reads(log_path: Path, query_path: Path) -> None:
    """What clients ask most."""
    log = SqliteReader(log_path)
    reader = QueryReader(query_path, log)
    row = reader.jobs(JobQuery(limit=5000)).jobs[-1]
    questions: dict[str, Callable[[], object]] = {
        "list of 100, newest first": lambda: reader.jobs(JobQuery()),
        "list of 100 by name": lambda: reader.jobs(JobQuery(order_by="name")),
        "list of 100 by change": lambda: reader.jobs(JobQuery(order_by="modified")),
        "list of 100 by state": lambda: reader.jobs(JobQuery(states=["Running"])),
        "list of 100 by text that nothing has": lambda: reader.jobs(JobQuery(text="nothing")),
        "one job by the start of its id": lambda: reader.job(JobRef(job=row.id[:12])),
        "history of one job": lambda: reader.history(HistoryQuery(job=row.id)),
        "counts by state": reader.counts,
    }
    for what, question in questions.items():
        times = [timed(question)[0] for _ in range(5)]
        show(f"read: {what}", f"{statistics.median(times) * 1e3:.2f} ms")
    reader.close()
    log.close()


def measure_daemon(directory: Path, jobs: int) -> None:
    """An orchestrator that is killed and started again, until it is ready: it leads and serves."""
    with DevStack(directory / "cluster") as stack:
        daemon = stack.orchestrator()
        daemon.stop()
        log = SqliteLog(log_path_of(daemon.data_dir))
        chain = log.tip
        for events in job_events(jobs):
            _, data, after = CODEC.seal(chain, events, cluster=chain.cluster, term=1, at=1, cause="bench", by="n-0")
            assert log.append(chain.n, data) == Stored(after.n)
            chain = after
        log.close()
        for what in ("reads what is new", *["is ready again after kill -9"] * 3):
            began = time.perf_counter()
            daemon.start().ready(600)
            show(f"a daemon with {jobs} jobs {what}", f"{time.perf_counter() - began:.2f} s")
            daemon.kill()


if __name__ == "__main__":
    rebuild(Path(sys.argv[2]), SqliteReader(Path(sys.argv[1])))
