"""Processes are killed at random moments; nothing that was acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import random

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_protocol.models.states import JobStateType
from tests.e2e.cluster import all_ended, client_of, noop, submit_many, successes

JOBS = 500
KILLS, KILLS_SOAK = 10, 50


class Killer:
    """Kills and starts a daemon again whenever so many submissions have been acknowledged."""

    def __init__(self, daemon: Daemon, moments: list[int]) -> None:
        self.daemon = daemon
        self.moments = sorted(moments)
        self.kills = 0
        self._wanted = asyncio.Event()

    def acknowledged(self, count: int) -> None:
        """Hear how many submissions have been acknowledged."""
        if self.moments and count >= self.moments[0]:
            self.moments.pop(0)
            self._wanted.set()

    async def work(self) -> None:
        """Kill and start again, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            self.daemon.kill()
            self.kills += 1
            await asyncio.to_thread(lambda: self.daemon.start().ready())


async def jobs_survive(stack: DevStack, port: int, victim: str, kills: int) -> None:
    """Submit, kill the victim at random moments, and check what is left."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    orchestrator = stack.orchestrator(listen=f"127.0.0.1:{port}")
    node = stack.compute("node-1")
    async with client_of(orchestrator) as client:
        moments = random.Random(seed).sample(range(1, JOBS), kills)
        killer = Killer(orchestrator if victim == "orchestrator" else node, moments)
        work = asyncio.create_task(killer.work())
        acknowledged = await submit_many(client, JOBS, noop(delay_ms=5), killer.acknowledged)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        if not killer.daemon.running:
            killer.daemon.start().ready()
        rows = await all_ended(client)

        assert len(acknowledged) == JOBS
        assert {row.id for row in rows} == set(acknowledged.values()), f"seed {seed}"
        assert len(set(acknowledged.values())) == JOBS, "each Request-Id made one job"
        assert {JobStateType.COMPLETED} == {JobStateType(row.state) for row in rows}, f"seed {seed}"
        for row in rows:
            assert successes((await client.get_job(row.id)).executions) == {0: 1}, f"{row.id}, seed {seed}"
        assert killer.kills > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["orchestrator", "compute"])
async def test_acknowledged_jobs_survive_kill_9(stack: DevStack, port: int, victim: str) -> None:
    """A daemon killed ten times while 500 jobs are submitted loses none of them and runs none of them twice."""
    await jobs_survive(stack, port, victim, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victim", ["orchestrator", "compute"])
async def test_acknowledged_jobs_survive_many_kills(stack: DevStack, port: int, victim: str, soak: bool) -> None:
    """The same with fifty kills."""
    if not soak:
        pytest.skip("fifty kills take minutes: just soak")
    await jobs_survive(stack, port, victim, KILLS_SOAK)
