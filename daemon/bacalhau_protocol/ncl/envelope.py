"""The envelope around every NCL message: 1 byte version, 4 bytes CRC-32 (big-endian, of the body), body.

Version 1 is JSON `{"metadata": {text: text}, "payload": …}`; version 2 is protobuf with the same content. Both are
read, version 1 is written. The texts of errors are Go's, because peers and people search for them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar
from zlib import crc32

import msgspec
from msgspec import UNSET

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.ncl import protobuf
from bacalhau_protocol.ncl.messages import NAMES, TYPES, BacError, Payload, status_of

SENT_MAX_BYTES: Final = 1024 * 1024 - 4096
"""Largest envelope we send: NATS' usual 1 MiB, less room for the headers."""
ACCEPTED_MAX_BYTES: Final = 8 * 1024 * 1024
"""Largest envelope we look into; a server may be set to carry more."""

JSON_V1, PROTOBUF_V2 = 1, 2
_VERSIONS: Final = {JSON_V1: "json-v1", PROTOBUF_V2: "protobuf-v1"}
_HEADER = struct.Struct(">BI")
_HEADER_BYTES = _HEADER.size
_pack_header, _unpack_header = _HEADER.pack, _HEADER.unpack_from


class Unreadable(UsageError):
    """A message of a peer cannot be decoded: `message` has Go's words.

    `type`, `execution_id`, `job_id` and `job_type` are what could be read of it nevertheless, else blank.
    """

    def __init__(self, message: str, *, type_: str = "", payload: object = None) -> None:
        super().__init__(message)
        self.type = type_
        self.execution_id, self.job_id, self.job_type = _subject_of(payload)


P = TypeVar("P")
Entry = str | msgspec.UnsetType


class Metadata(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What goes with a payload, sorted as Go sorts it. Entries that a peer sends beside these are not kept."""

    error_code: Entry = msgspec.field(default=UNSET, name="Bacalhau-ErrorCode")
    event_time: Entry = msgspec.field(default=UNSET, name="Bacalhau-EventTime")
    message_id: Entry = msgspec.field(default=UNSET, name="Bacalhau-MessageID")
    encoding: Entry = msgspec.field(default=UNSET, name="Bacalhau-PayloadEncoding")
    seq: Entry = msgspec.field(default=UNSET, name="Bacalhau-SeqNum")
    source: Entry = msgspec.field(default=UNSET, name="Bacalhau-Source")
    status_code: Entry = msgspec.field(default=UNSET, name="Bacalhau-StatusCode")
    subject: Entry = msgspec.field(default=UNSET, name="Bacalhau-Subject")
    type: Entry = msgspec.field(default=UNSET, name="Bacalhau-Type")
    legacy_encoding: Entry = msgspec.field(default=UNSET, name="PayloadEncoding")
    legacy_type: Entry = msgspec.field(default=UNSET, name="Type")


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A decoded message."""

    metadata: Metadata
    payload: Payload

    @property
    def seq(self) -> int | None:
        """The sender's number: None when absent, 0 when it is not a number (as a real node reads it)."""
        text = self.metadata.seq
        if text is UNSET:
            return None
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


class _Body(msgspec.Struct, Generic[P], gc=False):
    metadata: Metadata
    payload: P


_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(_Body[msgspec.Raw]).decode
_decoders: dict[Entry, Callable[[msgspec.Raw], Any]] = {
    name: msgspec.json.Decoder(kind).decode for name, kind in TYPES.items()
}
_LESS, _GREATER, _AND = b"<>&"  # Go escapes these, and two characters that are not ASCII
_GO_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def metadata(payload: Payload, *, source: str, now: int, seq: int | None = None, subject: str = "") -> Metadata:
    """Build the metadata of a message."""
    name = NAMES[type(payload)]
    if seq is None and not subject and type(payload) is not BacError:  # a request or its answer: nearly all there are
        return Metadata(
            event_time=str(now), encoding="json", source=source, type=name, legacy_encoding="json", legacy_type=name
        )
    error = payload if isinstance(payload, BacError) else None
    return Metadata(
        error_code=error.code if error else UNSET,
        event_time=str(now),
        message_id=UNSET if seq is None else f"seq-{seq}",
        encoding="json",
        seq=UNSET if seq is None else str(seq),
        source=source,
        status_code=str(status_of(error)) if error else UNSET,
        subject=subject or UNSET,
        type=name,
        legacy_encoding="json",
        legacy_type=name,
    )


def encode(metadata_: Metadata, payload: Payload) -> bytes:
    """Return the envelope, version 1, byte for byte as Go writes it. Raises `UsageError` above `SENT_MAX_BYTES`."""
    body = _encode(_Body(metadata_, payload))
    if not body.isascii() or _LESS in body or _GREATER in body or _AND in body:
        for plain, escaped in _GO_ESCAPES:
            body = body.replace(plain, escaped)  # they are inside of strings: JSON has none of them outside
    if len(body) + _HEADER_BYTES > SENT_MAX_BYTES:
        raise UsageError(
            f"a {NAMES[type(payload)]} message has {len(body)} bytes; the most that NATS carries is {SENT_MAX_BYTES}",
            hint="make the job's specification or its inline inputs smaller",
        )
    return _pack_header(JSON_V1, crc32(body)) + body


def decode(data: bytes) -> Envelope:
    """Read an envelope, version 1 or 2. Raises `Unreadable`."""
    body = _body(data)
    fields = body.metadata
    encoding = fields.encoding or fields.legacy_encoding or ""
    if encoding != "json":
        raise Unreadable(f"failed to deserialize message payload: unsupported payload encoding: {encoding}")
    name = fields.type or fields.legacy_type or ""
    decode_payload = _decoders.get(name)
    if decode_payload is None:
        raise Unreadable(f"failed to deserialize message payload: unsupported message type: {name}", type_=name)
    try:
        return Envelope(fields, decode_payload(body.payload))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        words = f"failed to deserialize message payload: failed to deserialize with encoding json: {error}"
        raise Unreadable(words, type_=name, payload=_anything(body.payload)) from error


def _body(data: bytes) -> _Body[msgspec.Raw]:
    if not _HEADER_BYTES < len(data) <= ACCEPTED_MAX_BYTES:
        raise _no_envelope(_wrong_size(data))
    (version, checksum), raw = _unpack_header(data), data[_HEADER_BYTES:]
    if version not in _VERSIONS:
        raise _no_envelope(f"unsupported encoding: 0x{version:02x}")
    if crc32(raw) != checksum:
        raise _no_envelope("bad message: CRC check failed")
    try:
        if version == JSON_V1:
            return _decode_body(raw)
        fields, payload = protobuf.decode(raw)
        return _Body(msgspec.convert(fields, Metadata), msgspec.Raw(payload))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _no_envelope(f"failed to deserialize with encoding {_VERSIONS[version]}: {error}") from error


def _wrong_size(data: bytes) -> str:
    if not data:
        return "empty data"
    if len(data) < _HEADER_BYTES:
        return "bad message: too short"
    if len(data) > ACCEPTED_MAX_BYTES:
        return f"bad message: {len(data)} bytes; at most {ACCEPTED_MAX_BYTES} are read"
    if data[0] not in _VERSIONS:
        return f"unsupported encoding: 0x{data[0]:02x}"
    if any(data[1:]):  # the checksum of nothing is zero
        return "bad message: CRC check failed"
    return f"failed to deserialize with encoding {_VERSIONS[data[0]]}: data is empty"


def _no_envelope(words: str) -> Unreadable:
    return Unreadable(f"failed to deserialize message envelope: {words}")


def _anything(raw: msgspec.Raw) -> object:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _subject_of(payload: object) -> tuple[str, str, str]:
    """Find what an undecodable message is about, so that its owner can still answer for the execution."""
    if not isinstance(payload, dict):
        return "", "", ""
    execution = payload.get("Execution")
    if isinstance(execution, dict):
        job = execution.get("Job")
        found = (execution.get("ID"), execution.get("JobID"), job.get("Type") if isinstance(job, dict) else "")
    else:
        found = (payload.get("ExecutionID"), payload.get("JobID"), payload.get("JobType"))
    execution_id, job_id, job_type = (text if isinstance(text, str) else "" for text in found)
    return execution_id, job_id, job_type
