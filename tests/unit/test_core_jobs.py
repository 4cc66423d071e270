"""A batch job's life in the orchestrator: placing, retrying, waiting, stopping, timing out."""

from __future__ import annotations

import pytest

from bacalhau_daemon.core.events import ExecutionEnded, ExecutionPlanned, JobStateChanged, JobSubmitted
from bacalhau_daemon.core.policy import PLANNED_PER_PASS_MAX, Policy
from bacalhau_daemon.core.state import Status
from bacalhau_daemon.testing import SECOND, World, a_job
from bacalhau_protocol.models.job import Constraint
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.ncl.messages import BidAccepted, CancelExecution


def world_of(*nodes: str, **what: object) -> World:
    """Return a world with these nodes, all alike."""
    world = World()
    for name in nodes:
        world.join(name, **what)
    return world


def statuses(world: World, job: str) -> list[Status]:
    """Return what became of a job's executions, in order of creation."""
    return [each.status for each in world.executions(job)]


def until_next_try(world: World, job: str) -> None:
    """Let time pass until the job has its next execution, or has ended."""
    before = len(world.executions(job))
    for _ in range(1000):
        if len(world.executions(job)) > before or world.job(job).state.terminal:
            return
        world.advance(0.1)
    raise AssertionError("nothing happened")


# ── the straight way ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_runs_from_submission_to_completion_in_three_records() -> None:
    """Submission and placement are one record, approval one, result and completion one."""
    world = world_of("n-1")
    before = world.log.last()
    job = world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution)
    world.complete(execution)

    assert JobStateType.COMPLETED is world.job(job).state
    assert statuses(world, job) == [Status.COMPLETED]
    assert world.log.last() - before == 3


def test_equal_jobs_have_ids_and_names_of_their_own() -> None:
    """What is kept of the first for those like it is all but that."""
    world = world_of("n-1")
    first, second, named = (world.submit(job) for job in (a_job(), a_job(), a_job("named")))
    specs = [next(one.spec for one in world.rows.jobs.values() if one.id == job) for job in (first, second, named)]

    assert [(spec.id, spec.name) for spec in specs] == [(first, first), (second, second), (named, "named")]
    assert first != second
    assert specs[0].tasks == specs[1].tasks == specs[2].tasks


def test_what_a_node_is_offered_is_a_whole_execution() -> None:
    """Desired state Pending, compute state New, the job with its id and version."""
    world = world_of("n-1")
    job = world.submit(a_job("train", cpu="500m", memory="1gb"))
    execution = world.offered("n-1")

    assert (execution.desired_state.state_type, execution.compute_state.state_type) == (0, 1)
    assert (job, "default", "n-1", 1) == (
        execution.job_id, execution.namespace, execution.node_id, execution.job_version
    )  # fmt: skip
    assert (job, "train", 1) == (execution.job.id, execution.job.name, execution.job.version)  # type: ignore[union-attr]
    assert execution.allocated_resources.tasks["main"].memory > 500_000_000  # type: ignore[union-attr, index]


def test_the_state_messages_are_bacalhaus() -> None:
    """Running without a message, then Completed; the execution says how it ended."""
    world = world_of("n-1")
    job = world.submit(a_job())
    world.bid(world.offered("n-1"))
    assert (world.job(job).state, world.job(job).message) == (JobStateType.RUNNING, "")

    world.complete(world.offered("n-1"), exit_code=3)
    execution = world.executions(job)[0]
    assert (
        execution.message, execution.desired_message, execution.output.exit_code  # type: ignore[union-attr]
    ) == ("Completed successfully", "execution completed", 3)  # fmt: skip


def test_a_job_of_no_partitions_completes_at_once() -> None:
    """Count 0 is legal, and done."""
    world = world_of("n-1")

    assert JobStateType.COMPLETED is world.job(world.submit(a_job(count=0))).state


def test_finished_jobs_and_their_executions_leave_memory() -> None:
    """Only what is active is kept."""
    world = world_of("n-1")
    world.submit(a_job())
    world.run_to_end("n-1")

    assert (
        world.machine.state.jobs, world.machine.state.executions, world.machine.state.tallies, world.machine.state.uses
    ) == ({}, {}, {}, {})  # fmt: skip


# ── partitions ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_partitions_go_to_the_best_nodes_first_come_first_served() -> None:
    """Count 3 on four idle nodes: three different nodes, partitions 0, 1, 2."""
    world = world_of("n-1", "n-2", "n-3", "n-4")
    job = world.submit(a_job(count=3))

    assert [each.partition for each in world.executions(job)] == [0, 1, 2]
    assert len({each.node for each in world.executions(job)}) == 3


def test_one_node_may_run_several_partitions() -> None:
    """Unlike Bacalhau: a node with room takes more than one."""
    world = world_of("n-1", cpu=4.0)
    job = world.submit(a_job(count=3))
    for execution in world.offers("n-1"):
        world.bid(execution)
        world.complete(execution)

    assert JobStateType.COMPLETED is world.job(job).state


def test_no_node_is_given_more_than_it_has_within_one_pass() -> None:
    """Placements of one pass count for each other; the rest waits."""
    world = world_of("n-1", "n-2", cpu=2.0)
    job = world.submit(a_job(count=9))

    assert [len(world.offers(name)) for name in ("n-1", "n-2")] == [2, 2]
    assert world.job(job).running == 4


def test_a_job_completes_when_every_partition_has() -> None:
    """Not before."""
    world = world_of("n-1")
    job = world.submit(a_job(count=2))
    first, second = world.offers("n-1")
    world.bid(first)
    world.bid(second)
    world.complete(second)
    assert JobStateType.RUNNING is world.job(job).state

    world.complete(first)
    assert JobStateType.COMPLETED is world.job(job).state
    assert (world.job(job).running, world.job(job).completed, world.job(job).failed) == (0, 2, 0)


def test_a_large_job_is_placed_in_passes() -> None:
    """So that no record and no decision grows without bound."""
    world = world_of("n-1", cpu=1000.0, memory=10**13)
    world.submit(a_job(count=PLANNED_PER_PASS_MAX + 7, memory="1mb"))
    planned = [event for event in world.rows.events if isinstance(event, ExecutionPlanned)]

    assert len(planned) == PLANNED_PER_PASS_MAX + 7
    assert list(range(PLANNED_PER_PASS_MAX + 7)) == sorted(event.partition for event in planned)


# ── retries ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_failed_partition_is_tried_again_elsewhere_after_a_pause() -> None:
    """Only that partition, under a new execution, and on a node that has not failed it."""
    world = world_of("n-1", "n-2", "n-3", cpu=1.0)
    job = world.submit(a_job(count=2))
    first, second = world.executions(job)
    for each in (first, second):
        world.bid(world.offered(each.node))
    world.fail(world.offered(first.node))
    assert len(world.executions(job)) == 2

    world.advance(0.6)
    again = world.executions(job)[2]
    assert (first.partition, 2) == (again.partition, again.attempt)
    assert again.node not in {first.node, second.node}


def test_pauses_between_tries_grow() -> None:
    """Half a second, two, eight, half a minute."""
    policy = Policy()

    assert [policy.retry_delay_ns(n) // 10**6 for n in range(1, 7)] == [500, 2000, 8000, 32000, 60000, 60000]


def test_a_node_gets_a_partition_at_most_twice() -> None:
    """With one node, two failures end the job; the words say which node and why."""
    world = world_of("n-1")
    job = world.submit(a_job())
    for _ in range(2):
        world.bid(world.offered("n-1"))
        world.fail(world.offered("n-1"), "no such image")
        world.advance(3)

    assert (world.job(job).state, statuses(world, job)) == (JobStateType.FAILED, [Status.FAILED] * 2)
    assert "not enough nodes to run job. requested: 1" in world.job(job).message
    assert "Node n-1: failed here twice: no such image" in world.job(job).message


def test_a_partition_is_tried_so_often_and_no_more() -> None:
    """With enough nodes the limit of attempts ends the job, and the last failure is told."""
    world = world_of("n-1", "n-2", "n-3", "n-4")
    job = world.submit(a_job())
    while world.job(job).state is not JobStateType.FAILED:
        execution = world.executions(job)[-1]
        world.bid(world.offered(execution.node))
        world.fail(world.offered(execution.node), f"broke {execution.attempt}")
        until_next_try(world, job)

    assert len(world.executions(job)) == 5
    assert world.job(job).message.startswith("Job failed because it has been retried too many times. Partition 0 had 5")
    assert world.job(job).message.endswith("broke 5")


def test_a_refused_bid_goes_to_another_node_at_once() -> None:
    """The node that refused is not asked again for this version."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job())
    first = world.executions(job)[0]
    world.bid(world.offered(first.node), accepted=False, reason="no thanks")
    second = world.executions(job)[1]

    assert {"n-1", "n-2"} == {first.node, second.node}
    assert world.execution(first.id).message == "rejected bid: no thanks"


def test_a_job_that_every_node_has_refused_fails() -> None:
    """Its only refuser is named with its words."""
    world = world_of("n-1")
    job = world.submit(a_job())
    world.bid(world.offered("n-1"), accepted=False, reason="not today")

    assert (world.job(job).state, statuses(world, job)) == (JobStateType.FAILED, [Status.REFUSED])
    assert "refused: rejected bid: not today" in world.job(job).message


def test_a_retryable_refusal_is_forgiven_when_the_node_comes_back() -> None:
    """It may have refused because it was stopping: after its restart it is asked at once."""
    world = World()
    world.join("n-1")
    world.submit(a_job())
    world.bid(world.offered("n-1"), accepted=False, reason="stopping", retryable=True)
    world.leave("n-1")
    world.now += SECOND
    world.join("n-1")

    assert len(world.offers("n-1")) == 2


def test_a_retryable_refusal_is_forgiven_after_a_while() -> None:
    """A node that had no room for the moment is asked again; the job waits meanwhile."""
    world = world_of("n-1")
    job = world.submit(a_job())
    world.bid(world.offered("n-1"), accepted=False, reason="busy", retryable=True)
    assert not world.job(job).state.terminal

    world.advance(31)
    assert len(world.offers("n-1")) == 2


def test_a_failed_job_cancels_what_still_runs() -> None:
    """One partition that has had all its tries ends the job, the other one is stopped."""
    world = World(policy=Policy(attempts_max=1))
    for name in ("n-1", "n-2"):
        world.join(name, cpu=1.0)
    job = world.submit(a_job(count=2))
    for name in ("n-1", "n-2"):
        world.bid(world.offered(name))
    world.fail(world.offered("n-1"))

    assert JobStateType.FAILED is world.job(job).state
    cancelled = [each for each in world.executions(job) if each.status is Status.CANCELLED]
    assert [each.message for each in cancelled] == ["Execution stopped due to job failure"]
    assert [each.id for each in cancelled] == world.told("n-2", CancelExecution)


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_that_no_known_node_could_ever_take_fails_at_once() -> None:
    """As with Bacalhau, when it did not ask to be queued."""
    world = world_of("n-1")
    job = world.submit(a_job(engine="docker"))

    assert JobStateType.FAILED is world.job(job).state
    assert world.job(job).message == (
        "not enough nodes to run job. requested: 1, available: 1, suitable: 0.\n"
        "• Node n-1: does not support docker, only noop, wasm"
    )


def test_a_job_on_an_empty_cluster_fails_at_once() -> None:
    """And says that there are no nodes."""
    world = World()

    assert "no compute node has joined" in world.job(world.submit(a_job())).message


def test_a_job_that_asked_to_be_queued_waits_for_a_node_to_join() -> None:
    """It is called Queued, with the reason, and placed when a node comes that fits."""
    world = world_of("n-1")
    job = world.submit(a_job(engine="docker", queue_s=60))
    assert JobStateType.QUEUED is world.job(job).state
    assert world.job(job).message.startswith("Job queued. not enough nodes")

    world.join("n-2", engines=("docker",))
    assert len(world.offers("n-2")) == 1
    world.run_to_end("n-2")
    assert JobStateType.COMPLETED is world.job(job).state


def test_a_job_waits_no_longer_than_it_asked() -> None:
    """Its queue time-out counts from when it began to wait."""
    world = world_of("n-1")
    job = world.submit(a_job(engine="docker", queue_s=60))
    world.advance(59)
    assert JobStateType.QUEUED is world.job(job).state

    world.advance(2)
    assert JobStateType.FAILED is world.job(job).state
    assert "does not support docker" in world.job(job).message


def test_a_job_waits_for_busy_nodes_without_having_asked() -> None:
    """It is placed when room becomes free, in the same record: nothing polls."""
    world = world_of("n-1", cpu=1.0)
    first, second = world.submit(a_job()), world.submit(a_job())
    assert len(world.offers("n-1")) == 1
    assert JobStateType.PENDING is world.job(second).state

    world.bid(world.offered("n-1"))
    before = world.log.last()
    world.complete(world.offered("n-1"))
    assert JobStateType.COMPLETED is world.job(first).state
    assert second == world.offered("n-1").job_id
    assert world.log.last() - before == 1


def test_a_job_that_waits_for_more_than_a_moment_is_called_queued() -> None:
    """Waits of milliseconds leave no trace in the log."""
    world = world_of("n-1", cpu=1.0)
    world.submit(a_job())
    job = world.submit(a_job())
    world.advance(0.6)

    assert JobStateType.QUEUED is world.job(job).state
    assert "busy: the job requires CPU 1" in world.job(job).message


def test_those_who_wait_are_served_by_priority_then_by_age() -> None:
    """And a newcomer does not overtake them."""
    world = world_of("n-1", cpu=1.0)
    world.submit(a_job())
    jobs = []
    for name, priority in (("old", 0), ("young", 0), ("urgent", 5)):
        world.advance(0.001)
        jobs.append(world.submit(a_job(name, priority=priority)))
    world.run_to_end("n-1")
    assert jobs[2] == world.offered("n-1").job_id

    late = world.submit(a_job("late"))
    world.run_to_end("n-1")
    world.run_to_end("n-1")
    world.run_to_end("n-1")
    assert [jobs[2], jobs[0], jobs[1], late] == [each.job_id for each in world.offers("n-1")[1:]]


def test_a_waiting_job_that_a_free_node_has_refused_lets_the_next_one_try() -> None:
    """The head of a line whose history forbids the only free node does not block those behind it."""
    world = world_of("n-1", "n-2", cpu=1.0)
    blocker = world.submit(a_job(constraints=(Constraint("name", "=", ("n-2",)),)))
    picky = world.submit(a_job())
    world.bid(world.offered("n-1"), accepted=False, reason="busy", retryable=True)
    behind = world.submit(a_job())

    assert behind == world.offered("n-1").job_id
    assert statuses(world, picky) == [Status.REFUSED]
    assert statuses(world, blocker) == [Status.PLANNED]


def test_a_job_behind_others_is_placed_when_its_own_kind_of_node_is_free() -> None:
    """Lines are by need: one need's queue does not hold up another's."""
    world = world_of("n-1", "n-2", cpu=1.0)
    for name in ("n-1", "n-2"):
        world.submit(a_job(constraints=(Constraint("name", "=", (name,)),)))
    world.submit(a_job(constraints=(Constraint("name", "=", ("n-1",)),)))
    other = world.submit(a_job(constraints=(Constraint("name", "=", ("n-2",)),)))
    world.run_to_end("n-2")

    assert other == world.offered("n-2").job_id


# ── stopping and time-outs ────────────────────────────────────────────────────────────────────────────────────────


def test_stopping_a_job_cancels_its_executions_in_the_same_record() -> None:
    """The node is told, and the job says why it was stopped."""
    world = world_of("n-1")
    job = world.submit(a_job(count=2))
    world.bid(world.offers("n-1")[0])
    before = world.log.last()
    answer = world.stop(job, "changed my mind")

    assert job == answer.job_id
    assert answer.evaluation_id
    assert (world.job(job).state, world.job(job).message) == (JobStateType.STOPPED, "changed my mind")
    assert statuses(world, job) == [Status.CANCELLED] * 2
    assert {each.id for each in world.offers("n-1")} == set(world.told("n-1", CancelExecution))
    assert world.log.last() - before <= 2  # the second one: the node has confirmed


def test_a_cancel_is_owed_until_the_node_confirms_it() -> None:
    """What the node was given counts as used until then; afterwards nothing is left."""
    world = world_of("n-1", cpu=1.0)
    world.acknowledging = False
    job = world.submit(a_job())
    world.stop(job)
    assert world.executions(job)[0].owed
    assert world.machine.state.use("n-1").cpu == 1000

    waiting = world.submit(a_job())
    assert len(world.offers("n-1")) == 1
    world.acknowledging = True
    world.join("n-1")
    assert not world.executions(job)[0].owed
    assert waiting == world.offered("n-1").job_id


def test_the_total_time_out_ends_a_job_wherever_it_is() -> None:
    """Running or waiting; its executions are cancelled and nothing new is placed in that pass."""
    world = world_of("n-1", cpu=1.0)
    running = world.submit(a_job(total_s=10))
    waiting = world.submit(a_job(total_s=10))
    world.bid(world.offered("n-1"))
    world.advance(11)

    for job in (running, waiting):
        assert (
            world.job(job).state, world.job(job).message
        ) == (JobStateType.FAILED, "Job timed out. Job took longer than 10s")  # fmt: skip
    assert len(world.offers("n-1")) == 1


def test_an_execution_that_outstays_its_time_out_and_the_grace_is_ended_and_tried_again() -> None:
    """The node should have ended it; when it did not, we do."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job(execution_s=10))
    first = world.executions(job)[0]
    world.bid(world.offered(first.node))
    world.advance(129)
    assert statuses(world, job) == [Status.RUNNING]

    world.advance(3)
    assert statuses(world, job) == [Status.FAILED, Status.PLANNED]
    assert world.execution(first.id).message == "Execution timed out. Execution took longer than 10s"
    assert [first.id] == world.told(first.node, CancelExecution)


def test_preparing_does_not_count_towards_the_execution_time_out() -> None:
    """One of our nodes says when the program runs; until then its own limits hold."""
    world = world_of("n-1")
    job = world.submit(a_job(execution_s=10))
    execution = world.offered("n-1")
    world.bid(execution)
    for _ in range(40):
        world.phase(execution, "Preparing")
        world.advance(10)
    assert statuses(world, job) == [Status.RUNNING]

    world.phase(execution, "Running")
    world.advance(129)
    assert statuses(world, job) == [Status.RUNNING]
    world.advance(5)
    assert Status.FAILED is statuses(world, job)[0]


def test_a_bid_that_never_comes_is_given_up() -> None:
    """The partition goes to another node; the silent one is told to forget it."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job())
    first = world.executions(job)[0]
    world.advance(32)

    assert statuses(world, job) == [Status.FAILED, Status.PLANNED]
    assert world.executions(job)[1].node != first.node
    assert [first.id] == world.told(first.node, CancelExecution)


# ── versions ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_version_replaces_what_runs() -> None:
    """Executions of the old version are stopped, those of the new one placed in the same record."""
    world = world_of("n-1")
    job = world.submit(a_job("train", cpu="1"))
    world.bid(world.offered("n-1"))
    assert job == world.submit(a_job("train", cpu="2"))

    old, new = world.executions(job)
    assert (old.status, old.message, old.job_version) == (Status.CANCELLED, "Execution stopped for job update", 1)
    assert (new.status, new.job_version) == (Status.PLANNED, 2)
    assert (world.job(job).version, world.job(job).message) == (2, "Job update requested by user")
    world.run_to_end("n-1")
    assert (world.job(job).state, world.job(job).completed) == (JobStateType.COMPLETED, 1)


def test_a_new_version_forgets_the_failures_of_the_old_one() -> None:
    """Attempts and clocks begin anew; the creation stays."""
    world = world_of("n-1")
    job = world.submit(a_job("train", engine="docker"))
    created = world.job(job).created
    assert JobStateType.FAILED is world.job(job).state
    world.advance(5)
    world.submit(a_job("train", total_s=3))

    assert (created, created + 5 * SECOND) == (world.job(job).created, world.job(job).submitted)
    assert JobStateType.PENDING is world.job(job).state
    world.run_to_end("n-1")
    assert JobStateType.COMPLETED is world.job(job).state


def test_the_log_says_what_happened_in_order() -> None:
    """Events of a job come before those of its executions."""
    world = world_of("n-1")
    world.submit(a_job())
    world.run_to_end("n-1")
    kinds = [type(event) for event in world.rows.events[4:]]

    assert [JobSubmitted, ExecutionPlanned, JobStateChanged] == kinds[:3]
    assert [ExecutionEnded, JobStateChanged] == kinds[-2:]


@pytest.mark.parametrize("count", [1, 3])
def test_a_bid_is_approved_once(count: int) -> None:
    """One approval per execution."""
    world = world_of("n-1")
    world.submit(a_job(count=count))
    for execution in world.offers("n-1"):
        world.bid(execution)

    assert sorted(each.id for each in world.offers("n-1")) == sorted(world.told("n-1", BidAccepted))
