"""The daemon's end of the fork server: starts it when it is needed, talks to it, notices when it dies."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bacalhau_engines.wasm.wire import (
    NEVER_RAN_EXIT_CODE,
    Ended,
    Frames,
    FromServer,
    Kill,
    Load,
    Loaded,
    Message,
    ModuleFile,
    ModuleInfo,
    NotLoaded,
    Ready,
    Run,
    Started,
    frame,
    from_server,
)
from bacalhau_protocol.errors import NodeFailed, SpecError

START_LIMIT_S = 30.0
STOP_LIMIT_S = 5.0
KILL_LIMIT_S = 5.0  # until a killed run must be over
RETRY_S = 1.0  # a server that could not start is not started again sooner
INFOS_MAX = 4096  # modules whose imports and exports the daemon remembers
_T = TypeVar("_T")


class ForkServer:
    """Starts at first use, again after it died, and ends with `close`."""

    def __init__(self, directory: Path, compile_cpu_s: int) -> None:
        self._directory, self._compile_cpu_s = directory, compile_cpu_s
        self._starting = asyncio.Lock()
        self._failed_at, self._failed_why = 0.0, ""
        self._link: _Link | None = None
        self._closed = False
        self._infos: dict[str, ModuleInfo] = {}
        self._ids = itertools.count(1)

    @property
    def ready(self) -> Ready | None:
        """What it said of itself when it started; None while it is down."""
        return self._link.ready if self._link and not self._link.gone else None

    async def start(self) -> None:
        """Start it unless it runs. Raises `NodeFailed`."""
        if self._link and not self._link.gone:
            return
        async with self._starting:
            if self._link and not self._link.gone:
                return
            if self._closed:
                raise NodeFailed("the wasm engine is closed")
            if self._link:
                await self._link.close()  # it has died: take note of it
                self._link = None
            if time.monotonic() < self._failed_at + RETRY_S:
                raise NodeFailed(self._failed_why)
            try:
                self._link = await _Link.open(self._directory, self._compile_cpu_s)
            except (OSError, TimeoutError, NodeFailed) as error:
                self._failed_at = time.monotonic()
                self._failed_why = f"the wasm fork server does not start: {error or 'it says nothing'}"
                raise NodeFailed(self._failed_why, hint="see the daemon's standard error") from error

    def known(self, digest: str) -> ModuleInfo | None:
        """Return what is known of a module that has been loaded. May be called from any thread."""
        return self._infos.get(digest)

    async def load(self, module: ModuleFile) -> None:
        """Have a module compiled. Raises `SpecError` when it is bad, `NodeFailed` when the node could not do it."""
        await self.start()
        assert self._link
        match await self._link.load(module):
            case Loaded(info=info):
                if len(self._infos) >= INFOS_MAX:
                    self._infos.pop(next(iter(self._infos)))
                self._infos[module.digest] = info
            case NotLoaded(message=message, hint=hint, bad=bad):
                raise SpecError(message, hint=hint) if bad else NodeFailed(message, hint=hint)

    def new_id(self) -> int:
        """Return an id for a run."""
        return next(self._ids)

    async def run(self, run: Run, started: Callable[[], None]) -> Ended:
        """Run to the end. `start` must have been awaited; a server that dies meanwhile ends the run in words.

        When the caller is cancelled the run is killed, and is over when `CancelledError` passes on.
        """
        assert self._link
        return await self._link.run(run, started)

    def kill(self, id: int) -> None:
        """End a run now; unknown ids are ignored."""
        if self._link:
            self._link.send(Kill(id=id))

    async def close(self) -> None:
        """End it and all its children, for good."""
        self._closed = True
        if self._link:
            await self._link.close()


class _Link(asyncio.Protocol):
    """One fork server, from its start to its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._frames = Frames()
        self._runs: dict[int, tuple[asyncio.Future[Ended], Callable[[], None]]] = {}
        self._loads: dict[str, asyncio.Future[Loaded | NotLoaded]] = {}
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self._first = asyncio.Event()
        self.ready: Ready | None = None

    @classmethod
    async def open(cls, directory: Path, compile_cpu_s: int) -> _Link:
        """Start the process and wait for its first message. Raises `OSError`, `TimeoutError`, `NodeFailed`."""
        ours, theirs = socket.socketpair()
        with theirs:
            link = cls(_spawn(theirs, directory, compile_cpu_s))
        await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=ours)
        try:
            async with asyncio.timeout(START_LIMIT_S):
                await link._first.wait()
        except TimeoutError:
            await link.close()
            raise
        if link.gone:
            raise NodeFailed(f"it ended with status {await asyncio.to_thread(link._process.wait)}")
        return link

    @property
    def gone(self) -> bool:
        """Whether it has died or was closed."""
        return self._lost.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to the server."""
        self._transport = transport  # type: ignore[assignment]  # uvloop's is none of asyncio's, but does the same

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        for body in self._frames.feed(data):
            self._take(from_server.decode(body))

    def _take(self, message: FromServer) -> None:
        match message:
            case Started(id=id):
                if id in self._runs:
                    self._runs[id][1]()
            case Ended(id=id):
                if id in self._runs:
                    _settle(self._runs.pop(id)[0], message)
            case Loaded(digest=digest) | NotLoaded(digest=digest):
                if digest in self._loads:
                    _settle(self._loads.pop(digest), message)
            case Ready():
                self.ready = message
                self._first.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everyone who waits that it is gone."""
        self._lost.set()
        self._first.set()
        why, hint = "the wasm fork server ended while the run was in flight", "nothing is wrong with the job: try again"
        for id, (future, _) in self._runs.items():
            _settle(future, Ended(id=id, kind="could-not-run", exit_code=NEVER_RAN_EXIT_CODE, message=why, hint=hint))
        for digest, loading in self._loads.items():
            _settle(loading, NotLoaded(digest=digest, message=why, hint=hint, bad=False))
        self._runs.clear()
        self._loads.clear()

    def send(self, message: Message) -> None:
        """Send, unless it has died: then whoever waits has been told."""
        if self._transport and not self.gone:
            self._transport.write(frame(message))

    async def load(self, module: ModuleFile) -> Loaded | NotLoaded:
        """Ask for a module; who asks for the same one meanwhile waits along."""
        future = self._loads.get(module.digest)
        if future is None:
            future = self._loads[module.digest] = asyncio.get_running_loop().create_future()
            self.send(Load(module=module))
        return await asyncio.shield(future)

    async def run(self, run: Run, started: Callable[[], None]) -> Ended:
        """Ask for a run and wait for its end."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._runs[run.id] = future, started
        self.send(run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.send(Kill(id=run.id))
            await asyncio.wait([future], timeout=KILL_LIMIT_S)
            raise

    async def close(self) -> None:
        """Close our end, which ends the server; kill it if that does not help."""
        if self._transport:
            self._transport.close()
        try:
            await asyncio.to_thread(self._process.wait, STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


def _settle(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _spawn(channel: socket.socket, directory: Path, compile_cpu_s: int) -> subprocess.Popen[bytes]:
    # Called on the main thread: the kernel ends the server when the *thread* that started it ends.
    descriptor = channel.fileno()
    arguments = [str(descriptor), str(directory), str(os.getpid()), str(compile_cpu_s)]
    return subprocess.Popen(
        [sys.executable, "-m", "bacalhau_engines.wasm.server", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        env=_environment(),
        start_new_session=True,  # a Ctrl-C at the terminal is the daemon's business
    )


def _environment() -> dict[str, str]:
    """Return the server's whole environment: nothing of the daemon's own may come near a guest."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "LD_BIND_NOW": "1",  # symbols are resolved once here, not in every child
        "MALLOC_ARENA_MAX": "1",
        "TOKIO_WORKER_THREADS": "1",  # wasmtime's WASI would start one per core, in every child
        "RUST_BACKTRACE": "0",
    }
