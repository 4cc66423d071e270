"""One identity, one role: a second credential neither strengthens the first nor locks its owner out."""

from __future__ import annotations

import pytest

from bacalhau_daemon.testing import World
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api


@pytest.fixture
def world() -> World:
    """A world that leads."""
    world = World()
    world.start()
    return world


@pytest.mark.parametrize("role", ["viewer", "operator", "compute"])
def test_a_weaker_credential_of_the_same_name_is_refused(world: World, role: str) -> None:
    """The identity's strongest role counts, so it would be the admin's."""
    with pytest.raises(errors.Conflict, match="has a credential as admin"):
        world.ask("credential.issue", api.CredentialIssue(identity="admin", role=role))


@pytest.mark.parametrize("foreign", [True, False])
def test_a_node_cannot_be_invited_under_a_clients_name(world: World, foreign: bool) -> None:
    """Whoever has both is refused at the door: an operator could lock the admin out, for ever."""
    with pytest.raises(errors.Conflict, match="has a credential as admin"):
        world.ask("node.invite", api.NodeInvite(name="admin", foreign=foreign))


def test_a_second_credential_of_the_same_role_is_issued(world: World) -> None:
    """To change it without a gap."""
    answer = world.ask("credential.issue", api.CredentialIssue(identity="admin", role="admin"))

    assert answer.role == "admin"


def test_a_revoked_credential_is_in_nobodys_way(world: World) -> None:
    """Its role may be given anew."""
    world.ask("credential.issue", api.CredentialIssue(identity="bob", role="operator"))
    world.ask("credential.revoke", api.CredentialRevoke(identity="bob"))

    answer = world.ask("credential.issue", api.CredentialIssue(identity="bob", role="viewer"))

    assert answer.role == "viewer"
