"""The orchestrator role: from a data directory to a leader that serves, and back.

Start: open log and query side, start nats-server, connect, answer auth callouts, lead (the term's record is stored),
subscribe, write credential files. Stop: take no more calls, let those in hand end, let the append in hand settle, write
the rows, close the connections, end the server. Only a leader listens to clients and nodes.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import structlog

from bacalhau_daemon.config import Settings, split_listen
from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.orchestrator import Orchestrator
from bacalhau_daemon.core.orchestrator import Settings as MachineSettings
from bacalhau_daemon.files import write_private
from bacalhau_daemon.joining import link_of
from bacalhau_daemon.log.appender import Appender
from bacalhau_daemon.log.lock import DataLock
from bacalhau_daemon.log.sqlite_reader import SqliteReader
from bacalhau_daemon.orchestrator import credentials, endpoint, loading, roles
from bacalhau_daemon.orchestrator.access import Accesses
from bacalhau_daemon.orchestrator.auth import ORCHESTRATOR_INBOX, AuthCallout
from bacalhau_daemon.orchestrator.credentials import Place
from bacalhau_daemon.orchestrator.driver import Driver
from bacalhau_daemon.orchestrator.endpoint import Endpoint
from bacalhau_daemon.orchestrator.foreign_logs import ForeignLogs
from bacalhau_daemon.orchestrator.kept_logs import KeptLogs
from bacalhau_daemon.orchestrator.keys import load_or_make
from bacalhau_daemon.orchestrator.micro import MicroService
from bacalhau_daemon.orchestrator.nats_server import ORCHESTRATOR_USER, SYSTEM_USER, NatsServer, ServerSettings
from bacalhau_daemon.orchestrator.scrubbing import Scrubbing
from bacalhau_daemon.orchestrator.serving import Serving
from bacalhau_daemon.process import Led
from bacalhau_daemon.query.reader import QueryReader
from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api.tokens import hash_secret
from bacalhau_protocol.transport.nats import NatsBus, connect
from bacalhau_protocol.transport.settings import NatsSettings
from bacalhau_protocol.transport.tls import fingerprint

CONNECT_TIMEOUT_S = 10.0
LEAD_TIMEOUT_S = 30.0
CLUSTER_ID_BYTES = 8
RANDOM_POOL_BYTES = 4096
WILDCARD_HOSTS = ("0.0.0.0", "::")  # noqa: S104  compared with, not listened on

log = structlog.get_logger(__name__)


class RandomIds:
    """Randomness for the machine, fetched for many ids at once: a call into the kernel costs more than an id."""

    def __init__(self) -> None:
        self._pool, self._at = b"", 0

    def random(self, count: int) -> bytes:
        """Return so many random bytes, each handed out once."""
        if self._at + count > len(self._pool):
            self._pool, self._at = secrets.token_bytes(max(count, RANDOM_POOL_BYTES)), 0
        at, self._at = self._at, self._at + count
        return self._pool[at : self._at]


async def run(settings: Settings, lock: DataLock, *, ready: Callable[[Led], None], stop: asyncio.Event) -> None:
    """Lead until `stop` is set; raise what makes it impossible to go on."""
    service = OrchestratorService(settings, lock)
    try:
        ready(await service.start())
        await service.wait(stop)
    finally:
        await service.close()


class OrchestratorService:
    """One start of the role. `close` undoes what `start` has got to."""

    def __init__(self, settings: Settings, lock: DataLock) -> None:
        self._settings, self._lock = settings, lock
        self._directory = settings.data_path / "orchestrator"
        self._version = metadata.version("bacalhau-tui")
        self._closers: list[Callable[[], object]] = []
        self._driver: Driver

    async def start(self) -> Led:
        """Start; return how others reach us."""
        settings = self._settings
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys = load_or_make(self._directory, settings.name if not settings.compute.enabled else "")
        opened = await asyncio.to_thread(loading.Opened, settings.data_path)
        self._closers.append(opened.log.close)
        self._query = Query(
            opened.store, QueryReader(opened.store.path, SqliteReader(opened.log.path)), on_applied=self._applied
        )
        self._closers.append(self._query.close)
        self._kept_logs = KeptLogs(self._directory / "kept_logs.db", settings.orchestrator.kept_logs_bytes_max)
        self._closers.append(self._kept_logs.close)
        self._signer = keys.tickets
        machine = Orchestrator(
            MachineSettings(
                node=keys.node,
                version=self._version,
                inbox=f"{ORCHESTRATOR_INBOX}.{secrets.token_urlsafe(12)}",
                ticket_keys=(self._signer.public_key,),
            ),
            opened.restored,
            RandomIds(),
        )
        server = await self._start_server(keys.node, keys.account.public_key)
        self._auth = AuthCallout(
            keys.account,
            keys.node,
            lambda sha256: machine.state.credentials.get(sha256),  # noqa: PLW0108 - the state is replaced now and then
            lambda identity: [machine.state.credentials[one] for one in machine.state.identities.get(identity, ())],
        )
        bus = await self._connect(server, ORCHESTRATOR_USER)
        await self._auth.start(bus, await self._connect(server, SYSTEM_USER))
        self._driver = Driver(
            machine,
            bus,
            appender=partial(Appender, opened.log),
            query=self._query,
            kept_logs=self._kept_logs,
            cut=self._auth.revoke,
            log_path=loading.log_path(settings.data_path),
            min_free_bytes=settings.orchestrator.min_free_bytes,
        )
        self._closers.append(lambda: self._driver.close(settings.stop_grace_s))
        await self._lead()
        await self._serve(bus, server)
        led = await self._announce(server)
        self._closers.append(Scrubbing(opened.log.path, self._driver.fail).close)
        return led

    async def wait(self, stop: asyncio.Event) -> None:
        """Wait until told to stop, or until something makes it impossible to go on, which is raised."""
        asked = asyncio.create_task(stop.wait())
        either: set[asyncio.Future[Any]] = {asked, self._driver.failed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if self._driver.failed.done():
            self._driver.failed.result()

    async def close(self) -> None:
        """Undo the start, last things first."""
        while self._closers:
            closing = self._closers.pop()()
            if asyncio.iscoroutine(closing):
                await closing

    # ── steps of the start ────────────────────────────────────────────────────────────────────────────────────────

    async def _start_server(self, node: str, issuer: str) -> NatsServer:
        settings = self._settings.orchestrator
        host, port = split_listen(settings.listen)
        port_file = self._directory / "port"
        last = int(port_file.read_text()) if port == 0 and port_file.exists() else 0
        make = partial(
            ServerSettings,
            directory=self._directory / "nats",
            name=node,
            host=host,
            issuer=issuer,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            lock_fd=self._lock.fileno(),
        )
        server = NatsServer(make(port=port or last))
        try:
            await server.start()
        except errors.Unavailable:
            if not last:
                raise
            server = NatsServer(make(port=0))  # somebody took the port that we had last time
            await server.start()
        self._closers.append(server.stop)
        if port == 0:
            write_private(port_file, str(server.port).encode())
        return server

    async def _connect(self, server: NatsServer, user: str, lost: Callable[[], None] = lambda: None) -> NatsBus:
        settings = NatsSettings(
            address=server.address,
            identity=user,
            user=user,
            token=server.password,
            ca=self._ca_file(),
            inbox_prefix=f"{ORCHESTRATOR_INBOX}.{user}",
        )

        def on_disconnect(error: errors.BacalhauError) -> None:
            log.warning("nats.disconnected", user=user, reason=error.message)
            lost()

        bus = await connect(
            settings,
            timeout_s=CONNECT_TIMEOUT_S,
            on_disconnect=on_disconnect,
            on_error=lambda error: log.warning("nats.error", user=user, error=str(error)),
        )
        self._closers.append(bus.close)
        return bus

    async def _lead(self) -> None:
        """Begin a term and wait until its record is stored."""
        machine, driver = self._driver.machine, self._driver
        admin = None if machine.state.cluster else credentials.first_admin(self._settings.data_path)
        await driver.start()
        machine.lead(
            time.time_ns(),
            cluster="" if machine.state.cluster else f"c-{secrets.token_hex(CLUSTER_ID_BYTES)}",
            admin=admin.identity if admin else "",
            admin_sha256=hash_secret(admin.secret) if admin else "",
        )
        driver.wake()
        leading = asyncio.create_task(driver.leading.wait())
        either: set[asyncio.Future[Any]] = {leading, driver.failed}
        await asyncio.wait(either, timeout=LEAD_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        leading.cancel()
        if driver.failed.done():
            driver.failed.result()
        if not driver.leading.is_set():
            raise errors.Unavailable(
                f"the first record of the term could not be stored within {LEAD_TIMEOUT_S:g} s",
                place=str(self._directory),
                hint=machine.context.disk.path and "is there room on the disk?",
            )
        log.info("leader.started", cluster=machine.state.cluster, term=machine.state.term, events=machine.position)

    async def _serve(self, bus: NatsBus, server: NatsServer) -> None:
        """Listen to nodes and clients; logs of foreign nodes come over a connection of their own."""
        driver, machine = self._driver, self._driver.machine
        micro = MicroService(bus, machine.settings.node, self._version, machine.state.cluster)
        foreign_logs = ForeignLogs(bus, self._signer.public_key, self._is_live)
        await foreign_logs.start(await self._connect(server, ORCHESTRATOR_USER, lost=foreign_logs.broke_off))
        self._closers.append(foreign_logs.close)
        accesses = Accesses(
            self._query,
            self._signer,
            is_own=machine.queries.is_own,
            is_foreign=lambda node: node in machine.state.nodes and not machine.queries.is_own(node),
            foreign_logs=foreign_logs,
            kept_logs=self._kept_logs,
        )
        serving = Serving(driver, self._query, accesses)
        served = Endpoint(bus, self._role_of, serving.serve, micro.stats)
        for subject in machine.subscriptions:
            await bus.subscribe(subject, driver.received)
        calls = await bus.subscribe(endpoint.SUBJECT, served.received)
        await micro.start()
        await bus.flush()

        async def stop_serving() -> None:
            await calls.unsubscribe()
            await served.close(self._settings.stop_grace_s)

        self._closers.append(stop_serving)

    async def _announce(self, server: NatsServer) -> Led:
        """Say where we are: in credential files and, through the machine, in join tokens."""
        driver, settings = self._driver, self._settings
        machine = driver.machine
        ca = self._ca_text()
        machine.advertise(self._advertised(server), fingerprint(ca) if ca else "")
        place = Place(settings.data_path, server.address, machine.state.cluster, ca)
        await credentials.keep_admin(driver, place)

        async def own_node(name: str) -> NatsSettings:
            return link_of(await credentials.own_node(driver, place, name))

        return Led(address=server.address, node=machine.settings.node, cluster=machine.state.cluster, own_node=own_node)

    # ── what others ask ───────────────────────────────────────────────────────────────────────────────────────────

    def _applied(self, event: int) -> None:
        self._driver.applied(event)

    def _role_of(self, user: str) -> Role | None:
        state = self._driver.machine.state
        return roles.role_of((state.credentials[one] for one in state.identities.get(user, ())), time.time_ns())

    def _is_live(self, execution_id: str) -> bool:
        execution = self._driver.machine.state.execution(execution_id)
        return execution is not None and execution.status.live

    def _ca_file(self) -> str:
        settings = self._settings.orchestrator
        return settings.tls_ca or settings.tls_cert

    def _ca_text(self) -> str:
        return Path(path).read_text() if (path := self._ca_file()) else ""

    def _advertised(self, server: NatsServer) -> str:
        settings = self._settings.orchestrator
        if settings.advertise:
            return f"nats://{settings.advertise}"
        host, _ = split_listen(settings.listen)
        return f"nats://{outward_address()}:{server.port}" if host in WILDCARD_HOSTS else server.address


def outward_address() -> str:
    """Return the address of this machine on the way out; the loopback's when there is no way out. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a documentation address: only the route is looked up
            address: str = probe.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address
