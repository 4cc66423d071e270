"""The simulator's pace: virtual seconds per second at 200 nodes, idle and with jobs, on one CPU and on all of them.

`just sim` runs its seeds on all CPUs at once, so the sum is what a search for bugs goes by. The nodes start one after
another over a heartbeat's interval, so that their heartbeats do not come together. The last line has the invariants of
the whole cluster checked after every turn, as `just sim` does with fewer nodes.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.ncl.timings import OWN
from tests.sim.clock import SECOND
from tests.sim.world import World

NODES, SECONDS, JOBS_PER_SECOND = 200, 600, 2


def pace(jobs_per_second: float, checked: bool, seed: int) -> float:
    """Return virtual seconds per second."""
    world = World(seed, nodes_count=NODES, checked=checked)
    for number, name in enumerate(world.nodes):
        world.crash_node(name, number * OWN.heartbeat_ns // NODES)
    world.run(20)
    task = Task(name="main", engine=SpecConfig(type="noop", params={"DelayMs": 2_000}))
    count = int(SECONDS * jobs_per_second)
    for number in range(count):
        at = world.clock.now + int(number / jobs_per_second * SECOND)
        world.clock.at(at, lambda: _submit(world, Job(type="batch", tasks=(task,))))
    start = time.perf_counter()
    world.run(SECONDS)
    took = time.perf_counter() - start
    assert all(pending.answer is not None for pending in list(world.requests.values())[:-10])
    return SECONDS / took


def _submit(world: World, job: Job) -> None:
    world.submit(job)


def main() -> None:
    """Print both."""
    cpus = len(os.sched_getaffinity(0))
    busy = f"{JOBS_PER_SECOND} jobs/s"
    for words, jobs_per_second, checked in (
        ("idle", 0.001, False),
        (busy, JOBS_PER_SECOND, False),
        (f"{busy}, checked", JOBS_PER_SECOND, True),
    ):
        alone = pace(jobs_per_second, checked, 1)
        with ProcessPoolExecutor(cpus) as pool:
            together = sum(pool.map(partial(pace, jobs_per_second, checked), range(1, cpus + 1)))
        print(f"{NODES} nodes, {words:19} {alone:.0f} virtual seconds per second, {together:.0f} on {cpus} CPUs")


if __name__ == "__main__":
    main()
