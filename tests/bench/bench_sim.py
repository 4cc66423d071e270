"""The simulator's pace: virtual seconds per second at 200 nodes, idle and with jobs."""

from __future__ import annotations

import time

from bacalhau_protocol.models.job import Job, SpecConfig, Task
from tests.sim.clock import SECOND
from tests.sim.world import World

NODES, SECONDS, JOBS_PER_SECOND = 200, 600, 2


def pace(jobs_per_second: float) -> tuple[float, int]:
    """Return virtual seconds per second, and how many jobs ended."""
    world = World(1, nodes_count=NODES, checked=False)
    world.run(10)
    task = Task(name="main", engine=SpecConfig(type="noop", params={"DelayMs": 2_000}))
    count = int(SECONDS * jobs_per_second)
    for number in range(count):
        at = world.clock.now + int(number / jobs_per_second * SECOND)
        world.clock.at(at, lambda: _submit(world, Job(type="batch", tasks=(task,))))
    start = time.perf_counter()
    world.run(SECONDS)
    took = time.perf_counter() - start
    assert all(pending.answer is not None for pending in list(world.requests.values())[:-10])
    return SECONDS / took, count


def _submit(world: World, job: Job) -> None:
    world.submit(job)


def main() -> None:
    """Print both."""
    idle, _ = pace(0.001)
    busy, jobs = pace(JOBS_PER_SECOND)
    print(f"{NODES} nodes idle         {idle:.0f} virtual seconds per second")
    print(f"{NODES} nodes, {jobs} jobs   {busy:.0f} virtual seconds per second ({JOBS_PER_SECOND} jobs per second)")


if __name__ == "__main__":
    main()
