"""Log lines as a screen needs them: bounded, numbered, clean, searchable. Lines keep their numbers when old ones go."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from bacalhau_protocol.client.logs import LineCutter, LogLine, LogPiece
from bacalhau_tui.data.format import clean_lines

LINES_MAX = 50_000
DROP_SHARE = 10  # when full, one tenth goes at once
_COLOURS = re.compile("\x1b\\[[0-9;:]*m")  # a program's colours; our own say which execution and stream it is
SEARCH_LINES_MAX = 5_000  # per call of `search`: a slice of less than 20 ms


class Line(msgspec.Struct, frozen=True):
    """One line. `at` is when it came (ns); `source` is the position of its execution in `LogBuffer.sources`."""

    at: int
    source: int
    stderr: bool
    text: str


class LogBuffer:
    """The newest lines of all executions of a job. `revision` grows with every change."""

    def __init__(self, lines_max: int = LINES_MAX) -> None:
        self.lines_max = lines_max
        self.first = 0  # number of the oldest line that is still here
        self.revision = 0
        self.sources: list[tuple[str, str]] = []  # (execution id, node id), in order of appearance
        self._lines: list[Line] = []
        self._cutter = LineCutter()

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def end(self) -> int:
        """The number that the next line will get; also how many there have been."""
        return self.first + len(self._lines)

    def line(self, number: int) -> Line | None:
        """Return a line by its number, None when it is gone or not there yet."""
        place = number - self.first
        return self._lines[place] if 0 <= place < len(self._lines) else None

    def lines(self, start: int, stop: int) -> Iterator[Line]:
        """Yield the lines from `start` to before `stop` that are here."""
        yield from self._lines[max(0, start - self.first) : max(0, stop - self.first)]

    def add_source(self, execution_id: str, node_id: str) -> int:
        """Make an execution known before it says anything; return its position in `sources`."""
        source = (execution_id, node_id)
        if source not in self.sources:
            self.sources.append(source)
            self.revision += 1
        return self.sources.index(source)

    def feed(self, pieces: Iterable[LogPiece]) -> None:
        """Add what came; a line appears when its end has come."""
        self._add(line for piece in pieces for line in self._cutter.feed(piece))

    def finish(self) -> None:
        """Add lines that have no end; nothing follows."""
        self._add(self._cutter.finish())

    def note(self, text: str, at: int) -> None:
        """Add a line of our own (which execution it is about stands in the text)."""
        self._add([LogLine(execution_id="", node_id="", partition=0, stream="stderr", text=text, at=at)])

    def clear(self) -> None:
        """Forget all lines; numbers go on."""
        self.first, self._lines = self.end, []
        self.revision += 1

    def search(self, text: str, start: int, *, forward: bool = True) -> tuple[int | None, int]:
        """Look for text (any case) from a line on; return (number or None, where to go on), a slice at a time.

        The search is over when "where to go on" is before the first line or at the end.
        """
        wanted = text.lower()
        stop = min(self.end, start + SEARCH_LINES_MAX) if forward else max(self.first - 1, start - SEARCH_LINES_MAX)
        for number in range(
            max(start, self.first) if forward else min(start, self.end - 1), stop, 1 if forward else -1
        ):
            line = self.line(number)
            if line is not None and wanted in line.text.lower():
                return number, number + (1 if forward else -1)
        return None, stop

    def _add(self, lines: Iterable[LogLine]) -> None:
        before = len(self._lines)
        for line in lines:
            text = clean_lines(_COLOURS.sub("", line.text)).expandtabs(8)
            self._lines.append(
                Line(line.at, self.add_source(line.execution_id, line.node_id), line.stream == "stderr", text)
            )
        excess = len(self._lines) - self.lines_max
        if excess > 0:
            gone = max(excess, self.lines_max // DROP_SHARE)
            del self._lines[:gone]
            self.first += gone
        if len(self._lines) != before or excess > 0:
            self.revision += 1
