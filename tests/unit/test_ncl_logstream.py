"""Log streams with Bacalhau 1.9 peers: both ends, against captured traffic and against each other."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from bacalhau_protocol.ncl import logstream
from bacalhau_protocol.ncl.events import Ignored, Send
from bacalhau_protocol.ncl.logstream import (
    CloseCode,
    LogCancelled,
    LogClosed,
    LogConsumer,
    LogLine,
    LogProducer,
    LogRequested,
    LogType,
    Stream,
)
from tests.builders_ncl import SECOND, START, Message, captured, go_json, message, nobody, wire

REQUESTS = ["log-request-follow", "log-request-all", "log-request-tail"]


def producer(node: str = "n-comp") -> LogProducer:
    return LogProducer(node, f"_R.{node}.logs")


def requested(machine: LogProducer, name: str = "log-request-follow") -> Stream:
    (asked,) = machine.message(message(captured(name)), START)
    assert isinstance(asked, LogRequested)
    return asked.stream


def frame(output: Any) -> Any:
    assert isinstance(output, Send)
    return json.loads(output.data)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_real_orchestrators_request_is_understood(name: str) -> None:
    """Execution, tail and follow; the stream's frames go to the reply subject."""
    sample = captured(name)
    machine = LogProducer(sample["decoded_body"]["NodeID"], "_R.n.logs")

    (asked,) = machine.message(message(sample), START)

    wanted = sample["decoded_body"]
    assert asked == LogRequested(Stream(sample["reply"]), wanted["ExecutionID"], wanted["Tail"], wanted["Follow"])


@pytest.mark.parametrize(("name", "kind"), [("log-frame-stdout", LogType.STDOUT), ("log-frame-stderr", LogType.STDERR)])
def test_frames_are_those_of_a_real_node(name: str, kind: LogType) -> None:
    """To the byte."""
    machine = producer()
    stream = requested(machine)

    (sent,) = machine.lines(stream, kind, captured(name)["decoded_data"]["value"]["Line"])

    assert sent == Send(stream.subject, wire(captured(name)))


def test_close_frames_are_those_of_a_real_node() -> None:
    """Exactly one ends a stream; after it nothing is sent."""
    machine = producer()
    stream = requested(machine)

    (normal,) = machine.close(stream)
    assert normal.data == wire(captured("log-close-normal"))
    assert machine.close(stream) == []
    assert machine.lines(stream, LogType.STDOUT, "late") == []

    text = captured("log-close-not-found")["body"]["closeError"]["Text"]
    stream = requested(machine)
    (failed,) = machine.close(stream, CloseCode.PRODUCER_ERROR, text)
    assert failed.data == wire(captured("log-close-not-found"))


def test_long_output_is_cut_into_frames_that_nats_carries() -> None:
    """Even when every character is escaped."""
    machine = producer()
    stream = requested(machine)
    text = "\x00" * 100_000

    frames = machine.lines(stream, LogType.STDOUT, text)

    assert len(frames) == 3
    assert max(len(send.data) for send in frames) < 512 * 1024
    lines = [json.loads(base64.b64decode(frame(send)["data"]))["value"]["Line"] for send in frames]
    assert "".join(lines) == text


def test_the_producers_heartbeat_is_that_of_a_real_node() -> None:
    """Every 10 s, one per reader, with all that it is being fed; no stream, no heartbeat."""
    machine = producer()
    assert machine.next_tick() is None
    stream = requested(machine, "log-request-follow")
    stream_id = captured("log-request-follow")["body"]["streamId"]

    assert machine.tick(START + 10 * SECOND - 1) == []
    (beat,) = machine.tick(START + 10 * SECOND)

    assert isinstance(beat, Send)
    assert beat.subject == captured("log-request-follow")["body"]["heartBeatRequestSub"]
    assert frame(beat) == {"ActiveStreamIds": {"node.compute.n-comp.ExecutionLogs/v1": [stream_id]}}
    assert machine.message(Message(beat.reply, wire(captured("log-heartbeat-response"))), START) == []
    assert machine.streams == {stream}
    machine.close(stream)
    assert machine.tick(START + 20 * SECOND) == []
    assert machine.next_tick() is None


@pytest.mark.parametrize("how", ["silence", "nobody", "unwanted"])
def test_streams_that_nobody_reads_are_ended(how: str) -> None:
    """No answer within 5 s, nobody listening, or the reader says so."""
    machine = producer()
    stream = requested(machine)
    (beat,) = machine.tick(START + 10 * SECOND)
    assert isinstance(beat, Send)
    unwanted = {"NonActiveStreamIds": {"any": [captured("log-request-follow")["body"]["streamId"], "other"]}}

    if how == "silence":
        assert machine.next_tick() == START + 15 * SECOND
        out = machine.tick(START + 15 * SECOND)
    else:
        reply = nobody(beat) if how == "nobody" else Message(beat.reply, go_json(unwanted))
        out = machine.message(reply, START + 11 * SECOND)

    assert [type(output) for output in out] == [LogCancelled]
    assert machine.streams == frozenset()
    assert machine.close(stream) == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", CloseCode.BAD_REQUEST),
        (b"{", CloseCode.BAD_REQUEST),
        (b'{"body":"!"}', CloseCode.BAD_REQUEST),
        (b'{"body":"bnVsbA=="}', CloseCode.BAD_REQUEST),
        (b'{"body":"e30=","heartBeatRequestSub":"bacalhau.x"}', CloseCode.BAD_REQUEST),
    ],
)
def test_a_bad_request_is_closed_in_words(body: bytes, code: CloseCode) -> None:
    """The reader learns why."""
    subject = message(captured("log-request-all")).subject

    (closed,) = producer().message(Message(subject, body, "_SINBOX.a.b"), START)

    assert frame(closed)["closeError"]["Code"] == code


def test_frames_go_to_stream_inboxes_only() -> None:
    """A request must not make us publish elsewhere."""
    sample = message(captured("log-request-all"))

    (ignored,) = producer().message(Message(sample.subject, sample.data, "bacalhau.global.compute.n-2.in.msgs"), START)

    assert isinstance(ignored, Ignored)


def test_a_stream_is_fed_once_and_not_too_many_at_a_time() -> None:
    """Both are errors of the producer, in words."""
    machine = producer()
    requested(machine)
    (again,) = machine.message(message(captured("log-request-follow")), START)
    assert frame(again)["closeError"]["Code"] == CloseCode.PRODUCER_ERROR

    sample = message(captured("log-request-follow"))
    for number in range(logstream.STREAMS_MAX - 1):
        machine.message(Message(sample.subject, sample.data, f"_SINBOX.x.{number}"), START)
    (full,) = machine.message(Message(sample.subject, sample.data, "_SINBOX.x.last"), START)
    assert "64 log streams are open" in frame(full)["closeError"]["Text"]


def test_the_consumers_request_is_that_of_a_real_orchestrator() -> None:
    """To the byte."""
    sample = captured("log-request-follow")
    unique = sample["body"]["consumerId"].split(".")[1]
    wanted = sample["decoded_body"]

    (sent,) = LogConsumer(unique).open(
        sample["body"]["streamId"], wanted["NodeID"], wanted["ExecutionID"], tail=False, follow=True, now=START
    )

    assert sent == Send(sample["subject"], wire(sample), sample["reply"])


def reading() -> LogConsumer:
    """A consumer with stream `s` open."""
    consumer = LogConsumer("me")
    consumer.open("s", "n-comp", "e-1", now=START)
    return consumer


def test_a_real_nodes_frames_are_understood() -> None:
    """Output of both kinds, then the end."""
    consumer = reading()
    got = [
        consumer.message(Message("_SINBOX.me.s", wire(captured(name))), START)
        for name in ("log-frame-stdout", "log-frame-stderr", "log-close-normal")
    ]

    assert got[0] == [LogLine("s", LogType.STDOUT, "out-0\n")]
    assert [type(output) for output in got[1]] == [LogLine]
    assert got[2] == [LogClosed("s", CloseCode.NORMAL, "")]
    assert consumer.message(Message("_SINBOX.me.s", wire(captured("log-frame-stdout"))), START) == []


def test_an_error_inside_of_a_stream_is_told() -> None:
    """It is no output."""
    item = base64.b64encode(b'{"error":"gone","value":{"Type":0,"Line":""}}').decode()

    assert reading().message(Message("_SINBOX.me.s", go_json({"type": 1, "data": item})), START) == [
        LogLine("s", None, "", "gone")
    ]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"junk", b'{"type":1}', b'{"type":1,"data":"%"}', b'{"type":1,"data":"e30"}']
)
def test_an_unreadable_frame_ends_the_stream(data: bytes) -> None:
    """Code 1003, as a real orchestrator has it."""
    (closed,) = reading().message(Message("_SINBOX.me.s", data), START)

    assert isinstance(closed, LogClosed)
    assert closed.code == CloseCode.UNSUPPORTED


def test_a_node_that_serves_no_logs_is_told_apart() -> None:
    """The server's 503."""
    consumer = LogConsumer("me")
    (request,) = consumer.open("s", "n-comp", "e-1", now=START)
    assert isinstance(request, Send)

    assert consumer.message(nobody(request), START) == [LogClosed("s", 1003, "the node serves no logs now")]


def test_a_silent_node_ends_the_stream() -> None:
    """35 s without output or heartbeat; a heartbeat that names the stream counts."""
    consumer = reading()
    beat = go_json({"ActiveStreamIds": {"node.compute.n-comp.ExecutionLogs/v1": ["s"]}})

    (answer,) = consumer.message(Message("_HEARTBEAT._SINBOX.me", beat, "_INBOX.a"), START + 30 * SECOND)
    assert isinstance(answer, Send)
    assert answer.data == wire(captured("log-heartbeat-response"))
    assert consumer.next_tick() == START + 65 * SECOND
    assert consumer.tick(START + 64 * SECOND) == []
    assert consumer.tick(START + 65 * SECOND) == [LogClosed("s", CloseCode.ABNORMAL, "the node is silent")]


@pytest.mark.parametrize("data", [b"", b"junk", b'{"ActiveStreamIds":{"a":[null]}}'])
def test_an_unreadable_heartbeat_is_ignored(data: bytes) -> None:
    """In words."""
    (ignored,) = reading().message(Message("_HEARTBEAT._SINBOX.me", data, "_INBOX.a"), START)
    assert isinstance(ignored, Ignored)


def test_a_heartbeats_answer_goes_to_an_inbox_only() -> None:
    """As everything that a peer makes us publish."""
    (ignored,) = reading().message(Message("_HEARTBEAT._SINBOX.me", b"{}", "bacalhau.x"), START)
    assert isinstance(ignored, Ignored)


def test_both_ends_together() -> None:
    """From the request to the end; a closed reader's stream is ended by the next heartbeat."""
    consumer, machine = LogConsumer("me"), LogProducer("n-1", "_R.n-1.logs")
    text = ""
    (request,) = consumer.open("one", "n-1", "e-1", tail=True, now=START)
    (other,) = consumer.open("two", "n-1", "e-2", now=START)
    streams = []
    for send in (request, other):
        assert isinstance(send, Send)
        (asked,) = machine.message(Message(send.subject, send.data, send.reply), START)
        assert isinstance(asked, LogRequested)
        streams.append(asked.stream)

    for send in machine.lines(streams[0], LogType.STDOUT, "häl\u2028lo\n" * 20_000):
        for line in consumer.message(Message(send.subject, send.data), START):
            assert isinstance(line, LogLine)
            text += line.text
    assert text == "häl\u2028lo\n" * 20_000

    consumer.close("two")
    (beat,) = machine.tick(START + 10 * SECOND)
    assert isinstance(beat, Send)
    (answer,) = consumer.message(Message(beat.subject, beat.data, beat.reply), START + 10 * SECOND)
    assert isinstance(answer, Send)
    (cancelled,) = machine.message(Message(answer.subject, answer.data), START + 10 * SECOND)
    assert cancelled == LogCancelled(streams[1], "its reader wants no more")

    (end,) = machine.close(streams[0])
    assert consumer.message(Message(end.subject, end.data), START) == [LogClosed("one", 1000, "")]
    assert consumer.next_tick() is None
