"""Lists, look-ups and pages of the query side."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.requests import Lookup
from bacalhau_daemon.query import views
from bacalhau_daemon.query.reader import SEVERAL_MAX, QueryReader
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol.api.messages import PAGE_BYTES_MAX, PAGE_ROWS_MAX, JobPage, JobQuery, JobRef, JobRow
from bacalhau_protocol.errors import NotFound, UsageError
from bacalhau_protocol.models.constraints import matches_all, parse_selector
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.states import ComputeStateType, DesiredStateType
from tests.builders_query import Cluster, job_spec, life

LABELS = ["", "prod", "dev", "7", "-3", "+5", "12x", "99999999999999999999", "1.5"]
SELECTORS = [
    "a",
    "!a",
    "a=prod",
    "a==7",
    "a!=prod",
    "a in (prod,dev)",
    "a notin (prod,7)",
    "a>4",
    "a<4",
    "a>-9",
    "a<9999999999999999999",
    "a,b",
    "a!=prod,!b",
    "x.io/y=1",
]

Open = Callable[[Cluster], QueryReader]


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


def submit(cluster: Cluster, *specs: Job) -> None:
    """Submit jobs, each in a record of its own."""
    for j, spec in enumerate(specs, cluster.state.next_j):
        cluster.put(ev.JobSubmitted(j=j, spec=spec, by="alice"))


def names(page: JobPage) -> list[str]:
    return [row.name for row in page.jobs]


def every_page(reader: QueryReader, query: JobQuery) -> list[JobRow]:
    """Follow the tokens; each page says the same total."""
    page = reader.jobs(query)
    found, total = list(page.jobs), page.total
    while page.next_page:
        page = reader.jobs(msgspec.structs.replace(query, page=page.next_page))
        assert page.total == total
        assert page.jobs, "a token leads to something"
        found += page.jobs
    assert len(found) == total
    return found


# ── lists ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_says_what_a_table_shows(open_reader: Open) -> None:
    """And it is the same pure function of the state that the feed uses."""
    cluster = Cluster()
    for events in life(1, 1, job_spec(1, "one", priority=3))[:2]:
        cluster.put(*events)
    (row,) = open_reader(cluster).jobs(JobQuery()).jobs
    assert row == views.job_row(cluster.state.jobs[1])
    assert (row.name, row.engine, row.state, row.running, row.by) == ("one", "noop", "Running", 1, "alice")


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [("created", "bca"), ("modified", "bca"), ("name", "abc"), ("priority", "cba"), ("", "bca"), ("NAME", "abc")],
)
def test_lists_are_ordered(order_by: str, expected: str, open_reader: Open) -> None:
    """Newest, last changed and most urgent first, names from A; `reverse` turns it round."""
    cluster = Cluster()
    submit(cluster, job_spec(1, "a", priority=1), job_spec(2, "c", priority=2), job_spec(3, "b", priority=1))
    reader = open_reader(cluster)
    assert "".join(names(reader.jobs(JobQuery(order_by=order_by)))) == expected
    assert "".join(names(reader.jobs(JobQuery(order_by=order_by, reverse=True)))) == expected[::-1]


@pytest.mark.parametrize("order_by", ["created", "modified", "name", "priority"])
@pytest.mark.parametrize("reverse", [False, True])
def test_pages_hold_every_job_once(order_by: str, reverse: bool, open_reader: Open) -> None:
    """Whatever the order, and with many equal keys."""
    cluster, chance = Cluster(), random.Random(1)
    specs = [job_spec(j, chance.choice(["", f"n{j}"]), priority=chance.randrange(3)) for j in range(1, 60)]
    submit(cluster, *specs)
    reader = open_reader(cluster)
    found = every_page(reader, JobQuery(order_by=order_by, reverse=reverse, limit=7))
    whole = reader.jobs(JobQuery(order_by=order_by, reverse=reverse, limit=PAGE_ROWS_MAX)).jobs
    assert found == whole
    assert len({row.id for row in found}) == 59


def test_a_page_stays_valid_while_jobs_come(tmp_path: Path) -> None:
    """Pages go on after the last row, not after a number of rows: nothing is shown twice or left out."""
    cluster, store = Cluster(), QueryStore(tmp_path / "query.db")
    submit(cluster, *(job_spec(j) for j in range(1, 21)))
    store.apply(cluster.take())
    reader = QueryReader(tmp_path / "query.db", cluster.log)
    page = reader.jobs(JobQuery(limit=10))
    submit(cluster, *(job_spec(j) for j in range(21, 30)))
    store.apply(cluster.take())
    following = reader.jobs(JobQuery(limit=10, page=page.next_page))
    assert [row.id for row in page.jobs + following.jobs] == [job_spec(j).id for j in range(20, 0, -1)]
    reader.close()
    store.close()


def test_lists_are_filtered(open_reader: Open) -> None:
    """By namespace, state, type, and part of an id or a name; totals count all pages."""
    cluster = Cluster()
    submit(cluster, job_spec(1, "alpha"), job_spec(2, "beta", "other"), job_spec(3, "50%_off", type="ops"))
    for events in life(4, 4, job_spec(4, "Alphabet")):
        cluster.put(*events)
    reader = open_reader(cluster)

    def found(**filters: object) -> set[str]:
        page = reader.jobs(msgspec.convert({"Limit": 100, **filters}, JobQuery))
        assert page.total == len(page.jobs)
        return set(names(page))

    everything = {"alpha", "beta", "50%_off", "Alphabet"}
    assert found() == found(Namespace="*") == everything
    assert found(Namespace="other") == {"beta"}
    assert found(Namespace="nowhere") == set()
    assert found(States=["Completed"]) == {"Alphabet"}
    assert found(States=["pending", "COMPLETED"]) == everything
    assert found(Types=["ops"]) == {"50%_off"}
    assert found(Text="ALPHA") == {"alpha", "Alphabet"}
    assert found(Text="%_") == {"50%_off"}
    assert found(Text=job_spec(2).id[:10]) == {"beta"}
    assert found(Text="alpha", States=["Pending"]) == {"alpha"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.sampled_from(SELECTORS), st.sampled_from(SELECTORS))
def test_selectors_decide_as_constraints_do(labelled: QueryReader, one: str, two: str) -> None:
    """The SQL of a selector finds exactly the jobs whose labels satisfy its constraints."""
    for selector in (one, f"{one},{two}"):
        constraints = parse_selector(selector)
        found = {row.id for row in labelled.jobs(JobQuery(labels=selector, limit=PAGE_ROWS_MAX)).jobs}
        assert found == {spec.id for spec in LABELLED if matches_all(constraints, spec.labels or {})}


LABELLED = [
    job_spec(number, labels=labels)
    for number, labels in enumerate(
        [
            None,
            {},
            {"x.io/y": "1"},
            *({"a": a} for a in LABELS),
            *({"a": a, "b": b} for a in LABELS for b in ("", "1")),
        ],
        start=1,
    )
]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueryReader]:
    """A reader of jobs with many labels."""
    path = tmp_path_factory.mktemp("labelled") / "query.db"
    cluster, store = Cluster(), QueryStore(path)
    submit(cluster, *LABELLED)
    store.apply(cluster.take())
    reader = QueryReader(path, cluster.log)
    yield reader
    reader.close()
    store.close()


def test_a_page_is_never_larger_than_a_message_may_be(open_reader: Open) -> None:
    """A thousand rows with long names come in several pages."""
    cluster = Cluster()
    submit(cluster, *(job_spec(j, f"{j:04d}" + "n" * 400) for j in range(1, 501)))
    reader = open_reader(cluster)
    page = reader.jobs(JobQuery(limit=PAGE_ROWS_MAX))
    assert len(msgspec.json.encode(page)) <= PAGE_BYTES_MAX
    assert 100 < len(page.jobs) < 500
    assert len(every_page(reader, JobQuery(limit=PAGE_ROWS_MAX))) == 500


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (JobQuery(order_by="age"), "'age' is not known"),
        (JobQuery(states=["Runing"]), "'Runing' is not known"),
        (JobQuery(types=["cron"]), "'cron' is not known"),
        (JobQuery(limit=-1), "-1 is not a limit"),
        (JobQuery(labels="a=="), ""),
        (JobQuery(labels="a=(b"), "column 3"),
        (JobQuery(text="x" * 300), "300 characters"),
        (JobQuery(page="%%%"), "this page token cannot be read"),
        (JobQuery(page="e30"), "this page token cannot be read"),
    ],
)
def test_a_wrong_query_is_refused_in_words(query: JobQuery, words: str, open_reader: Open) -> None:
    """Never an empty list for a mistake."""
    reader = open_reader(Cluster())
    if not words:
        assert reader.jobs(query).jobs == []
        return
    with pytest.raises(UsageError, match=words) as caught:
        reader.jobs(query)
    assert caught.value.hint or caught.value.place


def test_a_near_name_is_suggested(open_reader: Open) -> None:
    """The hint names what was probably meant."""
    with pytest.raises(UsageError) as caught:
        open_reader(Cluster()).jobs(JobQuery(states=["Runing"]))
    assert caught.value.hint == "did you mean Running?"


def test_a_page_token_of_another_query_is_refused(open_reader: Open) -> None:
    """It would skip rows silently."""
    cluster = Cluster()
    submit(cluster, *(job_spec(j) for j in range(1, 5)))
    reader = open_reader(cluster)
    token = reader.jobs(JobQuery(limit=2)).next_page
    with pytest.raises(UsageError, match="belongs to another query"):
        reader.jobs(JobQuery(limit=2, namespace="other", page=token))


def test_counts_are_by_state(open_reader: Open) -> None:
    """In one namespace or in all."""
    cluster = Cluster()
    submit(cluster, job_spec(1), job_spec(2, namespace="other"))
    for events in life(3, 1, job_spec(3)):
        cluster.put(*events)
    reader = open_reader(cluster)
    assert reader.counts() == {"Pending": 2, "Completed": 1}
    assert reader.counts("other") == {"Pending": 1}


# ── look-up ───────────────────────────────────────────────────────────────────────────────────────────────────────


def lookups() -> Cluster:
    """Jobs whose names and ids are easily mistaken for each other."""
    cluster = Cluster()
    first, second = job_spec(1).id, job_spec(2).id
    submit(
        cluster,
        job_spec(1, "train"),
        job_spec(2, "train", "other"),
        job_spec(3, first),  # its name is another job's id
        job_spec(4),
        msgspec.structs.replace(job_spec(5, "short"), id="short-id"),
        msgspec.structs.replace(job_spec(6, "longer"), id="short-id-2"),
    )
    assert second.startswith("j-0000000")
    return cluster


@pytest.mark.parametrize(
    ("ref", "namespace", "expected"),
    [
        ("train", "default", 1),
        ("train", "", 1),
        ("train", "other", 2),
        (job_spec(1).id, "default", 3),  # a name comes before an id
        (job_spec(1).id, "other", 1),
        (job_spec(2).id, "default", 2),  # an id is found in any namespace
        ("j-00000004", "default", 4),
        (job_spec(4).id, "default", 4),
        ("short-id", "default", 5),  # a whole id, though it is also the start of another
    ],
)
def test_a_job_is_found_by_name_id_or_start_of_an_id(
    ref: str, namespace: str, expected: int, open_reader: Open
) -> None:
    """In this order, as Bacalhau does it; look-ups for the machine follow the same rules."""
    reader = open_reader(lookups())
    found = reader.job(JobRef(job=ref, namespace=namespace)).job
    asked = reader.lookup(Lookup(user="alice", ref=ref, namespace=namespace or "default"))
    assert asked.job is not None
    assert asked.job.j == expected
    assert asked.job.id == found.id


def test_the_start_of_several_ids_lists_them(open_reader: Open) -> None:
    """So that one can be chosen."""
    reader = open_reader(lookups())
    with pytest.raises(UsageError, match="multiple jobs found for id j-0000000: j-00000001, j-00000002") as caught:
        reader.job(JobRef(job="j-0000000"))
    assert caught.value.hint == "Use full job ID"
    found = reader.lookup(Lookup(user="alice", ref="j-0000000", namespace="default"))
    assert found.job is None
    assert found.several == tuple(job_spec(j).id for j in range(1, 5))


def test_no_more_than_a_few_are_listed(open_reader: Open) -> None:
    """However many there are."""
    cluster = Cluster()
    submit(cluster, *(job_spec(j) for j in range(1, 50)))
    found = open_reader(cluster).lookup(Lookup(user="alice", ref="j-", namespace="default"))
    assert len(found.several) == SEVERAL_MAX


def test_an_exact_name_is_not_an_id(open_reader: Open) -> None:
    """A submission asks for the name only; the start of a name is nothing."""
    reader = open_reader(lookups())

    def named(name: str, namespace: str = "default") -> int | None:
        job = reader.lookup(Lookup(user="alice", name=name, namespace=namespace)).job
        return job.j if job is not None else None

    assert named("train") == 1
    assert named("train", "other") == 2
    assert named("trai") is None
    assert named("train", "third") is None
    assert named(job_spec(4).id) == 4  # an unnamed job's name is its id
    assert named(job_spec(4).id, "other") is None


def test_what_is_not_there_is_said(open_reader: Open) -> None:
    """Job, version, and the question itself."""
    reader = open_reader(lookups())
    with pytest.raises(NotFound, match="job not found: nothing"):
        reader.job(JobRef(job="nothing"))
    with pytest.raises(NotFound, match="job version 7 not found for job j-00000004"):
        reader.job(JobRef(job="j-00000004", version=7))
    with pytest.raises(UsageError, match=r"which job\?"):
        reader.job(JobRef(job=""))
    assert reader.lookup(Lookup(user="alice", ref="nothing", namespace="default")).job is None


# ── one job ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_shown_as_bacalhau_shows_it(open_reader: Open) -> None:
    """The specification with state, version, revision and times filled in."""
    cluster = Cluster()
    for events in life(1, 1, job_spec(1, "one"))[:2]:
        cluster.put(*events)
    shown = open_reader(cluster).job(JobRef(job="one"))
    wire = msgspec.to_builtins(shown.job)
    assert wire["State"] == {"StateType": "Running"}
    assert (wire["Version"], wire["Name"], wire["Tasks"][0]["Engine"]["Type"]) == (1, "one", "noop")
    assert 0 < wire["CreateTime"] < wire["ModifyTime"]
    (execution,) = shown.executions
    assert execution.compute_state.state_type is ComputeStateType.BID_ACCEPTED
    assert execution.desired_state.state_type is DesiredStateType.RUNNING
    assert execution.allocated_resources is not None
    assert list(execution.allocated_resources.tasks or ()) == ["main"]
    assert "PartitionIndex" not in msgspec.to_builtins(execution)


def many_executions(count: int, text: str) -> Cluster:
    """A job with many failed executions that said something."""
    cluster = Cluster()
    submit(cluster, job_spec(1, "many", count=count))
    for x in range(1, count + 1):
        cluster.put(ev.ExecutionPlanned(x=x, id=f"e-{x}", j=1, node="n-1", partition=x - 1))
        cluster.put(ev.ExecutionEnded(x=x, to=ev.End.FAILED, message="bad", output=RunOutput(stdout=text)))
    return cluster


def test_executions_come_in_pages(open_reader: Open) -> None:
    """Each page fits into a message, and they hold every execution once, in order of creation."""
    reader = open_reader(many_executions(300, "x" * 2000))
    found: list[str] = []
    page = reader.executions(JobRef(job="many"))
    pages = 1
    while True:
        assert len(msgspec.json.encode(page)) <= PAGE_BYTES_MAX
        found += [execution.id for execution in page.executions]
        if not page.next_page:
            break
        page = reader.executions(JobRef(job="many", page=page.next_page))
        pages += 1
    assert found == [f"e-{x}" for x in range(1, 301)]
    assert pages > 1
    full = reader.job(JobRef(job="many"))
    assert len(msgspec.json.encode(full)) <= PAGE_BYTES_MAX
    with pytest.raises(UsageError, match="page token"):
        reader.executions(JobRef(job="many", page="x"))


def test_executions_are_those_of_one_version(open_reader: Open) -> None:
    """The latest unless another is asked for."""
    cluster = many_executions(2, "old")
    cluster.put(ev.JobSubmitted(j=1, spec=job_spec(1, "many"), kind=ev.Submission.UPDATE, version=2, revision=9))
    cluster.put(ev.ExecutionPlanned(x=3, id="e-3", j=1, node="n-1", version=2))
    reader = open_reader(cluster)
    assert [one.id for one in reader.executions(JobRef(job="many")).executions] == ["e-3"]
    assert [one.id for one in reader.executions(JobRef(job="many", version=1)).executions] == ["e-1", "e-2"]
    assert [one.id for one in reader.job(JobRef(job="many", version=1)).executions] == ["e-1", "e-2"]
