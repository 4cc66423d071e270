"""The query side's file: what it holds after each batch is what the state was, and it knows how far it has got."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.answers import decode_first_answer
from bacalhau_daemon.core.requests import Lookup
from bacalhau_daemon.core.state import Status
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.query import store as store_module
from bacalhau_daemon.query.reader import Loaded, QueryReader
from bacalhau_daemon.query.store import PRUNE_EVERY_NS, REQUESTS_KEPT_NS, QueryStore
from bacalhau_protocol.api.messages import JobRef, JobSubmitted, StopAnswer
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.states import JobStateType
from tests.builders_query import Cluster, job_spec, life


class Side:
    """A cluster and its query side."""

    def __init__(self, path: Path) -> None:
        self.cluster = Cluster()
        self.store = QueryStore(path)
        self.reader = QueryReader(path, self.cluster.log)

    def sync(self, *, each: bool = False) -> None:
        """Write what the cluster has done, in one batch or record by record."""
        projects = self.cluster.take()
        for batch in [[project] for project in projects] if each else [projects]:
            self.store.apply(batch)

    def loaded(self) -> Loaded:
        return self.reader.load()

    def close(self) -> None:
        self.reader.close()
        self.store.close()


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path / "query.db")
    yield side
    side.close()


def run_jobs(cluster: Cluster, number: int, records: int = 3) -> None:
    """Run jobs one after another, each through its first `records` records."""
    first = cluster.state.next_j
    for j in range(first, first + number):
        for events in life(j, j, job_spec(j), request=f"r-{j}")[:records]:
            cluster.put(*events)


@pytest.mark.parametrize("each", [True, False])
@pytest.mark.parametrize("records", [1, 2, 3])
def test_what_is_loaded_is_the_state(each: bool, records: int, side: Side) -> None:
    """At any point, in one batch or record by record, a restart finds exactly the live entities."""
    side.cluster.put(ev.NodeJoined(node="n-1", info=NodeInfo(node_id="n-1")))
    side.cluster.put(ev.CredentialIssued(identity="n-1", role=ev.Role.COMPUTE, sha256="ab", by="admin"))
    run_jobs(side.cluster, 3)
    run_jobs(side.cluster, 3, records)
    side.sync(each=each)
    state, loaded = side.cluster.state, side.loaded()
    assert loaded.chain == side.cluster.chain == side.store.chain
    assert loaded.cluster == state.cluster_state()
    assert {job.j: job for job in loaded.jobs} == state.jobs
    assert {execution.x: execution for execution in loaded.executions} == state.executions
    assert {node.id: node for node in loaded.nodes} == state.nodes
    assert {credential.sha256: credential for credential in loaded.credentials} == state.credentials


def test_an_empty_file_loads_as_nothing(side: Side) -> None:
    """The first start of a cluster."""
    assert side.loaded().chain == Chain()
    assert side.loaded().jobs == []


def test_the_position_survives(side: Side, tmp_path: Path) -> None:
    """Opened again, the file knows up to which record it has got, and by whose hash."""
    run_jobs(side.cluster, 1)
    side.sync()
    again = QueryStore(tmp_path / "query.db")
    assert again.chain == side.cluster.chain
    again.close()


def test_finished_entities_stay_readable_and_are_not_loaded(side: Side) -> None:
    """Finished jobs live only here and in the log."""
    run_jobs(side.cluster, 2)
    side.sync()
    assert side.loaded().jobs == []
    assert side.loaded().executions == []
    full = side.reader.job(JobRef(job=job_spec(1).id))
    assert full.job.state.state_type is JobStateType.COMPLETED
    assert [execution.compute_state.state_type for execution in full.executions] == [Status.COMPLETED.compute]


def test_an_entity_is_forgotten_after_it_was_written(side: Side) -> None:
    """When an entity leaves the state with a later record, its row stays and is not live any more."""
    run_jobs(side.cluster, 1, 2)
    side.sync()
    assert len(side.loaded().jobs) == 1
    run_jobs_end(side.cluster)
    side.sync()
    assert side.loaded().jobs == []


def run_jobs_end(cluster: Cluster) -> None:
    cluster.put(*life(1, 1, job_spec(1))[2])


@pytest.mark.parametrize("each", [True, False])
def test_a_new_version_brings_a_job_back(each: bool, side: Side) -> None:
    """A finished job that is submitted again is live, with its new specification; the old version can be read."""
    run_jobs(side.cluster, 1)
    if each:
        side.sync()
    old = job_spec(1)
    new = job_spec(1, old.name, priority=5, labels={"a": "b"})
    side.cluster.put(
        ev.JobSubmitted(j=1, spec=new, kind=ev.Submission.UPDATE, version=2, revision=7, created=side.cluster.now)
    )
    side.sync(each=each)
    (job,) = side.loaded().jobs
    assert job == side.cluster.state.jobs[1]
    assert job.spec == new


def test_each_version_keeps_how_it_ended(side: Side) -> None:
    """Also when several versions come and go within one batch."""
    run_jobs(side.cluster, 1)
    side.sync()
    for version in (2, 3, 4):
        spec = job_spec(1, priority=version)
        side.cluster.put(ev.JobSubmitted(j=1, spec=spec, kind=ev.Submission.RERUN, version=version, revision=version))
        if version != 4:
            side.cluster.put(ev.JobStopped(j=1, id=spec.id, reason=f"stop {version}"))
    side.sync()
    shown = [side.reader.job(JobRef(job=spec.id, version=version)).job for version in (1, 2, 3, 4)]
    assert [job.version for job in shown] == [1, 2, 3, 4]
    assert [job.priority for job in shown] == [0, 2, 3, 4]
    assert [job.state.state_type for job in shown] == [
        JobStateType.COMPLETED,
        JobStateType.STOPPED,
        JobStateType.STOPPED,
        JobStateType.PENDING,
    ]
    assert [job.state.message for job in shown[1:3]] == ["stop 2", "stop 3"]


def test_first_answers_are_found_by_user_and_request(side: Side) -> None:
    """A repeated Request-Id finds the first answer; another user's does not."""
    run_jobs(side.cluster, 1, 1)
    side.cluster.put(ev.JobStopped(j=1, id=job_spec(1).id, by="alice", request="r-stop", eval="v-9"))
    side.sync()
    ask = side.reader.lookup
    submitted = JobSubmitted(job_id=job_spec(1).id, evaluation_id="v-1", version=1)
    assert decode_first_answer(ask(Lookup(user="alice", request="r-1")).answer) == submitted
    stopped = StopAnswer(job_id=job_spec(1).id, evaluation_id="v-9")
    assert decode_first_answer(ask(Lookup(user="alice", request="r-stop")).answer) == stopped
    assert ask(Lookup(user="mallory", request="r-1")).answer == b""
    assert ask(Lookup(user="alice", request="r-2")).answer == b""


def test_request_ids_are_forgotten_after_a_day(side: Side) -> None:
    """They lie in the order of time, so old ones are cut off at the front."""
    run_jobs(side.cluster, 3, 1)
    side.sync()
    side.cluster.now += REQUESTS_KEPT_NS - 1_500_000_000
    run_jobs(side.cluster, 1, 1)
    side.sync()
    kept = [bool(side.reader.lookup(Lookup(user="alice", request=f"r-{j}")).answer) for j in (1, 2, 3, 4)]
    assert kept == [False, False, True, True]
    side.cluster.now += PRUNE_EVERY_NS // 2
    run_jobs(side.cluster, 1, 1)
    side.sync()
    assert side.reader.lookup(Lookup(user="alice", request="r-3")).answer, "pruned once a minute, not at each batch"


def test_a_record_of_an_older_term_leaves_no_trace(side: Side) -> None:
    """Fold ignores it; so do history and Request-Ids."""
    side.cluster.put(ev.LeaderStarted(term=2, node="n-0"), term=2)
    side.cluster.put(ev.JobSubmitted(j=1, spec=job_spec(1), by="alice", request="r-1"), term=1)
    side.sync()
    assert side.reader.position() == side.cluster.chain.event
    assert side.reader.lookup(Lookup(user="alice", request="r-1")).answer == b""
    assert side.reader.counts() == {}


def test_a_failed_batch_changes_nothing_and_can_be_repeated(side: Side) -> None:
    """Rows and position are one transaction."""
    run_jobs(side.cluster, 2)
    side.sync()
    before = side.store.chain
    side.store._db.execute("PRAGMA max_page_count=10")
    run_jobs(side.cluster, 200)
    projects = side.cluster.take()
    with pytest.raises(sqlite3.OperationalError):
        side.store.apply(projects)
    assert side.store.chain == side.loaded().chain == before
    side.store._db.execute("PRAGMA max_page_count=1000000")
    assert side.store.apply(projects) == side.cluster.chain
    assert side.reader.counts() == {"Completed": 202}


def test_a_file_that_is_only_locked_is_not_made_anew(tmp_path: Path) -> None:
    """Only damage and another format are reasons to begin again."""
    path = tmp_path / "query.db"
    QueryStore(path).close()
    other = sqlite3.connect(path)
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_module, "BUSY_TIMEOUT_S", 0.0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            QueryStore(path)
    assert path.read_bytes() == before
    other.close()


@pytest.mark.parametrize("damage", ["rubbish", "other format", "empty"])
def test_a_file_that_cannot_be_used_is_made_anew(damage: str, tmp_path: Path) -> None:
    """It is a copy of the log: of another release or damaged, it is begun again."""
    path = tmp_path / "query.db"
    QueryStore(path).close()
    match damage:
        case "rubbish":
            path.write_bytes(b"rubbish" * 1000)
        case "empty":
            path.write_bytes(b"")
        case "other format":
            database = sqlite3.connect(path)
            database.execute("UPDATE meta SET value = '99' WHERE key = 'format'")
            database.commit()
            database.close()
    store = QueryStore(path)
    assert store.chain == Chain()
    store.close()
