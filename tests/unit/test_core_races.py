"""Planted races: what crosses on the way, comes late, twice, or in another order than it was sent."""

from __future__ import annotations

from bacalhau_daemon.core.policy import Policy
from bacalhau_daemon.core.state import Status
from bacalhau_daemon.testing import SECOND, World, a_job
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.ncl.messages import BidAccepted, CancelExecution


def offered_world() -> tuple[World, str, Execution]:
    """Return a world of two nodes, a job, and its one offer."""
    world = World()
    for name in ("n-1", "n-2"):
        world.join(name)
    job = world.submit(a_job())
    node = world.executions(job)[0].node
    return world, job, world.offered(node)


def statuses(world: World, job: str) -> list[Status]:
    """Return what became of a job's executions, in order of creation."""
    return [each.status for each in world.executions(job)]


def test_a_bid_after_its_deadline_changes_nothing_and_is_cancelled_again() -> None:
    """The partition has gone to another node."""
    world, job, execution = offered_world()
    world.advance(32)
    before = world.log.last()
    world.bid(execution)

    assert statuses(world, job) == [Status.FAILED, Status.PLANNED]
    assert world.log.last() == before
    assert world.told(execution.node_id, CancelExecution) == [execution.id, execution.id]
    assert world.told(execution.node_id, BidAccepted) == []


def test_a_repeated_bid_does_not_set_a_running_execution_back() -> None:
    """Bacalhau's orchestrator would show it as AskForBidAccepted from then on."""
    world, job, execution = offered_world()
    world.bid(execution)
    before = world.log.last()
    world.bid(execution)

    assert statuses(world, job) == [Status.RUNNING]
    assert world.log.last() == before


def test_a_refusal_after_an_approval_changes_nothing() -> None:
    """A node cannot take its bid back."""
    world, job, execution = offered_world()
    world.bid(execution)
    world.bid(execution, accepted=False, reason="changed my mind")

    assert statuses(world, job) == [Status.RUNNING]


def test_a_repeated_result_is_acknowledged_and_counts_once() -> None:
    """Its acknowledgement may have got lost."""
    world, job, execution = offered_world()
    world.bid(execution)
    world.complete(execution)
    before, acknowledged = world.log.last(), len(world.acknowledged)
    world.complete(execution)

    assert world.job(job).state is JobStateType.COMPLETED
    assert world.log.last() == before
    assert len(world.acknowledged) == acknowledged + 1


def test_a_result_twice_in_one_batch_counts_once() -> None:
    """The second one is decided on what the first one changed."""
    world, job, execution = offered_world()
    world.bid(execution)
    world.holding = True
    world.join("n-3")  # a record in flight, behind which the others gather
    world.complete(execution)
    world.complete(execution)
    world.release()

    assert (world.job(job).state, world.job(job).completed) == (JobStateType.COMPLETED, 1)


def test_an_error_after_a_result_changes_nothing() -> None:
    """The first end is the authoritative one."""
    world, job, execution = offered_world()
    world.bid(execution)
    world.complete(execution)
    world.fail(execution)

    assert statuses(world, job) == [Status.COMPLETED]


def test_a_stop_and_a_result_that_cross_end_the_job_once() -> None:
    """In one batch: the first one decides about the job; what the node has done is recorded as it is."""
    for stop_first in (True, False):
        world, job, execution = offered_world()
        world.bid(execution)
        world.holding = True
        world.join("n-3")
        if stop_first:
            world.send("job.stop", api.JobRef(job=job))
            world.run()
        world.complete(execution)
        if not stop_first:
            world.send("job.stop", api.JobRef(job=job))
            world.run()
        world.release()

        result = world.answers[-1].result
        if stop_first:
            assert (world.job(job).state, statuses(world, job)) == (JobStateType.STOPPED, [Status.COMPLETED])
            assert isinstance(result, api.StopAnswer)
        else:
            assert statuses(world, job) == [Status.COMPLETED]
            assert isinstance(result, errors.Conflict)


def test_a_stop_and_a_bid_in_one_batch_approve_nothing() -> None:
    """An approval that the same record revokes is never sent."""
    world, job, execution = offered_world()
    world.holding = True
    world.join("n-3")
    world.bid(execution)
    world.send("job.stop", api.JobRef(job=job))
    world.run()
    world.release()

    assert statuses(world, job) == [Status.CANCELLED]
    assert world.told(execution.node_id, BidAccepted) == []
    assert world.told(execution.node_id, CancelExecution) == [execution.id]


def test_a_node_lost_while_its_result_is_on_the_way() -> None:
    """The result arrives with the node's return, and counts."""
    world = World()
    world.join("n-1")
    job = world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution)
    world.advance(62, beating=())
    assert statuses(world, job) == [Status.LOST]

    world.join("n-1")
    world.complete(execution)
    world.complete(execution)
    assert (world.job(job).state, world.job(job).completed) == (JobStateType.COMPLETED, 1)


def test_a_report_before_the_handshake_is_left_for_the_node_to_repeat() -> None:
    """After a restart of the orchestrator: not acknowledged, so it comes again."""
    world, job, execution = offered_world()
    world.bid(execution)
    world.start()
    acknowledged = len(world.acknowledged)
    world.complete(execution)
    assert len(world.acknowledged) == acknowledged

    world.join(execution.node_id)
    world.complete(execution)
    assert world.job(job).state is JobStateType.COMPLETED


def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    """A crash in between costs nothing: the node repeats its report."""
    world, job, execution = offered_world()
    world.bid(execution)
    world.holding = True
    world.complete(execution)
    acknowledged = len(world.acknowledged)
    world.in_flight = None  # the record never reaches the log
    world.holding = False
    world.start()
    assert statuses(world, job) == [Status.RUNNING]
    assert len(world.acknowledged) == acknowledged

    world.join(execution.node_id)
    world.complete(execution)
    assert world.job(job).state is JobStateType.COMPLETED


def test_a_late_bid_of_a_lost_node_resumes_what_nothing_has_replaced() -> None:
    """The offer was lost with its node; on its return the node bids after all."""
    world = World(policy=Policy(bid_timeout_ns=1000 * SECOND))
    world.join("n-1")
    job = world.submit(a_job())
    execution = world.offered("n-1")
    world.advance(62, beating=())
    assert statuses(world, job) == [Status.LOST]

    world.join("n-1")
    world.bid(execution)
    assert statuses(world, job) == [Status.RUNNING]
    assert world.told("n-1", BidAccepted) == [execution.id]


def test_a_node_that_returns_and_leaves_within_its_moment() -> None:
    """Its lost work is placed elsewhere as if it had not been there."""
    world = World()
    for name in ("n-1", "n-2"):
        world.join(name)
    job = world.submit(a_job(cpu="3"))
    first = world.executions(job)[0]
    other = "n-2" if first.node == "n-1" else "n-1"
    world.bid(world.offered(first.node))
    blocker = world.submit(a_job(cpu="3"))
    world.bid(world.offered(other))
    world.advance(70, beating=(other,))
    assert statuses(world, job) == [Status.LOST]
    world.join(first.node)
    world.leave(first.node)
    world.advance(3, beating=(other,))
    world.complete(world.offers(other)[0])

    assert world.job(blocker).state is JobStateType.COMPLETED
    assert world.executions(job)[-1].node == other


def test_an_update_and_a_result_of_the_old_version_that_cross() -> None:
    """The old result does not count for the new version."""
    world = World()
    world.join("n-1")
    job = world.submit(a_job("train"))
    execution = world.offered("n-1")
    world.bid(execution)
    world.submit(a_job("train", cpu="2"))
    world.complete(execution)

    assert statuses(world, job) == [Status.CANCELLED, Status.PLANNED]
    world.run_to_end("n-1")
    assert (world.job(job).state, world.job(job).completed, world.job(job).version) == (JobStateType.COMPLETED, 1, 2)
