"""The credentials that the orchestrator makes for its own machine: the admin's, and a compute node's in its process."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.state import State
from bacalhau_daemon.orchestrator import credential_files as files
from bacalhau_daemon.orchestrator.driver import Driver
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import CredentialIssue, CredentialIssued
from bacalhau_protocol.api.tokens import Credential, hash_secret, make_secret
from bacalhau_protocol.models.ids import NODE, RANDOM_BYTES, new_id

ISSUE_TIMEOUT_S = 30
REQUEST_ID_BYTES = 16


class Place:
    """Where the orchestrator is, as credential files say it."""

    def __init__(self, data_dir: Path, address: str, cluster: str, ca: str) -> None:
        self.data_dir = data_dir
        self.address, self.cluster, self.ca = address, cluster, ca

    def credential(self, identity: str, role: str, secret: str) -> Credential:
        """Return a credential for this orchestrator."""
        return Credential(
            address=self.address, identity=identity, role=role, secret=secret, cluster=self.cluster, ca=self.ca
        )


def first_admin(data_dir: Path) -> Credential:
    """Return the admin's credential for an empty log, kept in its file before the log knows it.

    So a crash in between loses nothing: the next start finds the same secret.
    """
    known = files.read_admin(data_dir)
    if known is not None:
        return known
    secret = make_secret(files.ADMIN, secrets.token_bytes)
    made = Credential(address="", identity=files.ADMIN, role=Role.ADMIN, secret=secret)
    files.write_if_new(data_dir / files.ADMIN_FILE, made)
    return made


async def keep_admin(driver: Driver, place: Place) -> None:
    """Have a valid admin credential in the files, with where we are now; without one, make another."""
    known = files.read_admin(place.data_dir)
    if known is None or not is_valid(driver.machine.state, known.secret):
        known = await _issue(driver, place, files.ADMIN, Role.ADMIN)
    files.write_admin(place.data_dir, place.credential(known.identity, known.role, known.secret))


async def own_node(driver: Driver, place: Place, name: str) -> Credential:
    """Return the credential of the compute node in this process; made at its first start, or for a new name."""
    known = files.read_node(place.data_dir)
    if known is None or name not in ("", known.identity) or not is_valid(driver.machine.state, known.secret):
        identity = name or (known.identity if known is not None else new_id(NODE, secrets.token_bytes(RANDOM_BYTES)))
        known = await _issue(driver, place, identity, Role.COMPUTE)
    made = place.credential(known.identity, known.role, known.secret)
    files.write_node(place.data_dir, made)
    return made


def is_valid(state: State, secret: str) -> bool:
    """Whether the cluster accepts a secret now."""
    found = state.credentials.get(hash_secret(secret))
    return found is not None and not found.dead(time.time_ns())


async def _issue(driver: Driver, place: Place, identity: str, role: Role) -> Credential:
    """Have the machine issue a credential, as a client would."""
    request = Request(
        user=driver.machine.settings.node,
        verb="credential.issue",
        body=CredentialIssue(identity=identity, role=role),
        id=secrets.token_hex(REQUEST_ID_BYTES),
        deadline=time.time_ns() + ISSUE_TIMEOUT_S * 1_000_000_000,
    )
    answer = (await driver.request(request)).body
    if not isinstance(answer, CredentialIssued):
        raise errors.Internal(f"a credential was asked for, and {type(answer).__name__} came")
    return place.credential(identity, role, answer.secret)
