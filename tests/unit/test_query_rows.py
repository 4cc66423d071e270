"""Rows lose nothing: a restart reads back exactly what the fold had made."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bacalhau_daemon.core.events import Why
from bacalhau_daemon.core.state import ExecutionState, JobState, Status
from bacalhau_daemon.query import rows
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import JobStateType
from tests.builders_query import job_spec

NASTY = ['"spec":null', '\\"spec\\":null', "\u2028\x00\n", '{"spec":null}']


def full_job(**changes: Any) -> JobState:
    """A job with no field at its default."""
    spec = job_spec(7, "named", labels={"a": '"spec":null'})
    fields: dict[str, Any] = {
        "j": 7,
        "id": spec.id,
        "name": spec.name,
        "namespace": "other",
        "spec": spec,
        "version": 3,
        "revision": 9,
        "state": JobStateType.QUEUED,
        "message": "why",
        "details": {"spec": "null"},
        "created": 1,
        "submitted": 2,
        "queued": 3,
        "modified": 4,
        "ended": 5,
        "running": 6,
        "completed": 7,
        "failed": 8,
        "unplaced": Why(nodes=3, dropped={"engine": 3}),
        "eval": "v-1",
        "by": "alice",
        "request": "r-1",
    }
    assert set(fields) == set(JobState.__struct_fields__), "a new field needs a value here"
    return JobState(**{**fields, **changes})


def full_execution() -> ExecutionState:
    """An execution with no field at its default."""
    return ExecutionState(
        x=5,
        id="e-5",
        j=7,
        job_id="j-7",
        namespace="other",
        job_version=3,
        node="n-1",
        partition=2,
        attempt=4,
        resources=Resources(cpu=1.5, memory=2, disk=3, gpu=1),
        status=Status.FAILED,
        revision=6,
        message="bad",
        desired_message="stop",
        details={"IsError": "true"},
        created=1,
        modified=2,
        approved=3,
        ended=4,
        owed=True,
        why=Why(nodes=1, fit=1, scores=(("n-1", 5),)),
        eval="v-1",
        result=SpecConfig("nats", {"a": 1}),
        output=RunOutput(stdout="out", exit_code=3),
    )


@pytest.mark.parametrize("text", ["plain", *NASTY])
def test_a_job_comes_back_from_its_two_parts(text: str) -> None:
    """Whatever stands in its texts, the specification goes back to its own place."""
    job = full_job(id=text, name=text, namespace=text, message=text, details={text: text})
    assert rows.join_job(rows.job_body(job), rows.spec_body(job.spec)) == job


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_any_text_survives(text: str, details: dict[str, str]) -> None:
    """The same for texts that nobody thought of."""
    job = full_job(name=text, message=text, details=details)
    assert rows.join_job(rows.job_body(job), rows.spec_body(job.spec)) == job


def test_a_jobs_row_has_no_specification() -> None:
    """It is 2 kB, never changes, and lies in a table of its own."""
    job = full_job()
    assert b'"spec":null' in rows.job_body(job)
    assert b"noop" not in rows.job_body(job)
    assert rows.read_spec(rows.spec_body(job.spec)) == job.spec


def test_an_execution_comes_back() -> None:
    """All of it."""
    execution = full_execution()
    defaults = {field.name: field.default for field in msgspec.structs.fields(ExecutionState)}
    at_default = [name for name, value in defaults.items() if getattr(execution, name) == value]
    assert at_default == [], "a new field needs a value in full_execution"
    assert rows.read_execution(rows.execution_row(execution, live=True)[3]) == execution


def test_a_name_that_is_the_id_is_not_kept_twice() -> None:
    """Unnamed jobs, which are most of a busy cluster's, cost no entry in the index of names."""
    unnamed = full_job(name=full_job().id)
    assert rows.new_job_row(unnamed, 1, live=True)[8] is None
    assert rows.new_job_row(full_job(), 1, live=True)[8] == "named"
