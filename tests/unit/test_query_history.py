"""A job's history: Bacalhau's words, in log order, read from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.events import Cause, End, Why
from bacalhau_daemon.query.history import RECORDS_READ_MAX
from bacalhau_daemon.query.reader import QueryReader
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol.api.messages import PAGE_BYTES_MAX, PAGE_ROWS_MAX, HistoryQuery
from bacalhau_protocol.errors import NotFound, UsageError
from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.states import JobStateType
from tests.builders_query import Cluster, job_spec, life

Open = Callable[[Cluster], QueryReader]
EXECUTION = "e-00000001-0000-4000-8000-000000000000"


@pytest.fixture
def open_reader(tmp_path: Path) -> Iterator[Open]:
    """A function that writes what a cluster has done and returns the reader."""
    store = QueryStore(tmp_path / "query.db")
    opened: list[QueryReader] = []

    def open_(cluster: Cluster) -> QueryReader:
        store.apply(cluster.take())
        opened.append(QueryReader(tmp_path / "query.db", cluster.log))
        return opened[-1]

    yield open_
    for reader in opened:
        reader.close()
    store.close()


def history(reader: QueryReader, limit: int = 100, execution: str = "") -> list[JobHistory]:
    """Follow the pages to the end."""
    items: list[JobHistory] = []
    after = 0
    while True:
        page = reader.history(HistoryQuery(job="one", after=after, limit=limit, execution=execution))
        assert len(page.items) <= limit
        items += page.items
        if not page.next_after:
            return items
        assert page.next_after > after
        after = page.next_after


def told(items: list[JobHistory]) -> list[tuple[str, str, str]]:
    return [(item.type, item.event.topic, item.event.message) for item in items]


def test_a_typical_history_is_worded_as_bacalhau_words_it(open_reader: Open) -> None:
    """Clients of Bacalhau print these texts."""
    cluster = Cluster()
    for events in life(1, 1, job_spec(1, "one")):
        cluster.put(*events)
    items = history(open_reader(cluster))
    assert told(items) == [
        ("JobLevel", "Submission", "Job submitted"),
        ("ExecutionLevel", "Scheduling", "Requested execution on n-1"),
        ("ExecutionLevel", "Execution", "Running"),
        ("JobLevel", "State Update", "Running"),
        ("ExecutionLevel", "Execution", "Completed successfully"),
        ("JobLevel", "State Update", "Completed"),
    ]
    wire = msgspec.to_builtins(items)
    assert [line["SeqNum"] for line in wire] == [3, 4, 5, 6, 7, 8]
    assert wire[0] == {
        "SeqNum": 3,
        "Type": "JobLevel",
        "JobID": job_spec(1).id,
        "JobVersion": 1,
        "Event": {"Message": "Job submitted", "Topic": "Submission", "Timestamp": "2023-11-14T22:13:22Z"},
        "Time": "2023-11-14T22:13:22Z",
    }
    assert wire[1]["ExecutionID"] == EXECUTION
    assert wire[1]["Event"]["Details"] == {"NodeID": "n-1"}
    assert wire[5]["Event"]["Details"] == {"NewState": "Completed"}


def test_only_the_jobs_own_events_are_told(open_reader: Open) -> None:
    """Jobs that share records do not see each other."""
    cluster = Cluster()
    for one, two in zip(life(1, 1, job_spec(1, "one")), life(2, 2, job_spec(2, "two")), strict=True):
        cluster.put(*two, *one)
    assert {item.job_id for item in history(open_reader(cluster))} == {job_spec(1).id}


WHY = Why(nodes=3)
CASES: list[tuple[list[ev.AnyEvent], list[tuple[str, str, str]]]] = [
    (
        [ev.JobStopped(j=1, id="j", reason="enough"), ev.ExecutionEnded(x=1, to=End.CANCELLED, message="stopped")],
        [
            ("JobLevel", "Scheduling", "Job requested to stop before completion"),
            ("ExecutionLevel", "Execution", "stopped"),
        ],
    ),
    (
        [
            ev.JobUnplaced(j=1, partitions=1, why=WHY, message="no room"),
            ev.JobStateChanged(j=1, to=JobStateType.QUEUED, cause=Cause.NO_NODE, message="Job queued. no room"),
        ],
        [("JobLevel", "Queueing", "Job queued. no room")],
    ),
    (
        [ev.JobUnplaced(j=1, partitions=1, why=WHY, message="no room for one")],
        [("JobLevel", "Queueing", "no room for one")],
    ),
    (
        [
            ev.ExecutionEnded(
                x=1, to=End.FAILED, message="broke", topic="Running Execution", reported="2020-01-01T00:00:00Z"
            ),
            ev.JobStateChanged(j=1, to=JobStateType.FAILED, cause=Cause.RETRIES, message="tried too often"),
        ],
        [
            ("ExecutionLevel", "Running Execution", "broke"),
            ("JobLevel", "Scheduling", "tried too often"),
        ],
    ),
    (
        [
            ev.ExecutionEnded(x=1, to=End.FAILED, cause=Cause.RUN_TIMEOUT, message="Execution timed out."),
            ev.JobStateChanged(j=1, to=JobStateType.FAILED, cause=Cause.JOB_TIMEOUT, message="Job timed out."),
        ],
        [("ExecutionLevel", "Exec Timeout", "Execution timed out."), ("JobLevel", "Job Timeout", "Job timed out.")],
    ),
    (
        [ev.ExecutionEnded(x=1, to=End.LOST, cause=Cause.NODE_LOST, message="node has disappeared")],
        [("ExecutionLevel", "Scheduling", "node has disappeared")],
    ),
    (
        [ev.ExecutionEnded(x=1, to=End.LOST, cause=Cause.NODE_RESTARTED, message="Failing due to node restart")],
        [("ExecutionLevel", "Execution", "Failing due to node restart")],
    ),
    ([ev.ExecutionEnded(x=1, to=End.REFUSED)], [("ExecutionLevel", "Execution", "Execution refused")]),
]


@pytest.mark.parametrize(("events", "expected"), CASES)
def test_each_event_has_its_line(
    events: list[ev.AnyEvent], expected: list[tuple[str, str, str]], open_reader: Open
) -> None:
    """Topics and words, one line per event, and what would be said twice is said once."""
    cluster = Cluster()
    cluster.put(*life(1, 1, job_spec(1, "one"))[0])
    cluster.put(*events)
    items = history(open_reader(cluster))[2:]
    assert told(items) == expected
    failures = [item for item in items if "broke" in item.event.message or "timed out" in item.event.message]
    assert all(item.event.details == {"IsError": "true"} for item in failures)
    assert all(item.event.timestamp == "2020-01-01T00:00:00Z" for item in items if item.event.message == "broke")


def test_versions_are_told_apart(open_reader: Open) -> None:
    """Each line says of which version it is."""
    cluster = Cluster()
    for events in life(1, 1, job_spec(1, "one")):
        cluster.put(*events)
    for version, kind in ((2, ev.Submission.UPDATE), (3, ev.Submission.RERUN)):
        cluster.put(ev.JobSubmitted(j=1, spec=job_spec(1, "one"), kind=kind, version=version, revision=version))
    items = history(open_reader(cluster))
    assert [item.job_version for item in items] == [1] * 6 + [2, 3]
    assert [message for _, _, message in told(items[6:])] == ["Job updated", "Job rerun requested"]


def many(count: int) -> Cluster:
    """A job with many executions, each in two records of its own."""
    cluster = Cluster()
    cluster.put(ev.JobSubmitted(j=1, spec=job_spec(1, "one", count=count)))
    for x in range(1, count + 1):
        cluster.put(ev.ExecutionPlanned(x=x, id=f"e-{x:04d}", j=1, node="n-1", partition=x - 1))
        cluster.put(ev.BidApproved(x=x))
    return cluster


@pytest.mark.parametrize("limit", [1, 3, 100, PAGE_ROWS_MAX])
def test_pages_hold_every_line_once(limit: int, open_reader: Open) -> None:
    """Whatever the limit; a page may be short, but its number always leads on."""
    reader = open_reader(many(RECORDS_READ_MAX))
    assert [item.seq for item in history(reader, limit)] == list(range(3, 4 + 2 * RECORDS_READ_MAX))


def test_pages_cut_records_in_the_middle(open_reader: Open) -> None:
    """Several lines of one record may fall on different pages."""
    cluster = Cluster()
    cluster.put(*(event for events in life(1, 1, job_spec(1, "one")) for event in events))
    reader = open_reader(cluster)
    assert [item.seq for item in history(reader, 1)] == [item.seq for item in history(reader, 4)] == [3, 4, 5, 6, 7, 8]


def test_a_history_of_one_execution(open_reader: Open) -> None:
    """Only its own lines; the start of its id is enough."""
    items = history(open_reader(many(70)), 5, "e-0069")
    assert [(item.execution_id, item.event.message) for item in items] == [
        ("e-0069", "Requested execution on n-1"),
        ("e-0069", "Running"),
    ]


def test_a_page_is_never_larger_than_a_message_may_be(open_reader: Open) -> None:
    """Long reasons come in several pages."""
    cluster = Cluster()
    cluster.put(ev.JobSubmitted(j=1, spec=job_spec(1, "one", count=400)))
    cluster.put(*(ev.ExecutionPlanned(x=x, id=f"e-{x}", j=1, node="n-1", partition=x - 1) for x in range(1, 401)))
    cluster.put(*(ev.ExecutionEnded(x=x, to=End.FAILED, message="m" * 2000) for x in range(1, 401)))
    reader = open_reader(cluster)
    page = reader.history(HistoryQuery(job="one", limit=PAGE_ROWS_MAX))
    assert len(msgspec.json.encode(page)) <= PAGE_BYTES_MAX
    assert len(history(reader, PAGE_ROWS_MAX)) == 801


def test_what_the_log_no_longer_holds_is_left_out(open_reader: Open) -> None:
    """A trimmed log shortens histories; the rest is told."""
    cluster = Cluster()
    for events in life(1, 1, job_spec(1, "one")):
        cluster.put(*events)
    cluster.log.trim(3)
    assert [item.seq for item in history(open_reader(cluster))] == [5, 6, 7, 8]


def test_wrong_questions_are_refused(open_reader: Open) -> None:
    """An unknown job, a negative limit."""
    reader = open_reader(Cluster())
    with pytest.raises(NotFound):
        reader.history(HistoryQuery(job="one"))
    with pytest.raises(UsageError):
        reader.history(HistoryQuery(job="one", limit=-1))
