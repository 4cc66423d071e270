"""One log of a foreign node as far as it has come: the newest part of each stream, in memory."""

from __future__ import annotations

import asyncio
import time

from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import LogChunk, LogRead
from bacalhau_protocol.ncl.logstream import CloseCode, LogClosed, LogLine, LogType

HELD_BYTES_MAX = 4 * 1024 * 1024  # of each stream; the front goes when more comes
WHY = "a node of Bacalhau 1.9 gives one log at a time, and waits a minute for one that there is not"


class _Window:
    """Bytes of a stream from `start` to `end`; what came before `start` is not held."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.end = 0
        self._held = bytearray()

    def take(self, data: bytes) -> None:
        """Add what comes next."""
        self._held += data[max(0, self.start - self.end) :]
        self.end += len(data)
        if len(self._held) > HELD_BYTES_MAX:
            surplus = len(self._held) - HELD_BYTES_MAX // 2  # half of it: rarely, instead of with each frame
            del self._held[:surplus]
            self.start += surplus

    def read(self, offset: int, limit: int, end: int) -> bytes:
        """Return up to `limit` bytes from an offset, none from `end` on."""
        return bytes(self._held[offset - self.start : max(offset, min(offset + limit, end)) - self.start])


class PulledLog:
    """What a stream has brought. It begins at the offsets of the request that it was begun for.

    `follow`: it ends with the execution; else at the end of what there is now. `final`: the execution was over before
    it began, so what there is now is all.
    """

    def __init__(self, stream: str, node: str, request: LogRead, *, follow: bool, final: bool) -> None:
        self.stream, self.node, self.follow, self.final = stream, node, follow, final
        self.execution = request.execution_id
        self._stdout, self._stderr = _Window(request.stdout_offset), _Window(request.stderr_offset)
        self.closed = False
        self._error: errors.BacalhauError | None = None
        self._moved = asyncio.Event()
        self._readers = 0
        self._used = time.monotonic()

    def holds(self, request: LogRead) -> bool:
        """Whether what the request asks for is held, or still to come."""
        return self._stdout.start <= request.stdout_offset and self._stderr.start <= request.stderr_offset

    @property
    def begun(self) -> bool:
        """Whether the node has said anything."""
        return self.closed or self._stdout.end + self._stderr.end > 0

    @property
    def empty(self) -> errors.NotFound | None:
        """What the node said when it has no log of this."""
        nothing = self.closed and not self._stdout.end + self._stderr.end
        return self._error if nothing and isinstance(self._error, errors.NotFound) else None

    def idle_s(self) -> float:
        """For how long nobody has read it."""
        return 0.0 if self._readers else time.monotonic() - self._used

    # ── the node ──────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, line: LogLine) -> None:
        """Add output; a node's error is kept for those who come to the end."""
        if line.error:
            self._error = errors.NotFound(f"node {self.node} cannot go on with the log: {line.error}")
        window = self._stderr if line.type is LogType.STDERR else self._stdout
        window.take(line.text.encode())
        self._wake()

    def end(self, closed: LogClosed) -> None:
        """Nothing more comes. What is said after the end counts for nothing."""
        if self.closed:
            return
        self.closed = True
        if closed.code == CloseCode.PRODUCER_ERROR:
            self._error = errors.NotFound(f"node {self.node} has no log of it: {closed.text}")
        elif closed.code != CloseCode.NORMAL:
            self._error = errors.Unavailable(f"node {self.node} gives no log: {closed.text}")
        self._wake()

    def _wake(self) -> None:
        if not self._readers:
            return
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    # ── readers ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def wait(self, request: LogRead, wait_s: float) -> None:
        """Wait until there is something new or the end, but not too long."""
        self._readers += 1
        try:
            async with asyncio.timeout(wait_s):
                while not self._is_enough(request):
                    await self._moved.wait()
        except TimeoutError:
            return
        finally:
            self._readers -= 1
            self._used = time.monotonic()

    def _is_enough(self, request: LogRead) -> bool:
        if self.closed or not self.follow:  # of a snapshot the end is known only when all of it is here
            return self.closed
        if request.wait_ms:
            return self._stdout.end > request.stdout_offset or self._stderr.end > request.stderr_offset
        return self.begun  # what a shared stream has brought is what there is

    def chunk(self, request: LogRead, limit: int, *, live: bool) -> LogChunk:
        """Return what there is beyond the request's offsets; it must be held. `live`: its execution is not over.

        Raises
        ------
        NotFound, Unavailable, TimedOut
            when that is nothing, and nothing will come of this stream.
        """
        known = self.closed or self.follow  # else the last byte is held back: a reader takes the end for the end
        sizes = self._stdout.end, self._stderr.end
        stdout_offset, stderr_offset = request.stdout_offset, request.stderr_offset
        stdout = self._stdout.read(stdout_offset, limit, sizes[0] - (not known))
        stderr = self._stderr.read(stderr_offset, limit, sizes[1] - (not known))
        more = stdout_offset + len(stdout) < sizes[0] or stderr_offset + len(stderr) < sizes[1]
        if not stdout and not stderr and not more:
            if self._error is not None:
                raise self._error
            if not known or (not live and not self.begun):
                raise errors.TimedOut(f"node {self.node} has not sent the log in time: {WHY}")
        ended = self.closed and (self.follow or self.final) and self._error is None and not more
        return LogChunk(stdout=stdout, stderr=stderr, stdout_size=sizes[0], stderr_size=sizes[1], ended=ended)
