"""The feed: rows of what is stored, gathered for a moment, numbered so that a hole shows; and the tick."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.feed import CHAINS_MAX, Feed
from bacalhau_daemon.core.state import JobState
from bacalhau_daemon.testing import SECOND, START, World, a_job
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.models.job import Job, SpecConfig, Task


def rows(world: World, kind: str = "") -> list[tuple[str, api.FeedRow]]:
    """Return every row that was published, with its subject."""
    found = [
        (subject, msgspec.json.decode(data, type=api.FeedRow))
        for subject, data in world.published
        if subject.startswith("bacalhau.feed.v1.") and ".tick." not in subject
    ]
    return [(subject, row) for subject, row in found if kind in ("", row.kind)]


def ticks(world: World) -> list[api.FeedTick]:
    """Return every tick."""
    data = [data for subject, data in world.published if subject == "bacalhau.feed.v1.-.tick.-"]
    return [msgspec.json.decode(each, type=api.FeedTick) for each in data]


def quiet_world() -> World:
    """Return a world with one node, some time after anything happened."""
    world = World()
    world.join("n-1")
    world.advance(2)
    world.published.clear()
    return world


def a_job_state(j: int, namespace: str) -> JobState:
    """Return a job of the state."""
    spec = Job(id=f"j-{j}", tasks=(Task(engine=SpecConfig(type="noop")),), count=1)
    return JobState(j=j, id=f"j-{j}", name=f"j-{j}", namespace=namespace, spec=spec, created=1, submitted=1, modified=1)


def test_a_change_after_a_quiet_moment_leaves_soon() -> None:
    """On the subjects of its namespace, kind and ids; with what the row shows."""
    world = quiet_world()
    job = world.submit(a_job("train"))
    world.advance(0.03)
    execution = world.executions(job)[0]
    by_subject = dict(rows(world))

    assert by_subject[f"bacalhau.feed.v1.default.job.{job}"].row["Name"] == "train"
    shown = by_subject[f"bacalhau.feed.v1.default.execution.{job}.{execution.id}"].row
    assert (shown["State"], shown["Desired"], shown["NodeID"]) == ("New", "Pending", "n-1")


def test_changes_within_a_moment_are_one_row() -> None:
    """A job that is over at once needs one row, not six; one that runs a little longer needs two."""
    world = quiet_world()
    world.submit(a_job())
    world.run_to_end("n-1")
    assert len(rows(world, "job")) == 1, "the end of a job is told at once"
    world.advance(0.2)
    assert len(rows(world, "job")) == 1

    world.submit(a_job())
    world.advance(0.03)
    world.run_to_end("n-1")
    assert [row.row["State"] for _, row in rows(world, "job")[1:]] == ["Pending", "Completed"]
    assert rows(world, "job")[-1][1].row["State"] == "Completed"
    assert rows(world, "execution")[-1][1].row["State"] == "Completed"


def test_rows_of_a_kind_and_namespace_form_a_chain() -> None:
    """Each names the number of the one before; the numbers are those of events."""
    world = quiet_world()
    for _ in range(3):
        world.submit(a_job())
        world.submit(a_job(namespace="other"))
        world.advance(0.2)
    for namespace in ("default", "other"):
        chain = [row for subject, row in rows(world, "job") if f".{namespace}.job." in subject]

        assert len(chain) >= 3
        assert [row.prev for row in chain[1:]] == [row.seq for row in chain[:-1]]
        assert [row.seq for row in chain] == sorted({row.seq for row in chain})
        assert chain[-1].seq <= world.machine.position


def test_nothing_that_is_not_stored_gets_into_the_feed() -> None:
    """Rows wait for their record."""
    world = quiet_world()
    world.holding = True
    world.send("job.submit", api.JobSubmit(job=a_job()))
    world.run()
    assert rows(world) == []

    world.release()
    world.advance(0.03)
    assert len(rows(world, "job")) == 1


def test_a_tick_comes_once_a_second_with_the_newest_numbers() -> None:
    """And the term, and the position of the log."""
    world = quiet_world()
    world.submit(a_job())
    world.published = [each for each in world.published if ".tick." not in each[0]]
    world.advance(3)
    seen = ticks(world)

    assert 2 <= len(seen) <= 4
    newest = rows(world, "job")[-1][1].seq
    assert (seen[-1].term, seen[-1].seq, seen[-1].newest["default/job"]) == (1, world.machine.position, newest)


def test_what_is_free_on_a_node_is_news_but_not_at_every_moment() -> None:
    """At most twice a second."""
    world = quiet_world()
    for _ in range(10):
        world.submit(a_job(cpu="100m"))
        world.run_to_end("n-1")
        world.advance(0.1)

    assert 2 <= len(rows(world, "node")) <= 3
    assert rows(world, "node")[0][0] == "bacalhau.feed.v1.-.node.n-1"


def test_what_an_execution_does_now_is_shown_under_the_newest_number() -> None:
    """It is soft: no event, so no new number; a reader sees no hole."""
    world = quiet_world()
    world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution)
    world.advance(0.2)
    before = rows(world, "execution")[-1][1]
    world.phase(execution, "Preparing")
    world.advance(0.2)
    after = rows(world, "execution")[-1][1]

    assert after.row["Phase"]["Name"] == "Preparing"
    assert (after.seq, after.prev) == (before.seq, before.seq)


def test_the_tick_names_a_bounded_number_of_namespaces() -> None:
    """The least recently changed ones are left out."""
    feed = Feed()
    for n in range(CHAINS_MAX + 50):
        feed.job(n + 1, a_job_state(n, f"ns-{n}"), START)
    assert len(feed.flush(START + SECOND, {}, {})) == CHAINS_MAX + 50
    (tick,) = feed.tick(START + SECOND, 1, 9)

    newest = msgspec.json.decode(tick.data, type=api.FeedTick).newest
    assert len(newest) == CHAINS_MAX
    assert f"ns-{CHAINS_MAX + 49}/job" in newest
