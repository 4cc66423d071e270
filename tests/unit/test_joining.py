"""A compute node joins once by token and finds its way back without; contradictions are said in words."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bacalhau_daemon import joining
from bacalhau_daemon.config import ComputeSettings, Settings
from bacalhau_protocol import errors
from bacalhau_protocol.api.tokens import JoinToken, encode_join, make_secret

SECRET = make_secret("n-1", lambda count: b"x" * count)
TOKEN = encode_join(JoinToken(address="nats://h:1", identity="n-1", secret=SECRET))


def settings(data_dir: Path, join: str = "", name: str = "") -> Settings:
    """Return settings of a compute node."""
    return Settings(data_dir=str(data_dir), name=name, compute=ComputeSettings(enabled=True, join=join))


async def test_a_token_is_needed_once(tmp_path: Path) -> None:
    """The credential is kept, private, and found at the next start."""
    first = await joining.resolve(settings(tmp_path, TOKEN))
    second = await joining.resolve(settings(tmp_path))

    assert first == second
    assert (first.address, first.identity, first.token, first.inbox_prefix) == ("nats://h:1", "n-1", SECRET, "")
    assert stat.S_IMODE((tmp_path / joining.FILE).stat().st_mode) == 0o600


async def test_a_new_token_replaces_the_old_one(tmp_path: Path) -> None:
    """Joining again, elsewhere, is what the token says."""
    await joining.resolve(settings(tmp_path, TOKEN))
    other = encode_join(JoinToken(address="nats://other:1", identity="n-1", secret=SECRET))

    assert (await joining.resolve(settings(tmp_path, other))).address == "nats://other:1"
    assert (await joining.resolve(settings(tmp_path))).address == "nats://other:1"


async def test_a_foreign_orchestrator_gets_a_node_with_a_name_of_its_own(tmp_path: Path) -> None:
    """By URL the node chooses its id, keeps it, and listens on `_INBOX` as Bacalhau's nodes do."""
    found = await joining.resolve(settings(tmp_path, "nats://token@h:4222"))
    again = await joining.resolve(settings(tmp_path, "nats://token@h:4222"))
    named = await joining.resolve(settings(tmp_path, "nats://token@h:4222", name="n-mine"))

    assert (found.address, found.token, found.inbox_prefix) == ("nats://h:4222", "token", "_INBOX")
    assert found.identity.startswith("n-")
    assert again == found
    assert named.identity == "n-mine"


async def test_our_own_secret_in_a_url_is_our_own_node(tmp_path: Path) -> None:
    """A secret of ours says its identity, so its inbox is its own."""
    found = await joining.resolve(settings(tmp_path, f"nats://{SECRET}@h:4222"))

    assert (found.identity, found.inbox_prefix) == ("n-1", "")


@pytest.mark.parametrize(
    ("join", "name", "message"),
    [("", "", "has not joined"), (TOKEN, "n-2", "is for node 'n-1', not 'n-2'"), ("rubbish", "", "not a join token")],
)
async def test_what_does_not_go_together_is_refused(tmp_path: Path, join: str, name: str, message: str) -> None:
    """No token at all, another name than the token's, and damage are usage errors."""
    with pytest.raises(errors.UsageError, match=message):
        await joining.resolve(settings(tmp_path, join, name))


async def test_a_damaged_credential_file_is_named(tmp_path: Path) -> None:
    """The path of the file is in the error."""
    (tmp_path / joining.FILE).parent.mkdir()
    (tmp_path / joining.FILE).write_text("{")

    with pytest.raises(errors.UsageError, match=r"credential\.json: not a credential file"):
        await joining.resolve(settings(tmp_path))
