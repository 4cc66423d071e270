"""Which role may use which verb of the client API. NATS permissions pin the identity; this pins what it may do."""

from __future__ import annotations

from collections.abc import Iterable

from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.state import CredentialState
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import VERBS

ORDER = (Role.VIEWER, Role.SUBMITTER, Role.OPERATOR, Role.ADMIN)
"""Each may what those before it may."""

LEAST: dict[str, Role] = {
    **dict.fromkeys(VERBS, Role.VIEWER),
    "job.submit": Role.SUBMITTER,
    "job.stop": Role.SUBMITTER,
    "node.invite": Role.OPERATOR,
    "credential.list": Role.OPERATOR,
    "credential.issue": Role.ADMIN,
    "credential.revoke": Role.ADMIN,
}
"""The least role for each verb."""


def role_of(credentials: Iterable[CredentialState], now: int) -> Role | None:
    """Return the strongest role that an identity's valid credentials give it; None when none is valid."""
    valid = [credential.role for credential in credentials if credential.role in ORDER and not credential.dead(now)]
    return max(valid, key=ORDER.index, default=None)


def check(user: str, role: Role | None, verb: str) -> None:
    """Raise `Forbidden` unless this role may use the verb."""
    if role is None:
        raise errors.Forbidden(f"{user!r} has no valid credential for the client API", place=verb)
    if ORDER.index(role) < ORDER.index(LEAST[verb]):
        raise errors.Forbidden(
            f"{user!r} is {role}, and this needs {LEAST[verb]}", place=verb, hint="ask an admin for another credential"
        )
