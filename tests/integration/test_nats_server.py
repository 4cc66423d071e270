"""The supervisor keeps one server alive on one port, whatever happens to it, and never two."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil
import pytest
import trustme

from bacalhau_daemon.log.lock import DataLock
from bacalhau_daemon.orchestrator.jwt import AccountKey, new_account_seed
from bacalhau_daemon.orchestrator.nats_server import ORCHESTRATOR_USER, NatsServer, ServerSettings, greets
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.transport import tls
from bacalhau_protocol.transport.nats import connect
from bacalhau_protocol.transport.settings import NatsSettings


def settings(directory: Path, **more: object) -> ServerSettings:
    """Return settings of a server in this directory."""
    known: dict[str, object] = {
        "directory": directory,
        "name": "n-1",
        "host": "127.0.0.1",
        "port": 0,
        "issuer": AccountKey(new_account_seed()).public_key,
    }
    return ServerSettings(**(known | more))  # type: ignore[arg-type]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """Give a running server that is probed often."""
    made = NatsServer(settings(tmp_path / "nats", probe_every_s=0.02, probe_timeout_s=0.1))
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@pytest.mark.parametrize("said", ["", "7"], ids=["by default", "as the environment says"])
async def test_it_leaves_half_of_the_cpus_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """But at least one is its own, and who runs the daemon has the last word."""
    monkeypatch.setenv("GOMAXPROCS", said)
    server = NatsServer(settings(tmp_path / "nats"))
    await server.start()
    try:
        used = psutil.Process(server.pid).environ()["GOMAXPROCS"]
    finally:
        await server.stop()
    assert used == (said or str(max(1, len(os.sched_getaffinity(0)) // 2)))


async def test_its_configuration_is_private(server: NatsServer, tmp_path: Path) -> None:
    """The file with the password is readable for its owner only."""
    assert stat.S_IMODE((tmp_path / "nats/server.conf").stat().st_mode) == 0o600


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_a_dead_or_frozen_server_is_started_again_on_its_port(server: NatsServer, how: signal.Signals) -> None:
    """Killed, ended or frozen: soon a new one greets on the same port."""
    first, port = server.pid, server.port
    os.kill(first, how)

    await wait_until(lambda: server.restarts >= 1)
    assert server.port == port
    assert server.pid not in (0, first)
    assert await greets("127.0.0.1", port, 20)


async def test_a_port_in_use_is_said_in_words(server: NatsServer, tmp_path: Path) -> None:
    """A second server on the same port does not start, and says what to do."""
    second = NatsServer(settings(tmp_path / "second", port=server.port))

    with pytest.raises(errors.Unavailable, match="address already in use") as caught:
        await second.start()
    assert "--listen" in caught.value.hint


async def test_it_inherits_the_lock(tmp_path: Path) -> None:
    """As long as the server lives, nobody else gets the data directory, even when its daemon has let go."""
    lock = DataLock.acquire(tmp_path, wait_s=0)
    server = NatsServer(settings(tmp_path / "nats", lock_fd=lock.fileno()))
    await server.start()
    lock.release()

    with pytest.raises(errors.Conflict):
        DataLock.acquire(tmp_path, wait_s=0)
    await server.stop()
    DataLock.acquire(tmp_path, wait_s=20).release()


PARENT = """
import asyncio, sys
from pathlib import Path
from bacalhau_daemon.orchestrator.nats_server import NatsServer, ServerSettings

async def main() -> None:
    directory, issuer = sys.argv[1:]
    server = NatsServer(
        ServerSettings(directory=Path(directory), name="n", host="127.0.0.1", port=0, issuer=issuer)
    )
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_it_dies_with_its_daemon(tmp_path: Path) -> None:
    """A daemon that is killed leaves no server behind."""
    issuer = AccountKey(new_account_seed()).public_key
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), issuer], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    await wait_until(lambda: not is_running(pid))


def is_running(pid: int) -> bool:
    """Whether the process is there and not just waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_tls_is_required_once_configured(tmp_path: Path) -> None:
    """With a certificate, a client that trusts its CA connects; one that does not is told that TLS failed."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    for name, blob in [("ca", ca.cert_pem), ("key", certificate.private_key_pem)]:
        blob.write_to_path(str(tmp_path / f"{name}.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    server = NatsServer(
        settings(tmp_path / "nats", tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"))
    )
    await server.start()
    login = NatsSettings(address=server.address, identity="n", user=ORCHESTRATOR_USER, token=server.password)
    try:
        for trusted in (str(tmp_path / "ca.pem"), (tmp_path / "ca.pem").read_text()):
            bus = await connect(msgspec.structs.replace(login, ca=trusted), timeout_s=20)
            await bus.close()
        with pytest.raises(errors.UsageError, match="TLS failed"):
            await connect(login, timeout_s=20)
    finally:
        await server.stop()


async def test_a_ca_is_found_by_its_fingerprint(tmp_path: Path) -> None:
    """The chain that the server shows has the certificate that a join token names; another fingerprint is refused."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    (tmp_path / "cert.pem").write_bytes(certificate.cert_chain_pems[0].bytes() + ca.cert_pem.bytes())
    pem = ca.cert_pem.bytes().decode()
    server = NatsServer(
        settings(tmp_path / "nats", tls_cert=str(tmp_path / "cert.pem"), tls_key=str(tmp_path / "key.pem"))
    )
    await server.start()
    try:
        found = await tls.fetch_ca(server.address, tls.fingerprint(pem))
        login = NatsSettings(
            address=server.address, identity="n", user=ORCHESTRATOR_USER, token=server.password, ca=found
        )
        await (await connect(login, timeout_s=20)).close()
        with pytest.raises(errors.Unauthenticated, match="not the one"):
            await tls.fetch_ca(server.address, "00" * 32)
    finally:
        await server.stop()
