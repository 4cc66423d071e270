"""One job, as a detail screen shows it. Loads only what is asked for; what changes by itself is followed.

The screen calls `start`, then `load_…` for the tab that is seen, and again when woken and `stale` names that part.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.logs import LogEnd, LogNote, LogPiece, LogSource, follow_logs
from bacalhau_protocol.client.transfer import NodeFiles
from bacalhau_protocol.client.watch import JobUpdate, watch_job
from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.job import Job
from bacalhau_tui.data.loglines import LogBuffer
from bacalhau_tui.data.store import Table

EXECUTIONS_MAX = 20_000
HISTORY_MAX = 5_000
FILES_SHOWN_MAX = 10_000
RETRY_S = 1.0
LOG_BATCH_S = 0.1
LOG_TAIL_BYTES = 4 * 1024 * 1024  # a log view begins this far before the end

PARTS = ("why", "history", "spec", "results")


class ResultTree:
    """The files that one execution left, or why they cannot be listed."""

    def __init__(self, access: m.Access) -> None:
        self.access = access
        self.files: list[m.FileEntry] = []
        self.error: errors.BacalhauError | None = None


class JobDetail:
    """A job with its executions, followed; history, explanation, specification, results and logs on demand."""

    def __init__(
        self, client: Client, job: str, *, namespace: str = "default", wake: Callable[[], None] | None = None
    ) -> None:
        self.client, self.job_ref, self.namespace = client, job, namespace
        self.revision = 0
        self.update: JobUpdate | None = None
        self.executions: Table[m.ExecutionRow] = Table(EXECUTIONS_MAX, lambda row: row.modified)
        self.job: Job | None = None
        self.why: m.Explanation | None = None
        self.history: list[JobHistory] = []
        self.results: list[ResultTree] = []
        self.log = LogBuffer()
        self.log_end: LogEnd | None = None
        self.watch_error: errors.BacalhauError | None = None  # why the job cannot be followed
        self.part_errors: dict[str, errors.BacalhauError] = {}  # why a part could not be loaded
        self.stale: set[str] = set(PARTS)  # parts that are older than the job's last change
        self._wake = wake
        self._again = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._log_reader: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the job."""
        assert self._watcher is None, "started twice"
        self._watcher = asyncio.create_task(self._watch(), name=f"detail of {self.job_ref}")

    async def close(self) -> None:
        """Stop following."""
        tasks = [task for task in (self._watcher, self._log_reader) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def follow_again(self) -> None:
        """Follow a job that had ended and runs again (a new version, as the store's row shows)."""
        self._again.set()

    # ── on demand ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def load(self, part: str) -> None:
        """Load one of `PARTS`; an error is kept in `part_errors`, the part stays stale."""
        loaders: dict[str, Callable[[], Awaitable[None]]] = {
            "why": self._load_why,
            "history": self._load_history,
            "spec": self._load_spec,
            "results": self._load_results,
        }
        self.stale.discard(part)
        try:
            await loaders[part]()
            self.part_errors.pop(part, None)
        except errors.BacalhauError as error:
            self.part_errors[part] = error
            self.stale.add(part)
        self._changed()

    async def _load_why(self) -> None:
        self.why = await self.client.explain(m.JobExplain(job=self._id, namespace=self.namespace))

    async def _load_history(self) -> None:
        while len(self.history) < HISTORY_MAX:
            after = self.history[-1].seq if self.history else 0
            query = m.HistoryQuery(job=self._id, namespace=self.namespace, after=after, limit=m.PAGE_ROWS_MAX)
            page = await self.client.job_history(query)
            self.history.extend(page.items)
            if not page.next_after:
                break

    async def _load_spec(self) -> None:
        self.job = (await self.client.get_job(self._id, namespace=self.namespace)).job

    async def _load_results(self) -> None:
        page = await self.client.result_access(self._id, namespace=self.namespace)
        trees = [ResultTree(access) for access in page.executions if access.ticket or access.result]
        for tree in trees:
            if tree.access.ticket:
                await self._list_files(tree)
        self.results = trees

    async def _list_files(self, tree: ResultTree) -> None:
        async def renew() -> str:
            return tree.access.ticket

        try:
            tree.files = (await NodeFiles(self.client, tree.access, renew).list())[:FILES_SHOWN_MAX]
        except errors.BacalhauError as error:
            tree.error = error

    @property
    def error(self) -> errors.BacalhauError | None:
        """What went wrong last, if it still is."""
        return self.watch_error or next(iter(self.part_errors.values()), None)

    @property
    def _id(self) -> str:
        return self.update.id if self.update is not None else self.job_ref

    # ── followed ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(
                    watch_job(self.client, self.job_ref, namespace=self.namespace)
                ) as updates:
                    async for update in updates:
                        self._take(update)
                await self._again.wait()
            except errors.NotFound as error:
                self._fail(error)
                return
            except errors.BacalhauError as error:
                self._fail(error)
                await asyncio.sleep(RETRY_S)
            self._again.clear()

    def _take(self, update: JobUpdate) -> None:
        rows = {row.id: row for row in update.executions}
        self.executions.snapshot(rows, self.executions.position + 1, complete=True)
        self.update, self.watch_error = update, None
        self.stale = set(PARTS)
        self._changed()

    def _fail(self, error: errors.BacalhauError) -> None:
        self.watch_error = error
        self._changed()

    def _changed(self) -> None:
        self.revision += 1
        if self._wake is not None:
            self._wake()

    # ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def follow_log(self, execution: str = "") -> None:
        """Begin to read the logs of all executions (or of one) into `log`, from near their ends on."""
        self.stop_log()
        self.log, self.log_end = LogBuffer(), None
        self._log_reader = asyncio.create_task(self._read_log(execution), name=f"log of {self.job_ref}")

    def stop_log(self) -> None:
        """Stop reading; what is in `log` stays."""
        if self._log_reader is not None:
            self._log_reader.cancel()
            self._log_reader = None

    async def _read_log(self, execution: str) -> None:
        log, waiting = self.log, list[LogPiece]()
        flusher = asyncio.create_task(self._flush_log(waiting))
        try:
            events = follow_logs(
                self.client,
                self._id,
                namespace=self.namespace,
                execution=execution,
                tail_bytes=LOG_TAIL_BYTES,
            )
            async with contextlib.aclosing(events):
                async for event in events:
                    match event:
                        case LogSource():
                            log.add_source(event.execution_id, event.node_id)
                        case LogPiece():
                            waiting.append(event)
                        case LogNote(text=text):
                            log.note(text, time.time_ns())
                            self._changed()
                        case LogEnd():
                            self.log_end = event
        except errors.BacalhauError as error:
            log.note(f"the log cannot be read: {error}", time.time_ns())
        finally:
            flusher.cancel()
            log.feed(waiting)
            log.finish()
            self._changed()

    async def _flush_log(self, waiting: list[LogPiece]) -> None:
        """Hand pieces over in batches, so that a chatty program costs ten updates a second."""
        while True:
            await asyncio.sleep(LOG_BATCH_S)
            if waiting:
                self.log.feed(waiting)
                waiting.clear()
                self._changed()
