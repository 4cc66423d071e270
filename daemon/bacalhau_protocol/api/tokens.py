"""Credentials, join tokens and tickets: what they say and how they are checked.

* A *credential* lets an identity connect. Its secret is `<identity>.<43 url-safe base64 characters>`; the cluster keeps
  only a hash of it.
* A *join token* is one line that a person types on another machine: address, credential and the CA's fingerprint.
* A *ticket* is signed by the orchestrator (Ed25519) and opens logs and results of one execution for one user, for a
  while. Nodes check it without asking anybody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api.subjects import TOKEN

SECRET_BYTES = 32
JOIN_PREFIX = "bacalhau-join-"
JOIN_CHARACTERS_MAX = 4096
TICKET_CHARACTERS_MAX = 2048
TICKET_TTL_S = 3600
ROLES = ("admin", "operator", "submitter", "viewer", "compute")

_SECRET = re.compile(r"([A-Za-z0-9_-]{1,64})\.[A-Za-z0-9_-]{43}")


# ── credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """A credential file. `ca` is PEM text or the path of a PEM file; blank when TLS is off or the system's CAs do."""

    address: str
    identity: str
    role: str
    secret: str
    cluster: str = ""
    ca: str = ""


def make_secret(identity: str, random_bytes: Callable[[int], bytes]) -> str:
    """Return a new secret for an identity. `random_bytes` is `secrets.token_bytes` outside of tests."""
    if not TOKEN.fullmatch(identity):
        raise errors.UsageError(f"identity {identity!r} is not one token", hint="letters, digits, - and _, at most 64")
    return f"{identity}.{_encode(random_bytes(SECRET_BYTES))}"


def identity_of(secret: str) -> str:
    """Return whose secret this is, blank when it does not have the form of one. Says nothing about its being valid."""
    match = _SECRET.fullmatch(secret)
    return match[1] if match else ""


def hash_secret(secret: str) -> str:
    """Return what the cluster keeps of a secret: SHA-256, hexadecimal. A secret is random, so no salt is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def same_hash(one: str, other: str) -> bool:
    """Compare two hashes in constant time."""
    return hmac.compare_digest(one, other)


def encode_credential(credential: Credential) -> bytes:
    """Encode for a credential file (JSON, one key per line); write it with mode 0600."""
    return msgspec.json.format(msgspec.json.encode(credential)) + b"\n"


def decode_credential(data: bytes, place: str) -> Credential:
    """Decode a credential file; `place` is its path. Raises `UsageError`."""
    try:
        return msgspec.json.decode(data, type=Credential)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"not a credential file: {error}", place=place) from error


# ── join tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a new node must know. `fingerprint` is the SHA-256 of the CA's certificate (DER), hexadecimal, or blank."""

    address: str = msgspec.field(name="a")
    identity: str = msgspec.field(name="i")
    secret: str = msgspec.field(name="s")
    fingerprint: str = msgspec.field(default="", name="f")


def encode_join(token: JoinToken) -> str:
    """Return the line that a person types."""
    return JOIN_PREFIX + _encode(msgspec.json.encode(token))


def decode_join(text: str) -> JoinToken:
    """Read a join token, or `nats://TOKEN@host:port`. Raises `UsageError`.

    The second form joins an orchestrator of Bacalhau 1.9 (or ours, as such a node would); its identity is blank unless
    the token is a secret of ours: the node chooses it.
    """
    text = text.strip()
    if "://" in text:
        return _decode_url(text)
    if not text.startswith(JOIN_PREFIX) or len(text) > JOIN_CHARACTERS_MAX:
        raise errors.UsageError(
            "not a join token", hint=f"it begins with {JOIN_PREFIX}; get one: bacalhau-tui node invite"
        )
    try:
        token = msgspec.json.decode(_decode(text.removeprefix(JOIN_PREFIX)), type=JoinToken)
    except (ValueError, msgspec.MsgspecError) as error:
        raise errors.UsageError("the join token is damaged", hint="copy all of it, it is one line") from error
    if not TOKEN.fullmatch(token.identity):
        raise errors.UsageError(f"the join token names an impossible node {token.identity!r}")
    return token


def _decode_url(text: str) -> JoinToken:
    match = re.fullmatch(r"(nats|tls)://(?:([^@/\s]+)@)?([^@/\s]+)/?", text)
    if match is None:
        raise errors.UsageError("not an address to join", hint="nats://TOKEN@host:4222")
    secret = match[2] or ""
    return JoinToken(address=f"{match[1]}://{match[3]}", identity=identity_of(secret), secret=secret)


# ── tickets ───────────────────────────────────────────────────────────────────────────────────────────────────────


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What a ticket opens: files of one execution whose path lies under `prefix` (blank: all, and the log)."""

    user: str = msgspec.field(name="u")
    execution: str = msgspec.field(name="x")
    prefix: str = msgspec.field(default="", name="p")
    expires: int = msgspec.field(name="e")  # ns since the epoch


class TicketSigner:
    """Signs tickets with a seed of 32 bytes."""

    def __init__(self, seed: bytes) -> None:
        from nacl.signing import SigningKey  # noqa: PLC0415  heavy, and only orchestrators sign

        self._key = SigningKey(seed)
        self.public_key: str = bytes(self._key.verify_key).hex()

    def sign(self, ticket: Ticket) -> str:
        """Return the ticket as text: payload and signature, url-safe base64, separated by a dot."""
        payload = msgspec.json.encode(ticket)
        return f"{_encode(payload)}.{_encode(self._key.sign(payload).signature)}"


def check_ticket(text: str, keys: Iterable[str], *, execution: str, path: str, reply: str, now: int) -> Ticket:
    """Return the ticket if it opens `path` (blank: log or list) of this execution for whoever hears `reply`.

    `keys` are the public keys of orchestrators (hexadecimal). The answer goes to `reply`, which must lie under the
    inbox prefix of the ticket's user: so a stolen ticket is of no use to others.

    Raises
    ------
    Unauthenticated
        when it is damaged, signed by somebody else, or has expired (ask for a new one).
    Forbidden
        when it is for another execution, path or user.
    """
    ticket = _verified(text, keys)
    if now >= ticket.expires:
        late_s = (now - ticket.expires) // 1_000_000_000
        raise errors.Unauthenticated(
            f"the ticket has expired, {late_s} s ago by this machine's clock",
            hint="a new one is asked for by itself; when that is refused too, a clock is wrong: node or orchestrator",
        )
    if ticket.execution != execution:
        raise errors.Forbidden(f"the ticket is for another execution than {execution}")
    if not _under(path, ticket.prefix):
        raise errors.Forbidden(f"the ticket opens {ticket.prefix!r} only", place=path)
    if not reply.startswith(f"_R.{ticket.user}."):
        raise errors.Forbidden("the ticket is for another user than the one who asks")
    return ticket


def _verified(text: str, keys: Iterable[str]) -> Ticket:
    from nacl.exceptions import BadSignatureError  # noqa: PLC0415
    from nacl.signing import VerifyKey  # noqa: PLC0415

    head, dot, tail = text.partition(".")
    if not dot or len(text) > TICKET_CHARACTERS_MAX:
        raise errors.Unauthenticated("not a ticket")
    try:
        payload, signature = _decode(head), _decode(tail)
    except ValueError as error:
        raise errors.Unauthenticated("the ticket is damaged") from error
    for key in keys:
        try:
            VerifyKey(bytes.fromhex(key)).verify(payload, signature)
            return msgspec.json.decode(payload, type=Ticket)
        except (BadSignatureError, ValueError, msgspec.MsgspecError):
            continue
    raise errors.Unauthenticated("the ticket was not signed by this cluster's orchestrator", hint="ask for a new one")


def _under(path: str, prefix: str) -> bool:
    """Whether a path is the prefix or lies below it; `a/b` is not below `a/bc`."""
    return not prefix or path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    """Decode url-safe base64 without padding, strictly. Raises `ValueError`."""
    if "=" in text:
        raise ValueError("padding")
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
