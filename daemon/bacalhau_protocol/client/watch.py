"""A job and its executions, from now until the job's end: what `--wait`, followed logs and detail screens stand on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.feed import AskAgain, Changed, Feed, FeedEvent, Heard, Silent
from bacalhau_protocol.models.execution import EXIT_CODE_UNKNOWN, Execution
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.states import ComputeStateType, DesiredStateType, JobStateType

EXECUTIONS_WATCHED_MAX = 100_000
EXIT_FAILED, EXIT_STOPPED = 1, 10
"""Exit status of a command that waited for a job that failed, or was stopped."""

_CODE_MAX = 255
_NEVER_RAN = ("AskForBidRejected", "BidRejected")


class JobUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it is now; executions by partition and creation, of all versions."""

    id: str
    name: str
    namespace: str
    version: int
    state: str
    message: str
    executions: tuple[m.ExecutionRow, ...]
    connected: bool = True  # False: the feed is silent, this may be old

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return JobStateType(self.state).terminal if self.state in _JOB_STATES else False

    @property
    def current(self) -> tuple[m.ExecutionRow, ...]:
        """The executions of the newest version that got as far as being given to a node."""
        return tuple(row for row in self.executions if row.job_version == self.version and row.state not in _NEVER_RAN)

    @property
    def exit_status(self) -> int:
        """What a command that waited should exit with.

        0: completed, and each program with 0. Another: completed, and the first program (by partition) that did not
        end with 0 ended with this (0 to 255). `EXIT_FAILED`, `EXIT_STOPPED`: the job failed, was stopped.
        """
        if self.state == JobStateType.STOPPED:
            return EXIT_STOPPED
        if self.state != JobStateType.COMPLETED:
            return EXIT_FAILED
        codes = [row.exit_code for row in self.current if row.state == "Completed"]
        failures = [code for code in codes if code not in (0, EXIT_CODE_UNKNOWN)]
        return _as_status(failures[0]) if failures else 0


def _as_status(code: int) -> int:
    """Return an exit code as a shell can see it: 1 to 255."""
    return code if 0 < code <= _CODE_MAX else _CODE_MAX


_JOB_STATES = frozenset(state.value for state in JobStateType)


def execution_row(execution: Execution, phase: m.Phase | None = None) -> m.ExecutionRow:
    """Return an execution as the feed shows it."""
    state, desired, output = execution.compute_state, execution.desired_state, execution.run_output
    message = state.message if isinstance(state.message, str) else ""
    return m.ExecutionRow(
        id=execution.id,
        job_id=execution.job_id,
        node_id=execution.node_id,
        namespace=execution.namespace,
        state=ComputeStateType(state.state_type).label,
        desired=DesiredStateType(desired.state_type).name.capitalize(),
        message=message or (output.error_message if output else ""),
        partition=execution.partition_index if isinstance(execution.partition_index, int) else 0,
        job_version=execution.job_version,
        created=execution.create_time,
        modified=execution.modify_time,
        exit_code=output.exit_code if output else 0,
        phase=phase,
    )


async def all_executions(
    client: Client, job: str, namespace: str, *, at_least: int = 0
) -> tuple[dict[str, m.ExecutionRow], int]:
    """Return all executions of a job by id, and the log position of the answer."""
    rows: dict[str, m.ExecutionRow] = {}
    page, position = "", 0
    while len(rows) < EXECUTIONS_WATCHED_MAX:
        request = m.JobRef(job=job, namespace=namespace, page=page)
        answer = await client.ask("job.executions", request, m.ExecutionPage, at_least=at_least)
        for execution in answer.body.executions:
            rows[execution.id] = execution_row(execution, answer.body.phases.get(execution.id))
        page, position = answer.body.next_page, position or answer.position
        if not page:
            break
    return rows, position


class _Watched:
    """What is known of the job, put together from answers and changes."""

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self.id, self.name, self.namespace = job.id, job.name, job.namespace or "default"
        self._version, self._state, self._message = 0, "", ""
        self._rows: dict[str, m.ExecutionRow] = {}
        self._seqs: dict[str, int] = {}
        self._connected = True

    async def ask(self, at_least: int = 0) -> None:
        """Take everything from the orchestrator; changes that are newer than its answer stay."""
        reference = m.JobRef(job=self.id, namespace=self.namespace)
        answer = await self._client.ask("job.get", reference, m.JobFull, at_least=at_least)
        rows, position = await all_executions(self._client, self.id, self.namespace, at_least=at_least)
        if self._seqs.get(self.id, 0) <= answer.position:
            job = answer.body.job
            message = job.state.message if isinstance(job.state.message, str) else ""
            self._version, self._state, self._message = job.version, job.state.state_type.value, message
        newer = {key: row for key, row in self._rows.items() if self._seqs.get(key, 0) > position}
        self._rows = {**rows, **newer}

    def take(self, change: Changed) -> None:
        """Put one change in."""
        if self._seqs.get(change.key, 0) > change.seq:
            return
        self._seqs[change.key] = change.seq
        if change.kind == "job" and change.key == self.id and not change.deleted:
            row = msgspec.convert(change.row, m.JobRow)
            self._version, self._state, self._message = row.version, row.state, row.message
        elif change.kind == "execution" and change.deleted:
            self._rows.pop(change.key, None)
        elif change.kind == "execution":
            self._rows[change.key] = msgspec.convert(change.row, m.ExecutionRow)

    def hear(self, connected: bool) -> None:
        """Note whether the feed speaks."""
        self._connected = connected

    def update(self) -> JobUpdate:
        """Return how things stand."""
        return JobUpdate(
            id=self.id,
            name=self.name,
            namespace=self.namespace,
            version=self._version,
            state=self._state,
            message=self._message,
            executions=tuple(sorted(self._rows.values(), key=lambda row: (row.partition, row.created, row.id))),
            connected=self._connected,
        )


async def watch_job(client: Client, job: str, *, namespace: str = "default") -> AsyncGenerator[JobUpdate, None]:
    """Yield a job as it is now, then whenever something about it has changed; end with its end.

    Outages in between are waited out, the update's `connected` says so. The last update is complete: all executions
    with their exit codes.

    Raises
    ------
    NotFound
        when there is no such job, or it was deleted meanwhile.
    """
    watched = _Watched(client, (await client.get_job(job, namespace=namespace)).job)
    patterns = [
        subjects.feed(watched.namespace, "job", watched.id),
        subjects.feed(watched.namespace, "execution", watched.id, "*"),
    ]
    async with Feed(client, patterns, whole=False) as feed:
        await watched.ask()
        last = watched.update()
        yield last
        while not last.ended:
            position = await _take_in(feed, watched, client)
            if watched.update().ended:
                # The job's row may have overtaken rows of its executions.
                await _ask_until_answered(client, watched, position)
            if (update := watched.update()) != last:
                last = update
                yield update


async def _take_in(feed: Feed, watched: _Watched, client: Client) -> int:
    """Wait for events, take in all that are there, and return the newest log position among them."""
    position = 0
    events: list[FeedEvent] = [await anext(feed)]
    while feed.waiting():
        events.append(await anext(feed))
    for event in events:
        match event:
            case Changed():
                watched.take(event)
                position = max(position, event.seq)
            case Silent() | Heard():
                watched.hear(isinstance(event, Heard))
            case AskAgain():
                position = max(position, event.seq)
    if any(isinstance(event, AskAgain) for event in events):
        await _ask_until_answered(client, watched, position)
    return position


async def _ask_until_answered(client: Client, watched: _Watched, position: int) -> None:
    while True:
        try:
            return await watched.ask(position)
        except (errors.Unavailable, errors.TimedOut, errors.Busy):
            await asyncio.sleep(client.timing.pause_max_s)
