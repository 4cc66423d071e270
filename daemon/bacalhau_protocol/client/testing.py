"""An orchestrator and its nodes on a bus in memory: for tests of everything that uses `Client`. It decides nothing.

A test says what happens (`add_job`, `place`, `write`, `finish`, …); requests are answered from that, the feed tells of
it with true numbers, ticks come when the test says `tick`. Faults: `refuse`, `ignore`, `lose_rows`, `nodes.silent`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.client.client import Client, Timing
from bacalhau_protocol.client.fake_nodes import FakeFile, FakeNodes, FakeRun
from bacalhau_protocol.client.watch import execution_row
from bacalhau_protocol.models.event import Event, JobHistory
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.node import BuildVersion, ComputeNodeInfo, ConnectionState, NodeInfo, NodeState
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import (
    ComputeState,
    ComputeStateType,
    DesiredState,
    DesiredStateType,
    JobState,
    JobStateType,
)
from bacalhau_protocol.models.times import SECOND, format_time
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker

QUICK = Timing(
    read_s=20.0, write_s=20.0, attempt_s=5.0, pause_min_s=0.002, pause_max_s=0.01, connect_s=1.0, tick_missing_s=30.0
)
"""Timing for tests: quick to repeat; the feed is never taken for silent unless a test asks for it."""

_START_NS = 1_795_457_084 * SECOND


class FakeOrchestrator:
    """See the module. `requests` has (verb, request, headers) of everything that was asked."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.nodes = FakeNodes(broker)
        self.requests: list[tuple[str, m.Body, dict[str, str]]] = []
        self.refuse: list[errors.BacalhauError] = []  # answers to the next requests
        self.ignore = 0  # so many of the next requests are carried out, but not answered
        self.lose_rows = False
        self.term = 1
        self.jobs: dict[str, Job] = {}
        self.executions: dict[str, Execution] = {}
        self.phases: dict[str, m.Phase] = {}
        self.history: list[JobHistory] = []
        self.node_states: dict[str, NodeState] = {}
        self.kept: dict[str, m.KeptLog] = {}
        self.credentials: list[m.CredentialRow] = []
        self.on_submit: Callable[[str], None] | None = None  # called with the id of a new job
        self.seq = 0
        self._newest: dict[str, int] = {}
        self._answers: dict[str, bytes] = {}  # by Request-Id
        self._numbers = itertools.count(1)
        self._bus = broker.connect("orchestrator")

    async def start(self) -> FakeOrchestrator:
        """Begin to answer."""
        await self._bus.subscribe(f"{subjects.API}.*.*.*", self._answer)
        await self.nodes.start()
        return self

    async def close(self) -> None:
        """Stop answering."""
        await self.nodes.close()
        await self._bus.close()

    def client(self, identity: str = "me", *, timing: Timing = QUICK, read_only: bool = False) -> Client:
        """Return a client that is connected to this."""
        return Client(self.broker.connect(identity), identity, timing=timing, read_only=read_only)

    @property
    def now(self) -> int:
        """A clock that moves one second with every event."""
        return _START_NS + self.seq * SECOND

    # ── what happens ──────────────────────────────────────────────────────────────────────────────────────────────

    def add_node(self, node_id: str, *, connection: str = "CONNECTED", cpu: float = 4.0, **labels: str) -> None:
        """Add a node, or change it."""
        capacity = Resources(cpu=cpu, memory=8_000_000_000, disk=100_000_000_000)
        info = ComputeNodeInfo(execution_engines=("wasm", "noop"), max_capacity=capacity, available_capacity=capacity)
        self.seq += 1
        self.node_states[node_id] = NodeState(
            info=NodeInfo(
                node_id=node_id, labels=labels, compute_node_info=info, version=BuildVersion(git_version="v0.1.0")
            ),
            connection=connection,
            connection_state=ConnectionState(status=connection, last_heartbeat=format_time(self.now)),
        )
        self._publish("-", "node", (node_id,), msgspec.to_builtins(self.node_states[node_id]))

    def add_job(self, name: str = "", *, count: int = 1, namespace: str = "default", job: Job | None = None) -> str:
        """Add a job in the state Pending; return its id."""
        job_id = f"j-{next(self._numbers):08x}-0000-4000-8000-000000000000"
        self.seq += 1
        job = job or Job(count=count, type="batch", tasks=(Task(name="main", engine=SpecConfig(type="wasm")),))
        self.jobs[job_id] = msgspec.structs.replace(
            job,
            id=job_id,
            name=name or job.name or job_id,
            namespace=job.namespace or namespace,
            version=1,
            state=JobState(state_type=JobStateType.PENDING),
            create_time=self.now,
            modify_time=self.now,
        )
        self._tell(job_id, "", "Submission", "Job submitted")
        self._publish_job(job_id)
        return job_id

    def set_job(self, job_id: str, state: JobStateType, message: str = "") -> None:
        """Move a job to a state."""
        self.seq += 1
        job = self.jobs[job_id]
        self.jobs[job_id] = msgspec.structs.replace(
            job, state=JobState(state_type=state, message=message or msgspec.UNSET), modify_time=self.now
        )
        self._tell(job_id, "", "State Update", message or state.value)
        self._publish_job(job_id)

    def place(self, job_id: str, node_id: str = "n-1", *, partition: int = 0) -> str:
        """Give an execution of a job to a node, that accepts it; return its id."""
        execution_id = f"e-{next(self._numbers):08x}-0000-4000-8000-000000000000"
        self.nodes.runs[execution_id] = FakeRun(node_id)
        self.executions[execution_id] = Execution(
            id=execution_id,
            namespace=self.jobs[job_id].namespace,
            node_id=node_id,
            job_id=job_id,
            job_version=self.jobs[job_id].version,
            desired_state=DesiredState(state_type=DesiredStateType.RUNNING),
            partition_index=partition,
            create_time=self.now,
        )
        self.set_execution(execution_id, ComputeStateType.BID_ACCEPTED, f"Requested execution on {node_id}")
        return execution_id

    def set_phase(self, execution_id: str, name: str, what: str = "", done: int = 0, total: int = 0) -> None:
        """Let a node say what an execution does now."""
        self.phases[execution_id] = m.Phase(name=name, since=self.now, what=what, done_bytes=done, total_bytes=total)
        self._publish_execution(execution_id)

    def run(self, execution_id: str) -> None:
        """Let an execution run; its job too."""
        self.set_execution(execution_id, ComputeStateType.RUNNING)
        job_id = self.executions[execution_id].job_id
        if self.jobs[job_id].state.state_type is JobStateType.PENDING:
            self.set_job(job_id, JobStateType.RUNNING)

    def finish(
        self, execution_id: str, exit_code: int = 0, *, files: dict[str, FakeFile] | None = None, end_job: bool = True
    ) -> None:
        """Let a program end; its job completes when all `count` executions have."""
        run = self.nodes.runs[execution_id]
        run.ended, run.exit_code = True, exit_code
        run.files = {
            "stdout": FakeFile(run.stdout),
            "stderr": FakeFile(run.stderr),
            "exitCode": FakeFile(str(exit_code).encode()),
            **(files or {}),
        }
        self.nodes.wake()
        self.phases.pop(execution_id, None)
        self.set_execution(execution_id, ComputeStateType.COMPLETED, exit_code=exit_code)
        job = self.jobs[self.executions[execution_id].job_id]
        completed = sum(
            one.compute_state.state_type is ComputeStateType.COMPLETED for one in self._executions_of(job.id)
        )
        if end_job and completed >= (job.count or 1):
            self.set_job(job.id, JobStateType.COMPLETED)

    def fail(self, execution_id: str, message: str) -> None:
        """Let an execution fail; its job fails too."""
        self.nodes.runs[execution_id].ended = True
        self.nodes.wake()
        self.set_execution(execution_id, ComputeStateType.FAILED, message)
        self.set_job(self.executions[execution_id].job_id, JobStateType.FAILED, message)

    def set_execution(
        self, execution_id: str, state: ComputeStateType, message: str = "", *, exit_code: int = 0
    ) -> None:
        """Move an execution to a state."""
        self.seq += 1
        execution = self.executions[execution_id]
        result = SpecConfig(type="nats") if state is ComputeStateType.COMPLETED else SpecConfig()
        self.executions[execution_id] = msgspec.structs.replace(
            execution,
            compute_state=ComputeState(state_type=state, message=message or msgspec.UNSET),
            run_output=RunOutput(exit_code=exit_code),
            published_result=result,
            modify_time=self.now,
        )
        self._tell(execution.job_id, execution_id, "Execution", message or state.label)
        self._publish_execution(execution_id)
        self._publish_job(execution.job_id)

    async def tick(self) -> None:
        """Let the feed tick."""
        tick = m.FeedTick(term=self.term, seq=self.seq, newest=dict(self._newest))
        await self._bus.publish(subjects.feed_tick(), msgspec.json.encode(tick))

    # ── feed ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _executions_of(self, job_id: str) -> list[Execution]:
        return [execution for execution in self.executions.values() if execution.job_id == job_id]

    def _tell(self, job_id: str, execution_id: str, topic: str, message: str) -> None:
        at = format_time(self.now)
        self.history.append(
            JobHistory(
                seq=self.seq,
                type="ExecutionLevel" if execution_id else "JobLevel",
                job_id=job_id,
                job_version=self.jobs[job_id].version,
                event=Event(message=message, topic=topic, timestamp=at),
                time=at,
                execution_id=execution_id or msgspec.UNSET,
            )
        )

    def _publish_job(self, job_id: str) -> None:
        row = self.job_row(job_id)
        self._publish(row.namespace, "job", (job_id,), msgspec.to_builtins(row))

    def _publish_execution(self, execution_id: str) -> None:
        execution = self.executions[execution_id]
        row = execution_row(execution, self.phases.get(execution_id))
        self._publish(row.namespace, "execution", (row.job_id, row.id), msgspec.to_builtins(row))

    def _publish(self, namespace: str, kind: str, key: tuple[str, ...], row: dict[str, Any]) -> None:
        chain = f"{namespace}/{kind}"
        change = m.FeedRow(kind=kind, seq=self.seq, prev=self._newest.get(chain, 0), row=row)
        self._newest[chain] = self.seq
        if not self.lose_rows and self._bus.connected:
            self.broker.route(Message(subjects.feed(namespace, kind, *key), msgspec.json.encode(change)))

    def job_row(self, job_id: str) -> m.JobRow:
        """Return a job as lists and the feed show it."""
        job = self.jobs[job_id]
        states = [execution.compute_state.state_type for execution in self._executions_of(job_id)]
        message = job.state.message if isinstance(job.state.message, str) else ""
        return m.JobRow(
            id=job.id,
            name=job.name,
            namespace=job.namespace,
            type=job.type,
            engine=job.task.engine.type if job.tasks and job.task.engine else "",
            state=job.state.state_type.value,
            message=message,
            priority=job.priority,
            count=job.count or 1,
            version=job.version,
            created=job.create_time,
            modified=job.modify_time,
            ended=job.modify_time if job.state.state_type.terminal else 0,
            running=states.count(ComputeStateType.RUNNING),
            completed=states.count(ComputeStateType.COMPLETED),
            failed=states.count(ComputeStateType.FAILED),
            by="me",
        )

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, message: Message) -> None:
        from bacalhau_protocol.client.fake_answers import ANSWERS  # noqa: PLC0415  it needs this module

        headers = message.headers or {}
        verb = ".".join(message.subject.split(".")[4:])
        answer_headers = {m.LOG_POSITION: str(self.seq)}
        try:
            if self.refuse:
                raise self.refuse.pop(0)
            if verb not in m.VERBS:
                raise errors.NotFound(f"no verb {verb}")
            data = self._answers.get(headers.get(m.REQUEST_ID, ""))
            if data is None:
                request = msgspec.json.decode(message.data, type=m.VERBS[verb].request)
                self.requests.append((verb, request, headers))
                data = msgspec.json.encode(ANSWERS[verb](self, request))
            if m.REQUEST_ID in headers:
                self._answers[headers[m.REQUEST_ID]] = data
            answer_headers[m.LOG_POSITION] = str(self.seq)
        except errors.BacalhauError as error:
            data = error.to_wire()
            answer_headers.update({m.ERROR: str(error), m.ERROR_CODE: str(error.http_status)})
        if self.ignore:
            self.ignore -= 1
            return
        await self._bus.publish(message.reply, data, headers=answer_headers)
