"""Nodes in memory that serve logs and result files, for tests of clients; see `testing`."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker


class FakeFile(msgspec.Struct):
    """A file of a result tree; one with a `link` is a symbolic link."""

    data: bytes = b""
    mode: int = 0o644
    link: str = ""


class FakeRun(msgspec.Struct):
    """What one execution has written so far."""

    node_id: str
    stdout: bytes = b""
    stderr: bytes = b""
    ended: bool = False
    exit_code: int = 0
    files: dict[str, FakeFile] = msgspec.field(default_factory=dict)


class FakeNodes:
    """All nodes of a `FakeOrchestrator`. A ticket here is `ticket-<execution id>`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.runs: dict[str, FakeRun] = {}
        self.silent: set[str] = set()  # nodes that do not answer
        self.clock_is_wrong = False  # then every ticket has expired
        self.damage = 0  # so many of the next chunks come damaged
        self.requests: list[tuple[str, m.Body]] = []
        self.page_rows = m.PAGE_ROWS_MAX
        self._bus = broker.connect("nodes")
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to answer."""
        await self._bus.subscribe(f"{subjects.EXTENSION}.*.in.>", self._receive)

    async def close(self) -> None:
        """Stop answering."""
        for task in self._tasks:
            task.cancel()
        await self._bus.close()

    def write(self, execution: str, *, stdout: bytes = b"", stderr: bytes = b"") -> None:
        """Let a program write."""
        run = self.runs[execution]
        run.stdout += stdout
        run.stderr += stderr
        self.wake()

    def wake(self) -> None:
        """Answer questions that wait for output."""
        self._news.set()
        self._news = asyncio.Event()

    async def _receive(self, message: Message) -> None:
        task = asyncio.create_task(self._answer(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message) -> None:
        _, _, _, node, _, *verb = message.subject.split(".")
        if node in self.silent:
            return
        headers: dict[str, str] = {}
        try:
            match ".".join(verb):
                case "log.read":
                    data = await self._read_log(msgspec.json.decode(message.data, type=m.LogRead))
                case "file.list":
                    data = self._list(msgspec.json.decode(message.data, type=m.FileList))
                case "file.read":
                    data, headers = self._read_file(msgspec.json.decode(message.data, type=m.FileRead))
                case other:
                    raise errors.NotFound(f"no verb {other}")
        except errors.BacalhauError as error:
            data, headers = error.to_wire(), {m.ERROR: str(error), m.ERROR_CODE: str(error.http_status)}
        await self._bus.publish(message.reply, data, headers=headers)

    def _run(self, request: m.LogRead | m.FileList | m.FileRead) -> FakeRun:
        self.requests.append((type(request).__name__, request))
        if self.clock_is_wrong or request.ticket != f"ticket-{request.execution_id}":
            raise errors.Unauthenticated("the ticket has expired")
        if request.execution_id not in self.runs:
            raise errors.NotFound("no such execution here")
        return self.runs[request.execution_id]

    async def _read_log(self, request: m.LogRead) -> bytes:
        run = self._run(request)
        if request.wait_ms and not run.ended and _nothing_new(run, request):
            try:
                await asyncio.wait_for(self._news.wait(), request.wait_ms / 1000)
            except TimeoutError:
                pass
        chunk = m.LogChunk(
            stdout=run.stdout[request.stdout_offset :][: request.limit],
            stderr=run.stderr[request.stderr_offset :][: request.limit],
            stdout_size=len(run.stdout),
            stderr_size=len(run.stderr),
            ended=run.ended,
            exit_code=run.exit_code,
        )
        return msgspec.json.encode(chunk)

    def _list(self, request: m.FileList) -> bytes:
        run = self._run(request)
        names = [name for name in sorted(run.files) if name > request.after]
        page = [_entry(name, run.files[name]) for name in names[: self.page_rows]]
        more = page[-1].path if len(names) > self.page_rows else ""
        return msgspec.json.encode(m.FilePage(files=page, next_after=more, complete=run.ended))

    def _read_file(self, request: m.FileRead) -> tuple[bytes, dict[str, str]]:
        run = self._run(request)
        if request.path not in run.files:
            raise errors.NotFound(f"no file {request.path}")
        whole = run.files[request.path].data
        data = whole[request.offset :][: request.limit]
        headers = {
            m.FILE_OFFSET: str(request.offset),
            m.FILE_SHA256: hashlib.sha256(data).hexdigest(),
            m.FILE_SIZE: str(len(whole)),
        }
        if self.damage:
            self.damage -= 1
            data = b"?" + data[1:]
        return data, headers


def _nothing_new(run: FakeRun, request: m.LogRead) -> bool:
    return len(run.stdout) <= request.stdout_offset and len(run.stderr) <= request.stderr_offset


def _entry(path: str, file: FakeFile) -> m.FileEntry:
    plain = not file.link and not path.endswith("/")
    digest = hashlib.sha256(file.data).hexdigest() if plain else ""
    return m.FileEntry(path=path, size=len(file.data), mode=file.mode, sha256=digest, link=file.link)
