"""The compute role of a daemon: puts the node together, keeps an eye on the machine it is on, and ends in good order.

Order of a start: plug-ins and capacity, journal, what earlier runs left behind, the links, the pump.
Order of a stop: nothing new is taken → runs end or are stopped → reports are delivered → the orchestrator is told →
readers are let go → plug-ins, journal and links are closed. `stop` may be set at any time.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from msgspec import UNSET, structs

from bacalhau_daemon.compute import capacity, gpus, journal, retention
from bacalhau_daemon.compute.abilities import POLL_S, Plugins
from bacalhau_daemon.compute.abilities import Settings as PluginSettings
from bacalhau_daemon.compute.foreign_logs import ForeignLogs
from bacalhau_daemon.compute.journal import Journal
from bacalhau_daemon.compute.node import Node
from bacalhau_daemon.compute.runner import Runner
from bacalhau_daemon.compute.serving import Serving
from bacalhau_daemon.core.compute import Compute
from bacalhau_daemon.core.compute_bid import Offer
from bacalhau_daemon.core.compute_events import Stage
from bacalhau_daemon.process import Joined
from bacalhau_protocol import errors
from bacalhau_protocol.models.node import BuildVersion, ComputeNodeInfo, NodeInfo, NodeType
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl.messages import NCL_PROTOCOL, OWN_PROTOCOL

if TYPE_CHECKING:
    from bacalhau_daemon.config import Settings
    from bacalhau_protocol.transport.base import Bus
    from bacalhau_protocol.transport.settings import NatsSettings

CONNECT_NOTICE_S = 10.0
SAID_AGAIN_S = 300.0  # trouble with the link that lasts
COMPLAINTS_MAX = 64
RETENTION_EVERY_S = 300.0
DISK_EVERY_S = 2.0
RESULTS_SHARE = 0.25  # of the free disk at start, when the settings do not say
SWEEP_TIMEOUT_S = 30.0
BACALHAU_VERSION = "v1.9.3"  # whose protocol we speak; its orchestrators look at it
_STOPPING = "take new work while it stops"

log = structlog.get_logger(__name__)


async def run(settings: Settings, link: NatsSettings, *, ready: Callable[[Joined], None], stop: asyncio.Event) -> None:
    """Work until `stop` is set, then leave in good order; call `ready` once, at the first session."""
    from bacalhau_protocol.transport.nats import NatsBus  # noqa: PLC0415  heavy

    node: Node | None = None
    is_up = False
    complaints = Complaints()

    async def linked(_: NatsBus) -> None:
        nonlocal is_up
        is_up = True
        complaints.over()
        if node is not None:
            node.link_up()

    def unlinked(_: errors.BacalhauError) -> None:
        nonlocal is_up
        is_up = False
        if node is not None:
            node.link_down()

    said = False

    def welcomed(cluster: str) -> None:
        nonlocal said
        if not said:
            said = True
            ready(Joined(node=link.identity, cluster=cluster))

    host = Host(settings, link.identity)
    bus = NatsBus(link, on_connect=linked, on_disconnect=unlinked, on_error=complaints.say)
    bulk = NatsBus(link, on_error=complaints.say)
    bus.start()
    bulk.start()
    try:
        node = await host.start(bus, bulk, welcomed)
        if is_up:  # since before there was a node
            node.link_up()
        await host.work(node, stop, bus.wait_connected)
    finally:
        await host.close()
        await bulk.close()
        await bus.close()


class Host:
    """A node together with the machine it is on."""

    def __init__(self, settings: Settings, node_id: str) -> None:
        directory = data_dir(settings)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = directory / "executions"
        self.root.mkdir(mode=0o700, exist_ok=True)
        self.settings = settings
        self.node_id = node_id
        self.plugins = Plugins(node_id, directory, plugin_settings(settings))
        self.amount = Resources()
        self.version = metadata.version("bacalhau-tui")
        self.stopping = False
        self._journal = Journal(node_id, journal.sqlite(directory / "journal.db"))
        self._node: Node | None = None
        self._foreign: ForeignLogs | None = None
        self._limits = retention.Limits(settings.compute.results_keep_s, settings.compute.results_bytes_max)
        self._full = ""
        self._swept: set[str] = set()  # engines that have removed what earlier daemons left

    async def start(self, bus: Bus, bulk: Bus, welcomed: Callable[[str], None]) -> Node:
        """Measure the machine, read the journal and put the node together; it works once the link stands."""
        loaded = await self._journal.load()
        (found, problems), _ = await asyncio.gather(gpus.detect(), self.plugins.poll())
        for problem in problems:
            log.warning("gpu.not_detected", reason=problem)
        self.amount = capacity.allocate(capacity.measure(self.root, tuple(found)), self.settings.compute)
        await asyncio.to_thread(retention.sweep_removed, self.root)
        await self._sweep(frozenset((run.id, run.attempt) for run in loaded.state.stages(Stage.STARTED)))
        if not self._limits.bytes_max:
            share = int(retention.disk(self.root).free_bytes * RESULTS_SHARE)
            self._limits = structs.replace(self._limits, bytes_max=share)
        machine = Compute(
            self.node_id,
            loaded.state,
            loaded.chain,
            info=self.info(),
            offer=self.offer(),
            check=self.plugins.check,
            inbox=bus.inbox(),
            started_at=time.time_ns(),
            jitter=random.random,
            journal_bytes=loaded.size_bytes,
        )
        node = self._node = Node(
            machine,
            bus=bus,
            bulk=bulk,
            journal=self._journal,
            plugins=self.plugins,
            version=self.version,
            welcomed=welcomed,
        )
        allowed = self.settings.compute.allow_env
        runner = Runner(self.root, self.plugins, node.listener, env_allowed=allowed, environ=os.environ)
        serving = Serving(self.node_id, bulk, self.root, node.live)
        await node.start(runner, serving)
        self._foreign = ForeignLogs(self.node_id, bulk, self.root, known=node.known, live=node.live)
        await self._foreign.start()
        return node

    async def work(self, node: Node, stop: asyncio.Event, connected: Callable[[float], object]) -> None:
        """Watch the machine until `stop`; then end the node. Raises what makes it impossible to go on."""
        tasks = {
            asyncio.create_task(stop.wait(), name="stop"),
            asyncio.create_task(node.failed(), name="node"),
            asyncio.create_task(self._watch(node), name="watch"),
            asyncio.create_task(_connect(connected), name="connect"),
        }
        try:
            while not stop.is_set():
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.stopping = True
        self._tell(node)
        await node.stop(self.settings.stop_grace_s)

    async def close(self) -> None:
        """Close what is open; may be called early, late or twice."""
        if self._foreign is not None:
            await self._foreign.close()
        if self._node is not None and self._node.serving is not None:
            await self._node.serving.close()
        self._foreign = self._node = None
        await self.plugins.close()
        await self._journal.close()

    # ── what the node says of itself ──────────────────────────────────────────────────────────────────────────────

    def offer(self) -> Offer:
        """Return what can be done now."""
        return Offer(
            engines=self.plugins.engines.available,
            publishers=self.plugins.publishers.available,
            storages=self.plugins.storages.available,
            capacity=self.amount,
            largest=self.amount,
            env_allowed=self.settings.compute.allow_env,
            env_known=frozenset(os.environ),
            full=_STOPPING if self.stopping else self._full,
        )

    def info(self) -> NodeInfo:
        """Return the node's description."""
        return NodeInfo(
            node_id=self.node_id,
            node_type=NodeType.COMPUTE,
            labels=capacity.labels(self.node_id, self.settings.compute.labels, self.amount.gpus),
            supported_protocols=(NCL_PROTOCOL, OWN_PROTOCOL),
            compute_node_info=ComputeNodeInfo(
                execution_engines=tuple(sorted(self.plugins.engines.available)),
                publishers=tuple(sorted(self.plugins.publishers.available)),
                storage_sources=tuple(sorted(self.plugins.storages.available)),
                max_capacity=self.amount,
                max_job_requirements=self.amount,
                unavailable=self.plugins.unavailable or UNSET,
            ),
            version=BuildVersion(
                major="1",
                minor="9",
                git_version=BACALHAU_VERSION,
                git_commit=f"bacalhau-tui {self.version}",
                goos=platform.system().lower(),
                goarch=capacity.architecture(),
            ),
        )

    def _tell(self, node: Node) -> None:
        node.changed(lambda machine, now: machine.offer_changed(self.offer(), self.info(), now))

    # ── the machine it is on ──────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self, node: Node) -> None:
        """Ask disk and plug-ins again and again, and keep the results within their limits."""
        pruned_at = polled_at = float("-inf")
        while True:
            now = time.monotonic()
            changed = await self._look_at_disk()
            if changed or now - pruned_at > (POLL_S if self._full else RETENTION_EVERY_S):
                pruned_at = now
                await self._prune(node)
            if now - polled_at > POLL_S:
                polled_at = now
                changed |= await self.plugins.poll()
                await self._sweep(frozenset((run.id, run.attempt) for run in node.machine.state.runs.values()))
            if changed:
                self._tell(node)
            await asyncio.sleep(DISK_EVERY_S)

    async def _look_at_disk(self) -> bool:
        """Measure what is free; return whether we have begun or ceased to refuse work because of it."""
        state, before = await asyncio.to_thread(retention.disk, self.root), bool(self._full)
        if state.low is not before:
            log.log(
                30 if state.low else 20,
                "disk.low" if state.low else "disk.has_room",
                path=str(self.root),
                free_bytes=state.free_bytes,
            )
        words = f"take new work: its disk has {state.free_bytes} bytes free, {state.min_free_bytes} are needed"
        self._full = words if state.low else ""
        return state.low is not before

    async def _prune(self, node: Node) -> None:
        def may_go(name: str) -> bool:
            return not node.live(name)

        gone = await asyncio.to_thread(retention.prune_executions, self.root, may_go, self._limits, time.time())
        if gone:
            log.info("results.removed", executions=len(gone), oldest=gone[0])

    async def _sweep(self, keep: frozenset[tuple[str, int]]) -> None:
        """Have each engine remove leftovers once: at the start, or when it can work for the first time."""
        for name, engine in self.plugins.engines.members.items():
            if name in self._swept or not self.plugins.engines.abilities[name].available:
                continue
            try:
                async with asyncio.timeout(SWEEP_TIMEOUT_S):
                    swept = await engine.sweep(keep)
            except Exception as error:
                log.warning("engine.not_swept", engine=name, error=repr(error))
            else:
                self._swept.add(name)
                if swept:
                    log.info("engine.swept", engine=name, removed=swept)


def data_dir(settings: Settings) -> Path:
    """Return where a compute node keeps everything."""
    return settings.data_path / "compute"


def plugin_settings(settings: Settings) -> PluginSettings:
    """Return the tables for plug-ins; `--allow-path` adds to the one of `local`."""
    storages = {name.lower(): dict(table) for name, table in settings.storages.items()}
    local = storages.setdefault("local", {})
    local["allow"] = [*local.get("allow", ()), *settings.compute.allow_paths]
    return PluginSettings(engines=settings.engines, storages=storages, publishers=settings.publishers)


async def _connect(connected: Callable[[float], object]) -> None:
    """Wait for the first link; a refused credential is the end, an absent orchestrator, said elsewhere, is not."""
    while True:
        try:
            await connected(CONNECT_NOTICE_S)  # type: ignore[misc]
            return
        except errors.Unavailable:
            continue


class Complaints:
    """Says what is wrong with the link: once, and again when it has long stayed so."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}

    def say(self, error: errors.BacalhauError) -> None:
        """Say it, unless it was said a short while ago."""
        words, now = str(error), self._clock()
        if now < self._said.get(words, now):
            return
        if len(self._said) >= COMPLAINTS_MAX:
            self._said.clear()
        self._said[words] = now + SAID_AGAIN_S
        log.warning("link.trouble", reason=words, hint=error.hint or "it is tried again and again")

    def over(self) -> None:
        """Take note that the link stands."""
        if self._said:
            log.info("link.restored")
        self._said.clear()
