"""The credential files that an orchestrator writes, so that clients and its own compute node find it by themselves.

`<data-dir>/admin.json` is the master copy; the same goes to `<config dir>/credentials/<cluster>.json`, and to
`default.json` there when none is or it is of this cluster. Their address follows the orchestrator's at each start.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from bacalhau_daemon.config import config_dir
from bacalhau_daemon.files import write_private
from bacalhau_daemon.joining import FILE as NODE_FILE
from bacalhau_protocol import errors
from bacalhau_protocol.api import tokens
from bacalhau_protocol.api.tokens import Credential

ADMIN_FILE = "admin.json"
ADMIN = "admin"

log = structlog.get_logger(__name__)


def read(path: Path) -> Credential | None:
    """Read a credential file; None when there is none, or none that can be understood (then a new one is made)."""
    try:
        return tokens.decode_credential(path.read_bytes(), str(path))
    except FileNotFoundError:
        return None
    except errors.UsageError as error:
        log.warning("credential_file.damaged", path=str(path), error=error.message)
        return None


def read_admin(data_dir: Path) -> Credential | None:
    """Return the admin's credential of this data directory."""
    return read(data_dir / ADMIN_FILE)


def write_admin(data_dir: Path, credential: Credential) -> None:
    """Write the admin's credential wherever clients of this user look for it."""
    write_if_new(data_dir / ADMIN_FILE, credential)
    directory = config_dir(os.environ) / "credentials"
    try:
        write_if_new(directory / f"{credential.cluster}.json", credential)
        default = read(directory / "default.json")
        if default is None or default.cluster == credential.cluster:
            write_if_new(directory / "default.json", credential)
    except OSError as error:  # no home, or read-only: the copy in the data directory is there
        log.warning("credential_file.not_written", path=str(directory), error=str(error))


def read_node(data_dir: Path) -> Credential | None:
    """Return the credential of the compute node that shares this data directory."""
    return read(data_dir / NODE_FILE)


def write_node(data_dir: Path, credential: Credential) -> None:
    """Write the credential of the compute node that shares this data directory."""
    write_if_new(data_dir / NODE_FILE, credential)


def write_if_new(path: Path, credential: Credential) -> None:
    """Write a credential file unless it says the same already."""
    if read(path) != credential:
        write_private(path, tokens.encode_credential(credential))
