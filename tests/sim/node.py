"""A compute node's shell in virtual time: the production machine; runs are the noop engine's own plan."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from bacalhau_daemon.core import compute as production
from bacalhau_daemon.core.compute_actions import (
    Action,
    CancelRun,
    Left,
    MeasureInputs,
    Note,
    SayHello,
    StartRun,
    Trim,
)
from bacalhau_daemon.core.compute_bid import Measured, Offer
from bacalhau_daemon.core.compute_events import CODEC
from bacalhau_daemon.core.compute_fold import fold_record
from bacalhau_daemon.core.compute_reports import RUNNING, Failure
from bacalhau_daemon.core.compute_rules import RunEnded
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_daemon.core.loop import Append, Halt, Reload
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_engines.noop import plan
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.node import ComputeNodeInfo, NodeInfo
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.messages import NCL_PROTOCOL, OWN_PROTOCOL
from bacalhau_protocol.transport.base import Message
from tests.sim.bus import Bus, Endpoint
from tests.sim.clock import MILLI, NEVER, SECOND, Clock

APPEND_NS, RELOAD_NS, HELLO_RETRY_NS, HELLO_TRIES = MILLI // 2, 5 * MILLI, 2 * SECOND, 5
CAPACITY = Resources(cpu=4.0, memory=8_000_000_000, disk=50_000_000_000)


class Disk:
    """What outlives a node's process: its journal, and the outcome files of its runs."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.outcomes: dict[tuple[str, int], RunEnded] = {}


class Running(msgspec.Struct):
    """A run that has begun."""

    action: StartRun
    began: int
    ended: bool = False


def describe(name: str, labels: dict[str, str], capacity: Resources) -> NodeInfo:
    """Return what a node says of itself."""
    return NodeInfo(
        node_id=name,
        labels={"name": name, **labels},
        supported_protocols=(NCL_PROTOCOL, OWN_PROTOCOL),
        compute_node_info=ComputeNodeInfo(
            execution_engines=("noop",),
            publishers=("nats",),
            storage_sources=("inline",),
            max_capacity=capacity,
            available_capacity=capacity,
            max_job_requirements=capacity,
        ),
    )


class Process:
    """One life of a compute node."""

    def __init__(
        self,
        clock: Clock,
        bus: Bus,
        rng: random.Random,
        name: str,
        *,
        life: int,
        disk: Disk,
        labels: dict[str, str],
        on_run: Callable[[Process, Running], None],
        capacity: Resources = CAPACITY,
    ) -> None:
        self.clock, self.bus, self.rng, self.name, self.disk = clock, bus, rng, name, disk
        self.capacity = capacity
        self.alive = True
        self.crash_between = 0.0
        self.notes: list[str] = []
        self.runs: dict[str, Running] = {}
        self._on_run = on_run
        self._pumping = False
        self._wake_at = self._timer_at = NEVER
        self._hellos = 0
        self._shell_inbox = f"_R.{name}.{life}h"
        self.machine = self._make(life, labels)
        self.endpoint = Endpoint(name, self._receive)
        bus.subscribe(self.endpoint, *self.machine.subscriptions, f"{self._shell_inbox}.*")
        self.machine.begin("sim", clock.now)
        self.machine.link_up(clock.now)
        self.wake()

    def _make(self, life: int, labels: dict[str, str]) -> production.Compute:
        state, chain = self._load()
        return production.Compute(
            self.name,
            state,
            chain,
            info=describe(self.name, labels, self.capacity),
            offer=Offer(
                engines=frozenset({"noop"}),
                publishers=frozenset({"nats"}),
                storages=frozenset({"inline"}),
                capacity=self.capacity,
                largest=self.capacity,
            ),
            check=lambda job, resources: [],
            inbox=f"_R.{self.name}.{life}",
            started_at=self.clock.now,
            jitter=self.rng.random,
        )

    def _load(self) -> tuple[ComputeState, Any]:
        self.disk.log.reopen()
        state, chain = ComputeState(), self.disk.log.origin
        for _, data in self.disk.log.read(1):
            chain = chain.verify(data)
            fold_record(state, CODEC.decode(data))
        state.event = chain.event
        return state, chain

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, message: Message) -> None:
        if not self.alive:
            return
        if message.subject.startswith(self._shell_inbox):
            self._welcomed(message)
            self.wake()
        elif self.machine.message(message, self.clock.now):
            self.wake()

    def cut(self) -> None:
        """Lose the link."""
        self.endpoint.up = False
        if self.alive:
            self.machine.link_down(self.clock.now)
            self.wake()

    def mend(self) -> None:
        """Have the link again."""
        self.endpoint.up = True
        if self.alive:
            self.machine.link_up(self.clock.now)
            self.wake()

    def kill(self) -> None:
        """Power off."""
        self.alive = False
        self.bus.remove(self.endpoint)
        self.disk.log.crash()

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
                self.kill()
                return
            self._carry_out(action)
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
            case Append():
                self.clock.after(APPEND_NS, lambda: self._append(action))
            case StartRun():
                self._start(action)
            case CancelRun():
                self._cancel(action)
            case MeasureInputs():
                self.machine.measured(Measured(id=action.execution.id), self.clock.now)
                self.wake()
            case SayHello():
                self._hellos += 1
                self._hello(action, self._hellos, HELLO_TRIES)
            case Trim():
                self.disk.log.trim(action.before)
            case Reload():
                self.clock.after(RELOAD_NS, self._reload)
            case Note():
                self.notes.append(f"{action.event}: {action.words}")
            case Halt():
                self.kill()
            case Left():
                pass

    def _append(self, action: Append) -> None:
        if self.alive:
            outcome = self.disk.log.append(action.expected, action.data)
            self.clock.after(APPEND_NS, lambda: self._settled(outcome))
        elif self.rng.random() < 0.5 and self.disk.log.last() == action.expected:
            self.disk.log.append(action.expected, action.data)

    def _settled(self, outcome: Any) -> None:
        if self.alive:
            self.machine.settled(outcome, self.clock.now)
            self.wake()

    def _reload(self) -> None:
        if self.alive:
            self.machine.reloaded(*self._load())
            self.wake()

    def _hello(self, action: SayHello, number: int, tries: int) -> None:
        if not self.alive or number != self._hellos or not tries:
            return
        hello = m.Hello(node_id=self.name, version="sim", live=list(action.live), unsent=list(action.unsent))
        self.bus.publish(
            self.endpoint,
            Message(
                subjects.from_node(self.name, "hello"), msgspec.json.encode(hello), f"{self._shell_inbox}.{number}"
            ),
        )
        self.clock.after(HELLO_RETRY_NS, lambda: self._hello(action, number, tries - 1))

    def _welcomed(self, message: Message) -> None:
        if message.headers or int(message.subject.rpartition(".")[2]) != self._hellos:
            return
        self._hellos += 1
        self.machine.welcomed(msgspec.json.decode(message.data, type=m.Welcome), self.clock.now)

    # ── runs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, action: StartRun) -> None:
        key = (action.execution.id, action.attempt)
        known = self.disk.outcomes.get(key)
        if known is not None or action.resumed:
            ended = known or RunEnded(id=key[0], attempt=key[1], lost=True)
            self.clock.after(MILLI, lambda: self._report(ended))
            return
        run = self.runs[key[0]] = Running(action, self.clock.now)
        self._on_run(self, run)
        job = action.execution.job
        assert isinstance(job, Job)
        assert job.task.engine is not None
        planned = plan(job.task.engine.values)
        outcome = planned.outcome(self.clock.now)
        self.clock.at(outcome.ended_at, lambda: self._finish(run, _ended(key, planned.message, outcome.exit_code)))

    def _finish(self, run: Running, ended: RunEnded) -> None:
        if run.ended or not self.alive or self.runs.get(ended.id) is not run:
            return
        run.ended = True
        del self.runs[ended.id]
        self.disk.outcomes[ended.id, ended.attempt] = ended
        self._report(ended)

    def _cancel(self, action: CancelRun) -> None:
        run = self.runs.get(action.id)
        ended = RunEnded(id=action.id, attempt=action.attempt, cancelled=True)
        if run is None:
            self.clock.after(MILLI, lambda: self._report(ended))
        else:
            self.clock.after(5 * MILLI, lambda: self._finish(run, ended))

    def _report(self, ended: RunEnded) -> None:
        if self.alive:
            self.machine.run_ended(ended, self.clock.now)
            self.wake()


def _ended(key: tuple[str, int], failure: str, exit_code: int) -> RunEnded:
    if failure:
        return RunEnded(id=key[0], attempt=key[1], failure=Failure(message=failure, topic=RUNNING))
    return RunEnded(id=key[0], attempt=key[1], output=RunOutput(exit_code=exit_code), result=SpecConfig(type="nats"))
