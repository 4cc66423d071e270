"""The query side's tables, and what entities look like in them: the only place that knows both.

Everything is keyed by the integers `j`, `x` and event numbers of the log. An entity's row holds the columns that
queries need, and the entity itself as JSON, so that nothing is lost and a restart reads what was written. A job's
specification is 2 kB and changes only with its version, so it lies in a table of its own, and its place in the JSON is
left empty. History is no copy either: `(j, seq)` says in which records there is something about a job.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from bacalhau_daemon.core.state import ExecutionState, JobState
from bacalhau_protocol.models.job import Job

FORMAT = 1  # of this file: another number and the query side is built again from the log

SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    # one row per job, as its newest version is now; `live`: loaded at a restart; `spec`: its key in specs; `name` is
    # NULL where it is the id
    "CREATE TABLE jobs (j INTEGER PRIMARY KEY, live INTEGER NOT NULL, state TEXT NOT NULL, modified INTEGER NOT NULL,"
    " priority INTEGER NOT NULL, spec INTEGER NOT NULL, type TEXT NOT NULL, namespace TEXT NOT NULL,"
    " name TEXT, id TEXT NOT NULL, labels TEXT, body BLOB NOT NULL)",
    "CREATE UNIQUE INDEX jobs_id ON jobs (id)",
    "CREATE UNIQUE INDEX jobs_name ON jobs (namespace, name) WHERE name IS NOT NULL",
    "CREATE INDEX jobs_state ON jobs (state)",
    "CREATE INDEX jobs_live ON jobs (j) WHERE live",
    # one row per version, keyed by the event that made it; `before`: the version before; `last`: how that one ended
    "CREATE TABLE specs (seq INTEGER PRIMARY KEY, before INTEGER NOT NULL, spec BLOB NOT NULL, last BLOB)",
    "CREATE TABLE executions (x INTEGER PRIMARY KEY, live INTEGER NOT NULL, j INTEGER NOT NULL, body BLOB NOT NULL)",
    "CREATE INDEX executions_job ON executions (j)",
    "CREATE INDEX executions_live ON executions (x) WHERE live",
    # the first event about a job in each record that has any
    "CREATE TABLE history (j INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (j, seq)) WITHOUT ROWID",
    # writes by Request-Id; `seq`: the event that answers it
    "CREATE TABLE requests (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, user TEXT NOT NULL, request TEXT NOT NULL)",
    "CREATE UNIQUE INDEX requests_id ON requests (request, user)",
    "CREATE TABLE entities (kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key))"
    " WITHOUT ROWID",
)

INSERT_JOB = (  # values by number: by name costs 5 us per row
    "INSERT INTO jobs (j, live, state, modified, priority, spec, type, namespace, name, id, labels, body)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    " ON CONFLICT (j) DO UPDATE SET live = ?2, state = ?3, modified = ?4, priority = ?5, spec = ?6, type = ?7,"
    " labels = ?11, body = ?12"
)
UPDATE_JOB = "UPDATE jobs SET live = ?, state = ?, modified = ?, body = ? WHERE j = ?"
INSERT_EXECUTION = (
    "INSERT INTO executions (x, live, j, body) VALUES (?1, ?2, ?3, ?4)"
    " ON CONFLICT (x) DO UPDATE SET live = ?2, body = ?4"
)

_NO_SPEC: Any = msgspec.Raw(b"null")
_EMPTY, _FILLED = b'"spec":null', b'"spec":'
"""The first of these in a job's JSON is the place of its specification: quotes inside texts are escaped."""

_encode = msgspec.json.Encoder().encode
_job = msgspec.json.Decoder(JobState).decode
_spec = msgspec.json.Decoder(Job).decode
_execution = msgspec.json.Decoder(ExecutionState).decode


def job_body(job: JobState) -> bytes:
    """Return a job without its specification, which `join_job` puts back."""
    return _encode(replace(job, spec=_NO_SPEC))


def join_job(body: bytes, spec: bytes) -> JobState:
    """Return a job from its two parts."""
    return _job(body.replace(_EMPTY, _FILLED + spec, 1))


def spec_body(spec: Job) -> bytes:
    """Return a specification."""
    return _encode(spec)


def read_spec(body: bytes) -> Job:
    """Read a specification."""
    return _spec(body)


def new_job_row(job: JobState, spec_seq: int, *, live: bool) -> tuple[Any, ...]:
    """Return the values of `INSERT_JOB`, for a job with a new version."""
    spec = job.spec
    name = job.name if job.name != job.id else None
    labels = _encode(spec.labels).decode() if spec.labels else None
    first = (job.j, live, job.state, job.modified, spec.priority, spec_seq)
    return (*first, spec.type, job.namespace, name, job.id, labels, job_body(job))


def job_row(job: JobState, *, live: bool) -> tuple[Any, ...]:
    """Return the values of `UPDATE_JOB`, for a job of a version that has its row."""
    return live, job.state, job.modified, job_body(job), job.j


def execution_row(execution: ExecutionState, *, live: bool) -> tuple[Any, ...]:
    """Return the values of `INSERT_EXECUTION`."""
    return execution.x, live, execution.j, _encode(execution)


def read_execution(body: bytes) -> ExecutionState:
    """Read an execution."""
    return _execution(body)


def entity_body(entity: msgspec.Struct) -> bytes:
    """Return any other entity."""
    return _encode(entity)
