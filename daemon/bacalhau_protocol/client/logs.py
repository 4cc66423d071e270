"""The logs of a job's executions, merged: read from the nodes, or from the orchestrator's copy when a node is gone.

A reader per execution asks the node for the bytes after those that it has, holding the question until there are some
(a long poll). Nothing is lost when a link breaks: the next question has the same offsets.
"""

from __future__ import annotations

import asyncio
import codecs
import time
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client, decode
from bacalhau_protocol.client.watch import JobUpdate, watch_job

CHUNK_BYTES = 64 * 1024
POLL_MS = 10_000
ANSWER_S = 5.0  # beyond the poll
PIECES_WAITING_MAX = 64
READERS_MAX = 64  # executions read at the same time
NODE_PATIENCE_S = 5.0  # how long an ended execution's node may be silent before the kept copy is taken
LINE_CHARACTERS_MAX = 64 * 1024


class LogSource(msgspec.Struct, frozen=True, kw_only=True):
    """An execution whose log is read from now on."""

    execution_id: str
    node_id: str
    partition: int


class LogPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of one stream, as they came; a line may end in a later piece. `at` is when they came (ns), here."""

    execution_id: str
    node_id: str
    partition: int
    stream: str  # stdout, stderr
    data: bytes
    at: int


class LogNote(msgspec.Struct, frozen=True, kw_only=True):
    """Something a person should know: what is waited for, what is missing."""

    text: str
    execution_id: str = ""


class LogEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing follows. `job` is how the job stands; when the log was followed, how it ended."""

    job: JobUpdate


LogEvent = LogSource | LogPiece | LogNote | LogEnd


async def follow_logs(
    client: Client,
    job: str,
    *,
    namespace: str = "default",
    execution: str = "",
    follow: bool = True,
    tail_bytes: int = 0,
) -> AsyncGenerator[LogEvent, None]:
    """Yield the logs of a job's executions (or of one), of its newest version, as they come.

    With `follow` it waits for executions and output and ends with the job; else it ends with what is there now.
    `tail_bytes` begins that many bytes before the end of each stream as it is now; 0 begins at the start.

    Raises
    ------
    NotFound
        when there is no such job or execution.
    """
    merged = _Merged(client, job, namespace=namespace, execution=execution, follow=follow, tail_bytes=tail_bytes)
    try:
        async for event in merged.run():
            yield event
    finally:
        await merged.close()


class _Merged:
    """Readers, started as executions appear, and the queue that they share."""

    def __init__(
        self, client: Client, job: str, *, namespace: str, execution: str, follow: bool, tail_bytes: int
    ) -> None:
        self.client, self.job, self.namespace = client, job, namespace
        self.follow, self.tail_bytes = follow, tail_bytes
        self._wanted = execution
        self.events: asyncio.Queue[LogEvent | None] = asyncio.Queue(PIECES_WAITING_MAX)
        self._slots = asyncio.Semaphore(READERS_MAX)
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._said = ""
        self._watcher: asyncio.Task[None] | None = None

    async def run(self) -> AsyncIterator[LogEvent]:
        """Yield everything, in the order in which it comes."""
        watcher = self._watcher = asyncio.create_task(self._watch(), name="watch for logs")
        watcher.add_done_callback(self._wake)
        while not (watcher.done() and self.events.empty()):
            if (event := await self.events.get()) is not None:
                yield event
            if self.events.empty():  # a watch of a quiet job would look at its readers only when the job changes
                self._raise_failures()
        watcher.result()

    def _wake(self, _: object) -> None:
        # When the queue is full, its reader will look at the tasks anyway after the events that are there.
        if not self.events.full():
            self.events.put_nowait(None)

    async def close(self) -> None:
        """End everything that runs."""
        tasks = [*self._readers.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        """Start a reader for each execution; end when all have ended."""
        update: JobUpdate | None = None
        async for update in watch_job(self.client, self.job, namespace=self.namespace):
            await self._start(update)
            if not self.follow:
                break
            await self._say_what_it_waits_for(update)
            self._raise_failures()
        assert update is not None, "a watch yields at least once"
        if self._wanted and not self._readers:
            raise errors.NotFound(f"job {update.id} has no execution {self._wanted!r}")
        await asyncio.gather(*self._readers.values())
        await self.events.put(LogEnd(job=update))

    async def _start(self, update: JobUpdate) -> None:
        rows = [
            row
            for row in (update.executions if self._wanted else update.current)
            if row.id not in self._readers and row.id.startswith(self._wanted) and (_may_have_log(row) or self._wanted)
        ]
        for row in rows:  # all of them before any reader: so it is known early whether there are several
            source = LogSource(execution_id=row.id, node_id=row.node_id, partition=row.partition)
            await self.events.put(source)
        for row in rows:
            reader = _Reader(self, update, row)
            task = self._readers[row.id] = asyncio.create_task(self._read(reader), name=f"log of {row.id}")
            task.add_done_callback(self._wake)

    async def _read(self, reader: _Reader) -> None:
        async with self._slots:
            await reader.run()

    def _raise_failures(self) -> None:
        for task in self._readers.values():
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _say_what_it_waits_for(self, update: JobUpdate) -> None:
        text = ""
        if not self._readers and not update.ended:
            text = f"job {update.id} is {update.state}, no execution runs yet" + (
                f": {update.message}" if update.message else ""
            )
        if text and text != self._said:
            await self.events.put(LogNote(text=text))
        self._said = text


def _may_have_log(row: m.ExecutionRow) -> bool:
    return row.state in ("BidAccepted", "Running", "Publishing", "Completed", "Failed", "Cancelled")


class _Reader:
    """Reads one execution's two streams to their end."""

    def __init__(self, merged: _Merged, update: JobUpdate, row: m.ExecutionRow) -> None:
        self._merged, self._client = merged, merged.client
        self._job, self._row = update.id, row
        self._stdout_offset = self._stderr_offset = 0
        self._ticket = ""
        self._first = True
        self._behind = False  # whether there is more than the last answer had

    async def run(self) -> None:
        """Read until the end; take the kept copy when the node does not answer any more."""
        silent_since = time.monotonic()
        pause_s = self._client.timing.pause_min_s
        while True:
            renewed = not self._ticket
            try:
                if await self._step():
                    return
                silent_since, pause_s = time.monotonic(), self._client.timing.pause_min_s
                if self._behind:
                    continue
            except errors.Unauthenticated as error:
                if renewed:  # a new one is refused too: the node's clock, or its keys, are not the orchestrator's
                    await self._read_kept(error)
                    return
                self._ticket = ""  # it has expired; the next step asks for a new one
            except errors.Forbidden as error:
                await self._read_kept(error)
                return
            except (errors.NotFound, errors.Unavailable, errors.TimedOut, errors.Busy) as error:
                if await self._is_hopeless(error, time.monotonic() - silent_since):
                    await self._read_kept(error)
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._client.timing.pause_max_s)

    async def _is_hopeless(self, error: errors.BacalhauError, silent_s: float) -> bool:
        """Whether to stop asking the node. Never while the execution lives and its log is followed."""
        if self._merged.follow:
            try:
                if (await self._access()).state not in _ENDED:
                    return False
            except errors.NotFound:
                return True
            except (errors.Unavailable, errors.TimedOut, errors.Busy):
                return False
        return isinstance(error, errors.NotFound) or silent_s > NODE_PATIENCE_S

    async def _access(self) -> m.Access:
        page = await self._client.log_access(self._job, namespace=self._merged.namespace, execution=self._row.id)
        for access in page.executions:
            if access.execution_id == self._row.id:
                return access
        raise errors.NotFound(f"execution {self._row.id} is not known any more")

    async def _step(self) -> bool:
        """Ask once; return whether this was the end."""
        if not self._ticket:
            access = await self._access()
            if not access.ticket:
                raise errors.NotFound(access.message or f"node {access.node_id} does not serve logs")
            self._ticket = access.ticket
        if self._first and self._merged.tail_bytes:
            await self._skip_to_tail()
        self._first = False
        chunk = await self._ask(POLL_MS if self._merged.follow else 0, CHUNK_BYTES)
        await self._pass_on(chunk.stdout, chunk.stderr)
        at_end = self._stdout_offset >= chunk.stdout_size and self._stderr_offset >= chunk.stderr_size
        self._behind = not at_end and bool(chunk.stdout or chunk.stderr)
        return (chunk.ended or not self._merged.follow) and (at_end or not (chunk.stdout or chunk.stderr))

    async def _ask(self, wait_ms: int, limit: int) -> m.LogChunk:
        request = m.LogRead(
            ticket=self._ticket,
            execution_id=self._row.id,
            stdout_offset=self._stdout_offset,
            stderr_offset=self._stderr_offset,
            limit=limit,
            wait_ms=wait_ms,
        )
        timeout_s = wait_ms / 1000 + ANSWER_S
        answer = await self._client.ask_node(self._row.node_id, "log.read", request, timeout_s=timeout_s)
        return decode(answer.data, m.LogChunk, "log.read")

    async def _skip_to_tail(self) -> None:
        sizes = await self._ask(0, 1)
        self._stdout_offset = max(0, sizes.stdout_size - self._merged.tail_bytes)
        self._stderr_offset = max(0, sizes.stderr_size - self._merged.tail_bytes)

    async def _pass_on(self, stdout: bytes, stderr: bytes) -> None:
        for stream, data in (("stdout", stdout), ("stderr", stderr)):
            if data:
                await self._merged.events.put(
                    LogPiece(
                        execution_id=self._row.id,
                        node_id=self._row.node_id,
                        partition=self._row.partition,
                        stream=stream,
                        data=data,
                        at=time.time_ns(),
                    )
                )
        self._stdout_offset += len(stdout)
        self._stderr_offset += len(stderr)

    async def _read_kept(self, why: errors.BacalhauError) -> None:
        """Pass on what the orchestrator kept beyond what we have."""
        try:
            kept = await self._client.kept_log(self._job, self._row.id, namespace=self._merged.namespace)
        except errors.NotFound:
            await self._note(f"its log is not to be had: {why.message}")
            return
        missing = max(0, kept.stdout_offset - self._stdout_offset) + max(0, kept.stderr_offset - self._stderr_offset)
        await self._note(
            f"node {self._row.node_id} does not give the log ({why.message}); this is the end of it that the"
            " orchestrator kept" + (f", {missing} bytes before it are missing" if missing else "")
        )
        await self._pass_on(
            kept.stdout[max(0, self._stdout_offset - kept.stdout_offset) :],
            kept.stderr[max(0, self._stderr_offset - kept.stderr_offset) :],
        )

    async def _note(self, text: str) -> None:
        await self._merged.events.put(LogNote(text=f"{self._row.id}: {text}", execution_id=self._row.id))


_ENDED = ("AskForBidRejected", "BidRejected", "Completed", "Failed", "Cancelled")


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One whole line, without its end. Not cleaned: it is another person's text."""

    execution_id: str
    node_id: str
    partition: int
    stream: str
    text: str
    at: int


class LineCutter:
    """Cuts pieces into lines, per execution and stream, so that merged output never mixes within a line."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], _OpenLine] = {}

    def feed(self, piece: LogPiece) -> list[LogLine]:
        """Return the lines that this piece completes; a line that grows too long is cut."""
        open_line = self._open.setdefault((piece.execution_id, piece.stream), _OpenLine())
        open_line.piece = piece
        *whole, rest = (open_line.text + open_line.decoder.decode(piece.data)).split("\n")
        while len(rest) > LINE_CHARACTERS_MAX:
            whole.append(rest[:LINE_CHARACTERS_MAX])
            rest = rest[LINE_CHARACTERS_MAX:]
        open_line.text = rest
        return [_line(piece, text) for text in whole]

    def finish(self) -> list[LogLine]:
        """Return the lines that have no end, when nothing follows."""
        rest = [(line.piece, line.text + line.decoder.decode(b"", final=True)) for line in self._open.values()]
        self._open.clear()
        return [_line(piece, text) for piece, text in rest if piece is not None and text]


class _OpenLine:
    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text = ""
        self.piece: LogPiece | None = None


def _line(piece: LogPiece, text: str) -> LogLine:
    return LogLine(
        execution_id=piece.execution_id,
        node_id=piece.node_id,
        partition=piece.partition,
        stream=piece.stream,
        text=text.removesuffix("\r"),
        at=piece.at,
    )
