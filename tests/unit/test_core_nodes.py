"""Nodes in the orchestrator: they join, fall silent, are given up, come back; and so does their work."""

from __future__ import annotations

import zlib

import msgspec
import pytest

from bacalhau_daemon.core.events import Connection, Membership
from bacalhau_daemon.core.state import Status
from bacalhau_daemon.testing import SECOND, World, a_job
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.models.job import Constraint
from bacalhau_protocol.models.node import NodeType
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.ncl import envelope, messages, subjects
from bacalhau_protocol.ncl.messages import AskForBid, BidAccepted, CancelExecution
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.transport.base import Message


def world_of(*nodes: str, foreign: bool = False) -> World:
    """Return a world with these nodes."""
    world = World()
    for name in nodes:
        world.join(name, foreign=foreign)
    return world


def connection(world: World, name: str) -> Connection:
    """Return whether a node is there, by the state."""
    return world.machine.state.nodes[name].connection


def statuses(world: World, job: str) -> list[Status]:
    """Return what became of a job's executions, in order of creation."""
    return [each.status for each in world.executions(job)]


def only(world: World, name: str) -> tuple[Constraint, ...]:
    """Return the constraint that pins a job to a node."""
    return (Constraint("name", "=", (name,)),)


def last_reply(world: World) -> messages.Payload:
    """Return the answer to the last control request."""
    return world.replies[-1][1]


# ── joining ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_node_is_registered_connected_and_approved() -> None:
    """Its handshake is answered only after the record is stored."""
    world = World()
    world.holding = True
    world.join("n-1")
    assert world.replies == []

    world.release()
    assert last_reply(world) == messages.HandshakeResponse(
        accepted=True, reason="node registered", starting_orchestrator_seq=world.machine.state.event - 1
    )
    assert connection(world, "n-1") is Connection.CONNECTED


def test_a_node_that_shakes_hands_again_with_nothing_new_leaves_no_record() -> None:
    """It is answered all the same."""
    world = world_of("n-1")
    before = world.log.last()
    world.join("n-1")

    assert world.log.last() == before
    assert isinstance(last_reply(world), messages.HandshakeResponse)
    assert "node reconnected" in str(last_reply(world))


def test_what_is_free_just_now_is_not_worth_a_record() -> None:
    """Nor is the order in which a node lists its engines."""
    world = world_of("n-1")
    before = world.log.last()
    info = world.infos["n-1"]
    busy = msgspec.structs.replace(
        info.compute_node_info, available_capacity=Resources(), running_executions=3, execution_engines=("wasm", "noop")
    )
    world.infos["n-1"] = msgspec.structs.replace(info, compute_node_info=busy)
    world.join("n-1")

    assert world.log.last() == before


def test_an_orchestrator_is_not_taken_for_a_compute_node() -> None:
    """It is refused with Bacalhau's words."""
    world = World()
    world.infos["n-1"] = msgspec.structs.replace(world_of("n-1").infos["n-1"], node_type=NodeType.REQUESTER)
    world.join("n-1")

    assert last_reply(world) == messages.HandshakeResponse(accepted=False, reason="node is not a compute node")
    assert "n-1" not in world.machine.state.nodes


def test_a_heartbeat_before_the_handshake_asks_for_one() -> None:
    """As with Bacalhau."""
    world = World()
    world.infos["n-1"] = world_of("n-1").infos["n-1"]
    world.beat("n-1")

    assert "handshake required" in str(last_reply(world))


def test_a_change_of_what_a_node_has_wakes_the_jobs_that_wait_for_it() -> None:
    """Without polling."""
    world = world_of("n-1")
    job = world.submit(a_job(engine="docker", queue_s=60))
    world.describe("n-1", engines=("docker",))

    assert job == world.offered("n-1").job_id


# ── silence and loss ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_silent_node_is_unknown_then_lost() -> None:
    """After 20 s it gets no new work, after 60 s its work goes elsewhere."""
    world = world_of("n-1")
    world.advance(19, beating=())
    assert connection(world, "n-1") is Connection.CONNECTED
    world.advance(2, beating=())
    assert connection(world, "n-1") is Connection.UNKNOWN
    world.advance(38, beating=())
    assert connection(world, "n-1") is Connection.UNKNOWN
    world.advance(2, beating=())
    assert connection(world, "n-1") is Connection.LOST


def test_a_node_that_speaks_again_is_connected_again() -> None:
    """Its executions were never touched."""
    world = world_of("n-1")
    job = world.submit(a_job())
    world.bid(world.offered("n-1"))
    world.advance(30, beating=())
    assert connection(world, "n-1") is Connection.UNKNOWN

    world.beat("n-1")
    assert connection(world, "n-1") is Connection.CONNECTED
    assert statuses(world, job) == [Status.RUNNING]


def test_work_on_a_lost_node_goes_elsewhere() -> None:
    """The partition is kept, the old execution is presumed lost."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job(constraints=()))
    first = world.executions(job)[0]
    other = "n-2" if first.node == "n-1" else "n-1"
    world.bid(world.offered(first.node))
    world.advance(70, beating=(other,))

    lost, new = world.executions(job)
    assert (lost.status, lost.message) == (
        Status.LOST,
        "Execution stop requested because node has disappeared",
    )
    assert (new.status, new.node, new.partition, new.attempt) == (Status.PLANNED, other, lost.partition, 2)


def test_no_work_is_given_to_an_unknown_node() -> None:
    """A job for it waits, and is placed when it speaks."""
    world = world_of("n-1")
    world.advance(25, beating=())
    job = world.submit(a_job())
    assert world.offers("n-1") == []
    world.advance(1, beating=())
    assert "unknown since" in world.job(job).message

    world.beat("n-1")
    assert world.offered("n-1").job_id == job


def test_losing_the_only_node_does_not_fail_the_job() -> None:
    """Unlike Bacalhau: it waits for the node, whether it asked to be queued or not."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job(constraints=only(world, "n-1")))
    world.bid(world.offered("n-1"))
    world.advance(70, beating=("n-2",))

    assert (world.job(job).state, statuses(world, job)) == (JobStateType.QUEUED, [Status.LOST])


def test_a_node_that_leaves_gets_no_new_work_and_is_given_up_after_its_grace() -> None:
    """A restart within that time costs nothing."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job(constraints=only(world, "n-1")))
    world.bid(world.offered("n-1"))
    world.leave("n-1")
    assert (connection(world, "n-1"), statuses(world, job)) == (Connection.LEFT, [Status.RUNNING])

    world.advance(50, beating=("n-2",))
    assert statuses(world, job) == [Status.RUNNING]
    world.advance(15, beating=("n-2",))
    assert statuses(world, job) == [Status.LOST]


# ── coming back ───────────────────────────────────────────────────────────────────────────────────────────────────


def lost_world(*, foreign: bool = False) -> tuple[World, str]:
    """Return a world whose only node was lost while it ran a job, and the job."""
    world = world_of("n-1", foreign=foreign)
    job = world.submit(a_job())
    world.bid(world.offered("n-1"))
    world.advance(130, beating=())
    assert statuses(world, job) == [Status.LOST]
    return world, job


def test_a_late_success_counts_when_nothing_has_replaced_it() -> None:
    """The node comes back with a result: the job is done."""
    world, job = lost_world()
    world.join("n-1")
    world.complete(world.offers("n-1")[0])

    assert (world.job(job).state, statuses(world, job)) == (JobStateType.COMPLETED, [Status.COMPLETED])


def test_a_returning_node_has_a_moment_to_report_before_its_work_is_replaced() -> None:
    """Then the execution is given up for good, and the partition is placed anew."""
    world, job = lost_world()
    world.join("n-1")
    assert len(world.offers("n-1")) == 1

    world.advance(2.5)
    assert statuses(world, job) == [Status.LOST, Status.PLANNED]
    assert world.told("n-1", CancelExecution) == [world.executions(job)[0].id]


def test_an_execution_that_still_runs_on_its_return_goes_on() -> None:
    """One of our nodes says so in its inventory; the job is never placed twice."""
    world, job = lost_world()
    execution = world.offers("n-1")[0]
    world.join("n-1")
    welcome = world.hello("n-1", live=(execution.id,))
    world.advance(5)

    assert welcome.forget == []
    assert statuses(world, job) == [Status.RUNNING]
    assert world.told("n-1", CancelExecution) == []
    world.complete(execution)
    assert world.job(job).state is JobStateType.COMPLETED


def test_an_execution_that_was_replaced_is_to_be_forgotten() -> None:
    """The inventory's answer says so, and a cancel is sent as well."""
    world = world_of("n-1", "n-2")
    world.submit(a_job())
    first = world.executions(world.rows.jobs[1].id)[0]
    other = "n-2" if first.node == "n-1" else "n-1"
    world.bid(world.offered(first.node))
    world.advance(70, beating=(other,))
    world.join(first.node)
    welcome = world.hello(first.node, live=(first.id, "e-unknown"))

    assert welcome.forget == [first.id, "e-unknown"]
    assert (welcome.cluster, welcome.term, welcome.ticket_keys) == ("test", 1, ["ab"])
    assert world.told(first.node, CancelExecution) == [first.id]


def test_a_late_success_of_a_replaced_execution_is_dropped() -> None:
    """One authoritative end: the new execution decides."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job())
    first = world.executions(job)[0]
    other = "n-2" if first.node == "n-1" else "n-1"
    late = world.offered(first.node)
    world.bid(late)
    world.advance(70, beating=(other,))
    world.join(first.node)
    world.complete(late)

    assert statuses(world, job) == [Status.LOST, Status.PLANNED]
    world.run_to_end(other)
    assert world.job(job).state is JobStateType.COMPLETED


def test_at_each_handshake_a_node_is_told_all_that_it_must_know() -> None:
    """Live executions are offered again, approved if they were; unconfirmed ends are told again."""
    world = world_of("n-1")
    world.acknowledging = False
    world.submit(a_job("planned"))
    planned = world.offered("n-1")
    world.submit(a_job("running"))
    running = world.offered("n-1")
    world.bid(running)
    stopped = world.submit(a_job("stopped"))
    ended = world.offered("n-1")
    world.stop(stopped)
    world.sent.clear()
    world.join("n-1")

    assert [type(command) for command in world.sent["n-1"]] == [AskForBid, AskForBid, BidAccepted, CancelExecution]
    assert [each.id for each in world.offers("n-1")] == [planned.id, running.id]
    assert world.told("n-1", BidAccepted) == [running.id]
    assert world.told("n-1", CancelExecution) == [ended.id]


def test_a_confirmed_cancel_is_not_told_again() -> None:
    """And leaves memory with its job."""
    world = world_of("n-1")
    job = world.submit(a_job())
    world.stop(job)
    world.sent.clear()
    world.join("n-1")

    assert world.sent == {}
    assert world.machine.state.executions == {}


def test_an_end_that_a_node_never_hears_of_is_given_up_after_a_day() -> None:
    """So that nothing is kept for ever."""
    world = world_of("n-1")
    job = world.submit(a_job())
    world.bid(world.offered("n-1"))
    world.advance(70, beating=())
    world.stop(job)
    assert len(world.machine.state.executions) == 1

    world.now += 24 * 3600 * SECOND
    world.advance(1, beating=())
    assert world.machine.state.executions == {}


# ── restart of the orchestrator ───────────────────────────────────────────────────────────────────────────────────


def test_after_a_restart_nodes_have_their_whole_grace() -> None:
    """They are unknown, not lost; work goes on when they come back within it."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job())
    node = world.executions(job)[0].node
    world.bid(world.offered(node))
    world.now += 3600 * SECOND
    world.start()
    assert {connection(world, name) for name in ("n-1", "n-2")} == {Connection.UNKNOWN}

    world.advance(50, beating=())
    assert statuses(world, job) == [Status.RUNNING]
    for name in ("n-1", "n-2"):
        world.join(name)
    world.advance(30)
    assert statuses(world, job) == [Status.RUNNING]
    world.complete(world.offers(node)[0])
    assert world.job(job).state is JobStateType.COMPLETED


def test_nodes_that_come_back_at_different_times_do_not_lose_each_others_work() -> None:
    """The first one's return is no reason to give up the others."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job(count=2, cpu="3"))
    for name in ("n-1", "n-2"):
        world.bid(world.offered(name))
    world.start()
    world.join("n-1")
    world.advance(55, beating=("n-1",))
    world.join("n-2")
    world.advance(20)

    assert statuses(world, job) == [Status.RUNNING, Status.RUNNING]


def test_nodes_that_stay_away_after_a_restart_are_lost_after_their_grace() -> None:
    """Their work goes to those who are there."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job())
    first = world.executions(job)[0]
    other = "n-2" if first.node == "n-1" else "n-1"
    world.bid(world.offered(first.node))
    world.start()
    world.join(other)
    world.advance(62, beating=(other,))

    assert statuses(world, job) == [Status.LOST, Status.PLANNED]
    assert world.executions(job)[1].node == other


def test_foreign_nodes_beat_less_often_and_have_a_longer_grace() -> None:
    """A Bacalhau 1.9 node needs up to 90 s to find its way back."""
    world = world_of("n-1", foreign=True)
    job = world.submit(a_job())
    world.bid(world.offered("n-1"))
    world.start()
    world.advance(110, beating=())
    assert statuses(world, job) == [Status.RUNNING]
    world.advance(15, beating=())
    assert statuses(world, job) == [Status.LOST]


def test_a_job_that_waited_before_a_restart_is_looked_at_after_it() -> None:
    """Nothing that waits is written down anywhere but in the state."""
    world = World()
    world.join("n-1", cpu=1.0)
    world.submit(a_job("first"))
    job = world.submit(a_job("second"))
    world.bid(world.offered("n-1"))
    world.start()
    world.join("n-1")
    world.complete(world.offers("n-1")[0])

    assert world.offered("n-1").job_id == job


# ── capacity ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_nodes_own_report_can_only_lower_what_is_free() -> None:
    """Two reports in a row must agree, for a report and an end may cross on the way."""
    world = world_of("n-1", "n-2")
    little = Resources(cpu=0.5, memory=16_000_000_000, disk=10**11)
    pinned = a_job(constraints=only(world, "n-1"))
    world.beat("n-1", little)
    world.submit(pinned)
    assert len(world.offers("n-1")) == 1
    world.run_to_end("n-1")

    world.beat("n-1", little)
    world.submit(pinned)
    assert len(world.offers("n-1")) == 1


def test_more_room_on_a_node_wakes_the_jobs_that_wait_for_it() -> None:
    """A heartbeat is enough."""
    world = world_of("n-1")
    little = Resources(cpu=0.5, memory=16_000_000_000, disk=10**11)
    for _ in range(2):
        world.beat("n-1", little)
    job = world.submit(a_job())
    assert world.offers("n-1") == []

    world.beat("n-1")
    assert world.offered("n-1").job_id == job


# ── strangers ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_node_speaks_for_another() -> None:
    """A report about another node's execution changes nothing, and is acknowledged."""
    world = world_of("n-1", "n-2")
    job = world.submit(a_job(constraints=only(world, "n-1")))
    world.bid(world.offered("n-1"))
    acknowledged = len(world.acknowledged)
    world.complete(world.offered("n-1"), node="n-2")

    assert statuses(world, job) == [Status.RUNNING]
    assert len(world.acknowledged) == acknowledged + 1


def test_a_bid_for_something_unknown_is_answered_with_a_cancel() -> None:
    """The node may hold what nobody wants."""
    world = world_of("n-1")
    world.report(messages.BidResult("e-stray", "j-stray", "batch", None, True), "n-1")

    assert world.told("n-1", CancelExecution) == ["e-stray"]


def test_a_report_that_cannot_be_read_ends_its_execution() -> None:
    """With words; the partition is tried again."""
    world = world_of("n-1")
    job = world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution)
    good = messages.RunResult(execution.id, job, "batch")
    data = envelope.encode(envelope.metadata(good, source="n-1", now=world.now, seq=9), good)
    bad = data[5:].replace(b'"RunCommandResult":{"Stdout":""', b'"RunCommandResult":{"Stdout":7')
    sealed = b"\x01" + zlib.crc32(bad).to_bytes(4) + bad
    world.machine.message(Message(subjects.subject("n-1", Plane.OUT_MSGS), sealed, "_R.n-1.77"), world.now)
    world.run()

    assert statuses(world, job)[0] is Status.FAILED
    assert "cannot be read" in world.execution(execution.id).message


@pytest.mark.parametrize(
    ("subject", "data", "reply"),
    [
        ("bacalhau.x.v1.n-1.out.hello", b"{}", "_R.n-1.1"),
        ("bacalhau.x.v1.n-1.out.hello", b'{"NodeID":"n-2","Version":"1"}', "_R.n-1.1"),
        ("bacalhau.x.v1.n-1.out.hello", b'{"NodeID":"n-1","Version":"1"}', "_R.alice.1"),
        ("bacalhau.x.v1.n-1.out.phase", b"\xff", ""),
        ("bacalhau.x.v1.n-1.out.logtail", b'{"ExecutionID":"e-1","Log":{}}', ""),
        ("bacalhau.x.v1.n-1.out.nonsense", b"", ""),
        ("bacalhau.x.v1.n-1", b"", ""),
    ],
)
def test_nonsense_from_a_node_is_counted_and_nothing_else(subject: str, data: bytes, reply: str) -> None:
    """Whatever comes on our own subjects."""
    world = world_of("n-1")
    world.machine.message(Message(subject, data, reply), world.now)
    world.run()

    assert world.machine.link.counters.total() == 1
    assert not any(published[0] == reply for published in world.published)


def test_a_node_keeps_the_end_of_its_own_executions_logs_only() -> None:
    """Also when it comes after the report; another node's is dropped."""
    world = world_of("n-1", "n-2")
    world.submit(a_job(constraints=only(world, "n-1")))
    execution = world.run_to_end("n-1")
    body = msgspec.json.encode(api.LogTail(execution_id=execution.id, log=api.KeptLog(stdout=b"x")))
    for name in ("n-2", "n-1"):
        world.machine.message(Message(f"bacalhau.x.v1.{name}.out.logtail", body), world.now)
    world.run()

    assert [type(action).__name__ for action in world.actions] == ["KeepLogTail", "Complain"]


# ── membership ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_revoking_a_nodes_credential_rejects_it_and_moves_its_work() -> None:
    """Its connections are cut, its next handshake is refused until it has a new credential."""
    world = world_of("n-2")
    world.ask("credential.issue", api.CredentialIssue(identity="n-1", role="compute"))
    world.join("n-1")
    job = world.submit(a_job(constraints=()))
    node = world.executions(job)[0].node
    world.ask("credential.issue", api.CredentialIssue(identity=node, role="compute"))
    world.bid(world.offered(node))
    world.ask("credential.revoke", api.CredentialRevoke(identity=node))

    assert world.machine.state.nodes[node].membership is Membership.REJECTED
    assert statuses(world, job) == [Status.LOST, Status.PLANNED]
    assert [type(action).__name__ for action in world.actions] == ["Disconnect"]
    world.join(node)
    assert last_reply(world) == messages.HandshakeResponse(accepted=False, reason="node has been rejected")

    world.ask("credential.issue", api.CredentialIssue(identity=node, role="compute"))
    world.join(node)
    assert world.machine.state.nodes[node].membership is Membership.APPROVED
