"""Links that tests cut: a TCP proxy, and a network namespace that can only dial out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from bacalhau_protocol.api.tokens import decode_join, encode_join

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards TCP connections to a port of this machine, in a thread of its own; can be cut, frozen and mended."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut = False
        self._left_bytes: int | None = None  # until it is cut by itself
        self._flowing = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        """Listen; `port` is set then."""
        self._thread.start()
        self._listening.wait(10)

    def close(self) -> None:
        """End all connections and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def token(self, join: str) -> str:
        """Return a join token that leads through here."""
        return encode_join(structs.replace(decode_join(join), address=f"nats://127.0.0.1:{self.port}"))

    def cut(self) -> None:
        """End all connections; new ones are closed at once."""
        self._call(self._set_cut, True)

    def cut_after(self, size_bytes: int) -> None:
        """Cut it by itself when so many more bytes have been carried, either way."""
        self._call(setattr, self, "_left_bytes", size_bytes)

    @property
    def is_cut(self) -> bool:
        """Whether it is cut now."""
        return self._cut

    def freeze(self) -> None:
        """Keep all connections and carry nothing: neither side is told anything."""
        self._call(self._flowing.clear)

    def mend(self) -> None:
        """Carry everything again."""
        self._left_bytes = None
        self._call(self._set_cut, False)
        self._call(self._flowing.set)

    # ── in the thread ─────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, function: object, *arguments: object) -> None:
        done = threading.Event()

        def work() -> None:
            function(*arguments)  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(work)
        assert done.wait(10), "the proxy's thread answers"

    def _set_cut(self, cut: bool) -> None:
        self._cut = cut
        for writer in list(self._writers) if cut else ():
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._flowing.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        self._set_cut(True)
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, outer}
        self._writers |= ends
        try:
            ways = {asyncio.create_task(self._carry(reader, outer)), asyncio.create_task(self._carry(inner, writer))}
            _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for task in rest:
                task.cancel()
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._flowing.wait()
                if self._left_bytes is not None:
                    self._left_bytes -= len(data)
                    if self._left_bytes <= 0:
                        self._set_cut(True)
                        return
                writer.write(data)
                await writer.drain()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """Give a proxy to a port of this machine."""
    made = Proxy(port)
    made.start()
    try:
        yield made
    finally:
        made.close()


class Namespace:
    """A network namespace with one link to ours: `host` is our end's address, `prefix` runs a command inside."""

    def __init__(self, name: str, link: str, host: str) -> None:
        self.name, self.host = name, host
        self.prefix = ["ip", "netns", "exec", name]
        self._link = link

    @classmethod
    def make(cls) -> Namespace:
        """Make it; skips the test where that is not allowed."""
        number = os.getpid() % 2**14  # unique among the processes of this machine, near enough
        net = f"10.231.{number >> 6}.{(number & 63) * 4}".rsplit(".", 1)
        host, inside = (f"{net[0]}.{int(net[1]) + end}" for end in (1, 2))
        made = cls(f"bacalhau-{number}", f"bac{number}", host)
        peer = f"bap{number}"
        done = _ip(f"netns add {made.name}")
        if done.returncode != 0:
            pytest.skip(f"cannot make a network namespace here, so this was NOT tested: {done.stderr.strip()}")
        try:
            for command in (
                f"link add {made._link} type veth peer name {peer} netns {made.name}",
                f"addr add {host}/30 dev {made._link}",
                f"link set {made._link} up",
                f"-n {made.name} addr add {inside}/30 dev {peer}",
                f"-n {made.name} link set {peer} up",
                f"-n {made.name} link set lo up",
            ):
                _ip(command).check_returncode()
        except BaseException:
            made.remove()
            raise
        return made

    def only_dial(self, port: int) -> None:
        """Let nothing in but answers, and nothing out but connections to this port of ours."""
        for rule in (
            "-A INPUT -i lo -j ACCEPT",
            f"-A INPUT -s {self.host} -p tcp --sport {port} ! --syn -j ACCEPT",
            "-A OUTPUT -o lo -j ACCEPT",
            f"-A OUTPUT -d {self.host} -p tcp --dport {port} -j ACCEPT",
            "-P INPUT DROP",
            "-P OUTPUT DROP",
        ):
            subprocess.run([*self.prefix, "iptables", *rule.split()], check=True, capture_output=True)

    def cut(self) -> None:
        """Take the link down: nothing passes, and nobody is told."""
        _ip(f"link set {self._link} down").check_returncode()

    def mend(self) -> None:
        """Take the link up again."""
        _ip(f"link set {self._link} up").check_returncode()

    @property
    def sent_bytes(self) -> int:
        """How many bytes have come out of the namespace."""
        return int(Path(f"/sys/class/net/{self._link}/statistics/rx_bytes").read_text())

    def remove(self) -> None:
        """Delete namespace and link."""
        _ip(f"link del {self._link}")
        _ip(f"netns del {self.name}")


def _ip(arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments.split()], capture_output=True, text=True)
