"""Clients' writes about who may connect: invite a node, issue and revoke a credential.

A secret is in the answer only; the log has its hash. So a repeated request cannot be answered again: it is refused, and
says what to do.
"""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.submissions import check_deadline, repeated
from bacalhau_daemon.core.events import (
    AnyEvent,
    CredentialIssued,
    CredentialRevoked,
    Membership,
    NodeMembershipChanged,
    Role,
)
from bacalhau_daemon.core.loop import Decision
from bacalhau_daemon.core.policy import SECOND
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.state import State
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.api.subjects import TOKEN
from bacalhau_protocol.api.tokens import JoinToken, encode_join, hash_secret, make_secret
from bacalhau_protocol.models import ids

CREDENTIALS_MAX = 50_000
TTL_S_MAX = 10 * 365 * 24 * 3600


def decide_invite(
    context: Context, state: State, request: Request, body: api.NodeInvite, now: int
) -> Decision[AnyEvent]:
    """Make a join token for a node."""
    known = repeated(context, request, api.NodeInvited, api.CredentialIssued)
    if known is not None:
        return Decision((), _whole(known))
    check_deadline(request, now)
    identity = _identity(body.name or context.new_id(ids.NODE))
    secret, event = _issue(context, state, request, identity, Role.COMPUTE, now=now)
    # Foreign nodes share tokens and choose their names, so nobody can tell when the invited one has joined.
    expires = 0 if body.foreign else now + _ttl_ns(body.ttl_s, needed=True)
    event = msgspec.structs.replace(event, expires=expires, invite=not body.foreign, foreign=body.foreign)
    address = context.address
    if body.foreign:
        scheme, _, host = address.rpartition("://")
        token = f"{scheme or 'nats'}://{secret}@{host}"
        command = f"bacalhau serve --compute --orchestrators {token}"
    else:
        join = JoinToken(address=address, identity=identity, secret=secret, fingerprint=context.fingerprint)
        token = encode_join(join)
        command = f"bacalhau-daemon --compute --join {token}"
    return Decision(
        [*_expired(state, request, identity, now), event],
        api.NodeInvited(token=token, expires=expires, command=command),
    )


def decide_issue(
    context: Context, state: State, request: Request, body: api.CredentialIssue, now: int
) -> Decision[AnyEvent]:
    """Make a credential for a user or a node."""
    known = repeated(context, request, api.CredentialIssued)
    if known is not None:
        return Decision((), _whole(known))
    check_deadline(request, now)
    identity = _identity(body.identity)
    try:
        role = Role(body.role)
    except ValueError:
        raise errors.UsageError(f"there is no role {body.role!r}", hint=f"roles: {', '.join(Role)}") from None
    secret, event = _issue(context, state, request, identity, role, now=now)
    ttl_ns = _ttl_ns(body.ttl_s, needed=False)
    event = msgspec.structs.replace(event, expires=now + ttl_ns if ttl_ns else 0)
    answer = api.CredentialIssued(identity=identity, role=role, secret=secret, expires=event.expires)
    return Decision([*_expired(state, request, identity, now), event], answer)


def decide_revoke(
    context: Context, state: State, request: Request, body: api.CredentialRevoke, now: int
) -> Decision[AnyEvent]:
    """End all credentials of an identity. A node of that name may not work here any more."""
    if repeated(context, request, api.Empty) is not None:
        return Decision((), api.Empty())
    check_deadline(request, now)
    mine = [state.credentials[sha256] for sha256 in state.identities.get(body.identity, ())]
    valid = [credential for credential in mine if not credential.dead(now)]
    if not mine:
        raise errors.NotFound(f"there is no credential for {body.identity!r}")
    if any(credential.role is Role.ADMIN for credential in valid) and not _other_admin(state, body.identity, now):
        raise errors.Conflict(
            f"{body.identity!r} has the last admin credential of this cluster", hint="issue another one first"
        )
    events: list[AnyEvent] = [CredentialRevoked(identity=body.identity, by=request.user, request=request.id)]
    node = state.nodes.get(body.identity)
    if node is not None and node.membership is Membership.APPROVED:
        reason = "its credential was revoked"
        events.append(NodeMembershipChanged(node=node.id, to=Membership.REJECTED, reason=reason, by=request.user))
    return Decision(events, api.Empty())


def _whole(answer: api.Body) -> api.Body:
    """Return the first answer if it still has its secret; else say that it cannot be given again."""
    if isinstance(answer, api.CredentialIssued) and not answer.secret:
        raise errors.Conflict(
            f"the credential for {answer.identity!r} was made by this Request-Id, and its secret is shown only once",
            hint="revoke it and make another",
        )
    return answer


def list_credentials(state: State) -> api.CredentialPage:
    """Return all credentials, without secrets, by identity and age."""
    rows = [
        api.CredentialRow(
            identity=each.identity, role=each.role, created=each.created, expires=each.expires, revoked=each.revoked
        )
        for each in sorted(state.credentials.values(), key=lambda each: (each.identity, each.created))
    ]
    return api.CredentialPage(credentials=rows)


def _issue(
    context: Context, state: State, request: Request, identity: str, role: Role, *, now: int
) -> tuple[str, CredentialIssued]:
    if len(state.credentials) >= CREDENTIALS_MAX:
        raise errors.Busy(f"the cluster has {CREDENTIALS_MAX} credentials already")
    _check_role(state, identity, role, now)
    secret = make_secret(identity, context.random)
    event = CredentialIssued(
        identity=identity, role=role, sha256=hash_secret(secret), by=request.user, request=request.id
    )
    return secret, event


def _check_role(state: State, identity: str, role: Role, now: int) -> None:
    """Refuse a second role: a client is as strong as its strongest credential, a node of its name locks it out."""
    for sha256 in state.identities.get(identity, ()):
        other = state.credentials[sha256]
        if other.role is not role and not other.dead(now):
            raise errors.Conflict(
                f"{identity!r} has a credential as {other.role} already",
                hint="choose another name, or revoke that one first",
                place="Identity",
            )


def _expired(state: State, request: Request, identity: str, now: int) -> list[AnyEvent]:
    """Revoke what has expired before its name is given anew.

    Else an invitation would count as used when the next node of its name joins, and whoever came by it and stayed
    connected without joining would hear the next one's messages.
    """
    mine = [state.credentials[sha256] for sha256 in state.identities.get(identity, ())]
    if all(each.dead(now) for each in mine) and not all(each.revoked for each in mine):
        return [CredentialRevoked(identity=identity, by=request.user)]
    return []


def _identity(text: str) -> str:
    if not TOKEN.fullmatch(text):
        raise errors.UsageError(
            f"{text[:100]!r} cannot be an identity", hint="letters, digits, - and _, at most 64", place="Identity"
        )
    return text


def _ttl_ns(ttl_s: int, *, needed: bool) -> int:
    if not (0 < ttl_s <= TTL_S_MAX or (ttl_s == 0 and not needed)):
        raise errors.UsageError(f"a time of {ttl_s} seconds is not possible", place="TtlS")
    return ttl_s * SECOND


def _other_admin(state: State, identity: str, now: int) -> bool:
    return any(
        each.role is Role.ADMIN and each.identity != identity and not each.dead(now)
        for each in state.credentials.values()
    )
