"""Reading tar archives that other people made: `tarfile` with the checks that it leaves out."""

from __future__ import annotations

import tarfile
from typing import Self

HEADER_BYTES_MAX = 1024 * 1024  # of a long name or an extended header, which is read into memory whole
_IN_MEMORY = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class CheckedTarInfo(tarfile.TarInfo):
    """Give it to `tarfile.open(tarinfo=…)`: what is damaged or hostile raises `tarfile.ReadError`.

    By itself `tarfile` takes a damaged header behind the first member for the end of the archive, goes back in the
    archive at a negative size, for ever, and reads a "name" of any size into memory.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header."""
        try:
            found = super().frombuf(buf, encoding, errors)
        except (tarfile.TruncatedHeaderError, tarfile.InvalidHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"damaged header: {error}") from error
        if found.size < 0:
            raise tarfile.ReadError(f"a member of {found.size} bytes")
        if found.type in _IN_MEMORY and found.size > HEADER_BYTES_MAX:
            raise tarfile.ReadError(f"a header of {found.size} bytes, the limit is {HEADER_BYTES_MAX}")
        return found
