"""Credentials, join tokens and tickets say what they should, and nothing that is damaged or foreign passes."""

from __future__ import annotations

import re

import msgspec
import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.api import subjects, tokens
from bacalhau_protocol.api.tokens import JoinToken, Ticket, TicketSigner

SIGNER = TicketSigner(b"\1" * 32)
EXECUTION, REPLY, NOW = "e-1", "_R.alice.x.1", 1_000


def ticket(*, user: str = "alice", execution: str = EXECUTION, prefix: str = "", expires: int = NOW + 1) -> str:
    """Return a signed ticket."""
    return SIGNER.sign(Ticket(user=user, execution=execution, prefix=prefix, expires=expires))


def check(text: str, *, keys: tuple[str, ...] = (SIGNER.public_key,), path: str = "", now: int = NOW) -> Ticket:
    """Check a ticket as a node does."""
    return tokens.check_ticket(text, keys, execution=EXECUTION, path=path, reply=REPLY, now=now)


def test_a_secret_tells_its_identity() -> None:
    """The identity can be read from a secret; the cluster keeps a hash only."""
    secret = tokens.make_secret("node_1-a", lambda count: b"\xff" * count)

    assert tokens.identity_of(secret) == "node_1-a"
    assert len(secret) == len("node_1-a.") + 43
    assert tokens.hash_secret(secret) != tokens.hash_secret(secret + "x")
    assert tokens.identity_of("just a password") == ""


def test_any_namespace_is_one_token_of_its_own() -> None:
    """What is no token is encoded, within the limit, and texts that begin alike stay apart."""
    texts = [
        "default",
        "a.b",
        "ä",
        "x" * 65,
        "a." + "x" * 28,
        "a." + "x" * 29,
        "a." + "x" * 500,
        "a." + "x" * 499 + "y",
    ]
    encoded = [subjects.encode_token(text) for text in texts]

    assert encoded[:2] == ["default", "=612e62"]
    assert len(set(encoded)) == len(texts)
    assert all(re.fullmatch(r"=?[A-Za-z0-9_=-]{1,64}", token) and len(token) <= 64 for token in encoded)


@pytest.mark.parametrize("identity", ["", "a.b", "a b", "*", ">", "x" * 65, "ä"])
def test_an_identity_is_one_token(identity: str) -> None:
    """What could be two subject tokens, or a wildcard, is never an identity."""
    with pytest.raises(errors.UsageError):
        tokens.make_secret(identity, bytes)


def test_credential_files_survive() -> None:
    """A credential file decodes to what was written; anything else is refused with its path."""
    credential = tokens.Credential(address="nats://h:1", identity="a", role="admin", secret="s", cluster="c")

    assert tokens.decode_credential(tokens.encode_credential(credential), "f") == credential
    with pytest.raises(errors.UsageError, match=r"f\.json: not a credential file"):
        tokens.decode_credential(b"{}", "f.json")


def test_join_tokens_survive() -> None:
    """A join token decodes to what was encoded, white space around it does not matter."""
    token = JoinToken(address="nats://h:4222", identity="n-1", secret="n-1.x", fingerprint="ab")

    assert tokens.decode_join(f" {tokens.encode_join(token)}\n") == token


def test_a_foreign_orchestrator_is_joined_by_url() -> None:
    """`nats://TOKEN@host:port` is a join token without identity."""
    assert tokens.decode_join("nats://secret@host:4222") == JoinToken(
        address="nats://host:4222", identity="", secret="secret"
    )
    assert tokens.decode_join("nats://host:4222").secret == ""


@pytest.mark.parametrize(
    "text", ["", "x", "bacalhau-join-", "bacalhau-join-%%%", "bacalhau-join-e30", "http://x", "nats://a@b@c", "nats://"]
)
def test_damaged_join_tokens_are_refused(text: str) -> None:
    """A join token that is not whole is a usage error with a hint."""
    with pytest.raises(errors.UsageError):
        tokens.decode_join(text)


def test_a_ticket_opens_what_it_says() -> None:
    """A ticket without a prefix opens everything of its execution, with one only what lies below."""
    assert check(ticket(), path="a/b").user == "alice"
    assert check(ticket(prefix="a"), path="a/b").prefix == "a"
    assert check(ticket(prefix="a/"), path="a/b").prefix == "a/"


@pytest.mark.parametrize(
    ("text", "path", "error"),
    [
        (ticket(expires=NOW), "", errors.Unauthenticated),
        (ticket(execution="e-2"), "", errors.Forbidden),
        (ticket(user="bob"), "", errors.Forbidden),
        (ticket(prefix="a"), "", errors.Forbidden),
        (ticket(prefix="a"), "ab", errors.Forbidden),
        (ticket()[:-2] + "AA", "", errors.Unauthenticated),
        ("x" + ticket()[1:], "", errors.Unauthenticated),
        (ticket() + "=", "", errors.Unauthenticated),
        ("", "", errors.Unauthenticated),
        ("ä.ö", "", errors.Unauthenticated),
        ("a" * 5000 + ".b", "", errors.Unauthenticated),
    ],
)
def test_a_ticket_opens_nothing_else(text: str, path: str, error: type[errors.BacalhauError]) -> None:
    """Expired, foreign, damaged or too narrow tickets are refused."""
    with pytest.raises(error):
        check(text, path=path)


def test_a_ticket_of_another_cluster_is_refused() -> None:
    """Only the keys that the node was told count; a second key is tried too, a damaged key is passed over."""
    other = TicketSigner(b"\2" * 32).public_key

    with pytest.raises(errors.Unauthenticated):
        check(ticket(), keys=(other,))
    with pytest.raises(errors.Unauthenticated):
        check(ticket(), keys=())
    assert check(ticket(), keys=("zz", other, SIGNER.public_key))


def test_a_changed_payload_is_refused() -> None:
    """Another user's name in a signed ticket breaks the signature."""
    forged = tokens._encode(msgspec.json.encode(Ticket(user="alice", execution=EXECUTION, expires=NOW + 99)))

    with pytest.raises(errors.Unauthenticated):
        check(f"{forged}.{ticket().partition('.')[2]}")
