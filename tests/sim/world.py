"""A whole cluster in one process and virtual time, out of one seed, with faults; and what must hold of it.

Only clock, ids, bus, log and disk are replaced. Everything that decides is the production code: the same machines, the
same loop, the same NCL sessions.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from typing import Any

import msgspec

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core import invariants
from bacalhau_daemon.core.policy import POLICY
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.log.memory import Fault, MemoryLog, Plan
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.models.constraints import parse_selector
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources, ResourcesConfig
from tests.sim import node as nodes
from tests.sim import orchestrator as orchestrators
from tests.sim.bus import FAIR, STORM, Bus
from tests.sim.clock import MILLI, SECOND, Clock
from tests.sim.rows import Rows

DISK_FAULTS = {
    Fault.LOST: 0.01,
    Fault.LATE: 0.01,
    Fault.UNANSWERED: 0.02,
    Fault.DUPLICATE: 0.02,
    Fault.UNAVAILABLE: 0.01,
}
LINE_NS, ASK_AGAIN_NS = 2 * MILLI, 3 * SECOND
CRASH_BETWEEN = 0.0005


class Wrong(AssertionError):
    """The cluster broke a promise."""


class Pending(msgspec.Struct):
    """A request that its client repeats until it is answered."""

    id: str
    verb: str
    body: m.Body
    answer: Any = None


class World:
    """A cluster. `play` lets a script of faults happen, `calm` ends them, `finish` checks what is left."""

    def __init__(self, seed: int, *, nodes_count: int = 5, checked: bool = True) -> None:
        self.seed, self.checked = seed, checked
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.bus = Bus(self.clock, random.Random(self.rng.random()))
        self.log = MemoryLog(Plan(self.rng.randrange(2**32)))
        self.rows = Rows()
        self.requests: dict[str, Pending] = {}
        self.lives = 0
        self.crashes: Counter[str] = Counter()
        self.begun: Counter[tuple[str, int]] = Counter()
        self.disks = {f"n-{n}": nodes.Disk(MemoryLog(Plan(self.rng.randrange(2**32)))) for n in range(nodes_count)}
        self.orchestrator = self._new_orchestrator()
        self.nodes = {name: self._new_node(name) for name in self.disks}

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _new_orchestrator(self) -> orchestrators.Process:
        self.lives += 1
        return orchestrators.Process(
            self.clock,
            self.bus,
            self.rng,
            life=self.lives,
            log=self.log,
            rows=self.rows,
            on_answer=self._answered,
            after=self._check,
            policy=POLICY,
        )

    def _new_node(self, name: str) -> nodes.Process:
        self.lives += 1
        zone = "even" if int(name[2:]) % 2 == 0 else "odd"
        return nodes.Process(
            self.clock,
            self.bus,
            self.rng,
            name,
            life=self.lives,
            disk=self.disks[name],
            labels={"zone": zone},
            on_run=self._ran,
        )

    def crash_orchestrator(self, down_ns: int) -> None:
        """Power off, and on again after a while."""
        self.crashes["orchestrator"] += 1
        if self.orchestrator.alive:
            self.orchestrator.kill()
        self.clock.after(down_ns, self._revive_orchestrator)

    def _revive_orchestrator(self) -> None:
        if not self.orchestrator.alive:
            self.orchestrator = self._new_orchestrator()

    def crash_node(self, name: str, down_ns: int) -> None:
        """Power a node off, and on again after a while."""
        self.crashes["node"] += 1
        if self.nodes[name].alive:
            self.nodes[name].kill()
        self.clock.after(down_ns, lambda: self._revive_node(name))

    def _revive_node(self, name: str) -> None:
        if not self.nodes[name].alive:
            self.nodes[name] = self._new_node(name)

    def cut_node(self, name: str, for_ns: int) -> None:
        """Cut a node's link for a while."""
        self.crashes["link"] += 1
        self.nodes[name].cut()
        self.clock.after(for_ns, lambda: self.nodes[name].mend() if not self.nodes[name].endpoint.up else None)

    # ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, job: Job, request_id: str = "") -> Pending:
        """Ask for a job, again and again with the same Request-Id, until there is an answer."""
        return self._ask("job.submit", m.JobSubmit(job=job), request_id)

    def stop(self, job_id: str) -> Pending:
        """Ask for a job's stop."""
        return self._ask("job.stop", m.JobRef(job=job_id, reason="simulated"), "")

    def _ask(self, verb: str, body: m.Body, request_id: str) -> Pending:
        id_ = request_id or f"request-{len(self.requests)}"
        pending = self.requests[id_] = Pending(id_, verb, body)
        self._send(pending)
        return pending

    def _send(self, pending: Pending) -> None:
        if pending.answer is not None:
            return
        if self.rng.random() >= self.bus.weather.drop:
            copies = 2 if self.rng.random() < self.bus.weather.repeat else 1
            for _ in range(copies):
                request = Request(user="admin", verb=pending.verb, body=pending.body, id=pending.id, token=pending)
                wait = LINE_NS + int(self.rng.random() * LINE_NS)
                self.clock.after(wait, lambda request=request: self.orchestrator.request(request))
        self.clock.after(ASK_AGAIN_NS, lambda: self._send(pending))

    def _answered(self, request: Request, result: Any) -> None:
        if self.rng.random() < self.bus.weather.drop:
            return
        self.clock.after(LINE_NS, lambda: self._hear(request.token, result))

    def _hear(self, pending: Pending, result: Any) -> None:
        if isinstance(result, errors.BacalhauError) and result.retryable:
            return
        if pending.answer is None:
            pending.answer = result
        elif getattr(result, "job_id", "") != getattr(pending.answer, "job_id", ""):
            self.wrong(f"{pending.id} was answered with {pending.answer}, then with {result}")

    # ── what must hold ────────────────────────────────────────────────────────────────────────────────────────────

    def wrong(self, words: str) -> None:
        """Say what is wrong, and how to see it again."""
        raise Wrong(f"{words} (seed {self.seed}, step {self.clock.steps}, crashes {dict(self.crashes)})")

    def _check(self, process: orchestrators.Process) -> None:
        if not process.alive:
            if process.halted.startswith("crashed"):
                self.crashes["between effects"] += 1
            self.clock.after(SECOND, self._revive_orchestrator)
        elif self.checked and not process.machine.loop.busy:
            invariants.check(process.machine.state)

    def _ran(self, node: nodes.Process, run: nodes.Running) -> None:
        """A run begins: its node must have room, and nobody else may work on its partition, but in a stated window."""
        if not self.checked:
            return
        self.begun[run.action.execution.id, run.action.attempt] += 1
        if self.begun[run.action.execution.id, run.action.attempt] > 1:
            self.wrong(f"{run.action.execution.id} has begun more than once on {node.name}")
        held = Counter[str]()
        for other in node.runs.values():
            for name, amount in _amounts(other.action.resources).items():
                held[name] += amount
        for name, most in _amounts(node.capacity).items():
            if held[name] > most:
                self.wrong(f"{node.name} is over-committed: {held[name]} of {most} {name}")
        mine = run.action.execution
        for other_node in self.nodes.values():
            for other in other_node.runs.values():
                its = other.action.execution
                same = (its.job_id, its.job_version, its.partition_index) == (
                    mine.job_id,
                    mine.job_version,
                    mine.partition_index,
                )
                if same and other is not run and self._live_in_log(its.id):
                    self.wrong(f"{mine.id} begins while {its.id} of the same partition runs on {other_node.name}")

    def _live_in_log(self, execution_id: str) -> bool:
        """Whether the log says that this execution is neither over nor given up."""
        ended = {event.x for event in self.events() if isinstance(event, ev.ExecutionEnded)}
        planned = {event.id: event.x for event in self.events() if isinstance(event, ev.ExecutionPlanned)}
        return execution_id in planned and planned[execution_id] not in ended

    def events(self) -> list[ev.AnyEvent]:
        """Return every event of the log."""
        return [event for _, data in self.log.read(1) for event in ev.CODEC.decode(data).events]

    def digest(self) -> str:
        """Return a hash of everything that was written anywhere."""
        whole = hashlib.sha256()
        for log in (self.log, *(disk.log for disk in self.disks.values())):
            for _, data in log.read(1):
                whole.update(data)
        whole.update(f"{self.clock.steps} {self.bus.delivered} {self.bus.dropped}".encode())
        return whole.hexdigest()

    # ── play ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now + int(seconds * SECOND))

    def play(self, seconds: float, *, jobs: int) -> None:
        """Submit jobs while everything goes wrong that can."""
        until = self.clock.now + int(seconds * SECOND)
        self.bus.weather = STORM
        self.log.plan = Plan(self.rng.randrange(2**32), DISK_FAULTS)
        for disk in self.disks.values():
            disk.log.plan = Plan(self.rng.randrange(2**32), DISK_FAULTS)
        self._set_crash_rate(CRASH_BETWEEN)
        for _ in range(jobs):
            self.clock.after(int(self.rng.random() * seconds * SECOND), self._submit_something)
        for do in (self._some_orchestrator_crash, self._some_node_crash, self._some_cut, self._some_full_disk):
            for _ in range(self.rng.randrange(3)):
                self.clock.after(int(self.rng.random() * seconds * SECOND), do)
        self.clock.run(until)

    def _submit_something(self) -> None:
        rng = self.rng
        pending = self.submit(some_job(rng))
        if rng.random() < 0.15:
            self.clock.after(int(rng.random() * 5 * SECOND), lambda: self._stop_if_known(pending))

    def _stop_if_known(self, pending: Pending) -> None:
        if isinstance(pending.answer, m.JobSubmitted):
            self.stop(pending.answer.job_id)

    def _some_orchestrator_crash(self) -> None:
        self.crash_orchestrator(int(self.rng.random() * 20 * SECOND))

    def _some_node_crash(self) -> None:
        self.crash_node(self.rng.choice(list(self.nodes)), int(self.rng.random() * 90 * SECOND))

    def _some_cut(self) -> None:
        self.cut_node(self.rng.choice(list(self.nodes)), int(self.rng.random() * 120 * SECOND))

    def _some_full_disk(self) -> None:
        self.crashes["disk full"] += 1
        disk = self.rng.choice([self.log, *(disk.log for disk in self.disks.values())])
        disk.full = True
        self.clock.after(int(self.rng.random() * 10 * SECOND), lambda: setattr(disk, "full", False))

    def _set_crash_rate(self, rate: float) -> None:
        self.orchestrator.crash_between = rate

    def calm(self, seconds: float) -> None:
        """End all faults, bring everything back, and let the cluster come to rest."""
        self.bus.weather = FAIR
        self._set_crash_rate(0.0)
        for log in (self.log, *(disk.log for disk in self.disks.values())):
            log.full = False
            log.plan = Plan(0)
            log.deliver()
        self._revive_orchestrator()
        for name, process in self.nodes.items():
            if not process.alive:
                self._revive_node(name)
            elif not process.endpoint.up:
                process.mend()
        end = self.clock.now + int(seconds * SECOND)
        while self.clock.now < end and not self.at_rest():
            self.run(1)

    def at_rest(self) -> bool:
        """Whether nothing is left to do anywhere."""
        machine = self.orchestrator.machine
        return (
            self.orchestrator.alive
            and machine.leading
            and all(pending.answer is not None for pending in self.requests.values())
            and not machine.state.jobs
            and not machine.state.executions
            and not any(
                node.runs or node.machine.state.runs or node.machine.state.reports for node in self.nodes.values()
            )
        )

    def finish(self) -> None:
        """Check every promise that can only be checked at the end."""
        self._everything_is_at_rest()
        self._acknowledged_is_kept()
        self._one_end_each()

    def _everything_is_at_rest(self) -> None:
        state = self.orchestrator.machine.state
        open_requests = [pending.id for pending in self.requests.values() if pending.answer is None]
        if open_requests:
            self.wrong(f"never answered: {open_requests[:3]}")
        if state.jobs:
            job = next(iter(state.jobs.values()))
            self.wrong(f"{len(state.jobs)} jobs never ended, for instance {job.id}: {job.state} {job.message}")
        if state.executions:
            one = next(iter(state.executions.values()))
            self.wrong(f"{len(state.executions)} executions are never forgotten, for instance {one.id}: {one.status}")
        for node in self.nodes.values():
            if node.runs or node.machine.state.runs or node.machine.state.reports:
                self.wrong(f"{node.name} is not done: {list(node.machine.state.runs)[:3]}")

    def _acknowledged_is_kept(self) -> None:
        made: dict[str, list[str]] = {}
        for event in self.events():
            if isinstance(event, ev.JobSubmitted):
                made.setdefault(event.request, []).append(event.spec.id)
        for pending in self.requests.values():
            if isinstance(pending.answer, m.JobSubmitted) and made.get(pending.id) != [pending.answer.job_id]:
                self.wrong(
                    f"{pending.id} was acknowledged as {pending.answer.job_id}; the log has {made.get(pending.id)}"
                )

    def _one_end_each(self) -> None:
        """One authoritative end per execution; a partition of a version succeeds once."""
        state_of: dict[int, ev.End] = {}
        where: dict[int, tuple[int, int, int]] = {}
        done: Counter[tuple[int, int, int]] = Counter()
        for event in self.events():
            if isinstance(event, ev.ExecutionPlanned):
                where[event.x] = (event.j, event.version, event.partition)
            elif isinstance(event, ev.ExecutionEnded):
                before = state_of.get(event.x)
                if before is not None and before is not ev.End.LOST:
                    self.wrong(f"execution {event.x} ended as {before} and then as {event.to}")
                state_of[event.x] = event.to
                if event.to is ev.End.COMPLETED:
                    done[where[event.x]] += 1
        twice = [key for key, count in done.items() if count > 1]
        if twice:
            self.wrong(f"partitions that succeeded twice: {twice}")


def some_job(rng: random.Random) -> Job:
    """Draw a job for the no-op engine."""
    params: dict[str, Any] = {"DelayMs": rng.choice([0, 0, 10, 200, 3000, 20_000])}
    if rng.random() < 0.1:
        params["Fail"] = "simulated failure"
    elif rng.random() < 0.1:
        params["ExitCode"] = 3
    selector = rng.choice(["", "", "", "zone=even", "zone=odd"])
    resources = ResourcesConfig(cpu=rng.choice(["100m", "500m", "1", "3"]), memory=rng.choice(["100mb", "1gb"]))
    task = Task(name="main", engine=SpecConfig(type="noop", params=params), resources=resources)
    constraints = tuple(parse_selector(selector)) if selector else ()
    return Job(type="batch", count=rng.choice([1, 1, 1, 2, 5]), constraints=constraints, tasks=(task,))


def _amounts(resources: Resources) -> dict[str, int]:
    return {
        "millicores": round(resources.cpu * 1000),
        "bytes of memory": resources.memory,
        "bytes of disk": resources.disk,
    }


def storm(seed: int, *, nodes_count: int = 5, seconds: float = 60, jobs: int = 25, calm_seconds: float = 1200) -> World:
    """Play one seed to the end and check it."""
    world = World(seed, nodes_count=nodes_count)
    world.run(2)
    world.play(seconds, jobs=jobs)
    world.calm(calm_seconds)
    world.finish()
    return world
