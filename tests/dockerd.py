"""A dockerd of a test's own: its images, its socket, its bridge; it can be killed and started again.

The bridge is not for its containers: a dockerd without one would remove that of the machine's own dockerd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

import psutil

from bacalhau_engines.docker.dockerd import Dockerd
from bacalhau_protocol.errors import NodeFailed
from tests.builders_docker import client, make_image

START_S, STOP_S = 40.0, 30.0


class OwnDockerd:
    """Use it as a context manager. `live_restore`: containers run on without it."""

    def __init__(self, *, live_restore: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="dockerd-"))  # short: paths of sockets are limited
        self.socket = str(self.directory / "d.sock")
        self._bridge = f"dt-{secrets.token_hex(4)}"
        self._command = [
            "dockerd", "--data-root", str(self.directory / "root"), "--exec-root", str(self.directory / "exec"),
            "-p", str(self.directory / "pid"), "-H", f"unix://{self.socket}",
            f"--bridge={self._bridge}", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
            *(["--live-restore"] if live_restore else []),
        ]  # fmt: skip
        self._log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        address = f"10.213.{secrets.randbelow(256)}.1/24"
        for command in (("link", "add", self._bridge, "type", "bridge"), ("addr", "add", address, "dev", self._bridge)):
            subprocess.run(["ip", *command], check=True)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End containers, dockerd, and what is on disk of it."""
        try:
            if self._process is not None and self._process.poll() is None:
                with client(self.socket) as made:
                    for container in made.containers(all=True):
                        made.remove_container(container["Id"], force=True)
                self.stop()
        finally:
            self._end_containerd()
            self._end_holders()
            subprocess.run(["ip", "link", "del", self._bridge], check=False)
            for line in reversed(Path("/proc/mounts").read_text().splitlines()):
                if (place := line.split(" ")[1]).startswith(f"{self.directory}/"):
                    subprocess.run(["umount", "-l", place], check=False)
            shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start it and wait until it answers."""
        (self.directory / "pid").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_S
        pause = threading.Event()
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(NodeFailed):
                asyncio.run(Dockerd(self.socket).version())
                return
            pause.wait(0.1)
        raise NodeFailed(f"dockerd does not start:\n{self._log.read_text()[-3000:]}")

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and the containerd that it has started; the processes that hold containers go on."""
        self._end(signal.SIGKILL)
        self._end_containerd()

    def image(self, name: str) -> str:
        """Make an image in it."""
        return make_image(name, socket=self.socket)

    def _end(self, number: int) -> None:
        assert self._process is not None, "it was started"
        self._process.send_signal(number)
        self._process.wait(STOP_S)

    def _end_holders(self) -> None:
        """End the processes that hold containers of this dockerd, when it could not do that itself."""
        for process in psutil.process_iter(["cmdline"]):
            if f"{self.directory}/exec/containerd/containerd.sock" in (process.info["cmdline"] or ()):
                for one in (*process.children(recursive=True), process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()

    def _end_containerd(self) -> None:
        """End the containerd that dockerd has started for itself, and what would lead the next one to it."""
        place = self.directory / "exec" / "containerd"
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((place / "containerd.pid").read_text()), signal.SIGKILL)
        for path in (*place.glob("*.pid"), *place.glob("*.sock*")):
            path.unlink()
