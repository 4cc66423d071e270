"""Log lines of all executions of a job: followed, searched, filtered, wrapped. Lines are styled when they are painted.

Where the view stands is the number of its first line (numbers never change, see `LogBuffer`) and, when long lines are
wrapped, a row within that line. Following is a state: moving up ends it, `F` or `G` begins it again.
"""

from __future__ import annotations

import enum
from bisect import bisect_left

from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.format import cell_width, clock, count
from bacalhau_tui.data.loglines import Line, LogBuffer
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Lines, Span
from bacalhau_tui.widgets.page import SIDE_STEP, marked

LINE_CELLS_MAX = 4_000
"""Longer lines are cut in the view; what is downloaded is whole."""

LABEL_WIDTH = 10
_SOURCE_TONES = ("busy", "good", "waiting", "unknown")


class Stream(enum.StrEnum):
    """Which streams are shown."""

    BOTH = "both"
    STDOUT = "stdout"
    STDERR = "stderr"


class LogView(Lines):
    """Shows a `LogBuffer`. Call `take_changes` when it has grown, ten times a second at most."""

    BINDINGS = bindings("sideways", "search", "logs")

    class PromptWanted(Message):
        """The user wants to type what to look for (`/`) or what to keep (`&`)."""

        def __init__(self, view: LogView, sign: str) -> None:
            super().__init__()
            self.view, self.sign = view, sign

    class Changed(Message):
        """What the crumb says of the log is different."""

    class Said(Message):
        """A word for the flash line."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.log_buffer = LogBuffer()
        self.following, self.wrapping, self.times = True, False, False
        self.streams = Stream.BOTH
        self.keep = ""  # only lines with this text
        self.ended = False  # nothing will follow
        self.wanted = ""
        self.left = 0
        self._top = 0  # number of the first line
        self._row = 0  # row within it
        self._numbers: list[int] = []  # lines that pass, ascending
        self._looked_at = 0  # lines before this number are in `_numbers` or did not pass
        self._seen_end = 0  # where the log ended when it was last followed

    # ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def show(self, buffer: LogBuffer) -> None:
        """Show another log."""
        if buffer is not self.log_buffer:
            self.log_buffer = buffer
            self._begin_again()

    def take_changes(self) -> None:
        """Take in lines that came or went; repaint what looks different."""
        buffer = self.log_buffer
        gone = bisect_left(self._numbers, buffer.first)
        del self._numbers[:gone]
        start = max(self._looked_at, buffer.first)
        self._numbers += [
            number for number, line in enumerate(buffer.lines(start, buffer.end), start) if self._passes(line)
        ]
        self._looked_at = buffer.end
        if self.following:
            self._to_end()
        elif self._numbers and self._top < self._numbers[0]:
            self._top, self._row = self._numbers[0], 0
        self.repaint()
        self.post_message(self.Changed())

    def _begin_again(self) -> None:
        self._numbers, self._looked_at = [], 0
        self.take_changes()

    def _passes(self, line: Line) -> bool:
        if self.streams is not Stream.BOTH and line.stderr != (self.streams is Stream.STDERR):
            return False
        return not self.keep or self.keep in line.text.lower()

    def summary(self) -> str:
        """Return in words what is shown and what is left out."""
        buffer = self.log_buffer
        shown, total = len(self._numbers), len(buffer)
        parts = [f"{count(shown)} {'line' if shown == 1 else 'lines'}"]
        if shown != total:
            parts[0] += f" of {count(total)}"
        if buffer.first:
            parts.append(f"{count(buffer.first)} older ones left out")
        if self.streams is not Stream.BOTH:
            parts.append(self.streams.value)
        if self.keep:
            parts.append(f"&{self.keep}")
        if self.following:
            parts.append("ended" if self.ended else "following")
        elif buffer.end > self._seen_end:
            parts.append(f"{count(buffer.end - self._seen_end)} new below")
        return f" {self.look.dot} ".join(parts)

    # ── painting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def strip_at(self, y: int) -> Strip:
        """Return one row."""
        place, row = self._walk(y)
        bar = self.scrollbar(y, self.size.height, self._place, len(self._numbers))
        line = self.log_buffer.line(self._numbers[place]) if place < len(self._numbers) else None
        if line is None:
            return self.strip([], bar=bar)
        spans = [*self._prefix(line, first=row == 0), *self._text(line, row)]
        return self.strip(spans, bar=bar)

    def _text(self, line: Line, row: int) -> list[Span]:
        style = self.style("lines--dim") if not self._label(line) else Style.null()
        text = line.text[:LINE_CELLS_MAX] + (self.look.ellipsis if len(line.text) > LINE_CELLS_MAX else "")
        start, end = (row * self._room, (row + 1) * self._room) if self.wrapping else (self.left, LINE_CELLS_MAX)
        shown = _cells(text, start, end)
        if self.wanted and self.wanted.lower() in shown.lower():
            return marked(shown, self.wanted, style, self.style("lines--found"))
        return [(shown, style)]

    def _prefix(self, line: Line, *, first: bool) -> list[Span]:
        spans: list[Span] = [(" ", Style.null())]
        if self.times:
            spans.append((f"{clock(line.at) if first else '':<13}", self.style("lines--dim")))
        if len(self.log_buffer.sources) > 1:
            label = self._label(line)
            tone = _SOURCE_TONES[line.source % len(_SOURCE_TONES)]
            spans.append((self.fit(label if first else "", LABEL_WIDTH), self.style(tone)))
            spans.append((" ", Style.null()))
        if self.streams is Stream.BOTH:
            spans.append(("!" if line.stderr and first else " ", self.style("waiting")))
        return spans

    def _label(self, line: Line) -> str:
        return short_id(self.log_buffer.sources[line.source][0])

    @property
    def _room(self) -> int:
        """How many cells of text a row has."""
        prefix = 14 if self.times else 1
        prefix += LABEL_WIDTH + 1 if len(self.log_buffer.sources) > 1 else 0
        prefix += 1 if self.streams is Stream.BOTH else 0
        return max(8, self.size.width - 1 - prefix)

    # ── where it stands ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _place(self) -> int:
        return bisect_left(self._numbers, self._top)

    def _height(self, place: int) -> int:
        if not self.wrapping:
            return 1
        line = self.log_buffer.line(self._numbers[place])
        cells = min(cell_width(line.text[:LINE_CELLS_MAX]), LINE_CELLS_MAX) if line else 0
        return max(1, -(-cells // self._room))

    def _walk(self, rows: int) -> tuple[int, int]:
        """Return the place and the row within it that are so many rows below the first."""
        place, row = self._place, self._row + rows
        if not self.wrapping:
            return place + row, 0
        while place < len(self._numbers) and row >= (height := self._height(place)):
            place, row = place + 1, row - height
        return place, row

    def _to_end(self) -> None:
        place, left = len(self._numbers), self.size.height
        while place > 0 and left > 0:
            place -= 1
            left -= self._height(place)
        self._put(place, max(0, -left))
        self._seen_end = self.log_buffer.end

    def _put(self, place: int, row: int) -> None:
        self._top = self._numbers[place] if place < len(self._numbers) else self.log_buffer.end
        self._row = row

    # ── moving ────────────────────────────────────────────────────────────────────────────────────────────────────

    def scroll_lines(self, lines: int) -> None:
        """Scroll; upwards ends following, at the end it begins again only by `F` or `G`."""
        if lines < 0:
            self._follow(on=False)
        if self.wrapping:
            self._scroll_rows(lines)
        else:
            last = max(0, len(self._numbers) - self.size.height)
            self._put(max(0, min(self._place + lines, last)), 0)
        self.repaint()

    def _scroll_rows(self, rows: int) -> None:
        place, row = self._place, self._row + rows
        while row < 0 and place > 0:
            place -= 1
            row += self._height(place)
        while place < len(self._numbers) - 1 and row >= (height := self._height(place)):
            place, row = place + 1, row - height
        before = (self._top, self._row)
        self._put(place, max(0, row))
        if rows > 0 and self._walk(self.size.height - 1)[0] >= len(self._numbers):
            self._to_end()  # never beyond the last row
            self._top, self._row = max((self._top, self._row), before)

    def scroll_to_end(self, *, start: bool) -> None:
        """Scroll to the beginning, or to the end and follow."""
        if start:
            self._follow(on=False)
            self._put(0, 0)
        else:
            self._follow(on=True)
        self.repaint()

    def _follow(self, *, on: bool) -> None:
        if on:
            self._to_end()
        if on != self.following:
            self.following = on
            self.post_message(self.Changed())

    def action_follow(self) -> None:
        """Follow, or stop."""
        self._follow(on=not self.following)
        self.repaint()

    def action_sideways(self, steps: int) -> None:
        """Scroll sideways, when lines are cut."""
        self.left = 0 if self.wrapping else max(0, min(LINE_CELLS_MAX, self.left + steps * SIDE_STEP))
        self.repaint()

    def on_resize(self) -> None:
        """Stay at the end when following."""
        if self.following:
            self._to_end()

    def on_click(self, event: events.Click) -> None:
        """Clicks only give the focus."""
        event.stop()

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def action_wrap(self) -> None:
        """Wrap, or cut."""
        self.wrapping, self.left, self._row = not self.wrapping, 0, 0
        self.scroll_lines(0)
        if self.following:
            self._to_end()
        self.repaint()

    def action_times(self) -> None:
        """Show times, or not."""
        self.times = not self.times
        self.repaint()

    def action_stream(self) -> None:
        """Show the next choice of streams."""
        order = list(Stream)
        self.streams = order[(order.index(self.streams) + 1) % len(order)]
        self._begin_again()

    def action_matches(self) -> None:
        """Ask what to keep."""
        self.post_message(self.PromptWanted(self, "&"))

    def keep_only(self, text: str) -> None:
        """Show only lines with a text (any case); blank: all."""
        if text.lower() != self.keep:
            self.keep = text.lower()
            self._begin_again()

    def action_search(self) -> None:
        """Ask what to look for."""
        self.post_message(self.PromptWanted(self, "/"))

    def search(self, text: str) -> None:
        """Look for text (any case): the newest place at or above the last row that is seen."""
        self.wanted = text
        if text:
            self._go(min(self._walk(self.size.height)[0], len(self._numbers)) - 1, -1)
        self.repaint()

    def action_next(self, step: int) -> None:
        """Go to the next place, or the one before."""
        if self.wanted:
            self._go(self._place + step, step)

    def _go(self, place: int, step: int) -> None:
        """Go to the first line with the wanted text from a place on, round the end if need be."""
        total = len(self._numbers)
        for distance in range(total):
            at = (place + distance * step) % total
            if self._has_wanted(at):
                if not 0 <= place + distance * step < total:
                    self.post_message(self.Said("went on at the other end"))
                self._follow(on=False)
                self._put(at, 0)
                self.repaint()
                return
        self.post_message(self.Said(f"{self.wanted!r} is not in here"))

    def _has_wanted(self, place: int) -> bool:
        line = self.log_buffer.line(self._numbers[place])
        return line is not None and self.wanted.lower() in line.text.lower()


def _cells(text: str, start: int, end: int) -> str:
    """Return the part of a text between two cells."""
    if text.isascii():
        return text[start:end]
    shown, cells = [], 0
    for character in text:
        if start <= cells < end:
            shown.append(character)
        cells += cell_width(character)
        if cells >= end:
            break
    return "".join(shown)
