"""A machine is asked once per turn of the loop, when something came or when it is due; a failure is the end of it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bacalhau_daemon.pump import ROUNDS_MAX, Pump
from bacalhau_daemon.testing import wait_until

MILLISECOND = 1_000_000


class Machine:
    """Says what it was asked, and what the next answers are."""

    def __init__(self) -> None:
        self.answers: list[list[str]] = []
        self.asked = self.ticks = 0
        self.due: int | None = None

    def tick(self, now: int) -> None:
        self.ticks += 1
        self.due = None

    def actions(self, now: int) -> list[str]:
        self.asked += 1
        return self.answers.pop(0) if self.answers else []

    def next_tick(self) -> int | None:
        return self.due


class Shell:
    """Carries out what it is told; `more` is called for each action."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.done: list[str] = []
        self.failures: list[Exception] = []
        self.more: Any = lambda action: None
        self.pump = Pump(self.machine, self.carry_out, self.failures.append)

    def carry_out(self, actions: list[str]) -> None:
        for action in actions:
            self.done.append(action)
            self.more(action)


async def turn() -> None:
    """Let what is due in this turn of the loop happen."""
    await asyncio.sleep(0)


async def test_what_comes_together_is_asked_for_once() -> None:
    """In the next turn, not at once."""
    shell = Shell()
    shell.machine.answers = [["a", "b"], ["c"]]
    for _ in range(5):
        shell.pump.wake()
    assert shell.done == []

    await turn()
    assert (shell.done, shell.machine.asked) == (["a", "b"], 1)


async def test_what_an_action_leads_to_at_once_is_carried_out_in_the_same_turn() -> None:
    """A few times; then others have their turn."""
    shell = Shell()
    shell.machine.answers = [["again"]] * (ROUNDS_MAX + 2)
    shell.more = lambda action: shell.pump.wake()
    shell.pump.wake()

    await turn()
    assert len(shell.done) == ROUNDS_MAX
    await turn()
    assert len(shell.done) == ROUNDS_MAX + 2


async def test_a_machine_is_asked_again_when_it_is_due() -> None:
    """Nothing has to come; a time that came nearer counts."""
    shell = Shell()
    shell.machine.due = time.time_ns() + 3600 * 1000 * MILLISECOND
    shell.pump.wake()
    await turn()
    ticks = shell.machine.ticks
    shell.machine.due = time.time_ns() + MILLISECOND
    shell.machine.answers = [[], ["due"]]
    shell.pump.wake()

    await wait_until(lambda: shell.done == ["due"])
    assert shell.machine.ticks == ticks + 1


async def test_a_failure_is_told_once_and_nothing_is_done_after_it() -> None:
    """The process begins again from the log."""
    shell = Shell()
    shell.machine.answers = [["a", "b"], ["c"]]

    def fail(action: str) -> None:
        raise ValueError(action)

    shell.more = fail
    shell.pump.wake()
    await turn()
    shell.pump.wake()
    await turn()

    assert [str(error) for error in shell.failures] == ["a"]
    assert shell.done == ["a"]


async def test_nothing_is_done_after_a_stop() -> None:
    """Also what was about to be."""
    shell = Shell()
    shell.machine.answers = [["a"]]
    shell.pump.wake()
    shell.pump.stop()
    await turn()

    assert (shell.done, shell.machine.asked) == ([], 0)
