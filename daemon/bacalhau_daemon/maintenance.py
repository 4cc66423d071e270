"""What the daemon's subcommands do: backup, restore, check, rebuild. Each returns what to tell the user."""

from __future__ import annotations

import time
from pathlib import Path

from bacalhau_daemon.core.events import CODEC
from bacalhau_daemon.files import write_private
from bacalhau_daemon.log import backup as backups
from bacalhau_daemon.log.lock import DataLock
from bacalhau_daemon.orchestrator import keys, loading
from bacalhau_daemon.query import restart
from bacalhau_daemon.query.store import remove
from bacalhau_protocol import errors


def backup(data_dir: Path, file: Path) -> str:
    """Write log and keys to a new file; the daemon may run."""
    key_file = loading.log_path(data_dir).parent / keys.FILE_NAME
    attachments = {keys.FILE_NAME: key_file.read_bytes()} if key_file.exists() else {}
    manifest = backups.backup(loading.log_path(data_dir), file, attachments=attachments)
    file.chmod(0o600)
    return f"{manifest.end.records} records of cluster {manifest.end.chain.cluster} written to {file}"


def restore(data_dir: Path, file: Path) -> str:
    """Make log and keys from a backup; nothing is changed unless all of it is sound."""
    lock = _exclusive(data_dir)
    try:
        path = loading.log_path(data_dir)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        manifest = backups.restore(file, path)
        if keys.FILE_NAME in manifest.header.attachments:
            write_private(path.parent / keys.FILE_NAME, manifest.header.attachments[keys.FILE_NAME])
        remove(loading.query_path(data_dir))
    finally:
        lock.release()
    return (
        f"cluster {manifest.end.chain.cluster} is back as of record {manifest.end.chain.n}; what was there is kept "
        f"beside it ({path.name}.replaced…)"
    )


def check(data_dir: Path) -> str:
    """Verify every record, and that this release can read every event; the daemon may run."""
    path = loading.log_path(data_dir)
    chain = backups.check(path)
    reader = backups.open_reader(path)
    try:
        events = sum(len(CODEC.decode(data).events) for _, data in reader.read(0))
    finally:
        reader.close()
    return f"{path}: {chain.n} records of cluster {chain.cluster}, {events} events, unbroken"


def rebuild(data_dir: Path) -> str:
    """Make the query side anew."""
    lock = _exclusive(data_dir)
    try:
        started = time.monotonic()
        reader = backups.open_reader(loading.log_path(data_dir))
        try:
            reader.check()
            chain = restart.rebuild(loading.query_path(data_dir), reader)
        finally:
            reader.close()
    finally:
        lock.release()
    return f"{chain.event} events in {chain.n} records read in {time.monotonic() - started:.1f} s"


def _exclusive(data_dir: Path) -> DataLock:
    """Lock the data directory of a daemon that must not run."""
    if not data_dir.is_dir():
        raise errors.NotFound("there is no such data directory", place=str(data_dir))
    return DataLock.acquire(data_dir)
