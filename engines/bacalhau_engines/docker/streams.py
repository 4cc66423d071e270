"""The output of a container, into the files of a run: every byte once, also when the reader was away.

dockerd sends frames: a byte that names the stream, three that say nothing, four of length, and the data. A container
is attached to before it starts, so nothing is missed. When the link was cut, or an earlier daemon began the run, the
log is read from its beginning, and as many bytes as the files have got since the creation are passed over.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

CHUNK_BYTES = 64 * 1024
STDOUT, STDERR = 1, 2
_HEADER = struct.Struct(">BxxxL")


class Sink:
    """One stream's file. `base` is its size when the container was created; `limit` bounds what is appended to it."""

    def __init__(self, path: Path, base: int, limit: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o600)
        self._base, self._limit = base, limit
        self._skip = 0
        self.name = path.name

    @property
    def written(self) -> int:
        """How many bytes of the container are in the file."""
        return max(os.fstat(self._file).st_size - self._base, 0)

    @property
    def full(self) -> bool:
        """Whether there was more than is allowed."""
        return self.written > self._limit

    def again(self) -> None:
        """Expect the stream from its beginning."""
        self._skip = self.written

    def write(self, data: bytes) -> None:
        """Append, but for what is there already."""
        passed = min(self._skip, len(data))
        self._skip -= passed
        view = memoryview(data)[passed:]
        while view:
            view = view[os.write(self._file, view) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Sinks:
    """Both streams of a run. `overflow` is called once, with the name of the stream, when one exceeds its limit."""

    def __init__(self, stdout: Sink, stderr: Sink, overflow: Callable[[str], None]) -> None:
        self._by_number = {STDOUT: stdout, STDERR: stderr}
        self._overflow = overflow
        self.overflowed = False
        self.whole = False  # the last reading came to the end of the output

    def again(self) -> None:
        """Expect both streams from their beginning."""
        for sink in self._by_number.values():
            sink.again()

    def take(self, chunks: Iterable[bytes]) -> None:
        """Write frames into their files, until there are no more or one of them is full."""
        self.whole = False
        for number, data in frames(chunks):
            sink = self._by_number.get(number)
            if sink is None:
                continue
            if self.overflowed:
                return  # the run is being ended
            sink.write(data)
            if sink.full:
                self.overflowed = True
                self._overflow(sink.name)
        self.whole = True

    def note(self, words: Iterable[str]) -> None:
        """Append lines of ours to stderr."""
        for line in words:
            self._by_number[STDERR].write(f"[bacalhau: {line}]\n".encode(errors="replace"))

    def close(self) -> None:
        """Close both files."""
        for sink in self._by_number.values():
            sink.close()


def frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Take frames out of a stream that arrives in pieces of any size; parts of a frame come as soon as they do."""
    waiting = b""
    number = missing = 0
    for chunk in chunks:
        waiting += chunk
        while waiting:
            if missing:
                part, waiting = waiting[:missing], waiting[missing:]
                missing -= len(part)
                yield number, part
            elif len(waiting) >= _HEADER.size:
                number, missing = _HEADER.unpack_from(waiting)
                waiting = waiting[_HEADER.size :]
            else:
                break


def received(descriptor: int, stop: int) -> Iterator[bytes]:
    """Yield what arrives on a socket until its end; also end when `stop` becomes readable. Raises `OSError`."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(stop, select.POLLIN)
    while True:
        ready = {number for number, _ in poll.poll()}
        if stop in ready:
            return
        try:
            chunk = os.read(descriptor, CHUNK_BYTES)
        except BlockingIOError:
            continue
        if not chunk:
            return
        yield chunk
