"""The compute role over a real server: joins, works, survives the loss of its link, leaves in good order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.compute import service
from bacalhau_daemon.config import ComputeSettings, Settings
from bacalhau_daemon.core.events import Role
from bacalhau_daemon.process import Joined
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl.events import NodeHandshook, NodeLeft, ReportReceived, Send
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.settings import NatsSettings
from tests.builders_compute import execution

from .conftest import ORCHESTRATOR, Wire

NODE = "n-1"


class Peer:
    """Just enough of an orchestrator: sessions, and what was heard."""

    def __init__(self, wire: Wire) -> None:
        self.bus = wire.orchestrator
        self.sessions = OrchestratorSessions(f"{subjects.inbox_prefix(ORCHESTRATOR)}.x")
        self.reports: list[Any] = []
        self.infos: list[Any] = []
        self.left: list[str] = []
        self.seq = 0

    async def start(self) -> None:
        for subject in self.sessions.subscriptions:
            await self.bus.subscribe(subject, self.message)
        await self.bus.subscribe(subjects.from_node("*", "hello"), self.hello)

    async def message(self, message: Message) -> None:
        await self.do(self.sessions.message(message, time.time_ns()))

    async def hello(self, message: Message) -> None:
        welcome = m.Welcome(cluster="c-1", term=1, ticket_keys=[])
        await self.bus.publish(message.reply, msgspec.json.encode(welcome))

    async def say(self, command: ncl.Command) -> None:
        self.seq += 1
        await self.do(self.sessions.send(NODE, command, seq=self.seq, tag=self.seq, now=time.time_ns()))

    async def do(self, outputs: list[Any]) -> None:
        for output in outputs:
            match output:
                case Send():
                    await self.bus.publish(output.subject, output.data, reply=output.reply)
                case NodeHandshook():
                    self.infos.append(output.info)
                    await self.do(self.sessions.accept(output, time.time_ns(), starting_seq=self.seq))
                case ReportReceived():
                    self.reports.append(output.report)
                    await self.do(self.sessions.persisted(output.delivery))
                case NodeLeft():
                    self.left.append(output.node)
                case _:
                    pass

    async def run(self, number: int, **params: Any) -> Any:
        await self.say(ncl.ask_for_bid(execution(number, cpu=0.1, params=params)))
        id_ = f"e-{number}"
        await wait_until(lambda: [report for report in self.reports if report.execution_id == id_], what="a bid")
        await self.say(ncl.BidAccepted(execution_id=id_))

        def ended() -> list[Any]:
            return [one for one in self.reports if one.execution_id == id_ and not isinstance(one, ncl.BidResult)]

        return (await wait_until(ended, what="the end"))[0]


def settings(path: Path) -> Settings:
    return Settings(
        data_dir=str(path),
        compute=ComputeSettings(enabled=True, labels={"zone": "eu"}, cpu=2.0, allow_paths=(f"{path}/data/**",)),
        engines={"wasm": {"enabled": False}, "docker": {"enabled": False}},
        publishers={"local": {"port": 0}},
        stop_grace_s=1.0,
    )


@contextlib.asynccontextmanager
async def daemon(wire: Wire, path: Path) -> AsyncIterator[list[Joined]]:
    """The role as a task, with a credential of its own."""
    link = NatsSettings(address=wire.server.address, identity=NODE, token=wire.issue(NODE, Role.COMPUTE))
    stop, joined = asyncio.Event(), list[Joined]()
    role = asyncio.create_task(service.run(settings(path), link, ready=joined.append, stop=stop))
    try:
        await wait_until(lambda: joined or role.done(), what="the first session")
        if not joined:
            await role
        yield joined
    finally:
        stop.set()
        await role


@pytest.fixture
async def peer(wire: Wire) -> Peer:
    peer = Peer(wire)
    await peer.start()
    return peer


async def test_it_joins_works_and_leaves(wire: Wire, peer: Peer, tmp_path: Path) -> None:
    """With its own credential only; it says what it can do, runs what it is given, and gives notice."""
    async with daemon(wire, tmp_path) as joined:
        assert joined == [Joined(node=NODE, cluster="c-1")]
        info = peer.infos[0]
        assert info.labels["zone"] == "eu"
        assert info.compute_node_info.max_capacity.cpu == 2.0
        assert {"noop"} == set(info.compute_node_info.execution_engines)
        assert {"inline", "local", "localdirectory", "urldownload"} == set(info.compute_node_info.storage_sources)
        result = await peer.run(1, Stdout="hello", ExitCode=3)
        assert (result.run_output.stdout, result.run_output.exit_code) == ("hello", 3)
    await wait_until(lambda: peer.left == [NODE], what="the notice")
    assert (tmp_path / "compute").stat().st_mode & 0o777 == 0o700


async def test_it_goes_on_with_its_journal(wire: Wire, peer: Peer, tmp_path: Path) -> None:
    """A second life does not run again what the first has run."""
    async with daemon(wire, tmp_path):
        await peer.run(1)
    peer.reports.clear()
    async with daemon(wire, tmp_path):
        await peer.say(ncl.ask_for_bid(execution(1, cpu=0.1)))
        await peer.say(ncl.BidAccepted(execution_id="e-1"))
        await peer.run(2)
        assert {report.execution_id for report in peer.reports} == {"e-2"}


async def test_a_journal_of_another_node_is_not_taken(wire: Wire, peer: Peer, tmp_path: Path) -> None:
    """Two nodes with one data directory would report each other's work."""
    async with daemon(wire, tmp_path):
        pass
    link = NatsSettings(address=wire.server.address, identity="n-2", token=wire.issue("n-2", Role.COMPUTE))
    with pytest.raises(errors.UsageError, match="belongs to node 'n-1'"):
        await service.run(settings(tmp_path), link, ready=lambda _: None, stop=asyncio.Event())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nats-py tries twice, closes once
async def test_a_refused_credential_is_the_end(wire: Wire, tmp_path: Path) -> None:
    """Said at once; an orchestrator that is not there yet would be waited for."""
    link = NatsSettings(address=wire.server.address, identity=NODE, token="n-1." + "x" * 43)
    with pytest.raises(errors.Unauthenticated):
        await service.run(settings(tmp_path), link, ready=lambda _: None, stop=asyncio.Event())


async def test_stop_before_there_is_an_orchestrator(tmp_path: Path) -> None:
    """A node that waits for one can be stopped."""
    link = NatsSettings(address="nats://127.0.0.1:1", identity=NODE)
    stop = asyncio.Event()
    role = asyncio.create_task(service.run(settings(tmp_path), link, ready=lambda _: None, stop=stop))
    await wait_until((tmp_path / "compute" / "journal.db").exists)
    stop.set()
    await asyncio.wait_for(role, 20)
