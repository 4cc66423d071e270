"""A compute node's session: it comes back from everything by shaking hands again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl import events, messages, subjects
from bacalhau_protocol.ncl.compute import ComputeSession
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.lifecycle import ComputeState
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.ncl.timings import LIMITS, OWN
from tests.builders_ncl import (
    NODE,
    SECOND,
    START,
    Message,
    answer_to,
    captured,
    compute,
    connected,
    happened,
    message,
    nobody,
    node_info,
    packed,
    samples,
    sent,
    unpacked,
)

COMMANDS = [name for name in samples() if captured(name)["subject"] == "bacalhau.global.compute.n-comp.in.msgs"]
IN = subjects.subject(NODE, Plane.IN_MSGS)


def command(number: int = 1, seq: int = 0) -> Message:
    return Message(
        IN, packed(messages.CancelExecution(None, f"e-{number}"), seq=seq or number), f"_R.n-o.x.n-1.1.0.{number}"
    )


def say(session: ComputeSession, number: int = 1, now: int = START) -> list[Any]:
    report = messages.ComputeError(f"e-{number}", "j-1", "batch")
    return session.report(report, seq=number, tag=number, now=now)


def lost(outputs: list[Any]) -> events.SessionLost:
    (found,) = (output for output in outputs if isinstance(output, events.SessionLost))
    return found


def beat(session: ComputeSession) -> Send:
    """Let the next heartbeat come."""
    (request,) = sent(session.tick(session.next_tick() or 0))
    assert isinstance(unpacked(request), messages.HeartbeatRequest)
    return request


def handshake(session: ComputeSession) -> Send:
    """Let the next handshake come."""
    (request,) = sent(session.tick(session.next_tick() or 0))
    assert isinstance(unpacked(request), messages.HandshakeRequest)
    return request


def test_the_first_handshake_leaves_at_once() -> None:
    """After the subscriptions to commands and inbox; with what the node is and when it began."""
    session = compute(last_orchestrator_seq=154)

    assert session.subscriptions == (IN, "_R.n-1.x.>")
    (request,) = session.link_up(START)
    assert isinstance(request, Send)
    assert request.subject == subjects.subject(NODE, Plane.OUT_CTRL)
    assert unpacked(request) == messages.HandshakeRequest(node_info(), "2025-06-15T15:06:40Z", 154)
    assert session.state is ComputeState.HANDSHAKING


def test_an_accepted_handshake_opens_the_session() -> None:
    """The tracker starts where the orchestrator says."""
    session = compute()
    (request,) = session.link_up(START)
    assert isinstance(request, Send)

    out = session.message(answer_to(request, messages.HandshakeResponse(True, "node registered", 37, 1841)), START)

    assert out == [events.SessionOpened("node registered", 1841, 37)]
    assert session.state is ComputeState.CONNECTED
    assert session.last_orchestrator_seq == 1841


def test_commands_may_overtake_the_answer_to_the_handshake() -> None:
    """They belong to the new session; the tracker is not set back."""
    session = compute()
    (request,) = session.link_up(START)
    assert isinstance(request, Send)
    (received,) = session.message(command(seq=1843), START)
    assert isinstance(received, events.CommandReceived)

    session.message(answer_to(request, messages.HandshakeResponse(True, "", 0, 1841)), START)

    assert session.persisted(received.delivery) == [Send(command().reply, b"{}")]
    assert session.last_orchestrator_seq == 1843


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (messages.HandshakeResponse(False, "node has been rejected"), "refused us: node has been rejected"),
        (messages.HandshakeResponse(False), "refused us: no reason given"),
        (messages.BacError("failed to process request: no"), "failed to process request: no"),
        (messages.HeartbeatResponse(), "HeartbeatResponse is no answer to a handshake"),
        (None, "no orchestrator listens"),
        (b"junk", "the answer cannot be read"),
    ],
)
def test_a_failed_handshake_is_repeated_later(answer: Any, words: str) -> None:
    """Soon the first time, then after 2, 4, … 30 s; what went wrong is told each time."""
    session = compute()
    (request,) = sent(session.link_up(START))
    now = START
    waits = []
    for _ in range(8):
        if isinstance(answer, bytes):
            reply = Message(request.reply, answer)
        else:
            reply = nobody(request) if answer is None else answer_to(request, answer)
        failed = lost(session.message(reply, now))
        assert words in failed.reason
        assert failed.retry_at is not None
        waits.append((failed.retry_at - now) / SECOND)
        assert session.state is ComputeState.WAITING
        now = failed.retry_at
        request = handshake(session)

    assert waits == [1.05, 2, 4, 8, 16, 30, 30, 30]


def test_an_unanswered_handshake_is_repeated() -> None:
    """After 10 s; the late answer to the first is ignored."""
    session = compute()
    (request,) = sent(session.link_up(START))

    assert session.tick(START + 10 * SECOND - 1) == []
    assert lost(session.tick(START + 10 * SECOND)).reason == "no answer to the handshake"
    assert session.message(answer_to(request, messages.HandshakeResponse(True)), START + 10 * SECOND) == []


def test_heartbeats_say_what_is_free_and_what_is_stored() -> None:
    """Every 5 s, the first one interval after the handshake."""
    session = connected()
    offer = msgspec.structs.replace(
        node_info().compute_node_info, available_capacity=Resources(cpu=1.5), queue_capacity=Resources(cpu=0.5)
    )
    assert session.describe(msgspec.structs.replace(node_info(), compute_node_info=offer), START) == []
    (received,) = session.message(command(seq=9), START)
    assert isinstance(received, events.CommandReceived)
    session.persisted(received.delivery)

    assert session.next_tick() == START + 5 * SECOND
    request = beat(session)

    assert unpacked(request) == messages.HeartbeatRequest(NODE, Resources(cpu=1.5), Resources(cpu=0.5), 9)
    assert session.message(answer_to(request, messages.HeartbeatResponse(1)), START + 5 * SECOND) == []
    assert session.next_tick() == START + 10 * SECOND


def test_the_orchestrator_may_ask_for_a_new_handshake() -> None:
    """It follows after 0.1 to 2 s; reports wait for it."""
    session = connected()
    now = START + 5 * SECOND
    request = beat(session)

    told = lost(session.message(answer_to(request, messages.handshake_required(NODE)), now))

    assert told.retry_at == now + 1_050_000_000
    assert say(session, now=now) == []
    session.message(answer_to(handshake(session), messages.HandshakeResponse(True)), told.retry_at)
    assert len(sent(say(session, now=now))) == 1


def test_a_session_that_breaks_before_its_first_heartbeat_counts_as_failed() -> None:
    """So that an orchestrator which accepts and forgets is not asked ten times a second."""
    session = connected()
    now = START
    waits = []
    for _ in range(4):
        (report,) = sent(say(session, now=now))
        told = lost(session.message(nobody(report), now))
        assert told.retry_at is not None
        waits.append((told.retry_at - now) / SECOND)
        now = told.retry_at
        session.message(answer_to(handshake(session), messages.HandshakeResponse(True)), now)

    assert waits == [1.05, 2, 4, 8]


def test_other_errors_of_a_heartbeat_are_told_and_survived() -> None:
    """The next one may succeed."""
    session = connected()

    out = session.message(answer_to(beat(session), messages.BacError("busy")), START + 5 * SECOND)

    assert out == [events.Ignored(NODE, "the orchestrator could not answer: busy")]
    assert session.state is ComputeState.CONNECTED


def test_five_unanswered_heartbeats_end_the_session() -> None:
    """After 25 s of silence; requests time out meanwhile and are forgotten."""
    session = connected()
    out: list[Any] = []
    while session.state is ComputeState.CONNECTED:
        now = session.next_tick()
        assert now is not None
        out += session.tick(now)

    assert lost(out).reason == "no answer for 5 heartbeats"
    assert now == START + 25 * SECOND
    assert len(sent(out)) == 4


@pytest.mark.parametrize("what", ["heartbeat", "report"])
def test_nobody_listening_ends_the_session(what: str) -> None:
    """The server says so at once: the orchestrator is not there."""
    session = connected()
    request = beat(session) if what == "heartbeat" else sent(say(session))[0]

    assert "no orchestrator listens" in lost(session.message(nobody(request), START)).reason


def test_reports_are_confirmed_with_their_tags() -> None:
    """In order."""
    session = connected()
    first, second = sent(say(session, 1)) + sent(say(session, 2))

    assert session.message(Message(first.reply, b"{}"), START) == [events.DeliveryConfirmed(NODE, 1)]
    assert session.message(Message(second.reply, b"{}"), START) == [events.DeliveryConfirmed(NODE, 2)]


def test_after_a_reconnect_everything_unconfirmed_is_the_owners_to_repeat() -> None:
    """The old session's acknowledgements mean nothing, the new one begins empty."""
    session = connected()
    (old,) = sent(say(session, 1))
    assert lost(session.link_down(START)).retry_at is None
    assert session.state is ComputeState.OFFLINE
    assert session.link_up(START + SECOND) == []
    assert session.next_tick() == START + SECOND + 1_050_000_000
    session.message(answer_to(handshake(session), messages.HandshakeResponse(True)), START + 3 * SECOND)

    assert session.message(Message(old.reply, b"{}"), START + 3 * SECOND) == []
    assert len(sent(say(session, 1))) == 1


def test_a_link_that_comes_up_without_having_gone_down_is_a_reconnect() -> None:
    """Client libraries do not always tell."""
    session = connected()

    assert lost(session.link_up(START)).retry_at == START + 1_050_000_000


def test_commands_are_acknowledged_when_stored() -> None:
    """Each of the four kinds."""
    session = connected()
    commands: list[messages.Command] = [
        messages.AskForBid(),
        messages.BidAccepted(None, "e-1"),
        messages.BidRejected(None, "e-1"),
        messages.CancelExecution(None, "e-1"),
    ]
    for number, payload in enumerate(commands):
        (received,) = session.message(Message(IN, packed(payload, seq=number), f"_INBOX.a.{number}"), START)

        assert isinstance(received, events.CommandReceived)
        assert (received.command, received.seq) == (payload, number)
        assert session.persisted(received.delivery) == [Send(f"_INBOX.a.{number}", b"{}")]


def test_changes_of_the_node_are_told_once() -> None:
    """At once when connected; again with the next heartbeat if the answer did not come."""
    session = connected()
    info = msgspec.structs.replace(node_info(), labels={"zone": "eu"})

    (update,) = sent(session.describe(info, START))
    assert unpacked(update) == messages.UpdateNodeInfoRequest(info)
    assert session.describe(info, START) == []
    session.tick(START + 5 * SECOND)
    kinds = [type(unpacked(request)) for request in sent(session.tick(START + 10 * SECOND))]
    assert kinds == [messages.HeartbeatRequest, messages.UpdateNodeInfoRequest]

    again = session.describe(info, START + 11 * SECOND)
    assert again == []


def test_an_acknowledged_change_is_not_repeated() -> None:
    """And what changed while the handshake was under way is told after it."""
    session = compute()
    (request,) = sent(session.link_up(START))
    info = msgspec.structs.replace(node_info(), labels={"zone": "eu"})
    assert session.describe(info, START) == []

    (update,) = sent(session.message(answer_to(request, messages.HandshakeResponse(True)), START))
    session.message(answer_to(update, messages.UpdateNodeInfoResponse(True)), START)

    assert unpacked(update) == messages.UpdateNodeInfoRequest(info)
    assert session.describe(info, START) == []
    assert len(sent(session.tick(START + 5 * SECOND))) == 1


def test_leaving_gives_notice() -> None:
    """Commands and reports are over; the answer, or two seconds, closes the session."""
    session = connected()

    (notice,) = sent(session.leave(START, "maintenance"))

    assert unpacked(notice) == messages.ShutdownNoticeRequest(NODE, "maintenance", 7)
    assert say(session) == []
    assert [type(output) for output in session.message(command(), START)] == [events.Ignored]
    assert session.leave(START) == []
    assert session.message(answer_to(notice, messages.ShutdownNoticeResponse(3)), START) == [events.SessionClosed(True)]
    assert session.state is ComputeState.CLOSED


def test_leaving_does_not_wait_for_ever() -> None:
    """The orchestrator finds out by itself."""
    session = connected()
    session.leave(START)

    assert session.next_tick() == START + OWN.leave_timeout_ns
    assert session.tick(START + OWN.leave_timeout_ns) == [events.SessionClosed(False)]


def test_a_queue_that_is_full_begins_a_new_session() -> None:
    """Bounded, and nothing is lost: the owner repeats what is not confirmed."""
    session = connected(limits=msgspec.structs.replace(LIMITS, queued_max=1))
    say(session, 1)

    assert "1 messages wait" in lost(say(session, 2)).reason


def test_captured_commands_of_a_real_orchestrator_are_taken() -> None:
    """All of them, word for word."""
    session = ComputeSession("n-comp", "_R.n-comp.x", node_info("n-comp"), started_at=START, jitter=lambda: 0.5)
    for name in COMMANDS:
        (received,) = happened(session.message(message(captured(name)), START))
        assert isinstance(received, events.CommandReceived)
        assert sent(session.persisted(received.delivery)) == [Send(captured(name)["reply"], b"{}")]


@pytest.mark.parametrize("subject", ["x", "_R.n-1.xx.1", "bacalhau.global.compute.n-2.in.msgs"])
def test_strange_subjects_are_ignored_in_words(subject: str) -> None:
    """Should someone subscribe too widely."""
    (ignored,) = connected().message(Message(subject, b"{}"), START)
    assert isinstance(ignored, events.Ignored)
