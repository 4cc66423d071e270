"""A compute node's machine beside an orchestrator's sessions, in virtual time, with a journal in memory."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from bacalhau_daemon.core.compute import Compute
from bacalhau_daemon.core.compute_actions import Action, CancelRun, Left, MeasureInputs, SayHello, StartRun, Trim
from bacalhau_daemon.core.compute_bid import Measured, Offer
from bacalhau_daemon.core.compute_events import CODEC
from bacalhau_daemon.core.compute_fold import fold_record
from bacalhau_daemon.core.compute_reports import Failure
from bacalhau_daemon.core.compute_rules import RunEnded
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_daemon.core.loop import Append, Reload
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.log.records import Chain
from bacalhau_protocol.api.messages import Welcome
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig, Task
from bacalhau_protocol.models.node import ComputeNodeInfo, NodeInfo
from bacalhau_protocol.models.resources import AllocatedResources, Gpu, Resources
from bacalhau_protocol.models.states import ComputeState as Compute_
from bacalhau_protocol.models.states import ComputeStateType, DesiredState, DesiredStateType
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl.events import NodeHandshook, ReportReceived, Send
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.transport.base import Message

NODE = "n-1"
START = 1_750_000_000 * 10**9
SECOND = 10**9
CAPACITY = Resources(cpu=4, memory=8 * 10**9, disk=10**12)
GPUS = tuple(Gpu(index=index, name="G", vendor="NVIDIA", memory=1000) for index in range(2))
OFFER = Offer(
    engines=frozenset({"noop", "wasm"}),
    publishers=frozenset({"nats", "local"}),
    storages=frozenset({"inline", "urldownload"}),
    capacity=CAPACITY,
    largest=CAPACITY,
)
INFO = NodeInfo(
    node_id=NODE,
    supported_protocols=(ncl.NCL_PROTOCOL, ncl.OWN_PROTOCOL),
    compute_node_info=ComputeNodeInfo(max_capacity=CAPACITY, max_job_requirements=CAPACITY),
)


def execution(
    number: int = 1,
    *,
    cpu: float = 1,
    gpu: int = 0,
    kind: str = "batch",
    engine: str = "noop",
    publisher: str = "",
    inputs: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    direct: bool = False,
    priority: int = 0,
    params: dict[str, Any] | None = None,
    **changes: Any,
) -> Execution:
    """Build an execution that is offered."""
    sources = tuple(InputSource(source=SpecConfig(type=one), target=f"/{one}") for one in inputs)
    task = Task(
        name="main",
        engine=SpecConfig(type=engine, params=params if params is not None else msgspec.UNSET),
        publisher=SpecConfig(type=publisher),
        input_sources=sources or msgspec.UNSET,
        env=env or msgspec.UNSET,
    )
    job = Job(id="j-1", name="job", namespace="default", type=kind, count=1, priority=priority, tasks=(task,))
    desired = DesiredStateType.RUNNING if direct else DesiredStateType.PENDING
    plain = Execution(
        id=f"e-{number}",
        namespace="default",
        node_id=NODE,
        job_id="j-1",
        job=job,
        allocated_resources=AllocatedResources({"main": Resources(cpu=cpu, memory=10**6, gpu=gpu)}),
        desired_state=DesiredState(desired),
        compute_state=Compute_(ComputeStateType.NEW),
    )
    return msgspec.structs.replace(plain, **changes)


class Pair:
    """A node and its orchestrator, joined by a link that can be cut; the journal survives `crash`."""

    def __init__(self, offer: Offer = OFFER, log: MemoryLog | None = None, *, own: bool = True) -> None:
        self.now = START
        self.log = log or MemoryLog()
        self.offer = offer
        self.own = own
        self.sessions = OrchestratorSessions("_R.n-o.x")
        self.linked = True
        self.hears = True  # whether reports arrive
        self.seq = 0
        self.reports: list[Any] = []
        self.acts: list[Action] = []  # of the node since `taken` was called: starts, cancels, …
        self.problems: list[str] = []  # what checks of plug-ins say
        self._wire: deque[Message] = deque()
        self._new_node()

    def _new_node(self) -> None:
        state, chain = self.load()
        self.node = Compute(
            NODE, state, chain, info=INFO, offer=self.offer, check=lambda *_: self.problems,
            inbox="_R.n-1.x", started_at=self.now, jitter=lambda: 0.5,
        )  # fmt: skip
        self.node.begin("test", self.now)
        self._do()
        if self.linked:
            self.node.link_up(self.now)
        self.settle()

    def load(self) -> tuple[ComputeState, Chain]:
        state, chain = ComputeState(), self.log.origin
        for _, data in self.log.read(1):
            chain = chain.verify(data)
            fold_record(state, CODEC.decode(data))
        state.event = chain.event
        return state, chain

    # --- the world ---

    def crash(self) -> None:
        """Kill the daemon and start it again on its journal; what it had in hand is gone."""
        self.log.crash()
        self._wire.clear()
        self.sessions.drop(NODE)
        self._new_node()

    def cut(self) -> None:
        self.linked = False
        self.node.link_down(self.now)
        self.settle()

    def heal(self) -> None:
        self.linked = True
        self.node.link_up(self.now)
        self.settle()

    def wait(self, seconds: float) -> None:
        """Let time pass, step by step."""
        end = self.now + int(seconds * SECOND)
        while True:
            times = [at for at in (self.node.next_tick(), self.sessions.next_tick()) if at is not None]
            at = min(times, default=end)
            if at > end:
                break
            self.now = max(self.now + 1, at)
            self.node.tick(self.now)
            self._orchestrate(self.sessions.tick(self.now))
            self.settle()
        self.now = end

    def command(self, *commands: ncl.Command) -> None:
        """The orchestrator says these, in one breath."""
        for command in commands:
            self.seq += 1
            self._orchestrate(self.sessions.send(NODE, command, seq=self.seq, tag=self.seq, now=self.now))
        self.settle()

    def ask(self, *executions: Execution) -> None:
        self.command(*(ncl.ask_for_bid(one) for one in executions))

    def accept(self, *numbers: int) -> None:
        self.command(*(ncl.BidAccepted(execution_id=f"e-{number}") for number in numbers))

    def cancel(self, *numbers: int) -> None:
        self.command(*(ncl.CancelExecution(execution_id=f"e-{number}") for number in numbers))

    def end(self, number: int = 1, attempt: int = 1, **how: Any) -> None:
        """The runner says that an execution is over."""
        output = None if how else RunOutput(stdout="out", exit_code=0)
        self.node.run_ended(RunEnded(id=f"e-{number}", attempt=attempt, output=output, **how), self.now)
        self.settle()

    def fail(self, number: int = 1, words: str = "broken") -> None:
        self.end(number, failure=Failure(message=words, topic="Running Execution"))

    def measured(self, number: int = 1, **found: Any) -> None:
        self.node.measured(Measured(id=f"e-{number}", **found), self.now)
        self.settle()

    # --- plumbing ---

    def settle(self) -> None:
        """Carry out and deliver until nothing moves."""
        self._do()
        while self._wire:
            messages = list(self._wire) if self.linked else []
            self._wire.clear()
            for message in messages:
                if message.subject.startswith(("bacalhau.global.compute.n-1.in", "_R.n-1.")):
                    self.node.message(message, self.now)
                elif self.hears or not message.subject.endswith("out.msgs"):
                    self._orchestrate(self.sessions.message(message, self.now))
            self._do()

    def _do(self) -> None:
        while actions := self.node.actions(self.now):
            for action in actions:
                match action:
                    case Send():
                        self._wire.append(Message(action.subject, action.data, action.reply))
                    case Append():
                        self.node.settled(self.log.append(action.expected, action.data), self.now)
                    case Trim():
                        self.log.trim(action.before)
                        self.acts.append(action)
                    case SayHello():
                        self.acts.append(action)
                        welcome = Welcome(cluster="c", term=1, ticket_keys=[]) if self.own else None
                        self.node.welcomed(welcome, self.now)
                    case Reload():
                        self.node.reloaded(*self.load())
                    case StartRun() | CancelRun() | MeasureInputs() | Left():
                        self.acts.append(action)
        check(self.node.state)

    def _orchestrate(self, outputs: list[Any]) -> None:
        for output in outputs:
            match output:
                case Send():
                    self._wire.append(Message(output.subject, output.data, output.reply))
                case NodeHandshook():
                    self._orchestrate(self.sessions.accept(output, self.now, starting_seq=self.seq))
                case ReportReceived():
                    self.reports.append(output.report)
                    self._orchestrate(self.sessions.persisted(output.delivery))
                case _:
                    pass

    # --- what a test looks at ---

    def taken(self) -> list[tuple[str, str]]:
        """Return what was started, cancelled and so on since the last call, as (action, execution)."""
        acts, self.acts = self.acts, []
        found = []
        for act in acts:
            match act:
                case StartRun():
                    found.append(("resume" if act.resumed else "start", act.execution.id))
                case MeasureInputs():
                    found.append(("measure", act.execution.id))
                case CancelRun():
                    found.append(("cancel", act.id))
                case _:
                    pass
        return found

    def heard(self) -> list[tuple[str, str]]:
        """Return the reports that the orchestrator stored since the last call, as (kind, execution)."""
        reports, self.reports = self.reports, []
        return [(_kind(report), report.execution_id) for report in reports]

    def last_report(self) -> Any:
        return self.reports[-1]


def _kind(report: Any) -> str:
    match report:
        case ncl.BidResult():
            return "bid" if report.accepted else "refusal"
        case ncl.RunResult():
            return "result"
        case _:
            return "error"


def check(state: ComputeState) -> None:
    """Every invariant of a node's state."""
    held = [run for run in state.runs.values() if run.reserved]
    assert state.room.count == len(held)
    assert state.room.cpu == sum(round(run.resources.cpu * 1000) for run in held)
    assert state.room.memory == sum(run.resources.memory for run in held)
    assert state.room.gpu == sum(run.resources.gpu for run in held)
    assert len(state.room.gpus) == sum(len(run.resources.gpus or ()) for run in held)
    assert state.wanted.count == len(state.runs) - len(held)
    assert set(state.queue) == {run.id for run in state.runs.values() if run.stage == "queued"}
    assert all(not run.reserved for run in state.runs.values() if run.stage == "queued")
    assert all(run.reserved for run in state.runs.values() if run.stage in ("started", "cancelling"))
    assert state.stopping.count == sum(run.stage == "cancelling" for run in state.runs.values())
    assert list(state.reports) == sorted(state.reports)
    assert state.report_of == {report.execution_id: n for n, report in state.reports.items()}
    assert all(id_ not in state.finished for id_ in state.runs)
