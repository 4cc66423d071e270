"""Waiting for a job in front of a person: what it does now on stderr, how it ended on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.watch import JobUpdate, watch_job
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.output import Head
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.tables import execution_exit, execution_note, execution_state

NOTE_PAUSE_S = 2.0  # progress within a phase is said this often
PHASES_MAX = 16


class PhaseSeen(msgspec.Struct, frozen=True, rename="pascal"):
    """A phase of an execution and when it began (ns, by the node's clock)."""

    name: str
    since: int


class Story:
    """Follows updates and says what is new; remembers phases for the summary."""

    def __init__(self, context: Context) -> None:
        self._out = context.out
        self.phases: dict[str, list[PhaseSeen]] = {}
        self._said: dict[str, str] = {}
        self._noted_at: dict[str, float] = {}

    def take(self, update: JobUpdate) -> None:
        """Say what changed."""
        self._say("link", "" if update.connected else "the orchestrator is silent; waiting")
        self._say("job", f"{update.state}{f': {update.message}' if update.message else ''}")
        for row in update.current:
            self._remember(row)
            state = fmt.mark(execution_state(row)).word
            note = execution_note(row)
            note = "" if note.split(" ")[0] in (state, row.state) else note  # `Completed successfully` says nothing new
            key, now = row.id, time.monotonic()
            if self._said.get(key, "").split("  ")[0] == state and now - self._noted_at.get(key, 0) < NOTE_PAUSE_S:
                continue
            if self._say(key, f"{state}  {note}".rstrip(), f"{short_id(row.id)} on {short_id(row.node_id)}: "):
                self._noted_at[key] = now

    def _say(self, key: str, text: str, prefix: str = "") -> bool:
        new = text != self._said.get(key, "")
        self._said[key] = text
        if new and text:
            self._out.say(f"{fmt.clock(time.time_ns())[:8]} {prefix}{text}")
        return new

    def _remember(self, row: m.ExecutionRow) -> None:
        seen = self.phases.setdefault(row.id, [])
        phase = row.phase
        if phase is not None and len(seen) < PHASES_MAX and (not seen or seen[-1].name != phase.name):
            seen.append(PhaseSeen(phase.name, phase.since))

    def phases_text(self, row: m.ExecutionRow) -> str:
        """Return `Preparing 1.2s, Running 3.4s`; the last phase ends with the execution."""
        seen = self.phases.get(row.id, [])
        ends = [*(phase.since for phase in seen[1:]), row.modified]
        spans = zip(seen, ends, strict=False)  # none seen: the last end is of nothing
        return ", ".join(f"{phase.name} {fmt.duration(end - phase.since)}" for phase, end in spans)


async def wait_for_job(context: Context, client: Client, job_id: str, namespace: str, timeout_s: float) -> int:
    """Wait for a job's end, telling the story, then print how it ended; return the exit code.

    Raises
    ------
    TimedOut
        when the job has not ended within `timeout_s` (0: no limit).
    """
    story = Story(context)
    update: JobUpdate | None = None
    try:
        async with (
            asyncio.timeout(timeout_s or None),
            contextlib.aclosing(watch_job(client, job_id, namespace=namespace)) as updates,
        ):
            async for update in updates:
                story.take(update)
    except TimeoutError as error:
        raise errors.TimedOut(
            f"job {job_id} has not ended within {timeout_s:g} s", hint=f"it goes on: job logs -f {short_id(job_id)}"
        ) from error
    assert update is not None, "a watch yields at least once"
    if context.machine:
        context.out.value(await _as_value(client, update, story))
    else:
        _print_summary(context, update, story)
    return update.exit_status


async def _as_value(client: Client, update: JobUpdate, story: Story) -> dict[str, object]:
    full = await client.get_job(update.id, namespace=update.namespace)
    executions = (await client.list_executions(update.id, namespace=update.namespace)).executions
    return {
        "JobID": update.id,
        "Job": full.job,
        "Executions": executions,
        "Phases": story.phases,
        "ExitCode": update.exit_status,
    }


def _print_summary(context: Context, update: JobUpdate, story: Story) -> None:
    context.out.pairs(
        [
            ("Job", update.id),
            ("Name", update.name if update.name != update.id else ""),
            ("State", update.state),
            ("Message", update.message),
            ("Exit code", str(update.exit_status)),
        ]
    )
    rows: list[list[Cell | str]] = [
        [
            short_id(row.id),
            short_id(row.node_id),
            Cell(fmt.mark(row.state).word, fmt.mark(row.state).tone),
            execution_exit(row),
            fmt.duration(row.modified - row.created),
            story.phases_text(row) or row.message,
        ]
        for row in update.current
    ]
    if rows:
        context.out.line()
        heads = [Head("EXECUTION"), Head("NODE", middle=True), Head("STATE"), Head("EXIT", right=True)]
        context.out.table([*heads, Head("TOOK", right=True), Head("PHASES", flexible=True)], rows)
