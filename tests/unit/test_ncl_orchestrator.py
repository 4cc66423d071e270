"""The orchestrator's sessions: who may join, who is there, and what was delivered."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from bacalhau_protocol.models.job import Job, NetworkConfig, NetworkType
from bacalhau_protocol.models.node import NodeType
from bacalhau_protocol.ncl import envelope, events, messages, subjects
from bacalhau_protocol.ncl.orchestrator import LOOK_EVERY_NS, TICK_MAX_NS, OrchestratorSessions
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.ncl.timings import FOREIGN, LIMITS, OWN
from tests.builders_ncl import (
    NODE,
    SECOND,
    START,
    Message,
    captured,
    execution,
    happened,
    heartbeat,
    job,
    message,
    node_info,
    orchestrator,
    packed,
    report,
    sent,
    shake,
    unpacked,
)

CTRL = subjects.subject(NODE, Plane.OUT_CTRL)


def cancel(sessions: OrchestratorSessions, number: int = 1, now: int = START) -> list[Any]:
    return sessions.send(NODE, messages.CancelExecution(None, f"e-{number}"), seq=number, tag=number, now=now)


def control(payload: messages.Payload, node: str = NODE) -> Message:
    return Message(subjects.subject(node, Plane.OUT_CTRL), packed(payload), f"_R.{node}.x.control.9")


def run_until(sessions: OrchestratorSessions, end: int) -> list[Any]:
    """Call `tick` whenever it is wanted."""
    out: list[Any] = []
    while (due := sessions.next_tick()) is not None and due <= end:
        out += sessions.tick(due)
    return out


def test_three_wildcards_and_an_inbox_are_all_it_hears() -> None:
    """However many nodes there are."""
    assert orchestrator().subscriptions == (
        "bacalhau.global.compute.*.out.ctrl",
        "bacalhau.global.compute.*.out.msgs",
        "bacalhau.global.compute.*.out.requests",
        "_R.n-o.x.>",
    )


def test_a_handshake_waits_for_the_owners_word() -> None:
    """Nothing is answered before; then with the numbers that the owner gives."""
    sessions = orchestrator()

    (handshake,) = sessions.message(shake(), START)

    assert isinstance(handshake, events.NodeHandshook)
    assert (handshake.node, handshake.info) == (NODE, node_info())
    assert sessions.connected == frozenset()
    (answer,) = sent(
        sessions.accept(handshake, START, starting_seq=1841, last_compute_seq=37, reason="node reconnected")
    )
    assert answer.subject == shake().reply
    assert unpacked(answer) == messages.HandshakeResponse(True, "node reconnected", 37, 1841)
    assert sessions.connected == {NODE}


def test_a_refusal_gives_the_reason_and_ends_the_session() -> None:
    """The node tries again later by itself; its heartbeats are told to shake hands."""
    sessions = orchestrator(NODE)
    (handshake,) = sessions.message(shake(), START)

    (answer,) = sessions.refuse(handshake, START, "node has been rejected")  # type: ignore[arg-type]

    assert unpacked(answer) == messages.HandshakeResponse(False, "node has been rejected")
    assert sessions.connected == frozenset()


def test_only_compute_nodes_may_join() -> None:
    """The answer is the one of a real orchestrator."""
    info = msgspec.structs.replace(node_info(), node_type=NodeType.REQUESTER)
    request = messages.HandshakeRequest(info, "2025-06-02T08:30:00Z")

    out = orchestrator().message(control(request), START)

    assert unpacked(out[-1]) == envelope.decode(message(captured("handshake-response-not-compute")).data).payload


@pytest.mark.parametrize("node", ["n:probe", "n" * 65, "n probe"])
def test_an_unusable_id_is_refused_in_words(node: str) -> None:
    """An id is one subject token."""
    request = messages.HandshakeRequest(node_info(node), "2025-06-02T08:30:00Z")
    out = orchestrator().message(Message(subjects.subject(node, Plane.OUT_CTRL), packed(request), "_INBOX.a.b"), START)

    error = unpacked(out[-1])
    assert isinstance(error, messages.BacError)
    assert error.cause == f"node id {node!r} is not usable"


def test_a_node_cannot_speak_for_another() -> None:
    """The subject is pinned by permissions, so it is the truth; the payload must agree."""
    sessions = orchestrator(NODE, "n-2")
    for payload in (
        messages.HandshakeRequest(node_info("n-2"), "2025-06-02T08:30:00Z"),
        messages.HeartbeatRequest("n-2"),
        messages.UpdateNodeInfoRequest(node_info("n-2")),
        messages.ShutdownNoticeRequest("n-2"),
    ):
        out = sessions.message(control(payload), START)

        assert [type(event) for event in happened(out)] == [events.Ignored]
        error = unpacked(out[-1])
        assert isinstance(error, messages.BacError)
        assert "'n-2'" in error.cause
    assert sessions.connected == {NODE, "n-2"}


@pytest.mark.parametrize("reply", ["", "bacalhau.global.compute.n-2.in.msgs", "_R.n-2.x.1", "_R.n-10.x", "_INBOXX.a"])
def test_answers_go_to_inboxes_of_the_node_only(reply: str) -> None:
    """A request names its reply subject; it must not make us publish into another node's commands."""
    sessions = orchestrator(NODE)

    for plane in (Plane.OUT_CTRL, Plane.OUT_REQUESTS):
        (ignored,) = sessions.message(Message(subjects.subject(NODE, plane), heartbeat().data, reply), START)
        assert isinstance(ignored, events.Ignored)
    out = sessions.message(Message(report().subject, b"junk", reply), START)
    assert sent(out) == []


def test_a_heartbeat_is_answered_and_told() -> None:
    """At once: it is soft state."""
    sessions = orchestrator()
    (handshake,) = sessions.message(shake(), START)
    sessions.accept(handshake, START, starting_seq=7, last_compute_seq=37)  # type: ignore[arg-type]
    beat = messages.HeartbeatRequest(NODE, last_orchestrator_seq=1850)

    answer, event = sessions.message(control(beat), START)

    assert unpacked(answer) == messages.HeartbeatResponse(37)
    assert event == events.HeartbeatReceived(NODE, beat.available_capacity, beat.queue_used_capacity, 1850)


def test_a_stranger_is_told_to_shake_hands() -> None:
    """In the words and numbers of a real orchestrator; a new leader says it to every node."""
    sample = captured("heartbeat-response-handshake-required")
    sessions = OrchestratorSessions("_R.n-o.x")

    (answer,) = sent(sessions.message(message(captured("heartbeat-request-busy")), START))

    real = envelope.decode(message(sample).data)
    ours = envelope.decode(answer.data)
    assert ours.payload == real.payload
    assert replace(ours.metadata, event_time="") == replace(real.metadata, event_time="")


def test_node_info_and_notice() -> None:
    """Both are answered at once; after the notice the session is over."""
    sessions = orchestrator(NODE)
    info = msgspec.structs.replace(node_info(), labels={"zone": "eu"})

    answer, update = sessions.message(control(messages.UpdateNodeInfoRequest(info)), START)
    assert unpacked(answer) == messages.UpdateNodeInfoResponse(True)
    assert update == events.NodeInfoUpdated(NODE, info)

    answer, left = sessions.message(control(messages.ShutdownNoticeRequest(NODE)), START)
    assert unpacked(answer) == messages.ShutdownNoticeResponse(0)
    assert left == events.NodeLeft(NODE, "graceful shutdown")
    assert sessions.connected == frozenset()
    assert sessions.next_tick() is None


def test_a_report_is_acknowledged_when_it_is_stored() -> None:
    """And not a moment earlier."""
    sessions = orchestrator(NODE)

    (received,) = sessions.message(report(4), START)

    assert isinstance(received, events.ReportReceived)
    assert isinstance(received.report, messages.BidResult)
    assert (received.report.execution_id, received.seq) == ("e-4", 4)
    assert sessions.persisted(received.delivery) == [events.Send(report(4).reply, b"{}")]
    (answer, _) = sessions.message(heartbeat(), START)
    assert unpacked(answer) == messages.HeartbeatResponse(4)


def test_a_report_before_the_handshake_is_left_to_be_repeated() -> None:
    """After a reconnect a client flushes what it had before any handshake."""
    (ignored,) = orchestrator().message(report(), START)

    assert isinstance(ignored, events.Ignored)


def test_a_new_handshake_voids_the_old_session() -> None:
    """Its deliveries are not acknowledged any more, its messages not confirmed: all is derived again."""
    sessions = orchestrator(NODE)
    (received,) = sessions.message(report(), START)
    (command,) = sent(cancel(sessions))
    (handshake,) = sessions.message(shake(), START)
    sessions.accept(handshake, START, starting_seq=9)  # type: ignore[arg-type]

    assert isinstance(received, events.ReportReceived)
    assert sessions.persisted(received.delivery) == []
    assert sessions.message(Message(command.reply, b"{}"), START) == []


def test_a_command_is_confirmed_with_its_tag() -> None:
    """The owner then knows that the node has stored it."""
    sessions = orchestrator(NODE, "n-2")

    (command,) = sent(cancel(sessions))

    assert command.subject == subjects.subject(NODE, Plane.IN_MSGS)
    assert sessions.message(Message(command.reply, b"{}"), START) == [events.DeliveryConfirmed(NODE, 1)]


def test_commands_to_strangers_are_not_sent() -> None:
    """The handshake will derive them."""
    assert cancel(orchestrator()) == []


def test_a_node_that_takes_nothing_is_lost() -> None:
    """Its queue is bounded; after its next handshake all is derived again."""
    sessions = orchestrator(NODE, limits=msgspec.structs.replace(LIMITS, queued_max=1))
    cancel(sessions, 1)

    assert cancel(sessions, 2) == [events.NodeLost(NODE, START, "1 messages wait for n-1, which does not take them")]
    assert sessions.connected == frozenset()
    assert sessions.tick(START + 10**12) == []


@pytest.mark.parametrize(("own", "timings"), [(True, OWN), (False, FOREIGN)])
def test_silence_then_loss(own: bool, timings: Any) -> None:
    """Our nodes beat every 5 s: unknown after 20 s, lost after 60 s. A 1.9 node beats every 15 s: 60 s and 120 s."""
    sessions = orchestrator(NODE, own=own)

    assert run_until(sessions, START + timings.unknown_after_ns - 1) == []
    assert run_until(sessions, START + timings.unknown_after_ns) == [events.NodeFellSilent(NODE, START)]
    assert run_until(sessions, START + timings.lost_after_ns - 1) == []
    (lost,) = run_until(sessions, START + timings.lost_after_ns)
    assert lost == events.NodeLost(NODE, START, f"nothing heard of the node for {timings.lost_after_ns // SECOND} s")
    assert sessions.connected == frozenset()
    assert sessions.next_tick() is None


def test_nodes_that_fall_silent_together_are_looked_at_together() -> None:
    """Deadlines less than a tenth of a second apart cost one tick."""
    sessions = orchestrator("n-1")
    (handshake,) = sessions.message(shake("n-2"), START + 1)
    assert isinstance(handshake, events.NodeHandshook)
    sessions.accept(handshake, START + 1, starting_seq=7)
    silence = START + OWN.unknown_after_ns
    assert run_until(sessions, silence) == [events.NodeFellSilent("n-1", START)]

    assert sessions.next_tick() == silence + LOOK_EVERY_NS
    assert sessions.tick(silence + LOOK_EVERY_NS) == [events.NodeFellSilent("n-2", START + 1)]


def test_any_message_is_a_sign_of_life() -> None:
    """A silent node that speaks again goes on in the same session."""
    sessions = orchestrator(NODE)
    run_until(sessions, START + 25 * SECOND)

    back, received = sessions.message(report(), START + 25 * SECOND)

    assert back == events.NodeSpokeAgain(NODE)
    assert isinstance(received, events.ReportReceived)
    assert run_until(sessions, START + 44 * SECOND) == []
    assert run_until(sessions, START + 45 * SECOND) == [events.NodeFellSilent(NODE, START + 25 * SECOND)]


def test_our_own_pause_is_not_the_nodes_silence() -> None:
    """A stopped process must not declare its whole cluster lost before it has read what had come."""
    sessions = orchestrator(NODE)
    run_until(sessions, START + 10 * SECOND)
    woken = START + 600 * SECOND

    assert sessions.tick(woken) == []
    assert run_until(sessions, woken + 20 * SECOND - 1) == []
    assert run_until(sessions, woken + 20 * SECOND) == [events.NodeFellSilent(NODE, START)]


def test_ticks_are_wanted_often_enough_to_notice_a_pause() -> None:
    """At least every five seconds while anyone is connected."""
    sessions = orchestrator(NODE)

    assert sessions.next_tick() == START + TICK_MAX_NS
    sessions.tick(START + 3 * SECOND)
    assert sessions.next_tick() == START + 3 * SECOND + TICK_MAX_NS


def test_unanswered_commands_leave_again() -> None:
    """After the acknowledgement's time-out and a back-off, as long as the node is heard."""
    sessions = orchestrator(NODE)
    cancel(sessions)
    out: list[Any] = []
    for second in range(40):
        out += sessions.message(heartbeat(), START + second * SECOND)
        out += run_until(sessions, START + second * SECOND)

    commands = [output for output in sent(out) if output.subject.endswith("in.msgs")]
    assert [unpacked(command) for command in commands] == [messages.CancelExecution(None, "e-1")]


def test_a_dropped_node_is_told_at_its_next_heartbeat() -> None:
    """So a rejected or revoked node notices soon."""
    sessions = orchestrator(NODE)
    sessions.drop(NODE)
    sessions.drop(NODE)

    (answer,) = sent(sessions.message(heartbeat(), START))
    assert unpacked(answer) == messages.handshake_required(NODE)


def test_a_presigned_url_is_refused_as_a_real_orchestrator_without_s3_does() -> None:
    """The job fails with a publish error instead of waiting."""
    (answer,) = sent(orchestrator().message(message(captured("presign-request")), START))

    real = envelope.decode(message(captured("presign-response-error")).data)
    ours = envelope.decode(answer.data)
    assert ours.payload == real.payload
    assert replace(ours.metadata, event_time="") == replace(real.metadata, event_time="")


def test_the_legacy_registration_is_left_unanswered() -> None:
    """Nobody subscribes to it; if it came all the same it would not be answered: 1.9 nodes then speak NCL."""
    (ignored,) = orchestrator().message(message(captured("legacy-register-request")), START)

    assert isinstance(ignored, events.Ignored)


@pytest.mark.parametrize("plane", [Plane.OUT_CTRL, Plane.OUT_REQUESTS])
def test_what_has_no_handler_is_answered_so(plane: Plane) -> None:
    """A registered type on the wrong plane."""
    data = packed(messages.BidResult("e-1"))

    out = orchestrator(NODE).message(Message(subjects.subject(NODE, plane), data, "_R.n-1.x"), START)

    error = unpacked(out[-1])
    assert isinstance(error, messages.BacError)
    assert (error.cause, error.code) == ("no handler found for message type: BidResult", "NotFound")
    assert messages.status_of(error) == 404


def test_its_own_commands_are_not_for_it() -> None:
    """Should someone subscribe too widely."""
    (ignored,) = orchestrator(NODE).message(message(captured("bid-accepted")), START)
    assert isinstance(ignored, events.Ignored)


def test_an_offer_spares_real_nodes_what_they_stumble_over() -> None:
    """Meta is an object, revision at most 1, network Host goes out as Full and Default not at all."""
    task = job().task
    networks = (
        NetworkConfig(NetworkType.HOST),
        NetworkConfig(NetworkType.DEFAULT),
        NetworkConfig(NetworkType.NONE),
        None,
    )
    tasks = tuple(msgspec.structs.replace(task, network=network) for network in networks)
    poor = job(tasks=tasks, meta=None, constraints=None, labels=None)

    offer = messages.ask_for_bid(execution(job=poor, revision=9)).execution

    assert offer is not None
    assert isinstance(offer.job, Job)
    assert offer.revision == 1
    assert (offer.job.meta, offer.job.constraints, offer.job.labels) == ({}, (), {})
    wire = msgspec.to_builtins(offer)["Job"]["Tasks"]
    assert [task.get("Network") for task in wire] == [{"Type": "Full"}, None, {"Type": "None"}, None]
    assert offer.job.tasks is not None


def test_headers_are_not_needed_and_not_sent() -> None:
    """Receivers of Bacalhau decode from the envelope alone."""
    assert "headers" not in events.Send.__struct_fields__
