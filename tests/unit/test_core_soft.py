"""What is soft in the core: timers, and what is recalled until the query side has it."""

from __future__ import annotations

import pytest

from bacalhau_daemon.core.inputs import CheckExecution, CheckNode, Reconcile
from bacalhau_daemon.core.recall import Recall
from bacalhau_daemon.core.state import JobState
from bacalhau_daemon.core.timers import PRUNE_FROM, Timers
from bacalhau_daemon.testing import World, a_job
from bacalhau_protocol.api.messages import Empty
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.transport.base import Message


def a_job_state(j: int) -> JobState:
    """Return a finished job."""
    return JobState(
        j=j, id=f"j-{j}", name=f"job-{j}", namespace="default", spec=Job(), created=1, submitted=1, modified=1
    )


# ── timers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_timers_fire_in_order_each_once() -> None:
    """An earlier timer of the same thing makes a later one needless."""
    timers = Timers()
    timers.arm(30, Reconcile(1))
    timers.arm(20, CheckNode("n-1"))
    timers.arm(10, Reconcile(1))
    timers.arm(40, Reconcile(1))

    assert timers.next() == 10
    assert timers.due(9) == []
    assert timers.due(25) == [Reconcile(1), CheckNode("n-1")]
    assert timers.due(100) == []


def test_a_timer_can_be_armed_again_when_it_has_fired() -> None:
    """For what was not due after all."""
    timers = Timers()
    timers.arm(10, CheckExecution(1))
    timers.due(10)
    timers.arm(20, CheckExecution(1))

    assert timers.due(20) == [CheckExecution(1)]


def test_timers_of_what_is_over_are_dropped_now_and_then() -> None:
    """So that a long time-out of a short job costs nothing for long."""
    timers = Timers()
    for x in range(PRUNE_FROM):
        timers.arm(10**9 + x, CheckExecution(x))
    timers.prune(lambda item: isinstance(item, CheckExecution) and item.x % 100 == 0)

    assert len(timers) == PRUNE_FROM // 100
    assert [item.x for item in timers.due(10**10) if isinstance(item, CheckExecution)][:3] == [0, 100, 200]


def test_the_machine_drops_timers_of_finished_jobs() -> None:
    """After thousands of jobs with time-outs, few are left."""
    world = World()
    world.join("n-1")
    for x in range(PRUNE_FROM):
        world.machine.context.timers.arm(world.now + 10**18, CheckExecution(10**6 + x))
    world.submit(a_job(execution_s=3600, total_s=7200))
    world.advance(1)

    assert len(world.machine.context.timers) < 10


# ── recall ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_finished_job_is_recalled_until_the_query_side_has_it() -> None:
    """By its name, its id and its integer."""
    recall = Recall()
    recall.keep_job(7, a_job_state(1))
    assert (recall.names["default", "job-1"], recall.ids["j-1"]) == (1, 1)

    recall.applied(6)
    assert 1 in recall.jobs
    recall.applied(7)
    assert (recall.jobs, recall.names, recall.ids, len(recall), recall.forgotten) == ({}, {}, {}, 0, 7)


def test_nothing_is_forgotten_that_a_waiting_request_could_not_have_seen() -> None:
    """Its look-up was made before."""
    recall = Recall()
    recall.begin(5)
    recall.keep_job(7, a_job_state(1))
    recall.applied(9)
    assert 1 in recall.jobs

    recall.end(5)
    assert recall.jobs == {}


def test_a_job_that_finishes_again_is_kept_until_its_newer_end_is_known() -> None:
    """The older entry does not take it away."""
    recall = Recall()
    recall.keep_job(7, a_job_state(1))
    recall.keep_job(9, a_job_state(1))
    recall.applied(8)
    assert 1 in recall.jobs

    recall.applied(9)
    assert recall.jobs == {}


def test_answers_of_what_was_not_stored_are_taken_back() -> None:
    """After a refused append."""
    recall = Recall()
    recall.keep_answer(3, ("alice", "r-1"), Empty())
    recall.keep_answer(4, ("alice", "r-2"), Empty())
    recall.rollback(3)

    assert recall.answer(("alice", "r-1")) == Empty()
    assert recall.answer(("alice", "r-2")) is None


@pytest.mark.parametrize("verb", ["hello", "phase", "logtail"])
def test_what_a_node_nests_without_end_is_counted_as_unreadable(verb: str) -> None:
    """And raises nothing."""
    world = World()
    world.start()
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    world.machine.message(Message(f"bacalhau.x.v1.n-1.out.{verb}", deep), world.now)

    assert world.machine.link.counters["Unreadable"] == 1
