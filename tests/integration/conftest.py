"""A real nats-server per test, with an auth callout over credentials that the test chooses."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.state import CredentialState
from bacalhau_daemon.orchestrator.auth import AuthCallout
from bacalhau_daemon.orchestrator.jwt import AccountKey, new_account_seed
from bacalhau_daemon.orchestrator.nats_server import (
    ORCHESTRATOR_USER,
    SYSTEM_USER,
    NatsServer,
    ServerSettings,
)
from bacalhau_protocol import errors
from bacalhau_protocol.api.tokens import hash_secret, make_secret
from bacalhau_protocol.transport.nats import NatsBus, connect
from bacalhau_protocol.transport.settings import NatsSettings

ORCHESTRATOR = "n-orchestrator"


class Wire:
    """A server, the orchestrator's connection to it, and credentials."""

    def __init__(self, directory: Path) -> None:
        self.key = AccountKey(new_account_seed())
        self.server = NatsServer(
            ServerSettings(directory=directory, name=ORCHESTRATOR, host="127.0.0.1", port=0, issuer=self.key.public_key)
        )
        self.credentials: dict[str, CredentialState] = {}
        self.ahead_ns = 0  # of the true time, for the orchestrator
        self.auth = AuthCallout(
            self.key, ORCHESTRATOR, self.credentials.get, self._of, lambda: time.time_ns() + self.ahead_ns
        )
        self.buses: list[NatsBus] = []
        self.orchestrator: NatsBus
        self.reports: list[errors.BacalhauError] = []

    def _of(self, identity: str) -> list[CredentialState]:
        return [one for one in self.credentials.values() if one.identity == identity]

    async def start(self) -> None:
        """Start the server and connect to it as the orchestrator does."""
        await self.server.start()
        self.orchestrator = await self.connect(ORCHESTRATOR, self.server.password, user=ORCHESTRATOR_USER)
        system = await self.connect("system", self.server.password, user=SYSTEM_USER)
        await self.auth.start(self.orchestrator, system)
        await self.orchestrator.flush()
        await system.flush()

    async def close(self) -> None:
        """End everything."""
        for bus in reversed(self.buses):
            await bus.close()
        await self.server.stop()

    def issue(self, identity: str, role: Role, **more: object) -> str:
        """Issue a credential; return its secret."""
        secret = make_secret(identity, secrets.token_bytes)
        state = CredentialState(sha256=hash_secret(secret), identity=identity, role=role, created=0)
        self.credentials[state.sha256] = msgspec.structs.replace(state, **more)
        return secret

    @staticmethod
    def now() -> int:
        """Return the time, ns since the epoch."""
        return time.time_ns()

    def revoke(self, identity: str) -> None:
        """End all credentials of an identity."""
        for sha256, credential in self.credentials.items():
            if credential.identity == identity:
                self.credentials[sha256] = msgspec.structs.replace(credential, revoked=True)
        self.auth.revoke(identity)

    async def connect(
        self,
        identity: str,
        secret: str,
        *,
        user: str = "",
        on_disconnect: Callable[[errors.BacalhauError], None] | None = None,
    ) -> NatsBus:
        """Connect with a secret."""
        bus = await connect(
            NatsSettings(address=self.server.address, identity=identity, token=secret, user=user),
            timeout_s=20,
            on_disconnect=on_disconnect,
            on_error=self.reports.append,
        )
        self.buses.append(bus)
        return bus

    async def join(self, identity: str, role: Role, **more: object) -> NatsBus:
        """Issue a credential and connect with it."""
        return await self.connect(identity, self.issue(identity, role, **more))


@pytest.fixture
async def wire(tmp_path: Path) -> AsyncIterator[Wire]:
    """Give a running server with auth callout."""
    made = Wire(tmp_path / "nats")
    await made.start()
    try:
        yield made
    finally:
        await made.close()
