"""Auth callout: the embedded server asks us about each connection, we answer with the subjects it may use.

A credential is looked up by the hash of the secret that was presented. The answer is a user token, signed with the
account key, that pins the connection to its identity's own subjects: a client cannot speak for another, a node hears
only its own. NATS never tells a refused client why, so the reason is in our log (`connection.refused`).

Clients and own nodes are answered on `_R.<identity>.…`. Own nodes may publish to any inbox, where tokens cannot be
guessed, and to nothing else that is not theirs: so nobody can make a node speak on another's subjects by naming them as
a reply subject. Only unmodified Bacalhau nodes get `_INBOX.>`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import structlog

from bacalhau_daemon.core.complaints import EVERY_NS, Complaints
from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.policy import SECOND
from bacalhau_daemon.core.state import CredentialState
from bacalhau_daemon.orchestrator.jwt import AccountKey, read_claims
from bacalhau_daemon.orchestrator.nats_server import ACCOUNT, MAX_PAYLOAD_BYTES
from bacalhau_protocol import errors
from bacalhau_protocol.api.subjects import API, EXTENSION, FEED, TOKEN, inbox_prefix
from bacalhau_protocol.api.tokens import hash_secret, identity_of
from bacalhau_protocol.transport.base import Bus, Message

ORCHESTRATOR_INBOX = "_R.=o"
"""What the orchestrator listens on for answers; `=` is in no identity, so no credential can hear it."""
REQUESTS = "$SYS.REQ.USER.AUTH"
DISCONNECTS = f"$SYS.ACCOUNT.{ACCOUNT}.DISCONNECT"
CLIENT_PAYLOAD_BYTES_MAX = 1024 * 1024
SUBSCRIPTIONS_MAX = 1000  # of one connection
CONNECTIONS_MAX = 100_000  # remembered for revocation
VIOLATIONS = frozenset(
    {
        "Maximum Message Payload Exceeded",
        "Maximum Control Line Exceeded",
        "Maximum Subscriptions Exceeded",
        "Message Header Violation",
        "Parse Error",
        "Protocol Violation",
        "Slow Consumer (Pending Bytes)",
        "Slow Consumer (Write Deadline)",
    }
)
"""Why the server cuts a connection that does not keep to the rules, in its words."""
CUT = "connection.cut_by_server"
REFUSED = "connection.refused"
KICK_TIMEOUT_S = 2.0
KICK_AGAIN_S = 2.0  # for connections that were on their way in when their credential ended

log = structlog.get_logger(__name__)


class Permissions(msgspec.Struct, frozen=True):
    """What a connection may do."""

    publish: list[str]
    subscribe: list[str]
    payload_bytes_max: int = MAX_PAYLOAD_BYTES


def client_permissions(user: str) -> Permissions:
    """Return what a client may do; its role limits verbs, which the orchestrator checks."""
    return Permissions(
        [
            f"{API}.{user}.>",
            f"{EXTENSION}.*.in.log.read",
            f"{EXTENSION}.*.in.file.list",
            f"{EXTENSION}.*.in.file.read",
            "$SRV.>",  # `nats micro ls`
        ],
        [f"{FEED}.>", f"{inbox_prefix(user)}.>"],
        CLIENT_PAYLOAD_BYTES_MAX,
    )


def node_permissions(node: str) -> Permissions:
    """Return what one of our own nodes may do."""
    return Permissions(
        [f"bacalhau.global.compute.{node}.out.>", f"{EXTENSION}.{node}.out.>", "_R.*.>"],
        [
            f"bacalhau.global.compute.{node}.in.>",
            f"{EXTENSION}.{node}.in.>",
            f"node.compute.{node}.>",
            f"{inbox_prefix(node)}.>",
        ],
    )


def foreign_permissions(node: str) -> Permissions:
    """Return what an unmodified Bacalhau 1.9 node may do; the last subjects are its log streams and its probe."""
    return Permissions(
        [
            f"bacalhau.global.compute.{node}.out.>",
            f"{ORCHESTRATOR_INBOX}.>",
            "_SINBOX.>",
            "_HEARTBEAT._SINBOX.>",
            f"node.management.{node}.>",
        ],
        [f"bacalhau.global.compute.{node}.in.>", f"node.compute.{node}.>", "_INBOX.>"],
    )


class Connection(msgspec.Struct, frozen=True):
    """Who sits behind a connection of the server."""

    server: str
    identity: str
    role: Role
    host: str


class AuthCallout:
    """Answers the server's questions; remembers connections, so that a revocation can cut them.

    `find` looks a credential up by the hash of its secret, `of` returns all of an identity: both in the live state.
    """

    def __init__(
        self,
        key: AccountKey,
        orchestrator: str,
        find: Callable[[str], CredentialState | None],
        of: Callable[[str], Iterable[CredentialState]],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._key, self._orchestrator = key, orchestrator
        self._find, self._of, self._clock = find, of, clock
        self._connections: dict[int, Connection] = {}
        self._complaints = Complaints()
        self._bus: Bus | None = None
        self._system: Bus | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, bus: Bus, system: Bus) -> None:
        """Begin to answer on the account's connection; the system account's tells of ends and carries kicks."""
        self._bus, self._system = bus, system
        await system.subscribe(DISCONNECTS, self._disconnected)
        await bus.subscribe(REQUESTS, self._asked)

    def connections(self) -> list[Connection]:
        """Return who is connected."""
        return list(self._connections.values())

    def revoke(self, identity: str) -> None:
        """Cut all connections of an identity. New ones are refused because the state says so already."""
        task = asyncio.create_task(self._kick(identity))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ── questions ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _asked(self, message: Message) -> None:
        assert self._bus is not None
        try:
            claims = read_claims(message.data)["nats"]
            user, server = claims["user_nkey"], claims["server_id"]["id"]
            client, options = claims["client_info"], claims["connect_opts"]
            cid, host = int(client["id"]), str(client.get("host", ""))
            secret, name = str(options.get("auth_token", "")), str(options.get("name", ""))
        except (KeyError, TypeError, ValueError, errors.UsageError) as error:
            log.error("auth.question_not_understood", error=repr(error))
            return
        answer: dict[str, Any] = {"type": "authorization_response", "version": 2}
        try:
            credential = self._check(secret)
            answer["jwt"] = self._grant(user, credential, name)
            self._remember(cid, Connection(server, credential.identity, credential.role, host))
            log.debug("connection.accepted", identity=credential.identity, role=credential.role, host=host)
        except errors.BacalhauError as error:
            answer["error"] = error.message
            self._complain(REFUSED, identity_of(secret), error.message, name=name, host=host)
        token = self._key.sign({"sub": user, "aud": server, "nats": answer}, now=self._clock())
        await self._bus.publish(message.reply, token.encode())

    def _check(self, secret: str) -> CredentialState:
        """Return the valid credential that this secret is of. Raises `Unauthenticated` with the reason."""
        if not secret:
            raise errors.Unauthenticated("no credential was presented")
        found = self._find(hash_secret(secret))
        if found is None:
            raise errors.Unauthenticated("this cluster has not issued this credential")
        if found.revoked:
            raise errors.Unauthenticated("the credential has been revoked")
        if found.dead(self._clock()):
            raise errors.Unauthenticated("the invitation has expired" if found.invite else "the credential has expired")
        return found

    def _grant(self, user: str, credential: CredentialState, name: str) -> str:
        """Return the user token for this connection."""
        permissions = self._permissions(credential, name)
        claims: dict[str, Any] = {
            "sub": user,
            "aud": ACCOUNT,
            "name": credential.identity,
            "nats": {
                "type": "user",
                "version": 2,
                "pub": {"allow": permissions.publish},
                "sub": {"allow": permissions.subscribe},
                "subs": SUBSCRIPTIONS_MAX,
                "data": -1,
                "payload": permissions.payload_bytes_max,
            },
        }
        if credential.expires and not credential.invite:
            claims["exp"] = max(credential.expires // 1_000_000_000, 1)  # the server cuts the connection then
        return self._key.sign(claims, now=self._clock())

    def _permissions(self, credential: CredentialState, name: str) -> Permissions:
        identity = credential.identity
        if any((one.role is Role.COMPUTE) is not (credential.role is Role.COMPUTE) for one in self._valid(identity)):
            # They would hear each other's answers.
            raise errors.Unauthenticated(f"{identity!r} is the identity of both a node and a client: revoke one")
        if credential.role is not Role.COMPUTE:
            return client_permissions(identity)
        if not credential.foreign:
            return node_permissions(identity)
        if not TOKEN.fullmatch(name):
            raise errors.Unauthenticated(f"connection name {name[:64]!r} is not a node id of letters, digits, - and _")
        if name != identity and (name == self._orchestrator or any(self._valid(name))):
            raise errors.Unauthenticated(f"the node id {name!r} belongs to another credential")
        return foreign_permissions(name)

    def _valid(self, identity: str) -> Iterator[CredentialState]:
        now = self._clock()
        return (one for one in self._of(identity) if not one.dead(now))

    # ── connections ───────────────────────────────────────────────────────────────────────────────────────────────

    def _remember(self, cid: int, connection: Connection) -> None:
        if len(self._connections) >= CONNECTIONS_MAX:
            self._connections.pop(next(iter(self._connections)))
        self._connections[cid] = connection

    async def _disconnected(self, message: Message) -> None:
        try:
            event = msgspec.json.decode(message.data)
            cid, server = event["client"]["id"], event["server"]["id"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            return
        known = self._connections.get(cid)
        if known is not None and known.server == server:
            del self._connections[cid]
            if event.get("reason") in VIOLATIONS:
                self._complain(CUT, known.identity, event["reason"])

    def _complain(self, event: str, identity: str, reason: str, **details: str) -> None:
        """Say in the log who was not let in, or was cut; a flood of them takes a line in ten seconds."""
        self._complaints.add(event, identity, reason, self._clock(), **details)
        self._write_complaints()

    def _write_complaints(self) -> None:
        for line in self._complaints.take(self._clock()):
            write = log.error if line.event == CUT else log.warning
            write(line.event, identity=line.who, **line.details, reason=line.words, more=line.more)
            asyncio.get_running_loop().call_later(EVERY_NS / SECOND + 0.1, self._write_complaints)

    async def _kick(self, identity: str) -> None:
        theirs = [(cid, one) for cid, one in self._connections.items() if one.identity == identity]
        for wait_s in (0.0, KICK_AGAIN_S):
            await asyncio.sleep(wait_s)
            for cid, connection in theirs:
                if self._connections.get(cid) is connection:
                    await self._kick_one(cid, connection)

    async def _kick_one(self, cid: int, connection: Connection) -> None:
        assert self._system is not None
        subject = f"$SYS.REQ.SERVER.{connection.server}.KICK"
        try:
            await self._system.request(subject, msgspec.json.encode({"cid": cid}), timeout_s=KICK_TIMEOUT_S)
        except errors.BacalhauError as error:  # the server of that connection is gone, and so is the connection
            self._connections.pop(cid, None)
            log.info("connection.not_cut", identity=connection.identity, error=str(error))
            return
        log.info("connection.cut", identity=connection.identity, host=connection.host, reason="revoked")
