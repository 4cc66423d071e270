"""Just enough protobuf to read an envelope of version 2; nothing in Bacalhau 1.9 sends one.

::

    message Envelope { Metadata metadata = 1; Payload payload = 2; }
    message Metadata { map<string, string> fields = 1; bytes checksum = 2; }
    message Payload  { bytes data = 1; bytes checksum = 2; }
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_MAX_BYTES = 10


def decode(data: bytes) -> tuple[dict[str, str], bytes]:
    """Return metadata and payload. Raises `ValueError`."""
    metadata: dict[str, str] = {}
    payload: bytes | None = None
    for number, value in _fields(data):
        if number == 1:
            for inner, entry in _fields(value):
                if inner == 1:
                    pair = dict(_fields(entry))
                    metadata[pair.get(1, b"").decode()] = pair.get(2, b"").decode()
        elif number == 2:
            payload = dict(_fields(value)).get(1, b"")
    if payload is None:
        raise ValueError("message has no payload")
    return metadata, payload


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number, content) of each length-delimited field; others are skipped, as protobuf wants it."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            _, at = _varint(data, at)
            continue
        if wire_type == _BYTES:
            size, at = _varint(data, at)
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire_type} is unknown")
        if at + size > len(data):
            raise ValueError("message ends inside of a field")
        if wire_type == _BYTES:
            yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + _VARINT_MAX_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise ValueError("message ends inside of a number")
