"""A start: state, rows and log end at the same record, whatever was missing; a foreign query side is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.core.state import Dirty, NodeUse, State, Tally
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.log.records import LogDamaged
from bacalhau_daemon.log.sqlite import SqliteLog
from bacalhau_daemon.query.reader import QueryReader
from bacalhau_daemon.query.restart import catch_up, rebuild, restore
from bacalhau_daemon.query.store import QueryStore
from bacalhau_protocol.api.messages import JobQuery
from bacalhau_protocol.models.node import NodeInfo
from tests.builders_query import Cluster, job_spec, life


def shown(state: State) -> dict[str, Any]:
    """Return everything in a state, indexes included, so that two can be compared."""
    plain = (Tally, NodeUse, Dirty)

    def open_up(value: Any) -> Any:
        if isinstance(value, plain):
            return {name: getattr(value, name) for name in value.__slots__}
        return {key: open_up(one) for key, one in value.items()} if isinstance(value, dict) else value

    return {name: open_up(value) for name, value in vars(state).items() if name != "dirty"}


def busy(cluster: Cluster, jobs: int = 12) -> Cluster:
    """Give a cluster finished, running and waiting jobs, a node and a credential."""
    cluster.put(ev.NodeJoined(node="n-1", info=NodeInfo(node_id="n-1")))
    cluster.put(ev.CredentialIssued(identity="n-1", role=ev.Role.COMPUTE, sha256="ab"))
    for j in range(1, jobs + 1):
        for events in life(j, j, job_spec(j), request=f"r-{j}")[: j % 3 + 1]:
            cluster.put(*events)
    return cluster


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the query side is."""
    return tmp_path / "query.db"


@pytest.mark.parametrize("behind", [0, 1, 7, 1000])
def test_a_start_folds_what_the_query_side_lacks(behind: int, path: Path) -> None:
    """However far the rows are behind the log, afterwards nothing is missing, neither in the state nor in the rows."""
    cluster = busy(Cluster())
    store = QueryStore(path)
    projects = cluster.take()
    store.apply(projects[: max(0, len(projects) - behind)])
    restored = catch_up(store, cluster.log)
    assert restored.chain == store.chain == cluster.chain
    assert shown(restored.state) == shown(cluster.state)
    reader = QueryReader(path, cluster.log)
    assert shown(restore(reader.load()).state) == shown(cluster.state)
    assert reader.counts() == {"Pending": 4, "Running": 4, "Completed": 4}
    reader.close()
    store.close()


def test_a_rebuilt_query_side_is_the_same(path: Path, tmp_path: Path) -> None:
    """Row by row, as if it had been written while the cluster ran."""
    cluster = busy(Cluster())
    store = QueryStore(path)
    for project in cluster.take():
        store.apply([project])
    rebuild(tmp_path / "again.db", cluster.log)
    again = QueryStore(tmp_path / "again.db")
    assert list(dump(store)) == list(dump(again))
    store.close()
    again.close()


def dump(store: QueryStore) -> Iterator[tuple[Any, ...]]:
    for table in ("jobs", "specs", "executions", "history", "requests", "entities", "meta"):
        yield from store._db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")


def test_a_deleted_query_side_is_built_again(path: Path, tmp_path: Path) -> None:
    """Deleting the file is safe: the next start reads the log from its beginning. Progress is told."""
    log = SqliteLog(tmp_path / "log.db")
    cluster = busy(Cluster(log), 60)
    steps: list[int] = []
    store = QueryStore(path)
    restored = catch_up(store, log, progress=steps.append)
    assert shown(restored.state) == shown(cluster.state)
    assert steps == sorted(steps)
    reader = QueryReader(path, log)
    assert reader.jobs(JobQuery()).total == 60
    reader.close()
    store.close()
    log.close()


def test_a_rebuild_begins_anew_over_what_was_there(path: Path) -> None:
    """Whatever the file held."""
    busy(other := Cluster())
    store = QueryStore(path)
    store.apply(other.take())
    store.close()
    cluster = busy(Cluster(), 3)
    assert rebuild(path, cluster.log) == cluster.chain
    store = QueryStore(path)
    assert store.chain == cluster.chain
    store.close()


def foreign(name: str) -> tuple[Cluster, Cluster]:
    """Return the cluster whose log is there, and the one whose rows are."""
    logged, rows = Cluster(), Cluster()
    match name:
        case "another log":
            logged.put(ev.CredentialRevoked(identity="a"))
            rows.put(ev.CredentialRevoked(identity="b"))
        case "log lost its end":
            rows.put(ev.CredentialRevoked(identity="b"))
        case "log trimmed too far":
            busy(logged)
            logged.log.trim(20)
    return logged, rows


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("another log", "the query side has seen record 2 with hash .*, in the log it has .*: this is another log"),
        ("log lost its end", "the query side has seen record 2, but the log ends with record 1"),
        ("log trimmed too far", "the query side ends with record 1, but the log begins with record 20"),
    ],
)
def test_a_query_side_of_another_log_is_refused(name: str, words: str, path: Path) -> None:
    """With both figures and what to do; nothing is changed."""
    logged, rows = foreign(name)
    store = QueryStore(path)
    store.apply(rows.take())
    with pytest.raises(LogDamaged, match=words) as caught:
        catch_up(store, logged.log)
    assert caught.value.place == str(path)
    assert "rebuild" in caught.value.hint or "backup" in caught.value.hint
    assert store.chain == rows.chain
    store.close()


def test_a_trimmed_log_starts_from_the_query_side(path: Path) -> None:
    """Behind what the rows have, the log may be cut; it cannot be rebuilt from then on, and says so."""
    cluster = busy(Cluster())
    store = QueryStore(path)
    store.apply(cluster.take())
    cluster.log.trim(cluster.chain.n)
    busy_state = shown(catch_up(store, cluster.log).state)
    assert busy_state == shown(cluster.state)
    store.close()
    with pytest.raises(LogDamaged, match="cannot be built from it"):
        rebuild(path, cluster.log)
    assert path.exists()


def test_a_query_side_that_cannot_be_read_is_said(path: Path) -> None:
    """Damage that shows only when the rows are read: refused, with the way out."""
    cluster = busy(Cluster())
    store = QueryStore(path)
    store.apply(cluster.take())
    store._db.execute("UPDATE jobs SET body = x'00' WHERE live")
    with pytest.raises(LogDamaged, match="the query side cannot be read") as caught:
        catch_up(store, cluster.log)
    assert "rebuild" in caught.value.hint
    store.close()
    rebuild(path, cluster.log)
    store = QueryStore(path)
    assert shown(catch_up(store, cluster.log).state) == shown(cluster.state)
    store.close()


def test_the_first_start_of_all(path: Path) -> None:
    """No log, no rows: an empty state."""
    store = QueryStore(path)
    restored = catch_up(store, MemoryLog())
    assert shown(restored.state) == shown(Restored().state)
    store.close()
