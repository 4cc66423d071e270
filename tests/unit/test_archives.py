"""Archives that `tarfile` alone would misread: a damaged header, a size below zero, a name without end."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable

import pytest

from bacalhau_protocol.archives import HEADER_BYTES_MAX, CheckedTarInfo

BLOCK = tarfile.BLOCKSIZE
SIZE, CHECKSUM = slice(124, 136), slice(148, 156)


def header(name: str, *, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """One header; a size below zero is written as GNU's tar would read it."""
    info = tarfile.TarInfo(name)
    info.size, info.type = max(size, 0), kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if size < 0:
        block[SIZE] = (size % 256**12).to_bytes(12, "big")
        block[CHECKSUM] = b" " * 8
        block[CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)


def names(*blocks: bytes) -> list[str]:
    """The members of an archive of these blocks."""
    stream = io.BytesIO(b"".join(blocks) + bytes(2 * BLOCK))
    with tarfile.open(fileobj=stream, tarinfo=CheckedTarInfo) as archive:
        return [member.name for member in archive]


def damaged(block: bytes) -> bytes:
    """A header whose checksum is wrong."""
    return b"?" + block[1:]


def test_a_sound_archive_is_read() -> None:
    """To its end."""
    assert names(header("a"), header("b")) == ["a", "b"]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (lambda: damaged(header("b")), "damaged header"),
        (lambda: header("b", size=-BLOCK), "-512 bytes"),
        (lambda: header("b", size=HEADER_BYTES_MAX + 1, kind=tarfile.GNUTYPE_LONGNAME), "a header of"),
        (lambda: header("b", size=HEADER_BYTES_MAX + 1, kind=tarfile.XHDTYPE), "a header of"),
    ],
)
def test_what_is_damaged_or_hostile_is_refused(second: Callable[[], bytes], words: str) -> None:
    """Behind the first member too, where `tarfile` sees the end, or none."""
    with pytest.raises(tarfile.ReadError, match=words):
        names(header("a"), second())
