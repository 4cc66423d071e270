"""Whole clusters in virtual time: everything goes wrong that can, and no promise is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_protocol.models.job import Job, SpecConfig, Task
from tests.sim.world import World, storm

SEEDS = int(os.environ.get("SIM_SEEDS", "200"))
CHUNK = 10
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_storm_breaks_a_promise(first: int) -> None:
    """Crashes, cut links, lost and late appends, full disks, a bad line: all comes to rest as it should.

    A failure names its seed: `storm(SEED)` plays it again, step by step.
    """
    for seed in range(first, min(first + CHUNK, SEEDS)):
        world = storm(seed)

        assert world.at_rest()


def digest_in_a_process(seed: int, hash_seed: str) -> str:
    """Play a seed in a fresh interpreter with another order of sets, and return its digest."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from tests.sim.world import storm; print(storm({seed}, seconds=20, jobs=10).digest())",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout.strip()


def test_a_seed_says_everything() -> None:
    """The same seed writes the same bytes in the same order, whatever the interpreter's hash seed; another does not."""
    digests = {digest_in_a_process(7, hash_seed) for hash_seed in ("1", "2")}

    assert len(digests) == 1
    assert digest_in_a_process(8, "1") not in digests


def test_a_quiet_cluster_runs_what_it_is_given() -> None:
    """Without faults every job ends, and it ends within the time that its work takes and a little more."""
    world = World(3, nodes_count=20)
    world.run(3)
    world.calm(1)
    task = Task(name="main", engine=SpecConfig(type="noop", params={"DelayMs": 100}))
    pending = [world.submit(Job(type="batch", tasks=(task,))) for _ in range(50)]
    world.run(5)

    assert world.at_rest()
    assert all(one.answer is not None for one in pending)
    world.finish()
