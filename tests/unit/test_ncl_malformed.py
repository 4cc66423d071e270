"""No message of a peer harms a machine: it answers or acknowledges, says what was wrong, and goes on as before."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_protocol.ncl import events, messages, subjects
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.lifecycle import ComputeState
from bacalhau_protocol.ncl.subjects import Plane
from tests.builders_ncl import (
    NODE,
    SECOND,
    START,
    Message,
    answer_to,
    captured,
    connected,
    go_json,
    happened,
    heartbeat,
    orchestrator,
    packed,
    report,
    seal,
    sent,
    shake,
    unpacked,
    wire,
)


def envelope_of(name: str, payload: Any, **metadata: Any) -> bytes:
    known = {"Bacalhau-Type": name, "Bacalhau-PayloadEncoding": "json"}
    return seal(go_json({"metadata": {**known, **metadata}, "payload": payload}))


OFFER = wire(captured("ask-for-bid-wasm-batch"))[5:]
MALFORMED = {
    "empty": b"",
    "too short": b"\x01\x02",
    "bad checksum": seal(b'{"metadata":{},"payload":{}}', crc=7),
    "unknown version": seal(b"{}", version=9),
    "broken protobuf": seal(b"\x0a\xff\xff", version=2),
    "no JSON": seal(b"{"),
    "ten megabytes": seal(b'{"metadata":{},"payload":"' + b"x" * 10_000_000 + b'"}'),
    "null metadata": seal(b'{"metadata":null,"payload":{}}'),
    "numbers in metadata": envelope_of("BidResult", {}, **{"Bacalhau-SeqNum": 3}),
    "unknown type": envelope_of("transport.Nope", {}),
    "null elements": envelope_of("RunResult", {"ExecutionID": "e-1", "Events": [None]}),
    "null tasks": seal(OFFER.replace(b'"Tasks":[{', b'"Tasks":[null,{')),
    "wrong types": envelope_of("ComputeError", {"ExecutionID": 7}),
    "number for a state": seal(OFFER.replace(b'"StateType":"Pending"', b'"StateType":1')),
    "unknown network": seal(OFFER.replace(b'"Timeouts":{', b'"Network":{"Type":"Warp"},"Timeouts":{')),
    "bad time": envelope_of("transport.HandshakeRequest", {"NodeInfo": {"NodeID": "n-1"}, "StartTime": "2025-06-02"}),
    "deep": seal(b'{"metadata":{},"payload":' + b"[" * 100_000 + b"}"),
    "not UTF-8": seal(b'{"metadata":{"Bacalhau-Type":"\xff\xfe"},"payload":{}}'),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_the_orchestrator_answers_a_malformed_request_in_words(data: bytes) -> None:
    """The session goes on; the next heartbeat is answered."""
    sessions = orchestrator(NODE)

    out = sessions.message(Message(subjects.subject(NODE, Plane.OUT_CTRL), data, "_R.n-1.x.c.1"), START)

    assert [type(event) for event in happened(out)] == [events.Malformed]
    (answer,) = sent(out)
    error = unpacked(answer)
    assert isinstance(error, messages.BacError)
    assert error.cause.startswith("failed to deserialize request: ")
    assert len(sessions.message(heartbeat(), START)) == 2


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_the_orchestrator_acknowledges_a_malformed_report(data: bytes) -> None:
    """Unread, it would come for ever; in its turn, so that the reports before it are not taken for stored."""
    sessions = orchestrator(NODE)
    (first,) = sessions.message(report(1), START)
    assert isinstance(first, events.ReportReceived)

    (malformed,) = sessions.message(Message(report().subject, data, "_R.n-1.x.1.0.2"), START)
    (last,) = sessions.message(report(3), START)

    assert isinstance(malformed, events.Malformed)
    assert malformed.words
    assert isinstance(last, events.ReportReceived)
    assert sessions.persisted(last.delivery) == []
    acks = sessions.persisted(first.delivery)
    assert acks == [Send(report(n).reply, b"{}") for n in (1, 2, 3)]


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_a_node_acknowledges_a_malformed_command(data: bytes) -> None:
    """And says which execution it was about, when that can be read."""
    session = connected()

    out = session.message(Message(subjects.subject(NODE, Plane.IN_MSGS), data, "_INBOX.a.b"), START)

    (malformed,) = happened(out)
    assert isinstance(malformed, events.Malformed)
    assert sent(out) == [Send("_INBOX.a.b", b"{}")]
    assert session.state is ComputeState.CONNECTED


@pytest.mark.parametrize("name", ["null tasks", "number for a state", "unknown network"])
def test_an_offer_that_cannot_be_read_names_its_execution(name: str) -> None:
    """So the node can report an error instead of leaving the orchestrator waiting."""
    session = connected()

    (malformed, _) = session.message(Message(subjects.subject(NODE, Plane.IN_MSGS), MALFORMED[name], "_INBOX.a"), START)

    assert isinstance(malformed, events.Malformed)
    body = captured("ask-for-bid-wasm-batch")["body"]["payload"]["Execution"]
    assert (malformed.execution_id, malformed.job_id, malformed.job_type) == (body["ID"], body["JobID"], "batch")


@pytest.mark.parametrize("data", MALFORMED.values(), ids=list(MALFORMED))
def test_a_node_survives_malformed_answers(data: bytes) -> None:
    """A heartbeat that was answered with nonsense is repeated; so is a report."""
    session = connected()
    (beat,) = sent(session.tick(START + 5 * SECOND))
    out = session.message(Message(beat.reply, data), START + 5 * SECOND)
    assert [type(event) for event in happened(out)] == [events.Malformed]

    (first,) = sent(session.report(messages.ComputeError("e-1"), seq=1, tag=1, now=START + 5 * SECOND))
    assert session.message(Message(first.reply, data), START + 5 * SECOND) == []
    again = [m for m in sent(session.tick(START + 6 * SECOND)) if m.subject.endswith("out.msgs")]

    assert len(again) == 1
    assert session.state is ComputeState.CONNECTED


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_and_random_bytes_do_no_harm(data: st.DataObject) -> None:
    """To either side, on any subject that it hears."""
    sessions, session = orchestrator(NODE), connected()
    (beat,) = sent(session.tick(START + 5 * SECOND))
    names = ["heartbeat-request-idle", "handshake-request-first", "run-result-wasm", "bid-accepted"]
    for _ in range(5):
        junk = (
            data.draw(st.binary(max_size=40))
            if data.draw(st.booleans())
            else _flip(data, data.draw(st.sampled_from(names)))
        )
        reply = data.draw(st.sampled_from(["", "_INBOX.a", "_R.n-1.a", "$SYS.x", "_R.n-1.", "."]))
        headers = data.draw(st.sampled_from([None, {"Status": "503"}, {"Status": ""}]))
        plane = data.draw(st.sampled_from(Plane))
        sessions.message(Message(subjects.subject(NODE, plane), junk, reply, headers), START)
        sessions.message(Message("_R.n-o.x.n-1.1.0.0", junk, reply, headers), START)
        session.message(Message(subjects.subject(NODE, Plane.IN_MSGS), junk, reply, headers), START)
        session.message(
            Message(data.draw(st.sampled_from([beat.reply, "_R.n-1.x.1.0.0", "_R.n-1.x..", "_R.n-1.x"])), junk), START
        )

    (again,) = sessions.message(shake(), START)
    assert isinstance(again, events.NodeHandshook)
    assert session.next_tick() is not None


def _flip(data: st.DataObject, name: str) -> bytes:
    raw = bytearray(wire(captured(name))[5:])
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    return seal(bytes(raw))


def test_an_answer_of_another_kind_is_ignored() -> None:
    """A handshake's answer to a heartbeat, and the like."""
    session = connected()
    (beat,) = sent(session.tick(START + 5 * SECOND))

    (ignored,) = session.message(answer_to(beat, messages.HandshakeResponse(True)), START + 5 * SECOND)

    assert ignored == events.Ignored(NODE, "HandshakeResponse is no answer to HeartbeatRequest")


def test_a_command_on_the_report_plane_is_skipped() -> None:
    """And acknowledged, as a real node does."""
    sessions = orchestrator(NODE)
    data = packed(messages.CancelExecution(None, "e-1"), seq=4)

    out = sessions.message(Message(report().subject, data, "_INBOX.a"), START)

    assert [type(event) for event in happened(out)] == [events.Ignored]
    assert sent(out) == [Send("_INBOX.a", b"{}")]
