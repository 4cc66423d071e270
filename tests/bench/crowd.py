"""The app on a crowded cluster in memory, as a process: `python -m tests.bench.crowd JOBS CHANGES_PER_S NEW_PER_S`.

For measurements on a pty: so many jobs, of which so many change each second, and so many new ones come.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker
from bacalhau_tui.app import ClusterApp
from bacalhau_tui.data.session import Session
from tests.tui.deck import settings

STATES = (JobStateType.RUNNING, JobStateType.QUEUED, JobStateType.COMPLETED, JobStateType.FAILED)
STEP_S, TICK_STEPS = 0.05, 20
CHANGED_STEP = 7  # changes are spread over all rows


async def crowd(jobs: int) -> FakeOrchestrator:
    """Return a cluster with so many jobs."""
    fake = await FakeOrchestrator(MemoryBroker()).start()
    for number in range(jobs):
        fake.set_job(fake.add_job(f"job-{number:05}"), STATES[number % 3])
    return fake


async def live(fake: FakeOrchestrator, changes_per_s: int, new_per_s: int) -> None:
    """Let jobs change and new ones come, and the feed tick, for ever. What a busy machine makes late is left out."""
    ids = list(fake.jobs)
    changed = new = 0
    for step in itertools.count(1):
        await asyncio.sleep(STEP_S)
        while changed < step * STEP_S * changes_per_s:
            fake.set_job(ids[changed * CHANGED_STEP % len(ids)], STATES[(changed + changed // len(ids)) % 4])
            changed += 1
        while new < step * STEP_S * new_per_s:
            fake.add_job(f"new-{new:05}")
            new += 1
        if step % TICK_STEPS == 0:
            await fake.tick()


async def main(jobs: int, changes_per_s: int, new_per_s: int) -> None:
    """Run the app on it until it is left."""
    fake = await crowd(jobs)

    async def connect(session: Session) -> Client:
        return fake.client()

    app = ClusterApp(settings(Path.cwd()), connect)
    living = asyncio.create_task(live(fake, changes_per_s, new_per_s))
    try:
        await app.run_async()
    finally:
        living.cancel()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:4])))
