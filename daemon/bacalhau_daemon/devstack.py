"""A cluster of real daemon processes on this machine, in one directory: for tests, benches, pictures and the demo.

Everything lives under the directory that is given: settings, credentials, data, the daemons' own logs. Leaving the
context ends every process that was started here, and only those.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from bacalhau_protocol import errors

READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.01
LOG_LINES_SHOWN = 30


class Daemon:
    """One daemon process and where it keeps things."""

    def __init__(self, name: str, data_dir: Path, arguments: list[str], environment: dict[str, str], prefix: list[str]):
        self.name = name
        self.data_dir = data_dir
        self.log_path = data_dir.with_name(f"{name}.log")
        self._arguments = [*prefix, sys.executable, "-m", "bacalhau_daemon", "--data-dir", str(data_dir), *arguments]
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        if self._process is None:
            raise errors.Conflict(f"daemon {self.name} has not been started")
        return self._process

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start the process without waiting for it."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        (self.data_dir / "ready.json").unlink(missing_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._arguments, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        return self

    def ready(self, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait until the daemon says it is ready; return its `ready.json`.

        Raises
        ------
        NodeFailed
            when it ended instead, with the last lines of its log.
        TimedOut
            when it did not become ready in time.
        """
        deadline = time.monotonic() + timeout_s
        path = self.data_dir / "ready.json"
        while time.monotonic() < deadline:
            if path.exists():
                found: dict[str, Any] = json.loads(path.read_text())
                if found["pid"] == self.process.pid:
                    return found
            if not self.running:
                raise errors.NodeFailed(
                    f"daemon {self.name} ended with exit status {self.process.returncode}:\n{self.log_tail()}"
                )
            time.sleep(POLL_S)
        raise errors.TimedOut(f"daemon {self.name} was not ready within {timeout_s:g} s:\n{self.log_tail()}")

    def wait(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait for the process to end; return its exit status."""
        return self.process.wait(timeout_s)

    def stop(self) -> int:
        """Ask the process to end (SIGTERM) and wait; kill it when it does not."""
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the process at once (SIGKILL)."""
        if self.running:
            self.process.kill()
        self.process.wait()

    def log_tail(self, lines: int = LOG_LINES_SHOWN) -> str:
        """Return the end of the daemon's log."""
        return (
            "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:]) if self.log_path.exists() else ""
        )


class DevStack:
    """A cluster in a directory; use it as a context manager."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.config_dir = directory / "config"
        self.daemons: list[Daemon] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("BACALHAU_")},
            "BACALHAU_CONFIG_DIR": str(self.config_dir),
        }

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all that runs, compute nodes first, so that they can say good-bye; then raise if one did not end."""
        late: list[Exception] = []
        for daemon in reversed(self.daemons):
            try:
                if daemon.running:
                    daemon.stop()
            except subprocess.TimeoutExpired as error:  # it has been killed
                late.append(error)
        if late:
            raise late[0]

    def daemon(self, name: str, *arguments: str, prefix: list[str] | None = None) -> Daemon:
        """Make a daemon with these arguments; `prefix` is put before the command (`ip netns exec …`)."""
        made = Daemon(name, self.directory / name, list(arguments), self.environment, prefix or [])
        self.daemons.append(made)
        return made

    def orchestrator(self, *arguments: str, name: str = "orchestrator", listen: str = "127.0.0.1:0") -> Daemon:
        """Start an orchestrator and wait until it is ready."""
        daemon = self.daemon(name, "--orchestrator", "--listen", listen, *arguments)
        daemon.start().ready()
        return daemon

    def hybrid(self, *arguments: str, name: str = "hybrid", listen: str = "127.0.0.1:0") -> Daemon:
        """Start one daemon with both roles and wait until it is ready."""
        return self.orchestrator("--compute", *arguments, name=name, listen=listen)

    def compute(self, name: str, *arguments: str, prefix: list[str] | None = None) -> Daemon:
        """Invite a compute node of this name, start it and wait until it is ready."""
        token = json.loads(self.command("node", "invite", "--name", name, "-o", "json").stdout)["Token"]
        daemon = self.daemon(name, "--compute", "--join", token, *arguments, prefix=prefix)
        daemon.start().ready()
        return daemon

    def command(
        self, *arguments: str, check: bool = True, timeout_s: float = 60.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `bacalhau-tui` with these arguments.

        Raises
        ------
        NodeFailed
            when `check` is set and it ended with another status than 0; says what it printed.
        """
        done = subprocess.run(
            [sys.executable, "-m", "bacalhau_tui", *arguments],
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode != 0:
            said = (done.stderr + done.stdout).strip()
            raise errors.NodeFailed(f"bacalhau-tui {' '.join(arguments)} ended with {done.returncode}: {said}")
        return done
