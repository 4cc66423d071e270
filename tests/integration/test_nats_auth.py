"""Each identity reaches its own subjects and nothing else, by trying: clients, own nodes, foreign nodes, strangers."""

from __future__ import annotations

import pytest
import structlog

from bacalhau_daemon.core import complaints
from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.policy import SECOND
from bacalhau_daemon.orchestrator import auth
from bacalhau_daemon.orchestrator.auth import ORCHESTRATOR_INBOX, REFUSED, REQUESTS
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import subjects
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.nats import NatsBus, connect
from bacalhau_protocol.transport.settings import NatsSettings

from .conftest import ORCHESTRATOR, Wire

CLIENT_ROLES = [Role.ADMIN, Role.OPERATOR, Role.SUBMITTER, Role.VIEWER]
REQUEST = subjects.api("alice", "job", "list")


async def may_publish(wire: Wire, bus: NatsBus, subject: str) -> bool:
    """Whether the server lets this connection publish on a subject."""

    async def answer(message: Message) -> None:
        await wire.orchestrator.publish(message.reply, b"heard")

    listening = await wire.orchestrator.subscribe(subject, answer)
    await wire.orchestrator.flush()
    try:
        return (await bus.request(subject, b"", timeout_s=20)).data == b"heard"
    except errors.Forbidden:
        return False
    finally:
        await listening.unsubscribe()


def was_refused(wire: Wire) -> bool:
    """Whether the server has refused something since the reports were cleared."""
    return any(isinstance(report, errors.Forbidden) for report in wire.reports)


async def may_hear(wire: Wire, bus: NatsBus, subject: str) -> bool:
    """Whether the server lets this connection subscribe to a subject, and hands it what comes."""
    heard: list[bytes] = []

    async def note(message: Message) -> None:
        heard.append(message.data)

    wire.reports.clear()
    listening = await bus.subscribe(subject, note)
    await bus.flush()
    concrete = subject.replace("*", "x").replace(">", "x")
    await wire.orchestrator.publish(concrete, b"secret")
    await wire.orchestrator.flush()
    await wait_until(lambda: heard or was_refused(wire), what=f"{subject} heard or refused")
    await listening.unsubscribe()
    return bool(heard)


@pytest.mark.parametrize("role", CLIENT_ROLES)
async def test_a_client_reaches_the_api_the_feed_and_nodes_files(wire: Wire, role: Role) -> None:
    """What every client needs works."""
    alice = await wire.join("alice", role)

    for subject in [REQUEST, subjects.to_node("n-1", "log.read"), subjects.to_node("n-1", "file.read"), "$SRV.PING"]:
        assert await may_publish(wire, alice, subject), subject
    for subject in [subjects.feed("*", "job", "*"), subjects.feed_tick(), "_R.alice.x"]:
        assert await may_hear(wire, alice, subject), subject


FORBIDDEN_TO_CLIENTS = [
    subjects.api("bob", "job", "list"),
    "bacalhau.global.compute.n-1.in.msgs",
    "bacalhau.global.compute.n-1.out.ctrl",
    subjects.from_node("n-1", "hello"),
    subjects.to_node("n-1", "shutdown"),
    subjects.feed("default", "job", "j-1"),
    "node.compute.n-1.ExecutionLogs/v1",
    "$JS.API.INFO",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.USER.AUTH",
    "_R.bob.x.y",
    f"{ORCHESTRATOR_INBOX}.x.y",
    "_INBOX.x",
    "anything",
]
UNHEARD_BY_CLIENTS = [
    "bacalhau.api.v1.>",
    "bacalhau.global.>",
    "bacalhau.x.v1.>",
    "_R.bob.>",
    "_R.>",
    "_INBOX.>",
    "$SYS.REQ.USER.AUTH",
    "$SRV.PING",
    ">",
]


async def test_a_client_reaches_nothing_else(wire: Wire) -> None:
    """Not even an admin speaks for another, to a node's protocol, to the log, or listens to others."""
    alice = await wire.join("alice", Role.ADMIN)

    assert [subject for subject in FORBIDDEN_TO_CLIENTS if await may_publish(wire, alice, subject)] == []
    assert [subject for subject in UNHEARD_BY_CLIENTS if await may_hear(wire, alice, subject)] == []


async def test_a_node_reaches_its_own_subjects(wire: Wire) -> None:
    """What one of our own nodes needs works, answers to clients included."""
    node = await wire.join("n-1", Role.COMPUTE)

    for subject in ["bacalhau.global.compute.n-1.out.ctrl", subjects.from_node("n-1", "hello"), "_R.alice.x"]:
        assert await may_publish(wire, node, subject), subject
    for subject in ["bacalhau.global.compute.n-1.in.msgs", subjects.to_node("n-1", ">"), "_R.n-1.x"]:
        assert await may_hear(wire, node, subject), subject


FORBIDDEN_TO_NODES = [
    subjects.api("n-1", "job", "list"),
    subjects.api("alice", "job", "list"),
    "bacalhau.global.compute.n-2.out.ctrl",
    "bacalhau.global.compute.n-2.in.msgs",
    "bacalhau.global.compute.n-1.in.msgs",
    subjects.from_node("n-2", "hello"),
    subjects.to_node("n-2", "log.read"),
    subjects.feed("default", "job", "j-1"),
    "$JS.API.INFO",
    "$SYS.REQ.SERVER.PING",
    "$SRV.PING",
    "_INBOX.x",
]
UNHEARD_BY_NODES = [
    "bacalhau.global.compute.n-2.in.msgs",
    "bacalhau.global.compute.*.in.msgs",
    "bacalhau.global.compute.n-1.out.ctrl",
    "bacalhau.api.v1.>",
    "bacalhau.feed.v1.>",
    subjects.to_node("n-2", ">"),
    "node.compute.n-2.>",
    "_R.alice.>",
    "_R.>",
    "_INBOX.>",
    ">",
]


async def test_a_node_reaches_nothing_else(wire: Wire) -> None:
    """A node's credential cannot call the client API, speak for or hear another node, or touch anything else."""
    node = await wire.join("n-1", Role.COMPUTE)

    assert [subject for subject in FORBIDDEN_TO_NODES if await may_publish(wire, node, subject)] == []
    assert [subject for subject in UNHEARD_BY_NODES if await may_hear(wire, node, subject)] == []


async def test_a_node_is_not_made_to_speak_by_a_reply_subject(wire: Wire) -> None:
    """A client that names another node's subject for the answer gets nothing published there."""
    alice = await wire.join("alice", Role.ADMIN)
    node = await wire.join("n-1", Role.COMPUTE)

    async def naive(message: Message) -> None:
        await node.publish(message.reply, b"{}")

    await node.subscribe(subjects.to_node("n-1", "log.read"), naive)
    await node.flush()
    await alice.publish(subjects.to_node("n-1", "log.read"), b"", reply="bacalhau.global.compute.n-2.in.msgs")

    refused = await wait_until(lambda: [one for one in wire.reports if isinstance(one, errors.Forbidden)])
    assert "bacalhau.global.compute.n-2.in.msgs" in str(refused[0])


async def test_a_foreign_node_joins_with_a_plain_token_and_its_name(wire: Wire) -> None:
    """An unmodified Bacalhau node presents the token and its id as connection name; its inbox is `_INBOX`."""
    secret = wire.issue("n-invite", Role.COMPUTE, foreign=True)
    settings = NatsSettings(
        address=wire.server.address.replace("//", f"//{secret}@"), identity="n-go", inbox_prefix="_INBOX"
    )
    node = await connect(settings, timeout_s=20, on_error=wire.reports.append)
    wire.buses.append(node)

    assert await may_publish(wire, node, "bacalhau.global.compute.n-go.out.ctrl")
    assert await may_publish(wire, node, f"{ORCHESTRATOR_INBOX}.acks.1")
    assert await may_publish(wire, node, "node.management.n-go.RegisterNode/v1")
    assert await may_publish(wire, node, "_SINBOX.x.y")
    assert await may_publish(wire, node, "_HEARTBEAT._SINBOX.x")
    assert await may_hear(wire, node, "node.compute.n-go.>")
    assert await may_hear(wire, node, "bacalhau.global.compute.n-go.in.msgs")
    assert not await may_publish(wire, node, "bacalhau.global.compute.n-1.out.ctrl")
    assert not await may_publish(wire, node, REQUEST)
    assert not await may_hear(wire, node, "bacalhau.global.compute.n-1.in.msgs")
    assert not await may_hear(wire, node, "_R.>")


@pytest.mark.parametrize("name", ["", "a.b", "n-1", ORCHESTRATOR])
async def test_a_foreign_node_cannot_take_a_name_that_is_not_its_own(wire: Wire, name: str) -> None:
    """A node id that belongs to somebody else, or is none, is refused."""
    wire.issue("n-1", Role.COMPUTE)
    secret = wire.issue("n-invite", Role.COMPUTE, foreign=True)

    with pytest.raises(errors.Unauthenticated):
        await wire.connect(name, secret)


async def test_a_client_and_a_node_cannot_share_an_identity(wire: Wire) -> None:
    """They would share an inbox, so a node of an admin's name would hear the admin's answers."""
    wire.issue("alice", Role.ADMIN)

    with pytest.raises(errors.Unauthenticated):
        await wire.join("alice", Role.COMPUTE)


async def test_a_name_is_free_when_its_invitation_has_expired_unused(wire: Wire) -> None:
    """The client that has it now comes in; the invitation's own secret does not."""
    late = wire.issue("alice", Role.COMPUTE, expires=1, invite=True)

    assert (await wire.join("alice", Role.ADMIN)).connected
    assert "invitation has expired" in await refused(wire, late)


async def refused(wire: Wire, secret: str) -> str:
    """Try to connect; return the reason in the orchestrator's log."""
    with structlog.testing.capture_logs() as logs, pytest.raises(errors.Unauthenticated) as caught:
        await connect(NatsSettings(address=wire.server.address, identity="alice", token=secret), timeout_s=20)
    assert "alice" in str(caught.value)
    assert "orchestrator's log" in caught.value.hint
    reasons = {entry["reason"] for entry in logs if entry["event"] == REFUSED}
    assert len(reasons) == 1
    return str(reasons.pop())


async def test_a_refused_connection_says_why_in_the_log(wire: Wire) -> None:
    """Anonymous, unknown, revoked and expired credentials are refused, each with its reason."""
    revoked = wire.issue("alice", Role.ADMIN, revoked=True)
    expired = wire.issue("bob", Role.ADMIN, expires=1)
    late = wire.issue("n-1", Role.COMPUTE, expires=1, invite=True)

    assert "no credential" in await refused(wire, "")
    assert "not issued" in await refused(wire, "nobody." + "A" * 43)
    assert "revoked" in await refused(wire, revoked)
    assert "credential has expired" in await refused(wire, expired)
    assert "invitation has expired" in await refused(wire, late)


async def test_many_refusals_of_one_identity_are_a_line_in_ten_seconds(wire: Wire) -> None:
    """The line says how many there were; somebody else who is refused has a line of their own."""
    alice, bob = ("alice." + "A" * 43), ("bob." + "A" * 43)
    with structlog.testing.capture_logs() as logs:
        for secret in (alice, alice, alice, alice, bob):
            with pytest.raises(errors.Unauthenticated):
                await wire.connect("x", secret)
        wire.ahead_ns = complaints.EVERY_NS
        with pytest.raises(errors.Unauthenticated):
            await wire.connect("x", bob)

    lines = [(entry["identity"], entry["more"]) for entry in logs if entry["event"] == REFUSED]
    assert [who for who, _ in lines] == ["alice", "bob", "alice", "bob"]
    (_, first), _, (_, rest), _ = lines
    assert first == 0
    assert rest >= 2, "three more connections, of which the line itself is the newest"


async def test_the_last_refusals_of_a_flood_are_said_though_nobody_comes_after_them(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is counted in some line."""
    monkeypatch.setattr(complaints, "EVERY_NS", SECOND // 2)
    monkeypatch.setattr(auth, "EVERY_NS", SECOND // 2)
    asked: list[Message] = []

    async def note(message: Message) -> None:
        asked.append(message)

    await wire.orchestrator.subscribe(REQUESTS, note)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(errors.Unauthenticated):
                await wire.connect("x", "alice." + "A" * 43)
        await wait_until(
            lambda: sum(1 + entry["more"] for entry in logs if entry["event"] == REFUSED) == len(asked),
            what="all refusals said",
        )
    assert len(asked) >= 3


async def test_an_invitation_that_was_used_does_not_expire(wire: Wire) -> None:
    """After the node has joined, its invite's time no longer matters."""
    node = await wire.join("n-1", Role.COMPUTE, expires=1, invite=True, used=True)

    assert node.connected


async def test_a_revocation_cuts_connections(wire: Wire) -> None:
    """All connections of the identity end within moments and cannot come back; others stay."""
    alice, again, bob = (
        await wire.join("alice", Role.ADMIN),
        await wire.join("alice", Role.ADMIN),
        await wire.join("bob", Role.ADMIN),
    )
    assert {one.identity for one in wire.auth.connections()} == {"alice", "bob"}

    wire.revoke("alice")

    await wait_until(lambda: not alice.connected and not again.connected)
    await wait_until(lambda: isinstance(alice.last_error, errors.Unauthenticated))
    assert bob.connected
    await wait_until(lambda: [one.identity for one in wire.auth.connections()] == ["bob"])


async def test_the_server_cuts_a_connection_when_its_credential_expires(wire: Wire) -> None:
    """Expiry needs nobody's help: it is in the token that the server was given."""
    in_two_seconds = wire.now() + 2_000_000_000
    alice = await wire.join("alice", Role.ADMIN, expires=in_two_seconds)

    assert alice.connected
    await wait_until(lambda: isinstance(alice.last_error, errors.Unauthenticated))
