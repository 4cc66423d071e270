"""Downloads of results in the background: some at a time, taken up again by themselves when the line was cut.

The bytes are fetched and checked by the client library (`fetch_results`: chunks with hashes, whole files with theirs,
parts that are taken up); here is only which, where to, and how it goes. A download that was not finished goes on when
the same one is started again, also by another run of the program.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data.columns import Cell, Column, Layout
from bacalhau_tui.data.format import Tone, calm_age, clean, count, share
from bacalhau_tui.data.query import Field
from bacalhau_tui.data.store import Table

if TYPE_CHECKING:
    from bacalhau_protocol.client.client import Client
    from bacalhau_protocol.client.results import FetchedJob, FetchProgress

RUNNING_MAX = 2
"""So many at a time; others wait. Each has up to eight chunks in flight."""
DOWNLOADS_MAX = 200  # finished ones beyond that are forgotten
PAUSE_MIN_S, PAUSE_MAX_S = 0.5, 15.0
RETRY_FOR_S = 3600.0
"""So long without a byte, and it is given up."""


class State(enum.StrEnum):
    """How a download goes."""

    WAITING = "waiting"  # for its turn
    RUNNING = "running"
    BROKEN = "line lost"  # it is tried again
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


_TONES = {State.WAITING: Tone.WAITING, State.RUNNING: Tone.BUSY, State.BROKEN: Tone.WAITING, State.DONE: Tone.GOOD}
_LIVE = (State.WAITING, State.RUNNING, State.BROKEN)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What to fetch: all of a job, one execution (`execution`), or some of its files and directories (`paths`)."""

    job: str
    namespace: str
    execution: str = ""
    paths: tuple[str, ...] = ()
    directory: Path

    @property
    def words(self) -> str:
        """What it is, in a few words."""
        if len(self.paths) == 1:
            return clean(self.paths[0])
        if self.paths:
            return f"{len(self.paths)} files of {short_id(self.execution)}"
        return short_id(self.execution) if self.execution else f"all of {short_id(self.job)}"


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """One download, as lists show it. Totals are 0 until they are known; times are ns since the epoch."""

    key: str
    wanted: Wanted
    state: State
    begun: int
    done_bytes: int = 0
    total_bytes: int = 0
    words: str = ""  # what it came to, or why it failed

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return self.state in _LIVE


class Downloads:
    """All downloads of this run of the program. `require` returns the client, or raises while there is no link."""

    def __init__(
        self, require: Callable[[], Client], wake: Callable[[], None], clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.rows: Table[Download] = Table(DOWNLOADS_MAX, lambda row: None if row.live else row.begun)
        self.on_end: Callable[[Download], None] = lambda row: None
        self._require, self._wake, self._clock = require, wake, clock
        self._numbers = itertools.count(1)
        self._revisions = itertools.count(1)
        self._turns = asyncio.Semaphore(RUNNING_MAX)
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, wanted: Wanted) -> str:
        """Begin a download, or go on with the same one that had ended; return its key."""
        for key, row in self.rows.rows().items():
            if row.wanted == wanted:
                if not row.live:
                    self._begin(msgspec.structs.replace(row, state=State.WAITING, words="", done_bytes=0))
                return key
        key = str(next(self._numbers))
        self._begin(Download(key=key, wanted=wanted, state=State.WAITING, begun=self._clock()))
        return key

    def again(self, key: str) -> None:
        """Go on with a download that failed or was stopped."""
        if (row := self.rows.get(key)) is not None:
            self.start(row.wanted)

    def stop(self, key: str) -> None:
        """Stop a download; what is there stays."""
        if (task := self._tasks.get(key)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def live(self) -> list[Download]:
        """Those that go on."""
        return [row for row in self.rows.rows().values() if row.live]

    @property
    def summary(self) -> str:
        """Return how all of them go, in a few words; blank when none does."""
        live = self.live
        if not live:
            return ""
        done, total = sum(row.done_bytes for row in live), sum(row.total_bytes for row in live)
        states = {row.state for row in live}
        how = " line lost" if states == {State.BROKEN} else f" {share(done, total)}" if total else ""
        return f"{count(len(live))} {'download' if len(live) == 1 else 'downloads'}{how}"

    # ── work ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, row: Download) -> None:
        self._put(row)
        task = asyncio.create_task(self._run(row.key), name=f"download {row.key}")
        self._tasks[row.key] = task
        task.add_done_callback(lambda _: self._tasks.pop(row.key, None))

    def _put(self, row: Download) -> None:
        self.rows.put(row.key, row, next(self._revisions))
        self._wake()

    def _change(self, key: str, **changes: object) -> None:
        if (row := self.rows.get(key)) is not None:
            self._put(msgspec.structs.replace(row, **changes))

    async def _run(self, key: str) -> None:
        try:
            async with self._turns:
                fetched = await self._until_fetched(key)
            self._end(key, State.DONE if fetched.fetched else State.FAILED, _outcome(fetched))
        except asyncio.CancelledError:
            self._change(key, state=State.STOPPED, words="stopped; it goes on from here when it is started again")
            raise
        except errors.BacalhauError as error:
            words = f"{error}; {error.hint}" if error.hint else str(error)
            self._end(key, State.FAILED, words)

    def _end(self, key: str, state: State, words: str) -> None:
        self._change(key, state=state, words=words)
        if (row := self.rows.get(key)) is not None:
            self.on_end(row)

    async def _until_fetched(self, key: str) -> FetchedJob:
        """Fetch; when the line is lost, go on with what is missing."""
        given_up, pause_s, most = time.monotonic() + RETRY_FOR_S, PAUSE_MIN_S, 0
        while True:
            try:
                return await self._fetch(key)
            except (errors.Unavailable, errors.TimedOut, errors.Busy) as error:
                row = self.rows.get(key)
                if row is not None and row.done_bytes > most:
                    given_up, pause_s, most = time.monotonic() + RETRY_FOR_S, PAUSE_MIN_S, row.done_bytes
                if time.monotonic() > given_up:
                    raise
                self._change(key, state=State.BROKEN, words=error.message)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _fetch(self, key: str) -> FetchedJob:
        from bacalhau_protocol.client.results import fetch_results  # noqa: PLC0415  only when something is fetched

        row = self.rows.get(key)
        assert row is not None, "a live download is not forgotten"
        wanted, done, totals = row.wanted, dict[str, int](), dict[str, int]()

        def progress(now: FetchProgress) -> None:
            done[now.execution_id], totals[now.execution_id] = now.done_bytes, now.total_bytes
            self._change(
                key,
                state=State.RUNNING,
                done_bytes=sum(done.values()),
                total_bytes=sum(totals.values()),
                words=clean(now.path),
            )

        client = self._require()
        self._change(key, state=State.RUNNING, words="")
        return await fetch_results(
            client,
            wanted.job,
            wanted.directory,
            namespace=wanted.namespace,
            execution=wanted.execution,
            paths=wanted.paths,
            progress=progress,
        )


def _outcome(fetched: FetchedJob) -> str:
    if not fetched.fetched:
        return clean("; ".join(left.reason for left in fetched.not_fetched))
    files = sum(one.files for one in fetched.fetched)
    size, received = (sum(getattr(one, f"{what}_bytes") for one in fetched.fetched) for what in ("size", "received"))
    words = f"{count(files)} {'file' if files == 1 else 'files'}, {format_bytes(size)}, hashes checked"
    if received < size:
        words += f", {format_bytes(size - received)} were here"
    left_out = sum(len(one.skipped) for one in fetched.fetched)
    missing = len(fetched.not_fetched)
    return words + (f", {left_out} links left out" if left_out else "") + (f", {missing} not here" if missing else "")


# ── as a list ─────────────────────────────────────────────────────────────────────────────────────────────────────

_GLYPHS = {
    State.WAITING: ("·", "."),
    State.RUNNING: ("▶", ">"),
    State.BROKEN: ("?", "?"),
    State.DONE: ("✓", "+"),
    State.STOPPED: ("-", "-"),
}


def state_cell(row: Download) -> Cell:
    """Return how it goes, with glyph and share."""
    of = f" {share(row.done_bytes, row.total_bytes)}" if row.live and row.total_bytes else ""
    return Cell(f"{row.state.value}{of}", _TONES.get(row.state, Tone.BAD), *_GLYPHS.get(row.state, ("✗", "x")))


def _size(row: Download) -> str:
    if row.live and row.total_bytes:
        return f"{format_bytes(row.done_bytes)} of {format_bytes(row.total_bytes)}"
    return format_bytes(row.done_bytes) if row.done_bytes else ""


DOWNLOADS: Layout[Download] = Layout(
    columns=(
        Column(
            key="job",
            title="JOB",
            width=10,
            cell=lambda r, _: Cell(short_id(r.wanted.job)),
            order=lambda r, _: r.wanted.job,
        ),
        Column(
            key="what",
            title="WHAT",
            width=14,
            cell=lambda r, _: Cell(r.wanted.words),
            order=lambda r, _: r.wanted.words,
            middle=True,
        ),
        Column(key="state", title="STATE", width=15, cell=lambda r, _: state_cell(r), order=lambda r, _: r.state),
        Column(
            key="size",
            title="SIZE",
            width=20,
            cell=lambda r, _: Cell(_size(r)),
            order=lambda r, _: r.done_bytes,
            right=True,
            wide=True,
        ),
        Column(
            key="where",
            title="INTO",
            width=14,
            cell=lambda r, _: Cell(clean(str(r.wanted.directory))),
            order=lambda r, _: str(r.wanted.directory),
            middle=True,
            flexible=True,
        ),
        Column(
            key="words",
            title="WORDS",
            width=30,
            cell=lambda r, _: Cell(clean(r.words)),
            order=lambda r, _: r.words,
            wide=True,
        ),
        Column(
            key="age",
            title="AGE",
            width=6,
            cell=lambda r, now: Cell(calm_age(r.begun, now)),
            order=lambda r, _: r.begun,
            right=True,
        ),
    ),
    fields={
        field.name: field
        for field in (
            Field(name="job", get=lambda row, _: row.wanted.job),
            Field(name="state", get=lambda row, _: row.state.value, prefix=True, help=",".join(State)),
            Field(name="into", get=lambda row, _: str(row.wanted.directory)),
        )
    },
    search=lambda row: f"{row.wanted.job} {row.wanted.words} {row.wanted.directory} {row.words}".lower(),
    order="age",
    reverse=True,
    problem=lambda row: row.state in (State.FAILED, State.BROKEN),
)
