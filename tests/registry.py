"""A registry of images on this machine, with a password or without, and a slow line to it."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.builders_docker import client

USER, PASSWORD = "reader", "secret"
_HTPASSWD = "reader:$2b$05$U0Ywmkwmh9zwmFDXC/JSx.c7qM2vmlhTcorYgxivzNTn/hWfo4B16\n"  # bcrypt of PASSWORD
_CHUNK_BYTES = 16 * 1024
START_S = 20.0


def registry_program() -> str:
    """Return where Debian's docker-registry is; blank when it is not installed."""
    return shutil.which("docker-registry") or ""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def registry(directory: Path, *, private: bool = False) -> Iterator[str]:
    """Run a registry; give its `host:port`."""
    directory.mkdir(parents=True, exist_ok=True)
    address = f"localhost:{free_port()}"
    (directory / "htpasswd").write_text(_HTPASSWD)
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": f"127.0.0.1:{address.rpartition(':')[2]}"},
        "log": {"level": "error"},
    }
    if private:
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    path = directory / "config.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([registry_program(), "serve", str(path)], stdout=log, stderr=log)
    try:
        _wait_for(address, process, directory / "log")
        yield address
    finally:
        process.kill()
        process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + START_S
    pause = threading.Event()
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection((host, int(port)), 1).close()
            return
        pause.wait(0.02)
    raise AssertionError(f"the registry does not answer at {address}:\n{log.read_text()}")


def push(image: str, name: str) -> str:
    """Push an image under a name, and forget that name here; return it."""
    repository, _, tag = name.rpartition(":")
    with client() as made:
        made.tag(image, repository, tag)
        try:
            said = made.push(repository, tag, auth_config={"username": USER, "password": PASSWORD})
            assert '"error"' not in said, said
        finally:
            made.remove_image(name)
    return name


class SlowLine:
    """A TCP proxy that lets so many bytes a second through, towards its clients; all connections share them."""

    def __init__(self, target: str, bytes_per_s: float) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._bytes_per_s = bytes_per_s
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"localhost:{self._server.getsockname()[1]}"
        self._lock = threading.Lock()
        self._free_at = time.monotonic()
        self._closed = threading.Event()

    def __enter__(self) -> SlowLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            for source, sink, slow in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._copy, args=(source, sink, slow), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, slow: bool) -> None:
        with contextlib.suppress(OSError), source:
            while chunk := source.recv(_CHUNK_BYTES):
                if slow:
                    self._wait_for_turn(len(chunk))
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def _wait_for_turn(self, size: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + size / self._bytes_per_s
            wait_s = self._free_at - time.monotonic()
        self._closed.wait(max(wait_s, 0))
