"""A whole compute node in this process, beside a small orchestrator, over a bus and a journal in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_daemon.compute.abilities import Plugins
from bacalhau_daemon.compute.abilities import Settings as PluginSettings
from bacalhau_daemon.compute.foreign_logs import ForeignLogs
from bacalhau_daemon.compute.journal import Journal
from bacalhau_daemon.compute.node import Node
from bacalhau_daemon.compute.runner import Runner
from bacalhau_daemon.compute.serving import Serving
from bacalhau_daemon.core.compute import Compute
from bacalhau_daemon.core.compute_bid import Offer
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.tokens import Ticket, TicketSigner
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl.events import NodeHandshook, ReportReceived, Send
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker, MemoryBus
from tests.builders_compute import CAPACITY, INFO, NODE, execution

SEED = b"s" * 32
USER = "alice"


class Orchestrator:
    """Says what a test wants said, and remembers what it hears."""

    def __init__(self, broker: MemoryBroker, *, own: bool = True) -> None:
        self.bus = broker.connect("n-o")
        self.own = own
        self.signer = TicketSigner(SEED)
        self.reports: list[Any] = []
        self.phases: list[m.PhaseReport] = []
        self.tails: list[m.LogTail] = []
        self.hellos: list[m.Hello] = []
        self.left: list[str] = []
        self._sessions = OrchestratorSessions("_R.n-o.x")
        self._seq = 0

    async def start(self) -> None:
        for subject in self._sessions.subscriptions:
            await self.bus.subscribe(subject, self._message)
        if self.own:
            await self.bus.subscribe(subjects.from_node("*", ">"), self._extension)

    async def say(self, *commands: ncl.Command) -> None:
        for command in commands:
            self._seq += 1
            await self._do(self._sessions.send(NODE, command, seq=self._seq, tag=self._seq, now=time.time_ns()))

    async def run(self, execution: Execution) -> Any:
        """Offer, approve, and return the report of its end."""
        await self.say(ncl.ask_for_bid(execution))
        bid = await self.report(execution.id)
        if isinstance(bid, ncl.BidResult) and bid.accepted:
            await self.say(ncl.BidAccepted(execution_id=execution.id))
            return await self.report(execution.id, 2)
        return bid

    async def report(self, execution_id: str, count: int = 1) -> Any:
        """Wait until so many reports of an execution have come; return the last."""

        def found() -> list[Any]:
            reports = [report for report in self.reports if report.execution_id == execution_id]
            return reports[count - 1 : count]

        return (await wait_until(found, what=f"report {count} of {execution_id}"))[0]

    def ticket(self, execution_id: str, *, user: str = USER, prefix: str = "", ttl_s: float = 60) -> str:
        expires = time.time_ns() + int(ttl_s * 1e9)
        return self.signer.sign(Ticket(user=user, execution=execution_id, prefix=prefix, expires=expires))

    async def _message(self, message: Message) -> None:
        await self._do(self._sessions.message(message, time.time_ns()))

    async def _extension(self, message: Message) -> None:
        match message.subject.rpartition(".")[2]:
            case "hello":
                self.hellos.append(msgspec.json.decode(message.data, type=m.Hello))
                welcome = m.Welcome(cluster="c", term=1, ticket_keys=[self.signer.public_key])
                await self.bus.publish(message.reply, msgspec.json.encode(welcome))
            case "phase":
                self.phases.append(msgspec.json.decode(message.data, type=m.PhaseReport))
            case "logtail":
                self.tails.append(msgspec.json.decode(message.data, type=m.LogTail))

    async def _do(self, outputs: list[Any]) -> None:
        now = time.time_ns()
        for output in outputs:
            match output:
                case Send():
                    await self.bus.publish(output.subject, output.data, reply=output.reply)
                case NodeHandshook():
                    await self._do(self._sessions.accept(output, now, starting_seq=self._seq))
                case ReportReceived():
                    self.reports.append(output.report)
                    await self._do(self._sessions.persisted(output.delivery))
                case _:
                    if type(output).__name__ == "NodeLeft":
                        self.left.append(output.node)


class Site:
    """A node's disk and journal, which survive its daemon, and the daemon."""

    def __init__(self, path: Path, broker: MemoryBroker, **tables: Any) -> None:
        self.path = path
        self.broker = broker
        self.log = MemoryLog()
        self.tables = {"engines": {"wasm": {"enabled": False}}, "publishers": {"local": {"port": 0}}, **tables}
        self.environ: dict[str, str] = {}
        self.env_allowed: tuple[str, ...] = ()
        self.clusters: list[str] = []
        self.node: Node
        self.bus: MemoryBus
        self.foreign: ForeignLogs
        self.plugins: Plugins

    @property
    def root(self) -> Path:
        return self.path / "executions"

    async def start(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.plugins = Plugins(NODE, self.path, PluginSettings(**self.tables))
        await self.plugins.poll()
        self.bus, bulk = self.broker.connect(NODE), self.broker.connect(NODE)
        journal = Journal(NODE, lambda: self.log)
        loaded = await journal.load()
        machine = Compute(
            NODE, loaded.state, loaded.chain, info=INFO, offer=self.offer(), check=self.plugins.check,
            inbox=self.bus.inbox(), started_at=time.time_ns(), jitter=lambda: 0.0,
        )  # fmt: skip
        self.node = Node(
            machine, bus=self.bus, bulk=bulk, journal=journal, plugins=self.plugins, version="test",
            welcomed=self.clusters.append,
        )  # fmt: skip
        runner = Runner(self.root, self.plugins, self.node.listener, env_allowed=self.env_allowed, environ=self.environ)
        self.serving = Serving(NODE, bulk, self.root, self.node.live)
        await self.node.start(runner, self.serving)
        self.foreign = ForeignLogs(NODE, bulk, self.root, known=self.node.known, live=self.node.live)
        await self.foreign.start()
        self.node.link_up()
        await wait_until(lambda: self.clusters, what="a session")

    def offer(self) -> Offer:
        return Offer(
            engines=self.plugins.engines.available,
            publishers=self.plugins.publishers.available,
            storages=self.plugins.storages.available,
            capacity=CAPACITY,
            largest=CAPACITY,
            env_allowed=self.env_allowed,
            env_known=frozenset(self.environ),
        )

    async def stop(self, grace_s: float = 0.0) -> None:
        await self.node.stop(grace_s)
        await self.close()

    async def close(self) -> None:
        await self.foreign.close()
        await self.serving.close()
        await self.plugins.close()
        await self.bus.close()
        self.clusters.clear()

    async def crash(self) -> None:
        """End the daemon without a word: nothing that it has in hand is finished or told."""
        self.bus.cut()
        node = self.node
        assert node.runner is not None
        node.pump.stop()
        tasks = [task for task in asyncio.all_tasks() if task.get_name().startswith(("execution", "stop "))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.log.crash()
        await self.close()

    async def ask(self, verb: str, request: m.Body, *, user: str = USER) -> Message:
        """Ask the node as a client does; raise what it answers."""
        client = self.broker.connect(user)
        try:
            answer = await client.request(subjects.to_node(NODE, verb), msgspec.json.encode(request), timeout_s=30)
        finally:
            await client.close()
        if answer.headers and m.ERROR in answer.headers:
            raise errors.from_wire(answer.data)
        return answer


def noop(number: int = 1, task: dict[str, Any] | None = None, **params: Any) -> Execution:
    """A noop execution; `task` changes its task."""
    made = execution(number, cpu=0.1, params=params)
    assert isinstance(made.job, Job)
    changed = msgspec.structs.replace(made.job.task, **(task or {}))
    return msgspec.structs.replace(made, job=msgspec.structs.replace(made.job, tasks=(changed,)))


@contextlib.asynccontextmanager
async def cluster(path: Path, *, own: bool = True, **tables: Any) -> AsyncIterator[tuple[Site, Orchestrator]]:
    """A node and its orchestrator, with a session."""
    broker = MemoryBroker()
    orchestrator = Orchestrator(broker, own=own)
    await orchestrator.start()
    site = Site(path, broker, **tables)
    await site.start()
    try:
        yield site, orchestrator
    finally:
        await site.stop()
        await orchestrator.bus.close()
