"""The little of NATS's JSON web tokens that auth callout needs: reading claims, signing claims with an account key."""

from __future__ import annotations

import base64
import secrets
from typing import Any

import msgspec
import nkeys

from bacalhau_protocol import errors

_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


def new_account_seed() -> str:
    """Return the seed of a new account key (`SA…`). Whoever holds it can grant any permission: keep it 0600."""
    return bytes(nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_ACCOUNT)).decode()


class AccountKey:
    """Signs claims as an account."""

    def __init__(self, seed: str) -> None:
        self._pair = nkeys.from_seed(bytearray(seed.encode()))
        self.public_key: str = bytes(self._pair.public_key).decode().rstrip("=")

    def sign(self, claims: dict[str, Any], *, now: int) -> str:
        """Return the claims as a token issued by this key. `now` is ns since the epoch."""
        whole = {"jti": secrets.token_hex(16), "iat": now // 1_000_000_000, "iss": self.public_key, **claims}
        body = f"{_part(_HEADER)}.{_part(whole)}"
        return f"{body}.{_encode(self._pair.sign(body.encode()))}"


def read_claims(token: bytes) -> dict[str, Any]:
    """Return a token's claims without checking who signed it. Raises `UsageError`."""
    try:
        payload = token.split(b".")[1]
        return msgspec.json.decode(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)), type=dict[str, Any])
    except (IndexError, ValueError, msgspec.MsgspecError) as error:
        raise errors.UsageError(f"not a token: {error}") from error


def _part(value: dict[str, Any]) -> str:
    return _encode(msgspec.json.encode(value))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
