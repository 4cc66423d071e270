"""A file server of the smallest kind: GET and HEAD of files of one directory, by name, with ranges. Nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
from pathlib import Path

CONNECTIONS_MAX = 64
HEAD_BYTES_MAX = 8 * 1024
HEAD_TIMEOUT_S, WRITE_TIMEOUT_S = 5.0, 60.0
_CHUNK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class FileServer:
    """Serves the files whose whole name matches `names`; there is no listing, and links are not followed."""

    def __init__(self, directory: Path, names: re.Pattern[str]) -> None:
        self._directory = directory
        self._names = names
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0  # 0: not serving

    async def start(self, host: str, port: int) -> int:
        """Listen, unless it does already, and return the port. Raises `OSError`."""
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, host, port, limit=HEAD_BYTES_MAX)
            self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Stop listening and cut the connections."""
        if self._server is not None:
            self._server.close()
            for task in self._connections:
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._server.wait_closed()
            self._server, self.port = None, 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served by a task"
        self._connections.add(task)
        try:
            if len(self._connections) > CONNECTIONS_MAX:
                await _answer(writer, "503 Service Unavailable")
            else:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT_S)
                await self._serve(head.decode("latin-1"), writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the peer went away, or never spoke HTTP
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, head: str, writer: asyncio.StreamWriter) -> None:
        request, *lines = head.split("\r\n")
        method, _, rest = request.partition(" ")
        name = rest.partition(" ")[0].partition("?")[0].removeprefix("/")
        if method not in ("GET", "HEAD"):
            await _answer(writer, "405 Method Not Allowed", {"Allow": "GET, HEAD"})
            return
        descriptor = self._open(name)
        if descriptor is None:
            await _answer(writer, "404 Not Found")
            return
        try:
            size = os.fstat(descriptor).st_size
            headers = {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
            first, last, status = _range(headers.get("range", ""), size)
            answer = {"Content-Type": "application/gzip", "Accept-Ranges": "bytes"}
            if status.startswith("206"):
                answer["Content-Range"] = f"bytes {first}-{last}/{size}"
            await _answer(writer, status, answer, length=last - first + 1)
            if method == "GET":
                await _send(writer, descriptor, first, last)
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int | None:
        if not self._names.fullmatch(name):
            return None
        try:
            descriptor = os.open(self._directory / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        return None


def _range(text: str, size: int) -> tuple[int, int, str]:
    """Return first and last byte, and the status line; a range that cannot be met is ignored, as HTTP allows."""
    match = _RANGE.fullmatch(text)
    if match is None or int(match[1]) >= size:
        return 0, size - 1, "200 OK"
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return (int(match[1]), last, "206 Partial Content") if last >= int(match[1]) else (0, size - 1, "200 OK")


async def _answer(
    writer: asyncio.StreamWriter, status: str, headers: dict[str, str] | None = None, *, length: int = 0
) -> None:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {length}", "Connection: close"]
    lines += [f"{key}: {value}" for key, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT_S)


async def _send(writer: asyncio.StreamWriter, descriptor: int, first: int, last: int) -> None:
    while first <= last:
        chunk = await asyncio.to_thread(os.pread, descriptor, min(_CHUNK_BYTES, last - first + 1), first)
        if not chunk:
            return
        writer.write(chunk)
        await asyncio.wait_for(writer.drain(), WRITE_TIMEOUT_S)
        first += len(chunk)
