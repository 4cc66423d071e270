"""How a compute node that runs alone finds its orchestrator: a join token once, its own credential file afterwards."""

from __future__ import annotations

import secrets
from pathlib import Path

from bacalhau_daemon.config import Settings
from bacalhau_daemon.files import write_private
from bacalhau_protocol import errors
from bacalhau_protocol.api import tokens
from bacalhau_protocol.api.tokens import Credential, JoinToken
from bacalhau_protocol.models.ids import NODE, RANDOM_BYTES, new_id
from bacalhau_protocol.transport.settings import NatsSettings

FILE = Path("compute") / "credential.json"
FOREIGN_INBOX = "_INBOX"


async def resolve(settings: Settings) -> NatsSettings:
    """Return whom to connect to, and as whom; what a token said is kept for the next start.

    Raises
    ------
    UsageError
        when there is neither a token nor a credential of an earlier start, or they do not go together.
    Unavailable
        when the token names a CA by its fingerprint and the server cannot be asked for it.
    """
    path = settings.data_path / FILE
    known = tokens.decode_credential(path.read_bytes(), str(path)) if path.exists() else None
    if not settings.compute.join:
        if known is None:
            raise errors.UsageError(
                "this node has not joined a cluster", hint="--join TOKEN; get one: bacalhau-tui node invite"
            )
        return link_of(known)
    credential = await _redeem(_token(settings.compute.join), settings.name, known)
    if credential != known:
        write_private(path, tokens.encode_credential(credential))
    return link_of(credential)


def _token(text: str) -> JoinToken:
    try:
        return tokens.decode_join(text)
    except errors.UsageError as error:
        raise errors.UsageError(error.message, place="--join", hint=error.hint) from error


async def _redeem(token: JoinToken, name: str, known: Credential | None) -> Credential:
    if token.identity and name and name != token.identity:
        raise errors.UsageError(
            f"the token is for node {token.identity!r}, not {name!r}", hint="leave --name out, or invite that name"
        )
    same = known is not None and known.secret == token.secret and known.address == token.address
    identity = token.identity or name or (known.identity if same and known else "") or _new_name()
    ca = ""
    if token.fingerprint:
        from bacalhau_protocol.transport.tls import fetch_ca  # noqa: PLC0415  only with TLS

        ca = known.ca if same and known else await fetch_ca(token.address, token.fingerprint)
    return Credential(address=token.address, identity=identity, role="compute", secret=token.secret, ca=ca)


def link_of(credential: Credential) -> NatsSettings:
    """Return the connection that a credential gives; a plain token (Bacalhau 1.9) means foreign inboxes."""
    own = tokens.identity_of(credential.secret) == credential.identity
    return NatsSettings(
        address=credential.address,
        identity=credential.identity,
        token=credential.secret,
        ca=credential.ca,
        inbox_prefix="" if own else FOREIGN_INBOX,
    )


def _new_name() -> str:
    return new_id(NODE, secrets.token_bytes(RANDOM_BYTES))
