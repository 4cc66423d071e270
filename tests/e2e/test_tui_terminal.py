"""The screens on a real terminal and a real cluster: silent when nothing happens, frugal when much does, never lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import DevStack
from tests.e2e.terminal import Terminal

ROOT = Path(__file__).resolve().parents[2]
IDLE_S = 3.0
CHANGES_PER_S, BYTES_PER_S_MAX = 200, 5_000
SETTLED_S, WARM_UP_S, WATCHED_S = 0.6, 5.0, 4.0
LEFT_ALTERNATE_SCREEN = b"\x1b[?1049l"
NOOP = '{"Name": "%s", "Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}'


def screens(stack: DevStack) -> Terminal:
    """Start the screens as a person would."""
    return Terminal([sys.executable, "-m", "bacalhau_tui"], stack.environment, cwd=str(ROOT))


async def submit(stack: DevStack, name: str) -> None:
    """Submit a job from elsewhere."""
    await asyncio.to_thread(stack.command, "job", "run", "-", stdin=NOOP % name)


async def test_an_idle_screen_writes_nothing(shared: DevStack) -> None:
    """A job that was submitted elsewhere comes by itself; then, in three seconds, not one byte is written."""
    async with screens(shared) as terminal:
        await terminal.shows("live")
        await submit(shared, "from-elsewhere")
        await terminal.shows("from-elsewhere", "Completed")
        await terminal.quiet(SETTLED_S)
        assert await terminal.bytes_within(IDLE_S) == 0

        since = len(terminal.written)
        terminal.type("2")
        await terminal.shows("n-one", since=since)
        await terminal.quiet(SETTLED_S)
        assert await terminal.bytes_within(IDLE_S) == 0


async def test_a_command_that_comes_in_one_packet_is_understood(shared: DevStack) -> None:
    """As over a slow line: `:`, its letters and enter in one read, and a filter right behind them."""
    async with screens(shared) as terminal:
        await terminal.shows("live")
        since = len(terminal.written)
        terminal.type(":nodes\r/n-on\r")
        await terminal.shows("n-one", "/n-on", since=since)


@pytest.mark.parametrize(("jobs", "new_per_s"), [(40, 0), (1_000, 100)])
async def test_a_busy_cluster_stays_within_the_budget(jobs: int, new_per_s: int) -> None:
    """Two hundred changes a second, all of them on the screen or above it: at most five kilobytes a second."""
    command = [sys.executable, "-m", "tests.bench.crowd", str(jobs), str(CHANGES_PER_S - new_per_s), str(new_per_s)]
    async with Terminal(command, os.environ, cwd=str(ROOT)) as terminal:
        await terminal.shows("live")
        await terminal.bytes_within(WARM_UP_S)
        written = await terminal.bytes_within(WATCHED_S)
        assert 0 < written <= BYTES_PER_S_MAX * WATCHED_S


async def test_the_screens_outlive_the_orchestrator(stack: DevStack, port: int) -> None:
    """Killed and started again: a banner says since when, rows stay; then everything goes on by itself."""
    daemon = stack.hybrid(listen=f"127.0.0.1:{port}")
    await submit(stack, "before")
    async with screens(stack) as terminal:
        await terminal.shows("live", "before", "Completed")
        since = len(terminal.written)
        daemon.kill()
        await terminal.shows("link lost since", since=since)

        since = len(terminal.written)
        daemon.start()
        await asyncio.to_thread(daemon.ready)
        await terminal.shows("live", since=since)
        await submit(stack, "after")
        await terminal.shows("after", since=since)
        assert terminal.process.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_leaves_the_terminal_as_it_was(shared: DevStack, number: signal.Signals) -> None:
    """The program ends as one that the signal ended, and the terminal's own screen is back."""
    async with screens(shared) as terminal:
        await terminal.shows("live")
        assert await terminal.ended(number) == 128 + number
        assert LEFT_ALTERNATE_SCREEN in terminal.written
