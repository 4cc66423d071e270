"""Logs and results of this node, for whoever has a ticket: `in.log.read`, `in.file.list`, `in.file.read`.

Stateless: each request names execution, place and size, so a reader goes on where it broke off. Files are reached from
an open directory, step by step, without following links (`tree`). Nothing is read before the ticket is checked, and the
answer goes only to the inbox of the ticket's user. Work with files is done in threads of its own, a bounded number.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from bacalhau_daemon.compute import layout, manifest, tree
from bacalhau_daemon.compute.layout import OutcomeRecord
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects, tokens
from bacalhau_protocol.transport.base import Bus, Message, Subscription

CHUNK_BYTES_MAX = 256 * 1024
WAIT_MS_MAX = 30_000
REQUESTS_MAX = 256  # in hand, most of them waiting for output
THREADS = 4
POLL_FIRST_S, POLL_MAX_S = 0.02, 0.25
BARE_KEPT_MAX = 2048

T = TypeVar("T")
_Request = m.LogRead | m.FileList | m.FileRead
_KINDS: dict[str, type[m.LogRead] | type[m.FileList] | type[m.FileRead]] = {
    "log.read": m.LogRead,
    "file.list": m.FileList,
    "file.read": m.FileRead,
}
_Answer = tuple[bytes, dict[str, str]]
log = structlog.get_logger(__name__)


class Serving:
    """Answers readers. `live` says whether an execution is not over."""

    def __init__(self, node: str, bus: Bus, root: Path, live: Callable[[str], bool]) -> None:
        self.keys: tuple[str, ...] = ()  # of orchestrators, whose tickets count; none before a welcome
        self._node, self._bus, self._root, self._live = node, bus, root, live
        self._bare: OrderedDict[str, OutcomeRecord] = OrderedDict()
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listing: dict[str, asyncio.Task[list[m.FileEntry]]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="files")

    async def start(self) -> None:
        """Begin to answer."""
        for verb in _KINDS:
            subject = subjects.to_node(self._node, verb)
            self._subscriptions.append(await self._bus.subscribe(subject, self._receive))

    async def close(self) -> None:
        """Stop; whoever waits is not answered any more."""
        for subscription in self._subscriptions:
            await subscription.unsubscribe()
        for task in [*self._tasks, *self._listing.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._listing.values(), return_exceptions=True)
        self._threads.shutdown(wait=False)

    def ended_bare(self, execution_id: str, record: OutcomeRecord) -> None:
        """Remember the end of a run that left nothing on disk: its directory is made if somebody asks for it."""
        self._bare[execution_id] = record
        if len(self._bare) > BARE_KEPT_MAX:
            self._bare.popitem(last=False)

    # ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _receive(self, message: Message) -> None:
        if not message.reply:
            return
        task = asyncio.create_task(self._answer(message, busy=len(self._tasks) >= REQUESTS_MAX))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: Message, *, busy: bool) -> None:
        verb = message.subject.removeprefix(subjects.to_node(self._node, ""))
        try:
            if busy:
                raise errors.Busy(f"{REQUESTS_MAX} requests are in hand on this node", hint="try again in a moment")
            data, headers = await self._serve(_decode(verb, message.data), message.reply)
        except errors.BacalhauError as error:
            data, headers = _refusal(error)
        except Exception as error:
            log.exception("serving.broke", verb=verb)
            data, headers = _refusal(errors.Internal(f"{type(error).__name__}: {error}", place=verb))
        try:
            await self._bus.publish(message.reply, data, headers=headers)
        except errors.BacalhauError as error:  # who asks asks again
            log.info("answer.not_sent", verb=verb, reason=str(error))

    async def _serve(self, request: _Request, reply: str) -> _Answer:
        self._check(request, reply)
        match request:
            case m.LogRead():
                return msgspec.json.encode(await self._log(request)), {}
            case m.FileList():
                return msgspec.json.encode(await self._list(request)), {}
            case m.FileRead():
                return await self._read(request)

    def _check(self, request: _Request, reply: str) -> None:
        if not subjects.TOKEN.fullmatch(request.execution_id):
            raise errors.UsageError("that is not an execution id", place=request.execution_id[:80])
        if not self.keys:
            raise errors.Unavailable("this node has not heard from its orchestrator yet", hint="try again in a moment")
        path = request.path if isinstance(request, m.FileRead) else ""
        tokens.check_ticket(
            request.ticket, self.keys, execution=request.execution_id, path=path, reply=reply, now=time.time_ns()
        )

    async def _directory(self, execution_id: str) -> Path:
        """Return the directory of an execution that has one. Raises `NotFound`."""
        directory = self._root / execution_id
        bare = self._bare.get(execution_id)
        if bare is not None and not directory.is_dir():
            await self._in_thread(lambda: layout.finish(directory, bare, durable=False))
        elif not directory.is_dir() and not self._live(execution_id):
            raise errors.NotFound(
                f"node {self._node} has nothing of execution {execution_id}",
                hint="results are kept for a limited time and space; the orchestrator may have kept the end of the log",
            )
        return directory

    # ── log ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _log(self, request: m.LogRead) -> m.LogChunk:
        directory = await self._directory(request.execution_id)
        limit = min(max(request.limit, 1), CHUNK_BYTES_MAX)
        ended, sizes = await self._wait_for_output(directory, request)
        stdout, stderr = await self._in_thread(
            lambda: (
                layout.pread(directory / layout.RESULTS / layout.STDOUT, request.stdout_offset, limit),
                layout.pread(directory / layout.RESULTS / layout.STDERR, request.stderr_offset, limit),
            )
        )
        chunk = m.LogChunk(stdout=stdout, stderr=stderr, stdout_size=sizes[0], stderr_size=sizes[1])
        more = request.stdout_offset + len(stdout) < sizes[0] or request.stderr_offset + len(stderr) < sizes[1]
        if not ended or more:
            return chunk
        record = await self._in_thread(lambda: layout.read_any_outcome(directory))
        if record is None:
            return msgspec.structs.replace(chunk, ended=True)
        outcome = record.outcome
        return msgspec.structs.replace(
            chunk, ended=True, exit_code=outcome.exit_code, outcome=str(outcome.kind), message=outcome.message
        )

    async def _wait_for_output(self, directory: Path, request: m.LogRead) -> tuple[bool, tuple[int, int]]:
        """Hold the request until there is something new, the execution is over, or the time is up."""
        deadline = time.monotonic() + min(max(request.wait_ms, 0), WAIT_MS_MAX) / 1000
        pause_s = POLL_FIRST_S
        while True:
            ended = not self._live(request.execution_id)  # asked before the sizes: what it wrote last is counted
            stdout, stderr = layout.stream_sizes(directory)
            new = stdout > request.stdout_offset or stderr > request.stderr_offset
            left_s = deadline - time.monotonic()
            if ended or new or left_s <= 0:
                return ended, (stdout, stderr)
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, POLL_MAX_S)

    # ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _list(self, request: m.FileList) -> m.FilePage:
        directory = await self._directory(request.execution_id)
        limit = min(max(request.limit, 1), m.PAGE_ROWS_MAX)
        if self._live(request.execution_id):
            rows = await self._in_thread(lambda: _list_live(directory / layout.RESULTS, request.after, limit))
            return _page(rows, limit, complete=False)
        entries = await self._manifest(request.execution_id, directory)
        after = tuple(request.after.rstrip("/").split("/"))
        rest = [one for one in entries if tuple(one.path.rstrip("/").split("/")) > after] if request.after else entries
        return _page(rest, limit, complete=True)

    async def _manifest(self, execution_id: str, directory: Path) -> list[m.FileEntry]:
        """Return the list of an execution that is over; hashed once, by whoever asks first."""
        task = self._listing.get(execution_id)
        if task is None:
            task = asyncio.create_task(self._in_thread(lambda: manifest.read(directory) or manifest.make(directory)))
            self._listing[execution_id] = task
            task.add_done_callback(lambda _: self._listing.pop(execution_id, None))
        return await asyncio.shield(task)

    async def _read(self, request: m.FileRead) -> _Answer:
        directory = await self._directory(request.execution_id)
        offset, limit = max(request.offset, 0), min(max(request.limit, 0), CHUNK_BYTES_MAX)

        def read() -> _Answer:
            descriptor = tree.open_file(directory / layout.RESULTS, request.path)
            try:
                data = os.pread(descriptor, limit, offset)
                size = os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)
            digest = hashlib.sha256(data).hexdigest()
            return data, {m.FILE_OFFSET: str(offset), m.FILE_SHA256: digest, m.FILE_SIZE: str(size)}

        return await self._in_thread(read)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _decode(verb: str, data: bytes) -> _Request:
    kind = _KINDS.get(verb)
    if kind is None:
        raise errors.NotFound(f"nodes know no {verb!r}")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise errors.UsageError(f"the request cannot be read: {error}", place=verb) from error


def _refusal(error: errors.BacalhauError) -> _Answer:
    text = (error.message[:512] or error.code).replace("\r", " ").replace("\n", " ")
    return error.to_wire(), {m.ERROR: text, m.ERROR_CODE: str(error.http_status)}


def _list_live(results: Path, after: str, limit: int) -> list[m.FileEntry]:
    rows: list[m.FileEntry] = []
    for entry in tree.walk(results, after):
        rows.append(manifest.describe(results, entry, hashed=False))
        if len(rows) > limit:
            break
    return rows


def _page(rows: list[m.FileEntry], limit: int, *, complete: bool) -> m.FilePage:
    """Cut a page by rows and by bytes; at least one row."""
    taken: list[m.FileEntry] = []
    size = 0
    for row in rows[:limit]:
        size += 200 + 6 * (len(row.path) + len(row.link))  # a character is at most six bytes of JSON
        if taken and size > m.PAGE_BYTES_MAX:
            break
        taken.append(row)
    more = len(taken) < len(rows)
    return m.FilePage(files=taken, next_after=taken[-1].path if more and taken else "", complete=complete)
