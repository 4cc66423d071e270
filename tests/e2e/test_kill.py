"""Processes are killed at random moments; nothing that was acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_protocol.client.client import Timing
from tests.e2e.cluster import client_of, noop, nothing_is_lost, submit_many

JOBS = 500
KILLS, KILLS_SOAK = 10, 50
TIRELESS = Timing(read_s=600, write_s=1200, attempt_s=2)  # kills leave short gaps to get a request through
LATER_MAX_S = 0.05  # between the acknowledgement that triggers a kill and the kill

ONE = [["orchestrator"], ["compute"]]
BOTH = ["orchestrator", "compute"]


class Killer:
    """Kills and starts one daemon after another again whenever so many submissions have been acknowledged."""

    def __init__(self, daemons: list[Daemon], moments: list[int], dice: random.Random) -> None:
        self.kills = 0
        self._daemons = daemons
        self._next = itertools.cycle(daemons)
        self._moments = sorted(moments)
        self._dice = dice
        self._wanted = asyncio.Event()

    def acknowledged(self, count: int) -> None:
        """Hear how many submissions have been acknowledged."""
        if self._moments and count >= self._moments[0]:
            self._moments.pop(0)
            asyncio.get_running_loop().call_later(self._dice.uniform(0, LATER_MAX_S), self._wanted.set)

    async def work(self) -> None:
        """Kill and start again, for ever."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            daemon = next(self._next)
            daemon.kill()
            self.kills += 1
            daemon.start()
            await asyncio.to_thread(daemon.ready)

    async def finish(self) -> None:
        """Have all daemons run."""
        for daemon in self._daemons:
            if not daemon.running:
                daemon.start()
            await asyncio.to_thread(daemon.ready)


async def jobs_survive(stack: DevStack, port: int, victims: list[str], kills: int) -> None:
    """Submit, kill the victims at random moments, and check what is left."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when it fails
    dice = random.Random(seed)
    daemons = {"orchestrator": stack.orchestrator(listen=f"127.0.0.1:{port}"), "compute": stack.compute("node-1")}
    async with client_of(daemons["orchestrator"], TIRELESS) as client:
        killer = Killer([daemons[name] for name in victims], dice.sample(range(1, JOBS), kills), dice)
        work = asyncio.create_task(killer.work())
        acknowledged = await submit_many(client, JOBS, noop(delay_ms=5), killer.acknowledged)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await killer.finish()

        assert len(acknowledged) == JOBS
        await nothing_is_lost(client, acknowledged)
        assert killer.kills > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("victims", ONE, ids="+".join)
async def test_acknowledged_jobs_survive_kill_9(stack: DevStack, port: int, victims: list[str]) -> None:
    """Daemons killed ten times while 500 jobs are submitted lose none of them and run none of them twice."""
    await jobs_survive(stack, port, victims, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("victims", [*ONE, BOTH], ids="+".join)
async def test_acknowledged_jobs_survive_many_kills(stack: DevStack, port: int, victims: list[str]) -> None:
    """The same with fifty kills, and with both killed in turn."""
    await jobs_survive(stack, port, victims, KILLS_SOAK)
