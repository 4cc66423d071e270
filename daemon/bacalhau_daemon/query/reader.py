"""Questions to the query side. A reader has its own connection, and each question sees one moment."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_daemon.core.answers import encode_first_answer
from bacalhau_daemon.core.events import CODEC
from bacalhau_daemon.core.requests import Found, Lookup
from bacalhau_daemon.core.state import ClusterState, CredentialState, ExecutionState, JobState, NodeRecord
from bacalhau_daemon.log.base import LogReader
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.query import rows, views
from bacalhau_daemon.query.filters import select_jobs
from bacalhau_daemon.query.history import PAGE_BYTES, HistoryReader
from bacalhau_daemon.query.store import BUSY_TIMEOUT_S, CACHE_KB
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.errors import NotFound, UsageError
from bacalhau_protocol.models import ids
from bacalhau_protocol.models.execution import Execution

SEVERAL_MAX = 10  # ids named when the start of one is not enough
EXECUTIONS_READ_MAX = 2000  # looked at for one page


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a restart needs: everything live as it was after record `chain.n`."""

    chain: Chain
    cluster: ClusterState
    jobs: list[JobState]
    executions: list[ExecutionState]  # in order of creation
    nodes: list[NodeRecord]
    credentials: list[CredentialState]


class QueryReader:
    """The reading half; one thread uses it."""

    def __init__(self, path: Path, log: LogReader) -> None:
        self._path = path
        self._db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            isolation_level=None,
            timeout=BUSY_TIMEOUT_S,
            check_same_thread=False,
        )
        self._db.execute(f"PRAGMA cache_size=-{CACHE_KB}")
        self._log = log

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def twin(self) -> QueryReader:
        """Return another reader of the same files, for another thread."""
        return QueryReader(self._path, self._log)

    @contextmanager
    def _moment(self) -> Iterator[sqlite3.Connection]:
        """See the file as it is now until the end of the block."""
        self._db.execute("BEGIN")
        try:
            yield self._db
        finally:
            self._db.execute("ROLLBACK")

    def position(self) -> int:
        """Return the number of the last event that is in the rows."""
        return self._chain().event

    def _chain(self) -> Chain:
        row = self._db.execute("SELECT value FROM meta WHERE key = 'chain'").fetchone()
        return msgspec.json.decode(row[0], type=Chain)

    # ── for the machine ───────────────────────────────────────────────────────────────────────────────────────────

    def load(self) -> Loaded:
        """Return everything live."""
        with self._moment() as db:
            jobs = db.execute(
                "SELECT body, specs.spec FROM jobs JOIN specs ON specs.seq = jobs.spec WHERE live ORDER BY j"
            )
            executions = db.execute("SELECT body FROM executions WHERE live ORDER BY x")
            return Loaded(
                chain=self._chain(),
                cluster=next(iter(self._entities("cluster", ClusterState)), ClusterState()),
                jobs=[rows.join_job(body, spec) for body, spec in jobs],
                executions=[rows.read_execution(body) for (body,) in executions],
                nodes=self._entities("node", NodeRecord),
                credentials=self._entities("credential", CredentialState),
            )

    def _entities(self, kind: str, of: type[Any]) -> list[Any]:
        found = self._db.execute("SELECT body FROM entities WHERE kind = ?", (kind,))
        return [msgspec.json.decode(body, type=of) for (body,) in found]

    def lookup(self, question: Lookup) -> Found:
        """Answer what the machine must know before it can decide a request."""
        if not question.name and not question.ref:
            return self._repeated(question)
        with self._moment():
            found: Sequence[tuple[int, str]] = ()
            if question.name:
                found = self._named(question.name, question.namespace)
            elif question.ref:
                found = self._matching(question.ref, question.namespace)
            return Found(
                as_of=self.position(),
                answer=self._first_answer(question.user, question.request) if question.request else b"",
                job=self._job(found[0][0]) if len(found) == 1 else None,
                several=tuple(job_id for _, job_id in found) if len(found) > 1 else (),
            )

    def _repeated(self, question: Lookup) -> Found:
        """Look for a Request-Id alone, in one statement: nearly every request asks just that."""
        statement = (
            "SELECT value, (SELECT seq FROM requests WHERE request = ? AND user = ?) FROM meta WHERE key = 'chain'"
        )
        chain, seq = self._db.execute(statement, (question.request, question.user)).fetchone()
        return Found(as_of=msgspec.json.decode(chain, type=Chain).event, answer=self._answer_of(seq))

    def _first_answer(self, user: str, request: str) -> bytes:
        statement = "SELECT seq FROM requests WHERE request = ? AND user = ?"
        row = self._db.execute(statement, (request, user)).fetchone()
        return self._answer_of(row[0] if row is not None else None)

    def _answer_of(self, seq: int | None) -> bytes:
        held = self._log.holding(seq) if seq is not None else None
        if seq is None or held is None:
            return b""
        record = CODEC.decode(held[1])
        return encode_first_answer(record.events[seq - record.first_event])

    # ── for clients ───────────────────────────────────────────────────────────────────────────────────────────────

    def jobs(self, query: m.JobQuery) -> m.JobPage:
        """Return a page of a list. Raises `UsageError` when the query is wrong."""
        selection = select_jobs(query)
        with self._moment() as db:
            if selection.after is not None:
                total = selection.after.total
            else:
                total = db.execute(*selection.count()).fetchone()[0]
            found = db.execute(*selection.rows()).fetchall()
        page: list[m.JobRow] = []
        size = 0
        for row in found[: selection.limit]:
            line = views.job_row(rows.join_job(*row[2:]))
            size += len(msgspec.json.encode(line)) + 1
            if size > PAGE_BYTES:
                break
            page.append(line)
        following = ""
        if len(page) < len(found):
            key, j = found[len(page) - 1][:2]
            following = selection.next_page(key, j, total)
        return m.JobPage(jobs=page, next_page=following, total=total)

    def job(self, ref: m.JobRef) -> m.JobFull:
        """Return a job, at one of its versions, with the executions of that version as far as a page holds them."""
        with self._moment():
            job = self._at_version(self._resolve(ref.job, ref.namespace), ref.version)
            shown = views.job_of(job)
            room = PAGE_BYTES - len(msgspec.json.encode(shown))
            executions, _ = self._executions(job, after=0, room=room)
            return m.JobFull(job=shown, executions=executions)

    def executions(self, ref: m.JobRef) -> m.ExecutionPage:
        """Return a page of a version's executions, in order of creation. `phases` is for the machine to fill in."""
        after = _read_number(ref.page)
        with self._moment():
            job = self._at_version(self._resolve(ref.job, ref.namespace), ref.version)
            page, following = self._executions(job, after, PAGE_BYTES)
            return m.ExecutionPage(executions=page, next_page=str(following) if following else "")

    def history(self, query: m.HistoryQuery) -> m.HistoryPage:
        """Return a page of a job's history, all versions, in log order."""
        if query.limit < 0 or query.after < 0:
            raise UsageError("Limit and After cannot be negative", place="Limit", hint=f"give 1 to {m.PAGE_ROWS_MAX}")
        limit = min(query.limit or m.PAGE_ROWS_DEFAULT, m.PAGE_ROWS_MAX)
        with self._moment() as db:
            j, job_id = self._resolve(query.job, query.namespace)
            return HistoryReader(db, self._log, j, job_id).page(query.after, limit, query.execution)

    def counts(self, namespace: str = "") -> dict[str, int]:
        """Return how many jobs there are by state, in one namespace or in all."""
        where = "WHERE namespace = ?" if namespace else ""
        values = (namespace,) if namespace else ()
        return dict(self._db.execute(f"SELECT state, count(*) FROM jobs {where} GROUP BY state", values))  # noqa: S608

    # ── look-up ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _resolve(self, ref: str, namespace: str) -> tuple[int, str]:
        """Return `j` and id of the job that is meant; raises `NotFound`, or `UsageError` when there are several."""
        if not ref:
            raise UsageError("which job?", place="Job", hint="give its name, its id, or the start of its id")
        found = self._matching(ref, namespace or ids.NAMESPACE_DEFAULT)
        if not found:
            raise NotFound(f"job not found: {ref}", place="Job", hint="`bacalhau-tui job list` shows them all")
        if len(found) > 1:
            several = ", ".join(ids.short_id(job_id) for _, job_id in found)
            raise UsageError(f"multiple jobs found for id {ref}: {several}", place="Job", hint="Use full job ID")
        return found[0]

    def _matching(self, ref: str, namespace: str) -> Sequence[tuple[int, str]]:
        """Look for a name in the namespace, then for an id anywhere, then for the start of one."""
        if found := self._named(ref, namespace):
            return found
        exact = self._db.execute("SELECT j, id FROM jobs WHERE id = ?", (ref,)).fetchall()
        if exact or ids.is_full(ref, ids.JOB):
            return exact
        low, high = ids.prefix_range(ref)
        several = "SELECT j, id FROM jobs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
        return self._db.execute(several, (low, high, SEVERAL_MAX)).fetchall()

    def _named(self, name: str, namespace: str) -> Sequence[tuple[int, str]]:
        statement = (
            "SELECT j, id FROM jobs WHERE namespace = ?1 AND name = ?2"
            " UNION ALL SELECT j, id FROM jobs WHERE id = ?2 AND namespace = ?1 AND name IS NULL"
        )
        return self._db.execute(statement, (namespace, name)).fetchall()[:1]

    def _job(self, j: int) -> JobState:
        statement = "SELECT body, specs.spec FROM jobs JOIN specs ON specs.seq = jobs.spec WHERE j = ?"
        return rows.join_job(*self._db.execute(statement, (j,)).fetchone())

    def _at_version(self, found: tuple[int, str], version: int) -> JobState:
        j, job_id = found
        job = self._job(j)
        if version in (0, job.version):
            return job
        (seq,) = self._db.execute("SELECT spec FROM jobs WHERE j = ?", (j,)).fetchone()
        while seq:
            seq, spec, last = self._db.execute("SELECT before, spec, last FROM specs WHERE seq = ?", (seq,)).fetchone()
            if last is not None and (old := rows.join_job(last, spec)).version == version:
                return old
        hint = f"it has versions 1 to {job.version}"
        raise NotFound(f"job version {version} not found for job {job_id}", place="Version", hint=hint)

    def _executions(self, job: JobState, after: int, room: int) -> tuple[list[Execution], int]:
        """Return executions of the job's version after `x`, and the `x` to go on from, 0 at the end."""
        page: list[Execution] = []
        found = self._db.execute(
            "SELECT x, body FROM executions WHERE j = ? AND x > ? ORDER BY x LIMIT ?",
            (job.j, after, EXECUTIONS_READ_MAX + 1),
        )
        task, last = job.spec.task.name, after
        for number, (x, body) in enumerate(found):
            if number == EXECUTIONS_READ_MAX:
                return page, last
            execution = rows.read_execution(body)
            if execution.job_version == job.version:
                shown = views.execution_of(execution, task)
                room -= len(msgspec.json.encode(shown)) + 1
                if room < 0 or len(page) == m.PAGE_ROWS_MAX:
                    return page, last
                page.append(shown)
            last = x
        return page, 0


def _read_number(page: str) -> int:
    if page and not page.isdecimal():
        hint = "use NextPage of the answer before, or leave it out to begin anew"
        raise UsageError("this page token cannot be read", place="Page", hint=hint)
    return int(page or 0)
