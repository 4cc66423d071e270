"""Whom to connect to over NATS, how long to wait between attempts, and what a refusal means in words."""

from __future__ import annotations

import os
import random
import re
import ssl
from typing import Any

import msgspec

from bacalhau_protocol import errors

RETRY_MIN_S, RETRY_MAX_S = 0.1, 5.0
REFUSED_AGAIN_S = 0.3  # a server that has just started refuses everybody until its orchestrator answers for it

HINT_UNREACHABLE = "is the orchestrator running, and is the address right?"
HINT_NOBODY = "no orchestrator leads at the moment, or the node is not connected"

_REFUSED_LOGIN = re.compile(r"authorization violation|authentication|user .*expired", re.IGNORECASE)


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to connect to, and as whom.

    `address` is `nats://host:port`, several separated by commas, or `nats://TOKEN@host:port`. `token` is the
    credential's secret. `ca` is the path of a PEM file or PEM text; blank trusts what the system trusts.
    """

    address: str
    identity: str
    token: str = ""
    user: str = ""  # with `token` as the password: only the orchestrator's own connections
    ca: str = ""
    inbox_prefix: str = ""  # blank: `_R.<identity>`

    @property
    def servers(self) -> list[Server]:
        """The single addresses. Raises `UsageError`."""
        return [_server(part.strip()) for part in self.address.split(",") if part.strip()]

    @property
    def place(self) -> str:
        """The address without secrets, for messages."""
        return re.sub(r"//[^@/,]*@", "//", self.address)

    def login(self, server: Server) -> dict[str, Any]:
        """Return what the server is told of us. A token in its address counts if there is no other."""
        if self.user:
            return {"name": self.identity, "user": self.user, "password": self.token}
        return {"name": self.identity, "token": self.token or server.token or None}


class Server(msgspec.Struct, frozen=True):
    """One address."""

    host: str
    port: int
    tls: bool = False  # asked for by the address; a server that demands it gets it anyway
    token: str = ""

    @property
    def url(self) -> str:
        """The address for nats-py, without a secret."""
        return f"{'tls' if self.tls else 'nats'}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class WireError(Exception):
    """Why a connection was not made or has ended, in the server's own words if it said any."""


_ADDRESS = re.compile(r"(?:(nats|tls)://)?(?:([^@/]*)@)?(\[[^\]]+\]|[^:/]+)(?::(\d{1,5}))?/?")
PORT = 4222


def _server(address: str) -> Server:
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise errors.UsageError("not an address", place=re.sub(r"//[^@/]*@", "//", address), hint="nats://host:4222")
    scheme, token, host, port = match.groups()
    return Server(host.strip("[]"), int(port or PORT), scheme == "tls", token or "")


def tls_context(ca: str) -> ssl.SSLContext:
    """Return a context that trusts this CA only: the path of a PEM file, or PEM text."""
    if "-----BEGIN" in ca:
        return ssl.create_default_context(cadata=ca)
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise errors.UsageError(f"cannot read the CA certificate: {error}", place=ca) from error


def refusal(error: Exception, settings: NatsSettings, *, greeted: bool) -> errors.BacalhauError:
    """Say in words why an attempt to connect failed; not retryable when trying again will not help.

    A server that refuses says so and closes at once. Because our first ping is then still unread, the connection is
    reset, and mostly its words are lost with it: so a reset after the greeting means the same.
    """
    text = _words(error)
    if _REFUSED_LOGIN.search(text) or (greeted and isinstance(error, ConnectionResetError)):
        return errors.Unauthenticated(
            f"the server refuses the credential of {settings.identity!r}",
            place=settings.place,
            hint="unknown, expired or revoked, or of another cluster; the orchestrator's log says which",
            server=text,
        )
    if isinstance(error, ssl.SSLError):
        return errors.UsageError(f"TLS failed: {text}", place=settings.place, hint="check --ca")
    return errors.Unavailable(f"cannot connect: {text}", place=settings.place, hint=HINT_UNREACHABLE)


def _words(error: Exception) -> str:
    """Return an error's text without its decoration."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return str(error) or type(error).__name__


def retry_wait_s(failures: int) -> float:
    """Return how long to wait before the next attempt, with jitter."""
    return random.uniform(RETRY_MIN_S, min(RETRY_MAX_S, RETRY_MIN_S * 2 ** min(failures, 10)))


def headers_size(headers: dict[str, str]) -> int:
    """Return the bytes that headers take on the wire, counted generously."""
    return 16 + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def is_subject(text: str) -> bool:
    """Whether a text can be a subject: tokens without blanks and control characters, with dots between."""
    return all(token and token.isprintable() and " " not in token for token in text.split("."))
