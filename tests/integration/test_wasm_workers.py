"""Which process plays which guest: one after another in one, as long as they may, and never two strangers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bacalhau_daemon.testing import wait_until
from bacalhau_engines.testing import perform, run_request
from bacalhau_engines.wasm import WasmEngine
from bacalhau_engines.wasm.server import RESTING_MAX, RUNS_PER_WORKER_MAX
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import Outcome, OutcomeKind
from tests.builders_wasm import fork_server, puppet, wasm_engine, wat
from tests.builders_wasm import module as module_of


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[WasmEngine]:
    """With its fork server up and the puppet compiled."""
    async with wasm_engine(tmp_path) as engine:
        await engine.prepare(run_request(tmp_path, puppet(), execution_id="e-first"), lambda *_: None)
        yield engine


async def workers(engine: WasmEngine) -> set[int]:
    """The processes of guests that there are."""
    return {child.pid for child in (await fork_server(engine)).children()}


class Players:
    """Runs guests and notes by which processes."""

    def __init__(self, engine: WasmEngine, directory: Path) -> None:
        self.engine, self.directory = engine, directory
        self.count = 0

    async def __call__(self, *verbs: str, **request: Any) -> tuple[Outcome, str, set[int]]:
        """Return the outcome, the output, and the workers that are there afterwards."""
        self.count += 1
        run = run_request(self.directory, puppet(*verbs), execution_id=f"e-{self.count}", **request)
        outcome = await perform(self.engine, run)
        return outcome, run.stdout_path.read_text(), await workers(self.engine)


@pytest.fixture
def play(engine: WasmEngine, tmp_path: Path) -> Players:
    """Runs guests."""
    return Players(engine, tmp_path)


async def test_one_process_plays_one_guest_after_another(play: Players) -> None:
    """Also after an exit code: whatever ended in order."""
    seen = [await play("out", str(n), "exit", str(n)) for n in range(5)]
    assert [(outcome.exit_code, out) for outcome, out, _ in seen] == [(n, str(n)) for n in range(5)]
    assert len(set.union(*(processes for _, _, processes in seen))) == 1


async def test_guests_of_two_namespaces_never_meet(play: Players) -> None:
    """Each namespace has processes of its own."""
    _, _, mine = await play("out", "x", namespace="mine")
    _, _, both = await play("out", "x", namespace="yours")
    _, _, again = await play("out", "x", namespace="mine")
    assert len(mine) == 1
    assert mine < both
    assert len(both) == 2
    assert again == both


async def test_the_limits_of_a_process_are_never_changed(play: Players) -> None:
    """A guest that may have more memory gets another process."""
    _, _, small = await play("out", "x", memory_bytes=64 * 2**20)
    outcome, _, large = await play("eat", str(100 * 2**20), memory_bytes=256 * 2**20)
    assert outcome.exit_code == 0
    assert len(large - small) == 1


@pytest.mark.parametrize("crash", [("trap",), ("recurse",), ("spin",)], ids=" ".join)
async def test_a_guest_that_does_not_end_in_order_takes_its_process_with_it(play: Players, crash: tuple[str]) -> None:
    """What it did to the process is not looked into."""
    _, _, before = await play("out", "x")
    outcome, _, _ = await play(*crash, timeout_s=0.3)
    assert outcome.kind in (OutcomeKind.SIGNALLED, OutcomeKind.TIMED_OUT)
    outcome, out, after = await play("out", "well")
    assert (outcome.exit_code, out) == (0, "well")
    assert len(after - before) == 1, "another process played it"

    async def ended() -> bool:
        return not before & await workers(play.engine)

    await wait_until(ended, what="the process of the crash ends")


async def test_nothing_of_a_guest_is_left_for_the_next(play: Players, tmp_path: Path) -> None:
    """Its variables, its arguments, its directories, its memory, its open files."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_text("secret")
    outcome, _, _ = await play(
        "out", "first", "eat", str(32 * 2**20), env={"SECRET": "1"}, outputs=(ResultPath(name="mine", path="/mine"),)
    )
    large = outcome.memory_peak_bytes
    outcome, out, _ = await play(
        "env", "SECRET", "try-read", "/mine/x", "ls", "/", "args", outputs=(ResultPath(name="other", path="/other"),)
    )
    assert "(none)" in out
    assert "yes" not in out
    assert "mine\n" not in out
    assert outcome.memory_peak_bytes < large / 4
    assert (tmp_path / "e-1" / "results" / "stdout").read_text().startswith("first")
    (worker,) = (await fork_server(play.engine)).children()
    await wait_until(
        lambda: not [file for file in worker.open_files() if "results" in file.path], what="no stream is held open"
    )


async def test_a_process_is_not_kept_for_ever(play: Players) -> None:
    """After a hundred runs there is another, and after a second without work there is none."""
    _, _, first = await play("out", "x")
    for _ in range(RUNS_PER_WORKER_MAX):
        _, _, last = await play("out", "x")
    assert last - first
    server = await fork_server(play.engine)
    await wait_until(lambda: not server.children(), what="idle workers are sent away")


async def test_a_process_that_lacks_a_module_is_not_used_for_it(play: Players, tmp_path: Path) -> None:
    """It was made before the module was there."""
    _, _, before = await play("out", "x")
    fresh = wat(tmp_path, '(module (func (export "_start")))', name="fresh")
    outcome = await perform(play.engine, run_request(tmp_path, module_of(fresh), execution_id="e-fresh"))
    assert outcome.exit_code == 0
    assert await workers(play.engine) - before


async def test_a_crowd_waits_for_a_process_only_for_a_moment(play: Players, tmp_path: Path) -> None:
    """Guests that take long run all at the same time; a few of their processes are kept."""
    runs = [run_request(tmp_path, puppet("sleep", "1500"), execution_id=f"e-long-{n}") for n in range(40)]
    tasks = [asyncio.create_task(perform(play.engine, run)) for run in runs]
    server = await fork_server(play.engine)
    await wait_until(lambda: len(server.children()) == len(runs), what="all run at once")
    assert [outcome.exit_code for outcome in await asyncio.gather(*tasks)] == [0] * len(runs)
    await wait_until(lambda: len(server.children()) <= RESTING_MAX, what="only a few are kept")


async def test_a_run_that_waits_for_a_process_can_be_cancelled(play: Players, tmp_path: Path) -> None:
    """It never begins, and those behind it do."""
    runs = [run_request(tmp_path, puppet("sleep", "200"), execution_id=f"e-{n}") for n in range(100, 130)]
    for run in runs:
        await play.engine.prepare(run, lambda *_: None)
    tasks = [asyncio.create_task(play.engine.run(run, lambda: None)) for run in runs]
    await asyncio.sleep(0)
    for run in runs[10:20]:
        await play.engine.cancel(run.execution_id, 0)
    kinds = [outcome.kind for outcome in await asyncio.gather(*tasks)]
    assert kinds == [OutcomeKind.EXITED] * 10 + [OutcomeKind.CANCELLED] * 10 + [OutcomeKind.EXITED] * 10
