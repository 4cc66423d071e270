"""The orchestrator as a role in this process, with its real server, log and query side."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trustme

from bacalhau_daemon.config import OrchestratorSettings, Settings
from bacalhau_daemon.log.lock import DataLock
from bacalhau_daemon.orchestrator import credential_files
from bacalhau_daemon.orchestrator.nats_server import NatsServer
from bacalhau_daemon.orchestrator.service import OrchestratorService
from bacalhau_daemon.process import Led
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.tokens import Credential, decode_join
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.job import Job, SpecConfig, Task, TimeoutConfig
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.nats import connect
from bacalhau_protocol.transport.settings import NatsSettings
from bacalhau_protocol.transport.tls import fingerprint

JOB = Job(name="hello", type="batch", tasks=(Task(name="main", engine=SpecConfig(type="noop")),))

WAITING = msgspec.structs.replace(
    JOB, name="waiting", tasks=(msgspec.structs.replace(JOB.task, timeouts=TimeoutConfig(queue=600)),)
)


class Cluster:
    """An orchestrator that can be stopped and started again on its data directory."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.config_dir = directory / "config"
        self.data_dir.mkdir()
        self.service: OrchestratorService
        self._lock: DataLock | None = None
        self._clients: list[Client] = []

    async def start(self, **options: object) -> Led:
        """Start; `options` are settings of `[orchestrator]`."""
        chosen: dict[str, object] = {"enabled": True, "listen": "127.0.0.1:0", **options}
        settings = Settings(
            data_dir=str(self.data_dir),
            stop_grace_s=5.0,
            orchestrator=OrchestratorSettings(**chosen),  # type: ignore[arg-type]
        )
        self._lock = DataLock.acquire(self.data_dir)
        self.service = OrchestratorService(settings, self._lock)
        return await self.service.start()

    async def stop(self) -> None:
        """Stop."""
        for client in self._clients:
            await client.close()
        self._clients.clear()
        if self._lock is not None:
            await self.service.close()
            self._lock.release()
            self._lock = None

    def admin(self) -> Credential:
        """Return the admin's credential."""
        found = credential_files.read_admin(self.data_dir)
        assert found is not None
        return found

    async def client(self, credential: Credential | None = None) -> Client:
        """Connect."""
        client = await Client.connect(credential or self.admin())
        self._clients.append(client)
        return client

    def server(self) -> NatsServer:
        """Return the supervisor of the server."""
        owners = (getattr(closer, "__self__", None) for closer in self.service._closers)
        return next(one for one in owners if isinstance(one, NatsServer))

    async def user(self, identity: str, role: str) -> Client:
        """Issue a credential and connect with it."""
        issued = await (await self.client()).issue_credential(identity, role)
        return await self.client(msgspec.structs.replace(self.admin(), identity=identity, secret=issued.secret))


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    """Give a cluster that has not been started."""
    made = Cluster(tmp_path)
    monkeypatch.setenv("BACALHAU_CONFIG_DIR", str(made.config_dir))
    try:
        yield made
    finally:
        await made.stop()


async def test_a_first_start_lets_clients_of_this_user_in(cluster: Cluster) -> None:
    """The admin's credential lies, private, where clients look for it, and works."""
    led = await cluster.start()

    for path in (
        cluster.data_dir / "admin.json",
        cluster.config_dir / "credentials" / f"{led.cluster}.json",
        cluster.config_dir / "credentials" / "default.json",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        found = credential_files.read(path)
        assert found is not None
        assert (found.address, found.cluster, found.role) == (led.address, led.cluster, "admin")
    info = await (await cluster.client()).cluster_info()
    assert (info.cluster, info.orchestrator, info.term) == (led.cluster, led.node, 1)
    assert info.accepting


async def test_a_job_is_there_after_a_restart(cluster: Cluster) -> None:
    """What was acknowledged survives; address, cluster and credential stay, the term goes up."""
    before = await cluster.start()
    client = await cluster.client()
    submitted = await client.submit_job(JOB)
    assert (await client.get_job(submitted.job_id)).job.name == "hello"
    await cluster.stop()

    after = await cluster.start()
    client = await cluster.client()

    assert (after.address, after.cluster, after.node) == (before.address, before.cluster, before.node)
    page = await client.list_jobs()
    assert [row.id for row in page.jobs] == [submitted.job_id]
    assert (await client.cluster_info()).term == 2
    history = await client.job_history(m.HistoryQuery(job=submitted.job_id))
    assert history.items[0].event.message == "Job submitted"


async def test_a_repeated_request_is_carried_out_once(cluster: Cluster) -> None:
    """The same Request-Id gets the same answer, also from the next leader."""
    await cluster.start()
    client = await cluster.client()
    first = await client.submit_job(JOB, request_id="r-1")
    assert await client.submit_job(JOB, request_id="r-1") == first
    await cluster.stop()
    await cluster.start()

    assert await (await cluster.client()).submit_job(JOB, request_id="r-1") == first
    assert (await (await cluster.client()).list_jobs()).total == 1


async def test_a_lost_admin_file_is_replaced(cluster: Cluster) -> None:
    """Who may read the data directory can always get in: a new credential is issued at the start."""
    await cluster.start()
    old = cluster.admin()
    await cluster.stop()
    (cluster.data_dir / "admin.json").unlink()

    await cluster.start()

    assert cluster.admin().secret != old.secret
    assert (await (await cluster.client()).cluster_info()).accepting


async def test_one_users_verbs_end_where_the_role_ends(cluster: Cluster) -> None:
    """A viewer looks and does not submit."""
    await cluster.start()
    viewer = await cluster.user("eve", "viewer")

    assert (await viewer.list_jobs()).jobs == []
    with pytest.raises(errors.Forbidden, match="'eve' is viewer, and this needs submitter"):
        await viewer.submit_job(JOB)


async def test_a_revoked_user_is_cut_off(cluster: Cluster) -> None:
    """The connection ends, and the credential is refused."""
    await cluster.start()
    eve = await cluster.user("eve", "submitter")
    await (await cluster.client()).revoke_credential("eve")

    await wait_until(lambda: not eve.bus.connected)
    with pytest.raises((errors.Unavailable, errors.Unauthenticated)):
        await eve.bus.request(subjects.api("eve", "job", "list"), b"{}", timeout_s=5)


async def test_an_invitation_names_address_and_ca(cluster: Cluster, tmp_path: Path) -> None:
    """With TLS, the join token has the fingerprint of the CA, and clients find the CA in their credential."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes() + ca.cert_pem.bytes())
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    paths = {name: str(tmp_path / f"{name.removeprefix('tls_')}.pem") for name in ("tls_cert", "tls_key", "tls_ca")}
    led = await cluster.start(**paths)

    invited = await (await cluster.client()).invite_node(m.NodeInvite(name="n-1"))

    token = decode_join(invited.token)
    assert (token.address, token.identity) == (led.address, "n-1")
    assert token.fingerprint == fingerprint(ca.cert_pem.bytes().decode())
    assert invited.token in invited.command


async def test_the_server_may_die(cluster: Cluster) -> None:
    """nats-server killed: it comes back, and so do clients, without a restart of the orchestrator."""
    await cluster.start()
    client = await cluster.client()
    ended = asyncio.create_task(cluster.service.wait(asyncio.Event()))
    server = cluster.server()
    os.kill(server.pid, signal.SIGKILL)

    submitted = await client.submit_job(JOB)

    assert (await client.get_job(submitted.job_id)).job.id == submitted.job_id
    assert server.restarts == 1
    assert not ended.done()
    ended.cancel()


async def test_too_little_space_refuses_submissions_in_words(cluster: Cluster) -> None:
    """Below the mark a submission is refused with path and figures; reads and stops pass."""
    await cluster.start(min_free_bytes=0)
    client = await cluster.client()
    submitted = await client.submit_job(WAITING)
    await cluster.stop()
    await cluster.start(min_free_bytes=2**62)
    client = await cluster.client()

    with pytest.raises(errors.BacalhauError) as caught:
        await client.submit_job(msgspec.structs.replace(JOB, name="other"), deadline_s=0.5)
    assert str(cluster.data_dir) in str(caught.value)
    info = await client.cluster_info()
    assert not info.accepting
    assert str(cluster.data_dir) in info.reason
    await client.stop_job(submitted.job_id)
    assert (await client.get_job(submitted.job_id)).job.state.state_type == "Stopped"


@pytest.mark.parametrize(
    "reply", ["bacalhau.global.compute.n-2.in.msgs", "_R.n-2.x", "_R.alice.x", "bacalhau.x.v1.n-2.in.y"]
)
async def test_a_node_cannot_make_the_orchestrator_speak_elsewhere(cluster: Cluster, reply: str) -> None:
    """A message of a node that names a foreign reply subject is dropped."""
    await cluster.start()
    secret = decode_join((await (await cluster.client()).invite_node(m.NodeInvite(name="n-1"))).token).secret
    node = await connect(NatsSettings(address=cluster.admin().address, identity="n-1", token=secret))
    spied: list[Message] = []

    async def spy(message: Message) -> None:
        spied.append(message)

    await cluster.service._driver._bus.subscribe(reply, spy)
    for subject in ("bacalhau.global.compute.n-1.out.ctrl", subjects.from_node("n-1", "hello")):
        await node.publish(subject, b"rubbish", reply=reply)
    await node.flush()
    await (await cluster.client()).cluster_info()
    await node.close()

    assert spied == []
    assert not cluster.service._driver.failed.done()


MALFORMED = [
    b"",
    b"{}",
    b"null",
    b"\x01",
    b"\x01\x00\x00\x00\x00{}",
    b"\x02\x00\x00\x00\x00",
    b"\xff" * 64,
    b"[" * 100_000,
    b"\x00" * (7 * 1024 * 1024),
    b'{"NodeID": "n-1", "Version": null, "Live": [null]}',
]


async def test_malformed_messages_of_a_node_harm_nothing(cluster: Cluster) -> None:
    """Rubbish on every subject that a node may use: the orchestrator goes on."""
    await cluster.start()
    client = await cluster.client()
    secret = decode_join((await client.invite_node(m.NodeInvite(name="n-1"))).token).secret
    node = await connect(NatsSettings(address=cluster.admin().address, identity="n-1", token=secret))
    planes = ["out.ctrl", "out.msgs", "out.requests"]
    targets = [f"bacalhau.global.compute.n-1.{plane}" for plane in planes]
    targets += [subjects.from_node("n-1", verb) for verb in ("hello", "phase", "logtail", "other")]

    for subject in targets:
        for data in MALFORMED:
            await node.publish(subject, data, reply=node.inbox())
        await node.flush()

    await node.close()
    assert (await client.submit_job(JOB)).job_id
    assert (await client.cluster_info()).parked == []
