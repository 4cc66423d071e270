"""A program on a terminal of its own (a pty): every byte that it writes there is counted, keys can be typed.

There is no emulator: what is looked for are words in what was written, escape sequences left out. Textual asks its
terminal what it can do, and waits for answers; the usual ones are given.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

PATIENCE_S = 20.0
CHUNK_BYTES = 65_536
_ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_].*?\x1b\\|[@-Z\\-_=>78])", re.S)
_FRAME_END = b"\x1b[?2026l"
_ANSWERS = {
    b"\x1b[?2026$p": b"\x1b[?2026;2$y",  # synchronised output: yes
    b"\x1b[?2048$p": b"\x1b[?2048;0$y",  # resize reports: no
    b"\x1b[?u": b"\x1b[?0u",  # Kitty's keyboard protocol: off
    b"\x1b[c": b"\x1b[?62;22c",
}


class Terminal:
    """See the module. Use it as a context manager on the event loop; leaving ends the program."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], size: tuple[int, int] = (80, 24), cwd: str = "."
    ) -> None:
        """`size` is columns and rows."""
        self.written = bytearray()
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            env={**environment, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            cwd=cwd,
        )
        os.close(slave)
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, CHUNK_BYTES)
        except OSError:  # the program has gone
            asyncio.get_running_loop().remove_reader(self._master)
            data = b""
        self.written += data
        for question, answer in _ANSWERS.items():
            if question in data:
                os.write(self._master, answer)
        self._news.set()

    def type(self, keys: str) -> None:
        """Type keys, as the terminal would send them."""
        os.write(self._master, keys.encode())

    def words(self, since: int = 0) -> str:
        """Return what was written from a byte on, without escape sequences."""
        return _ESCAPES.sub(b"", bytes(self.written[since:])).decode(errors="replace")

    async def shows(self, *words: str, since: int = 0, timeout_s: float = PATIENCE_S) -> float:
        """Wait until all these words were written from a byte on; return the seconds since the program's start."""
        try:
            async with asyncio.timeout(timeout_s):
                while not all(word in self.words(since) for word in words):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            missing = [word for word in words if word not in self.words(since)]
            raise AssertionError(f"never written: {missing}; this was:\n{self.words(since)}") from None
        return time.perf_counter() - self.began

    async def frame(self, since: int, timeout_s: float = PATIENCE_S) -> None:
        """Wait until a whole update of the screen was written from a byte on."""
        async with asyncio.timeout(timeout_s):
            while self.written.find(_FRAME_END, since) < 0:
                self._news.clear()
                await self._news.wait()

    async def quiet(self, for_s: float, timeout_s: float = PATIENCE_S) -> None:
        """Wait until nothing is written for so long."""
        async with asyncio.timeout(timeout_s):
            while await self.bytes_within(for_s):
                pass

    async def bytes_within(self, seconds: float) -> int:
        """Let time pass; return how many bytes were written meanwhile."""
        before, end = len(self.written), time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self._news.clear()
            try:
                async with asyncio.timeout(left):
                    await self._news.wait()
            except TimeoutError:
                break
        return len(self.written) - before

    async def ended(self, number: int = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, timeout_s)
