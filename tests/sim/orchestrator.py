"""The orchestrator's shell in virtual time: the production machine, its actions carried out on simulated parts."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from bacalhau_daemon.core import orchestrator as production
from bacalhau_daemon.core.actions import (
    Action,
    Answer,
    Append,
    Disconnect,
    Halt,
    KeepLogTail,
    LookUp,
    Project,
    Reload,
    Send,
)
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_protocol.transport.base import Message
from tests.sim.bus import Bus, Endpoint
from tests.sim.clock import MILLI, NEVER, Clock
from tests.sim.rows import Rows

APPEND_NS, ROWS_NS, LOOKUP_NS, RELOAD_NS = MILLI // 2, 20 * MILLI, MILLI, 5 * MILLI
NAME = "n-orchestrator"


class SeededIds:
    """Randomness for ids, out of the world's seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def random(self, count: int) -> bytes:
        """Return so many bytes."""
        return self._rng.randbytes(count)


class Process:
    """One life of an orchestrator. What lies on disk is handed in and outlives it."""

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        rng: random.Random,
        *,
        life: int,
        log: MemoryLog,
        rows: Rows,
        on_answer: Callable[[Request, Any], None],
        after: Callable[[Process], None],
        policy: Any = None,
    ) -> None:
        self.clock, self.bus, self.rng = clock, bus, rng
        self.log, self.rows = log, rows
        self.alive = True
        self.halted = ""
        self.crash_between = 0.0  # probability, per action
        self._on_answer, self._after = on_answer, after
        self._pumping = False
        self._wake_at = self._timer_at = NEVER
        settings = production.Settings(
            node=NAME, version="sim", inbox=f"_R.{NAME}.{life}", **({"policy": policy} if policy else {})
        )
        self.machine = production.Orchestrator(settings, self._restore(), SeededIds(rng))
        self.endpoint = Endpoint(NAME, self._receive)
        bus.subscribe(self.endpoint, *self.machine.subscriptions)
        self.machine.lead(clock.now, cluster="simulated", admin="admin", admin_sha256="0" * 64)
        self.wake()

    def _restore(self) -> Restored:
        restored = Restored()
        self.log.reopen()
        for _, data in self.log.read(1):
            self.rows.apply(restored.add(data))
        return restored

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, message: Message) -> None:
        if self.alive:
            self.machine.message(message, self.clock.now)
            self.wake()

    def request(self, request: Request) -> None:
        """Take a client's request."""
        if self.alive and self.machine.leading:
            self.machine.request(request, self.clock.now)
            self.wake()

    def kill(self) -> None:
        """Power off. What was on its way to the disk arrives or not."""
        self.alive = False
        self.bus.remove(self.endpoint)
        self.log.crash()

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def wake(self) -> None:
        """Ask the machine at the end of this moment what is to be done: what has come by then is decided together."""
        if not self._pumping:
            self._pumping = True
            self.clock.at(self.clock.now, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if not self.alive:
            return
        machine, now = self.machine, self.clock.now
        if self._wake_at <= now:
            machine.tick(now)
        for action in machine.actions(now):
            if self.crash_between and self.rng.random() < self.crash_between:
                self.halted = "crashed between two effects"
                self.kill()
                return
            self._carry_out(action)
        self._after(self)
        if self.alive:
            self._arm()

    def _arm(self) -> None:
        """Be woken when the machine wants it; a timer that comes too early looks again."""
        at = self.machine.next_tick()
        self._wake_at = at = NEVER if at is None else max(at, self.clock.now + 1)
        if at < self._timer_at:
            self._timer_at = at
            self.clock.at(at, self._timer)

    def _timer(self) -> None:
        if not self.alive or self.clock.now < self._timer_at:
            return
        self._timer_at = NEVER
        if self._wake_at <= self.clock.now:
            self._pump()
        elif self._wake_at < NEVER:
            self._timer_at = self._wake_at
            self.clock.at(self._timer_at, self._timer)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send():
                self.bus.publish(self.endpoint, Message(action.subject, action.data, action.reply))
            case Answer():
                self._on_answer(action.request, action.result)
            case Append():
                self.clock.after(APPEND_NS, lambda: self._append(action))
            case Project():
                self.clock.after(ROWS_NS, lambda: self._project(action))
            case LookUp():
                self.clock.after(LOOKUP_NS, lambda: self._look_up(action))
            case Reload():
                self.clock.after(RELOAD_NS, self._reload)
            case Halt():
                self.halted = action.reason
                self.kill()
            case Disconnect() | KeepLogTail():
                pass

    def _append(self, action: Append) -> None:
        if not self.alive:
            if self.rng.random() < 0.5:  # it had left the process before the power went
                self.log.append(action.expected, action.data) if self.log.last() == action.expected else None
            return
        outcome = self.log.append(action.expected, action.data)
        self.clock.after(APPEND_NS, lambda: self._settled(outcome))

    def _settled(self, outcome: Any) -> None:
        if self.alive:
            self.machine.settled(outcome, self.clock.now)
            self.wake()

    def _project(self, action: Project) -> None:
        if self.alive:
            self.rows.apply(action)
            self.machine.applied(self.rows.event)

    def _look_up(self, action: LookUp) -> None:
        if self.alive:
            found = self.rows.lookup(action.lookup)
            self.machine.request(msgspec.structs.replace(action.request, found=found), self.clock.now)
            self.wake()

    def _reload(self) -> None:
        if self.alive:
            restored = Restored()
            for _, data in self.log.read(1):
                restored.add(data)
            self.machine.reloaded(restored)
            self.wake()
