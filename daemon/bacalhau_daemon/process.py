"""One daemon process: the data directory's lock, one or both roles, signals, `ready.json`, a truthful exit status.

Order of a start: settings, lock, orchestrator (log, server, lead), compute, `ready.json`. Order of a stop, which is the
reverse: `ready.json` goes, compute says good-bye, the orchestrator ends calls and closes its log, the server ends, the
lock is let go. A role that fails takes the process with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from bacalhau_daemon import joining
from bacalhau_daemon.config import Settings
from bacalhau_daemon.files import write_private
from bacalhau_daemon.log.lock import DataLock
from bacalhau_protocol import errors
from bacalhau_protocol.transport.settings import NatsSettings

READY_FILE = "ready.json"
JOIN_AGAIN_S = 2.0
GC_OBJECTS = 20_000  # new ones between two looks
log = structlog.get_logger(__name__)


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """`ready.json`: written when everything works, removed at the exit."""

    pid: int
    address: str
    node: str
    cluster: str
    roles: list[str]


class Led(msgspec.Struct, frozen=True, kw_only=True):
    """What an orchestrator says when it leads. `own_node` makes a credential for a compute node of this process."""

    address: str
    node: str
    cluster: str
    own_node: Callable[[str], Awaitable[NatsSettings]]


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What a compute node says when it has a session with its orchestrator."""

    node: str
    cluster: str


class ComputeRole(Protocol):
    """`bacalhau_daemon.compute.service.run`."""

    async def __call__(
        self, settings: Settings, link: NatsSettings, *, ready: Callable[[Joined], None], stop: asyncio.Event
    ) -> None:
        """Work until `stop` is set, then leave in good order; call `ready` once, at the first session."""
        ...


def main(settings: Settings) -> None:
    """Run the daemon until it is told to stop. Raises `BacalhauError` when it cannot go on."""
    import uvloop  # noqa: PLC0415  not for `--help`

    lock = _take(settings.data_path)
    try:
        uvloop.run(Process(settings, lock).run())
    finally:
        lock.release()


def _take(data_dir: Path) -> DataLock:
    """Make the data directory and lock it."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return DataLock.acquire(data_dir)
    except OSError as error:
        raise errors.UsageError(
            f"the data directory cannot be used: {error.strerror}",
            place=str(data_dir),
            hint="give another one with --data-dir, or make this one writable",
        ) from error


class Process:
    """The roles of this process and how they start and stop together."""

    def __init__(self, settings: Settings, lock: DataLock) -> None:
        self._settings, self._lock = settings, lock
        self._started = time.monotonic()
        self._ready_path = settings.data_path / READY_FILE
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Start, wait, stop."""
        self._ready_path.unlink(missing_ok=True)
        self._catch_signals()
        try:
            if self._settings.orchestrator.enabled:
                await self._orchestrate()
            elif (link := await self._link()) is not None:
                await self._compute(link, Led(address="", node="", cluster="", own_node=_no_own_node))
        finally:
            self._ready_path.unlink(missing_ok=True)
        log.info("daemon.stopped")

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.is_set():  # asked twice: at once
            self._ready_path.unlink(missing_ok=True)
            os._exit(128 + number)
        log.info("daemon.stopping", signal=number.name)
        self._stop.set()

    async def _orchestrate(self) -> None:
        from bacalhau_daemon.orchestrator import service  # noqa: PLC0415  a compute node does without it

        leads: asyncio.Future[Led] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event() if self._settings.compute.enabled else self._stop
        role = asyncio.create_task(service.run(self._settings, self._lock, ready=leads.set_result, stop=stop))
        either: set[asyncio.Future[Any]] = {role, leads}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not leads.done():
            await role  # raises why it cannot lead
            return
        led = leads.result()
        if not self._settings.compute.enabled:
            self._say_ready(led.address, led.node, led.cluster)
            await role
            return
        compute = asyncio.create_task(self._compute(await led.own_node(self._settings.name), led))
        try:
            await asyncio.wait({role, compute}, return_when=asyncio.FIRST_COMPLETED)
            self._stop.set()
            await compute
        finally:
            stop.set()
            await role

    async def _compute(self, link: NatsSettings, led: Led) -> None:
        from bacalhau_daemon.compute import service  # noqa: PLC0415  an orchestrator does without it

        run: ComputeRole = service.run

        def ready(joined: Joined) -> None:
            self._say_ready(led.address or link.place, led.node or joined.node, led.cluster or joined.cluster)

        await run(self._settings, link, ready=ready, stop=self._stop)

    async def _link(self) -> NatsSettings | None:
        """Return how a node without orchestrator in its process connects; None when it was told to stop meanwhile."""
        said = False
        while not self._stop.is_set():
            try:
                return await joining.resolve(self._settings)
            except errors.Unavailable as error:  # the certificate that the token names cannot be fetched yet
                if not said:
                    log.warning("link.trouble", reason=str(error), hint="it is tried again and again")
                said = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(JOIN_AGAIN_S):
                    await self._stop.wait()
        return None

    def _say_ready(self, address: str, node: str, cluster: str) -> None:
        enabled = {
            "orchestrator": self._settings.orchestrator.enabled,
            "compute": self._settings.compute.enabled,
        }
        roles = [name for name, on in enabled.items() if on]
        ready = Ready(pid=os.getpid(), address=address, node=node, cluster=cluster, roles=roles)
        write_private(self._ready_path, msgspec.json.encode(ready))
        tune_memory()
        elapsed_ms = round((time.monotonic() - self._started) * 1000)
        log.info("daemon.ready", address=address, node=node, cluster=cluster, roles=roles, after_ms=elapsed_ms)


def tune_memory() -> None:
    """Have Python look for cycles seldom, and never among what the start has made: we make none that matter.

    With its own settings it looks after each 700 new objects, which is every third job.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)


async def _no_own_node(_: str) -> NatsSettings:
    raise errors.Internal("this process is not an orchestrator")
