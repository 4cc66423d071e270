"""One identity, one role: a second credential neither strengthens the first nor locks its owner out."""

from __future__ import annotations

import pytest

from bacalhau_daemon.core.actions import Disconnect
from bacalhau_daemon.core.state import CredentialState
from bacalhau_daemon.testing import SECOND, World
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.api.tokens import decode_join, hash_secret


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


# ── expired ───────────────────────────────────────────────────────────────────────────────────────────────────────


def invited(world: World, name: str, ttl_s: int = 60) -> CredentialState:
    """Invite a node; return what the cluster knows of its credential."""
    secret = decode_join(world.ask("node.invite", api.NodeInvite(name=name, ttl_s=ttl_s)).token).secret
    return world.machine.state.credentials[hash_secret(secret)]


def known(world: World, credential: CredentialState) -> CredentialState:
    """Return a credential as it is now."""
    return world.machine.state.credentials[credential.sha256]


def test_an_invitation_keeps_its_name_while_it_can_be_used(world: World) -> None:
    """A client of that name would lock the node out."""
    invited(world, "edge", ttl_s=60)
    world.now += 59 * SECOND
    with pytest.raises(errors.Conflict, match="has a credential as compute already"):
        world.ask("credential.issue", api.CredentialIssue(identity="edge", role="viewer"))


def test_the_name_of_an_invitation_that_expired_unused_can_be_given_again(world: World) -> None:
    """Nobody had to revoke it; whoever came by it and never joined is cut."""
    invited(world, "edge", ttl_s=60)
    world.now += 60 * SECOND
    answer = world.ask("credential.issue", api.CredentialIssue(identity="edge", role="viewer"))

    assert answer.role == "viewer"
    assert [(type(one).__name__, one.identity) for one in world.actions if isinstance(one, Disconnect)] == [
        ("Disconnect", "edge")
    ]


def test_the_name_of_a_credential_that_expired_can_be_given_again(world: World) -> None:
    """To a client or to a node."""
    world.ask("credential.issue", api.CredentialIssue(identity="bob", role="viewer", ttl_s=60))
    world.now += 60 * SECOND

    assert invited(world, "bob").role == "compute"


def test_an_invitation_whose_node_has_joined_keeps_its_name_for_ever(world: World) -> None:
    """It is the node's credential now."""
    invited(world, "edge", ttl_s=60)
    world.join("edge")
    world.now += 3600 * SECOND
    with pytest.raises(errors.Conflict, match="has a credential as compute already"):
        world.ask("credential.issue", api.CredentialIssue(identity="edge", role="viewer"))


def test_a_node_that_joins_by_a_second_invitation_does_not_revive_the_first(world: World) -> None:
    """Whoever has the first one's secret stays out."""
    first = invited(world, "edge", ttl_s=60)
    world.now += 60 * SECOND
    second = invited(world, "edge", ttl_s=60)
    world.join("edge")

    assert (known(world, first).dead(world.now), known(world, second).dead(world.now)) == (True, False)
    assert known(world, second).used


def test_a_name_that_was_given_anew_is_given_once_per_request(world: World) -> None:
    """The first answer is the credential, also when what had expired was cleared away before."""
    invited(world, "edge", ttl_s=60)
    world.now += 60 * SECOND
    world.querying = False  # so the answer is still at hand
    body = api.CredentialIssue(identity="edge", role="viewer")
    first = world.ask("credential.issue", body, request="again")

    assert world.ask("credential.issue", body, request="again") == first
