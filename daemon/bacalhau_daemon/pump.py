"""Drives a machine of the core: asks it once per turn of the event loop what is to be done, and when it wants to be.

So what came together is decided together, and what is sent leaves in one write. Nothing here waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

ROUNDS_MAX = 4  # before others have their turn: enough for what is looked up, stored and answered
NEVER = 1 << 63

A = TypeVar("A")


class Machine(Protocol[A]):
    """What is driven. Times are nanoseconds since the epoch."""

    def tick(self, now: int) -> None:
        """Do what is due."""
        ...

    def actions(self, now: int) -> list[A]:
        """Return what is to be done, in order."""
        ...

    def next_tick(self) -> int | None:
        """Return when `tick` is next worth calling, if nothing else comes."""
        ...


class Pump(Generic[A]):
    """Call `wake` after every input. `failed` gets what the machine or `carry_out` raised; that is the end of it."""

    def __init__(
        self, machine: Machine[A], carry_out: Callable[[list[A]], None], failed: Callable[[Exception], None]
    ) -> None:
        self._machine, self._carry_out, self._failed = machine, carry_out, failed
        self._loop = asyncio.get_running_loop()
        self._stopped = self._woken = self._asked_again = False
        self._due = 0  # when the machine wants to be called, ns since the epoch
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER

    def wake(self) -> None:
        """Have the machine asked in the next turn of the loop what is to be done."""
        self._asked_again = True
        if not self._woken:
            self._woken = True
            self._loop.call_soon(self._run)

    def stop(self) -> None:
        """Ask and do nothing any more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        if self._stopped:
            return
        machine, self._woken = self._machine, True
        try:
            for _ in range(ROUNDS_MAX):  # what is done at once, as a quick append, leads to more
                self._asked_again = False
                now = time.time_ns()
                if self._due <= now:
                    machine.tick(now)
                self._carry_out(machine.actions(now))
                if not self._asked_again:
                    break
        except Exception as error:  # a bug of ours: nothing of it was acknowledged; a restart begins from the log
            self.stop()
            self._failed(error)
            return
        self._woken = False
        if self._asked_again:
            self.wake()
        self._arm(time.time_ns())

    def _arm(self, now: int) -> None:
        """Be woken when the machine wants it. A timer that comes too early costs less than a new one each time."""
        due = self._machine.next_tick()
        self._due = NEVER if due is None else due
        if self._due < self._timer_at and not self._stopped:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = self._due
            self._timer = self._loop.call_later(max(self._due - now, 0) / 1e9, self._on_time)

    def _on_time(self) -> None:
        self._timer_at = NEVER
        self.wake()
