"""The envelope is read and written byte for byte as Bacalhau does, and says what is wrong with a bad one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.ncl import envelope, messages
from bacalhau_protocol.ncl.envelope import Unreadable
from tests.builders_ncl import START, captured, go_json, job, message, packed, samples, seal, wire

ENVELOPES = [name for name in samples() if captured(name)["wire"]["version"] == 1]


@pytest.mark.parametrize("name", ENVELOPES)
def test_every_captured_envelope_decodes_and_encodes_to_the_same_bytes(name: str) -> None:
    """What a real node wrote is read without loss and written again to the last byte, checksum included."""
    data = wire(captured(name))

    decoded = envelope.decode(data)

    assert envelope.encode(decoded.metadata, decoded.payload) == data


@pytest.mark.parametrize("name", ENVELOPES)
def test_metadata_are_built_as_the_real_program_builds_them(name: str) -> None:
    """Same keys, same order, same values; only a Go error's constant event time is not imitated."""
    wanted: dict[str, str] = captured(name)["body"]["metadata"]
    payload = envelope.decode(wire(captured(name))).payload

    seq = wanted.get("Bacalhau-SeqNum")
    built = envelope.metadata(
        payload,
        source=wanted["Bacalhau-Source"],
        now=int(wanted["Bacalhau-EventTime"]),
        seq=None if seq is None else int(seq),
        subject=wanted.get("Bacalhau-Subject", ""),
    )

    assert list(msgspec.to_builtins(built).items()) == list(wanted.items())


def test_all_captured_messages_are_covered() -> None:
    """Sixty of the captured messages are envelopes; the others have tests of their own."""
    assert len(ENVELOPES) == 60


def test_smallest_vector() -> None:
    """The checksum covers the body only and is big-endian."""
    body = b'{"metadata":{"a":"b"},"payload":{}}'

    assert seal(body).hex().startswith("01728058b6")
    with pytest.raises(Unreadable, match="unsupported payload encoding"):
        envelope.decode(seal(body))


def test_heartbeat_vector() -> None:
    """The second vector of the reference decodes and has the noted checksum."""
    response = messages.HeartbeatResponse(42)

    data = envelope.encode(
        envelope.metadata(response, source="orchestrator-control", now=1736935200000000000), response
    )

    assert data[:5].hex() == "014f79a279"
    assert envelope.decode(data).payload == response


def test_legacy_metadata_are_enough() -> None:
    """`Type` and `PayloadEncoding` stand in when their longer twins are missing."""
    metadata = {"Type": "transport.HeartbeatResponse", "PayloadEncoding": "json"}
    body = go_json({"payload": {"LastComputeSeqNum": 3}, "metadata": metadata})

    assert envelope.decode(seal(body)).payload == messages.HeartbeatResponse(3)


def test_unknown_members_are_ignored() -> None:
    """A newer peer may say more."""
    payload = {"LastComputeSeqNum": 3, "New": [1, {"a": None}]}
    metadata = {"Bacalhau-Type": "transport.HeartbeatResponse", "Bacalhau-PayloadEncoding": "json", "X": "y"}

    assert envelope.decode(seal(go_json({"metadata": metadata, "payload": payload, "z": 1}))).payload == (
        messages.HeartbeatResponse(3)
    )


def test_go_escapes() -> None:
    """Characters that Go escapes are escaped, wherever they stand."""
    cancel = messages.BacError(cause="a<b>&\u2028\u2029é")

    data = packed(cancel)

    assert b"a\\u003cb\\u003e\\u0026\\u2028\\u2029\xc3\xa9" in data
    assert envelope.decode(data).payload == cancel


@pytest.mark.parametrize(
    ("text", "number"), [(msgspec.UNSET, None), ("17", 17), ("", 0), ("x", 0), ("-1", 0), ("٣", 0), ("9" * 30, 0)]
)
def test_a_number_that_is_none_reads_as_zero(text: envelope.Entry, number: int | None) -> None:
    """As a real node's tracker has it: absent leaves it alone, nonsense resets it."""
    assert envelope.Envelope(envelope.Metadata(seq=text), messages.BidRejected()).seq == number


def _with_metadata(metadata: object, payload: object = None) -> bytes:
    return seal(go_json({"metadata": metadata, "payload": payload if payload is not None else {}}))


def _typed(name: str, payload: object) -> bytes:
    return _with_metadata({"Bacalhau-Type": name, "Bacalhau-PayloadEncoding": "json"}, payload)


WRONG: list[tuple[str, bytes, str]] = [
    ("empty", b"", "failed to deserialize message envelope: empty data"),
    ("short", b"\x01abc", "failed to deserialize message envelope: bad message: too short"),
    ("checksum", seal(b"{}", crc=1), "failed to deserialize message envelope: bad message: CRC check failed"),
    ("version", seal(b"{}", version=0xFF), "failed to deserialize message envelope: unsupported encoding: 0xff"),
    (
        "no body",
        seal(b""),
        "failed to deserialize message envelope: failed to deserialize with encoding json-v1: data is empty",
    ),
    ("huge", seal(b" " * envelope.ACCEPTED_MAX_BYTES), "8388613 bytes; at most 8388608 are read"),
    ("no JSON", seal(b"hello"), "failed to deserialize with encoding json-v1"),
    ("null", seal(b"null"), "Expected `object`, got `null`"),
    ("null metadata", _with_metadata(None), "Expected `object`, got `null` - at `$.metadata`"),
    ("no metadata", seal(b'{"payload":{}}'), "missing required field `metadata`"),
    ("number in metadata", _with_metadata({"Bacalhau-SeqNum": 1}), "Expected `str`, got `int`"),
    ("no payload", seal(b'{"metadata":{}}'), "missing required field `payload`"),
    ("encoding", _with_metadata({"Bacalhau-Type": "AskForBid"}), "unsupported payload encoding"),
    ("type", _typed("Nope", {}), "failed to deserialize message payload: unsupported message type: Nope"),
    ("no type", _with_metadata({"PayloadEncoding": "json"}), "unsupported message type: "),
    ("null payload", seal(_typed("BidResult", {})[5:].replace(b'"payload":{}', b'"payload":null')), "got `null`"),
    ("null element", _typed("BidResult", {"Events": [None]}), "Expected `object`, got `null` - at `$.Events[0]`"),
    ("wrong type", _typed("BidResult", {"Accepted": "yes"}), "Expected `bool`, got `str` - at `$.Accepted`"),
    ("float for integer", _typed("transport.HeartbeatResponse", {"LastComputeSeqNum": 1024.5}), "got `float`"),
    ("bad time", _typed("transport.HandshakeRequest", {"NodeInfo": {}, "StartTime": "yesterday"}), "StartTime: 'yest"),
    ("not UTF-8", seal(b'{"metadata":{"Type":"\xff"},"payload":{}}'), "failed to deserialize with encoding json-v1"),
    ("deep", _typed("AskForBid", {"x": json.loads("[" * 900 + "]" * 900)}), ""),
    ("deeper", seal(b'{"metadata":' + b"[" * 200_000), "failed to deserialize with encoding json-v1"),
]


@pytest.mark.parametrize(("name", "data", "words"), WRONG, ids=[name for name, _, _ in WRONG])
def test_bad_messages_are_refused_with_gos_words(name: str, data: bytes, words: str) -> None:
    """Whatever is wrong with a message, it raises `Unreadable` and nothing else, and says what it is."""
    if not words:
        assert isinstance(envelope.decode(data).payload, messages.AskForBid)  # as deep as they like
        return
    with pytest.raises(Unreadable) as caught:
        envelope.decode(data)

    assert words in caught.value.message


def test_an_unreadable_message_says_what_it_is_about() -> None:
    """So that the execution can be ended with words instead of waiting for ever."""
    offer = {"Execution": {"ID": "e-1", "JobID": "j-1", "Job": {"Type": "batch", "Tasks": [None]}}}
    with pytest.raises(Unreadable) as caught:
        envelope.decode(_typed("AskForBid", offer))
    error = caught.value
    assert (error.type, error.execution_id, error.job_id, error.job_type) == ("AskForBid", "e-1", "j-1", "batch")

    with pytest.raises(Unreadable) as caught:
        envelope.decode(_typed("RunResult", {"ExecutionID": "e-2", "JobID": 7, "Events": 1}))
    assert (caught.value.execution_id, caught.value.job_id) == ("e-2", "")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _protobuf(metadata: dict[str, str], payload: bytes) -> bytes:
    entries = b"".join(
        _field(1, _field(1, key.encode()) + _field(2, value.encode())) for key, value in metadata.items()
    )
    return _field(1, entries + _field(2, b"sum")) + _field(2, _field(1, payload))


def test_protobuf_is_read() -> None:
    """Version 2 has the same content in protobuf; unknown fields of any wire type are skipped."""
    metadata = envelope.metadata(messages.HeartbeatResponse(5), source="o", now=START)
    other = _varint(9 << 3) + b"\x07" + _varint(10 << 3 | 1) + bytes(8) + _varint(11 << 3 | 5) + bytes(4)

    read = envelope.decode(
        seal(other + _protobuf(msgspec.to_builtins(metadata), b'{"LastComputeSeqNum":5}'), version=2)
    )

    assert read == envelope.Envelope(metadata, messages.HeartbeatResponse(5))


@pytest.mark.parametrize(
    "body",
    [
        b"\x0a",
        b"\x0a\xff",
        b"\x0b",
        b"\x80" * 11,
        b"\x0a\x05abc",
        b"\x09abc",
        _field(1, b""),
        b"",
        _field(1, b"\x0a\x02\x0a\xff"),
    ],
)
def test_bad_protobuf_is_unreadable(body: bytes) -> None:
    """Cut, of unknown wire types, or without payload."""
    with pytest.raises(Unreadable):
        envelope.decode(seal(body, version=2))


def test_too_large_a_message_is_not_sent() -> None:
    """NATS would cut the connection; the error names both sizes."""
    offer = messages.AskForBid(execution=None, events=None)
    big = msgspec.structs.replace(offer, execution=Execution(job=job(name="x" * envelope.SENT_MAX_BYTES)))

    with pytest.raises(UsageError, match=r"a AskForBid message has \d+ bytes; the most that NATS carries is 1044480"):
        packed(big)


def test_every_registered_type_has_one_name() -> None:
    """The registry is one to one."""
    assert {kind: name for name, kind in messages.TYPES.items()} == messages.NAMES
    assert len(messages.NAMES) == len(messages.TYPES)


@pytest.mark.parametrize("name", ["ack-from-compute", "ack-from-orchestrator"])
def test_captured_acks(name: str) -> None:
    """An acknowledgement says nothing."""
    assert msgspec.json.decode(message(captured(name)).data, type=messages.Ack) == messages.Ack()


@pytest.mark.parametrize("name", [name for name in samples() if name.startswith("nack-")])
def test_captured_nacks(name: str) -> None:
    """A refusal says why, and after how many nanoseconds it may be tried again."""
    nack: Any = msgspec.json.decode(message(captured(name)).data, type=messages.Ack)

    assert nack.error.startswith("failed to deserialize message payload: ")
    assert nack.delay >= 100_000_000
