"""Finding a CA by its fingerprint: a join token names it, the server shows it, and only then it is trusted."""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl

from bacalhau_protocol import errors

TIMEOUT_S = 10.0
CHAIN_MAX = 10


def fingerprint(pem: str) -> str:
    """Return the SHA-256 (hexadecimal) of the first certificate in a PEM text. Raises `UsageError`."""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERT") :].strip())).hexdigest()
    except ValueError as error:
        raise errors.UsageError(f"not a PEM certificate: {error}") from error


async def fetch_ca(address: str, wanted: str) -> str:
    """Return the certificate (PEM) with this fingerprint out of the chain that the server at `address` shows.

    Nothing is sent but the greeting of TLS, and nothing is trusted but the fingerprint.

    Raises
    ------
    Unavailable
        when nobody answers there with TLS.
    Unauthenticated
        when the chain has no certificate with this fingerprint.
    """
    host, port = _split(address)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            chain = await _chain(host, port)
    except (OSError, TimeoutError) as error:
        raise errors.Unavailable(f"cannot ask the server for its certificate: {error}", place=address) from error
    for certificate in chain[:CHAIN_MAX]:
        if hashlib.sha256(certificate).hexdigest() == wanted:
            return ssl.DER_cert_to_PEM_cert(certificate)
    raise errors.Unauthenticated(
        "the server's certificate is not the one that the join token names",
        place=address,
        hint="somebody may be in between; or the certificate was changed: get a new token",
    )


async def _chain(host: str, port: int) -> list[bytes]:
    """Return the certificates (DER) that the server sends, its own first."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        await reader.readline()  # the greeting comes in clear
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        await writer.start_tls(context)
        shown = writer.get_extra_info("ssl_object")
        # Public only from Python 3.13 on, and the same there.
        chain = shown._sslobj.get_unverified_chain()
        return [certificate.public_bytes(_DER) for certificate in chain]
    finally:
        writer.close()


_DER = 2  # `_ssl.ENCODING_DER`


def _split(address: str) -> tuple[str, int]:
    match = re.fullmatch(r"\w+://(?:[^@/]*@)?(\[[^\]]+\]|[^:/]+)(?::(\d+))?/?", address.partition(",")[0].strip())
    if match is None:
        raise errors.UsageError("not an address", place=address, hint="nats://host:4222")
    return match[1].strip("[]"), int(match[2] or 4222)
