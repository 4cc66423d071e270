"""What nobody should send: job files, requests and messages of a node that are wrong. Each is answered in words."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from bacalhau_daemon.devstack import Daemon, DevStack
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.tokens import Credential, decode_credential, decode_join
from bacalhau_protocol.ncl import envelope
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl import subjects as ncl_subjects
from bacalhau_protocol.ncl.subjects import Plane
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.nats import NatsBus, connect
from bacalhau_protocol.transport.settings import NatsSettings
from tests.e2e.cluster import client_of, ended, noop
from tests.unit.test_ncl_malformed import MALFORMED as MESSAGES

FILES = sorted((Path(__file__).parents[1] / "data" / "jobs" / "invalid").glob("*.yaml"))
ACCEPTED = "24-result-without-publisher"  # Bacalhau refuses it; ours keeps results on the node then

WRITE = {m.REQUEST_ID: "r-1", m.DEADLINE: str(time.time_ns() + 3600 * 10**9)}
REQUESTS: dict[str, tuple[str, bytes, dict[str, str], str]] = {
    "unknown verb": ("job.stopp", b"{}", WRITE, "there is no 'job.stopp'"),
    "no body": ("job.get", b"", {}, "missing required field `Job`"),
    "no JSON": ("job.get", b"{", {}, "cannot be read"),
    "null": ("job.get", b"null", {}, "Expected `object`"),
    "not UTF-8": ("job.get", b'{"Job": "\xff"}', {}, "cannot be read"),
    "null elements": ("job.submit", b'{"Job": {"Tasks": [null]}}', WRITE, "$.Job.Tasks[0]"),
    "wrong type": ("job.list", b'{"Limit": "many"}', {}, "$.Limit"),
    "deep": ("job.list", b"[" * 100_000, {}, "cannot be read"),
    "no Request-Id": ("job.stop", b'{"Job": "j-1"}', {}, "must carry Request-Id and Deadline"),
    "bad Request-Id": ("job.stop", b'{"Job": "j-1"}', {**WRITE, m.REQUEST_ID: "a b"}, "is not a token"),
    "bad deadline": ("job.stop", b'{"Job": "j-1"}', {**WRITE, m.DEADLINE: "soon"}, "Deadline is not a number"),
    "bad position": ("job.get", b'{"Job": "j-1"}', {m.AT_LEAST: "-1"}, "At-Least is not a number"),
}
TOO_LARGE_BYTES = 10_000_000


def admin_of(daemon: Daemon) -> Credential:
    path = daemon.data_dir / "admin.json"
    return decode_credential(path.read_bytes(), str(path))


async def admins_bus(daemon: Daemon) -> NatsBus:
    """Connect below the client library, so that anything can be sent."""
    admin = admin_of(daemon)
    return await connect(NatsSettings(address=admin.address, identity=admin.identity, token=admin.secret), timeout_s=20)


async def refusal(bus: NatsBus, identity: str, verb: str, data: bytes, headers: dict[str, str]) -> str:
    """Send a request; return the words that it was refused with."""
    answer = await bus.request(subjects.api(identity, *verb.split(".")), data, timeout_s=20, headers=headers)
    assert answer.headers is not None
    assert answer.headers.get("Nats-Service-Error"), f"accepted: {answer.data[:200]!r}"
    assert answer.headers["Nats-Service-Error-Code"].startswith("4")
    error = errors.from_wire(answer.data)
    return f"{error.message} {error.place} {error.details}"


async def unharmed(daemon: Daemon) -> None:
    """Check that the daemon runs jobs as ever, and that nothing was taken for a bug of ours."""
    async with client_of(daemon) as client:
        full = await ended(client, (await client.submit_job(noop())).job_id)
        assert full.job.state.state_type == "Completed"
        assert (await client.cluster_info()).parked == []
    assert daemon.running
    assert "Traceback" not in daemon.log_path.read_text()


def said(daemon: Daemon, event: str, who: str) -> bool:
    """Whether the daemon's log has this event about this node or identity."""
    return any(event in line and who in line for line in daemon.log_path.read_text().splitlines())


async def test_malformed_jobs_are_refused_by_the_orchestrator_too(shared: DevStack) -> None:
    """Past the client's own checks: forty job files with errors, each is refused and none is stored."""
    (daemon,) = shared.daemons
    wrong = [path for path in FILES if path.stem != ACCEPTED]
    assert len(wrong) >= 20
    async with client_of(daemon) as client:
        before = (await client.list_jobs()).total
    bus = await admins_bus(daemon)
    accepted: list[str] = []
    for number, path in enumerate(wrong):
        body = json.dumps({"Job": YAML(typ="safe").load(path.read_text())}).encode()
        headers = {**WRITE, m.REQUEST_ID: f"wrong-{number}"}
        try:
            assert (await refusal(bus, admin_of(daemon).identity, "job.submit", body, headers)).strip()
        except AssertionError:
            accepted.append(path.stem)
    await bus.close()

    assert accepted == []
    async with client_of(daemon) as client:
        assert (await client.list_jobs()).total == before
    await unharmed(daemon)


async def test_malformed_requests_are_answered_in_words(shared: DevStack) -> None:
    """Each with its own reason, in the headers and in the body."""
    (daemon,) = shared.daemons
    bus = await admins_bus(daemon)
    for name, (verb, data, headers, words) in REQUESTS.items():
        assert words in await refusal(bus, admin_of(daemon).identity, verb, data, headers), name
    await bus.close()

    await unharmed(daemon)


@pytest.fixture
async def node(shared: DevStack) -> NatsBus:
    """Give the connection of a node that has been invited and has nothing to do with our daemon."""
    async with client_of(shared.daemons[0]) as client:
        token = decode_join((await client.invite_node(m.NodeInvite(name="n-rude"))).token)
    settings = NatsSettings(address=token.address, identity="n-rude", token=token.secret)
    return await connect(settings, timeout_s=20)


async def test_malformed_messages_of_a_node_are_answered_in_words(shared: DevStack, node: NatsBus) -> None:
    """Requests are answered with the reason, as Bacalhau has it; null elements, wrong checksums, rubbish."""
    target = ncl_subjects.subject("n-rude", Plane.OUT_CTRL)
    for name, data in MESSAGES.items():
        if len(data) > TOO_LARGE_BYTES:
            continue
        error = envelope.decode((await node.request(target, data, timeout_s=20)).data).payload
        assert isinstance(error, ncl.BacError), name
        assert error.cause.startswith("failed to deserialize request: "), name
    await node.close()

    await unharmed(shared.daemons[0])
    assert said(shared.daemons[0], "node.message_unreadable", "n-rude")


async def test_malformed_reports_of_a_node_are_skipped(shared: DevStack, node: NatsBus) -> None:
    """What is no report is not waited for: the daemon says what it was, and goes on."""
    for data in (data for data in MESSAGES.values() if len(data) <= TOO_LARGE_BYTES):
        await node.publish(ncl_subjects.subject("n-rude", Plane.OUT_MSGS), data, reply=node.inbox())
    await node.flush()
    await node.close()

    await unharmed(shared.daemons[0])
    assert said(shared.daemons[0], "node.message_ignored", "n-rude")


async def test_a_message_over_the_limit_is_refused(shared: DevStack, node: NatsBus) -> None:
    """Ten megabytes: our own bus refuses to send them, and from another program the server ends the connection."""
    (daemon,) = shared.daemons
    async with client_of(daemon) as client:
        token = decode_join((await client.invite_node(m.NodeInvite(name="n-ruder"))).token)
    target = ncl_subjects.subject("n-rude", Plane.OUT_CTRL)
    with pytest.raises(errors.UsageError, match="over the limit"):
        await node.publish(target, b"x" * TOO_LARGE_BYTES)
    await node.close()

    host, _, port = token.address.removeprefix("nats://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    login = {"auth_token": token.secret, "name": "n-ruder", "verbose": False, "headers": True}
    writer.write(f"CONNECT {json.dumps(login)}\r\nPING\r\n".encode())
    async with asyncio.timeout(20):
        while not (await reader.readline()).startswith(b"PONG"):
            pass
        writer.write(f"PUB {ncl_subjects.subject('n-ruder', Plane.OUT_CTRL)} {TOO_LARGE_BYTES}\r\n".encode())
        while not (answer := await reader.readline()).startswith(b"-ERR"):
            assert answer, "the server says why"
    writer.close()

    assert b"Maximum Payload" in answer
    await unharmed(daemon)
    await wait_until(lambda: said(daemon, "connection.cut_by_server", "n-ruder"), what="the log says so")


async def test_a_nodes_credential_is_no_clients(shared: DevStack, node: NatsBus) -> None:
    """It cannot call the client API, hear another node's commands, or speak for one: the real daemon refuses."""
    heard: list[bytes] = []

    async def note(message: Message) -> None:
        heard.append(message.data)

    for user in ("n-rude", admin_of(shared.daemons[0]).identity):
        with pytest.raises(errors.Forbidden):
            await node.request(subjects.api(user, "job", "list"), b"{}", timeout_s=20)
    for subject in (
        ncl_subjects.subject("n-one", Plane.OUT_CTRL),
        subjects.to_node("n-one", "log.read"),
        "$JS.API.INFO",
    ):
        with pytest.raises(errors.Forbidden):
            await node.request(subject, b"{}", timeout_s=20)
    for subject in (ncl_subjects.subject("n-one", Plane.IN_MSGS), "bacalhau.api.v1.>", "bacalhau.feed.v1.>", ">"):
        await node.subscribe(subject, note)
    await node.flush()
    await unharmed(shared.daemons[0])
    await node.flush()
    await node.close()

    assert heard == []
