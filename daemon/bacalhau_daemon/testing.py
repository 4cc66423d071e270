"""Builders and a small world for tests: an orchestrator's machine on a log in memory, and nodes that do as told.

A test says what happens and reads what the machine did::

    world = World()
    world.join("n-1")
    job = world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution); world.complete(execution)
    assert world.job(job).state is JobStateType.COMPLETED

Invariants are checked after every step; what has left the state is found in `world.rows`, as the query side has it.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from bacalhau_daemon.core import actions as act
from bacalhau_daemon.core.invariants import check
from bacalhau_daemon.core.orchestrator import Orchestrator, Settings
from bacalhau_daemon.core.policy import POLICY, Policy
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.state import ExecutionState, JobState
from bacalhau_daemon.log.base import Outcome, Stored
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.testing_builders import Rows, SeededIds, a_job, a_node
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.api import subjects as api_subjects
from bacalhau_protocol.models.event import Event
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.times import format_time
from bacalhau_protocol.ncl import bundles, envelope, messages, subjects
from bacalhau_protocol.ncl.messages import Command, Payload
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.transport.base import Message

__all__ = ["SECOND", "START", "USER", "Rows", "SeededIds", "World", "a_job", "a_node"]

SECOND = 1_000_000_000
START = 1_750_000_000 * SECOND
USER = "alice"


class World:
    """One machine, its log, and nodes. Time stands still until a test moves it."""

    def __init__(self, *, policy: Policy = POLICY, seed: str = "", log: MemoryLog | None = None) -> None:
        self.now = START
        self.policy = policy
        self.log = log or MemoryLog()
        self.rows = Rows()
        self.ids = SeededIds(seed)
        self.infos: dict[str, NodeInfo] = {}
        self.sent: dict[str, list[Command]] = {}  # node → commands
        self.replies: list[tuple[str, Payload]] = []  # to control requests
        self.published: list[tuple[str, bytes]] = []  # everything else
        self.answers: list[act.Answer] = []
        self.actions: list[act.Action] = []  # the rest
        self.acknowledged: list[str] = []
        self.acknowledging = True  # whether nodes acknowledge commands at once
        self.querying = True  # whether the query side keeps up
        self.outcomes: list[Outcome] = []  # what the next appends come to, instead of asking the log
        self.holding = False  # whether appends are left in flight
        self.in_flight: act.Append | None = None
        self._counter = 0
        self._terms = 0
        self.start()

    # ── the machine ───────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start a machine on what the log holds: the first time, or after a crash."""
        restored = Restored()
        self.rows = Rows()
        for _, data in self.log.read(1):
            self.rows.apply(restored.add(data))
        self._terms += 1
        settings = Settings(
            node="n-orch", version="v0", inbox=f"_R.n-orch.t{self._terms}", policy=self.policy, ticket_keys=("ab",)
        )
        self.machine = Orchestrator(settings, restored, self.ids)
        self.machine.advertise("nats://127.0.0.1:4222")
        if restored.state.cluster:
            self.machine.lead(self.now)
        else:
            self.machine.lead(self.now, cluster="test", admin="admin", admin_sha256="00")
        self.in_flight = None
        self.run()

    def run(self) -> None:
        """Carry out what the machine asks for, until it asks for nothing more."""
        while actions := self.machine.actions(self.now):
            for action in actions:
                self._carry_out(action)
            check(self.machine.state)
        check(self.machine.state)

    def _carry_out(self, action: act.Action) -> None:
        match action:
            case act.Send():
                self._sent(action)
            case act.Append():
                self.in_flight = action
                if not self.holding:
                    self.settle()
            case act.Answer():
                self.answers.append(action)
            case act.LookUp():
                found = self.rows.find(action.lookup)
                self.machine.request(msgspec.structs.replace(action.request, found=found), self.now)
            case act.Project():
                self.rows.apply(action)
                if self.querying:
                    self.machine.applied(self.rows.position)
            case act.Reload():
                self.actions.append(action)
                restored = Restored()
                for _, data in self.log.read(1):
                    restored.add(data)
                self.machine.reloaded(restored)
            case _:
                self.actions.append(action)

    def settle(self) -> None:
        """Let the append in flight come to its outcome."""
        assert self.in_flight is not None, "an append is in flight"
        action, self.in_flight = self.in_flight, None
        outcome = self.outcomes.pop(0) if self.outcomes else self.log.append(action.expected, action.data)
        if isinstance(outcome, Stored):
            assert self.log.last() == outcome.n, "only what is in the log is stored"
        self.machine.settled(outcome, self.now)

    def release(self) -> None:
        """Stop holding appends back."""
        self.holding = False
        if self.in_flight is not None:
            self.settle()
        self.run()

    def advance(self, seconds: float, *, beating: tuple[str, ...] | None = None) -> None:
        """Let time pass, tick by tick; nodes beat every five seconds (all of them, unless some are named)."""
        end = self.now + round(seconds * SECOND)
        while self.now < end:
            due = self.machine.next_tick() or end
            self.now = min(end, max(due, self.now + 1), self.now + 5 * SECOND)
            for name in self.infos if beating is None else beating:
                self.beat(name)
            self.machine.tick(self.now)
            self.run()

    # ── clients ───────────────────────────────────────────────────────────────────────────────────────────────────

    def ask(self, verb: str, body: api.Body, *, user: str = USER, request: str = "", deadline: int = 0) -> Any:
        """Send a request and return its answer, or raise what it says."""
        self.send(verb, body, user=user, request=request, deadline=deadline)
        self.run()
        return self.last_answer()

    def send(self, verb: str, body: api.Body, *, user: str = USER, request: str = "", deadline: int = 0) -> str:
        """Send a request without looking at its answer; return its Request-Id."""
        self._counter += 1
        request = request or f"r-{self._counter}"
        self.machine.request(Request(user=user, verb=verb, body=body, id=request, deadline=deadline), self.now)
        return request

    def last_answer(self) -> Any:
        """Return the newest answer, or raise what it says."""
        result = self.answers[-1].result
        if isinstance(result, errors.BacalhauError):
            raise result
        return result

    def submit(self, job: Job, *, request: str = "", force: bool = False, user: str = USER) -> str:
        """Submit a job and return its id."""
        answer = self.ask("job.submit", api.JobSubmit(job=job, force=force), request=request, user=user)
        assert isinstance(answer, api.JobSubmitted)
        return answer.job_id

    def stop(self, job_id: str, reason: str = "enough") -> api.StopAnswer:
        """Stop a job."""
        answer: api.StopAnswer = self.ask("job.stop", api.JobRef(job=job_id, reason=reason))
        return answer

    def job(self, job_id: str) -> JobState:
        """Return a job as the query side has it."""
        return next(job for job in self.rows.jobs.values() if job.id == job_id)

    def execution(self, execution_id: str) -> ExecutionState:
        """Return an execution as the query side has it."""
        return next(each for each in self.rows.executions.values() if each.id == execution_id)

    def executions(self, job_id: str) -> list[ExecutionState]:
        """Return a job's executions, in order of creation."""
        return [each for _, each in sorted(self.rows.executions.items()) if each.job_id == job_id]

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, name: str, **what: Any) -> None:
        """Have a node shake hands, for the first time or again."""
        self.infos[name] = a_node(name, **what) if what or name not in self.infos else self.infos[name]
        request = messages.HandshakeRequest(info=self.infos[name], start_time=format_time(self.now))
        self._say(name, Plane.OUT_CTRL, request)

    def beat(self, name: str, available: Resources | None = None) -> None:
        """Have a node send a heartbeat; unless told otherwise it says that all is free."""
        free = available or self.infos[name].compute_node_info.max_capacity
        self._say(name, Plane.OUT_CTRL, messages.HeartbeatRequest(node_id=name, available_capacity=free))

    def describe(self, name: str, **what: Any) -> None:
        """Have a node say that it has changed."""
        self.infos[name] = a_node(name, **what)
        self._say(name, Plane.OUT_CTRL, messages.UpdateNodeInfoRequest(info=self.infos[name]))

    def leave(self, name: str) -> None:
        """Have a node say good-bye."""
        self._say(name, Plane.OUT_CTRL, messages.ShutdownNoticeRequest(node_id=name))

    def hello(self, name: str, live: tuple[str, ...] = (), unsent: tuple[str, ...] = ()) -> api.Welcome:
        """Have one of our nodes say what it holds; return the answer."""
        body = api.Hello(node_id=name, version="v0", live=list(live), unsent=list(unsent))
        reply = f"{api_subjects.inbox_prefix(name)}.hello"
        self.machine.message(Message(api_subjects.from_node(name, "hello"), msgspec.json.encode(body), reply), self.now)
        self.run()
        data = next(data for subject, data in reversed(self.published) if subject == reply)
        return msgspec.json.decode(data, type=api.Welcome)

    def phase(self, execution: Execution, name: str) -> None:
        """Have an execution's node say what it does now."""
        body = api.PhaseReport(
            execution_id=execution.id, job_id=execution.job_id, phase=api.Phase(name=name, since=self.now)
        )
        subject = api_subjects.from_node(execution.node_id, "phase")
        self.machine.message(Message(subject, msgspec.json.encode(body)), self.now)
        self.run()

    def offered(self, name: str) -> Execution:
        """Return the execution that a node was offered last."""
        return self.offers(name)[-1]

    def offers(self, name: str) -> list[Execution]:
        """Return every execution that a node was offered."""
        return [
            command.execution
            for command in self.sent.get(name, [])
            if isinstance(command, messages.AskForBid) and command.execution is not None
        ]

    def told(self, name: str, kind: type[Command]) -> list[str]:
        """Return the ids of the executions that a node was told something about."""
        return [
            command.execution_id
            for command in self.sent.get(name, [])
            if isinstance(command, kind) and not isinstance(command, messages.AskForBid)
        ]

    def bid(self, execution: Execution, *, accepted: bool = True, reason: str = "", retryable: bool = False) -> None:
        """Have a node answer an offer."""
        details = {"Retryable": "true"} if retryable else msgspec.UNSET
        event = Event(message=f"rejected bid: {reason}", topic="Exec Scanning", details=details)
        events = None if accepted else (event,)
        self.report(messages.BidResult(execution.id, execution.job_id, "batch", events, accepted), execution.node_id)

    def complete(self, execution: Execution, *, exit_code: int = 0, node: str = "") -> None:
        """Have a node report success."""
        event = Event(message="Completed successfully", topic="Execution", timestamp=format_time(self.now))
        output = RunOutput(stdout="hello\n", exit_code=exit_code)
        result = messages.RunResult(execution.id, execution.job_id, "batch", (event,), SpecConfig(), output)
        self.report(result, node or execution.node_id)

    def fail(self, execution: Execution, message: str = "it broke") -> None:
        """Have a node report a failure."""
        event = Event(message=message, topic="Running Execution", details={"IsError": "true"})
        error = messages.ComputeError(execution.id, execution.job_id, "batch", (event,))
        self.report(error, execution.node_id)

    def run_to_end(self, name: str) -> Execution:
        """Have a node bid for what it was offered last, and complete it."""
        execution = self.offered(name)
        self.bid(execution)
        self.complete(execution)
        return execution

    def report(self, report: messages.Report, node: str) -> None:
        """Have a node send a report."""
        self._say(node, Plane.OUT_MSGS, report)

    def _say(self, name: str, plane: Plane, payload: Payload) -> None:
        self._counter += 1
        data = envelope.encode(envelope.metadata(payload, source=name, now=self.now, seq=self._counter), payload)
        reply = f"{api_subjects.inbox_prefix(name)}.{self._counter}"
        self.machine.message(Message(subjects.subject(name, plane), data, reply), self.now)
        self.run()

    def _sent(self, action: act.Send) -> None:
        parsed = subjects.parse(action.subject)
        if parsed is not None and parsed[1] is Plane.IN_MSGS:
            for data, reply in bundles.parts(action.data, action.reply):
                command = envelope.decode(data).payload
                assert isinstance(command, messages.Command), "nodes get commands"
                self.sent.setdefault(parsed[0], []).append(command)
                if self.acknowledging:
                    self.machine.message(Message(reply, b"{}"), self.now)
        elif action.data == b"{}":
            self.acknowledged.append(action.subject)
        elif action.data[:1] == b"\x01":
            self.replies.append((action.subject, envelope.decode(action.data).payload))
        else:
            self.published.append((action.subject, action.data))


WAIT_S = 20.0  # a limit against hanging on a busy machine, not an expectation


async def wait_until(condition: Callable[[], Any], *, timeout_s: float = WAIT_S, what: str = "") -> Any:
    """Wait until a condition (may be async) gives something true; return that. Else `AssertionError` names `what`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(0.005)
