"""What runs take while they run: the disk that dockerd does not limit, and memory and CPU for the record.

dockerd can limit what a container writes only on few file systems (overlay2 on xfs with project quotas), and outputs
are directories of the node in any case. So they are measured again and again, and a run that takes too much is ended.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_engines.docker.create import OWNER
from bacalhau_engines.docker.dockerd import Dockerd, Refused

CGROUPS = Path("/sys/fs/cgroup")
PROCESSES = Path("/proc")


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a container has used so far; 0 where that cannot be read."""

    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0


class Places(msgspec.Struct, frozen=True):
    """Where the kernel's accounts of a container are, and its volumes: asked for once."""

    accounts: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()


class Watched(msgspec.Struct, frozen=True):
    """A container that runs, and its outputs. `places` None: not known yet."""

    id: str
    outputs: tuple[str, ...]
    places: Places | None = None


class Measured(msgspec.Struct, frozen=True):
    """What was found."""

    id: str
    disk_bytes: int
    places: Places
    usage: Usage


def measure(dockerd: Dockerd, owner: str, watched: Iterable[Watched]) -> list[Measured]:
    """Look at all of them, with one question to dockerd. Blocks; raises `Gone`, `Refused`."""
    client = dockerd.client()
    filters = {"label": f"{OWNER}={owner}", "status": "running"}
    listed = dockerd.call(lambda: client.containers(size=True, filters=filters))
    by_id: dict[str, dict[str, Any]] = {str(one["Id"]): one for one in listed}
    found = []
    for one in watched:
        container = by_id.get(one.id)
        if container is None:
            continue
        places = one.places or _places_of(dockerd, one.id)
        size = int(container.get("SizeRw") or 0) + sum(size_of(path) for path in (*one.outputs, *places.volumes))
        found.append(Measured(one.id, size, places, usage_of(places.accounts)))
    return found


def size_of(path: str) -> int:
    """Return the bytes that a tree takes on disk, as far as it can be read. Follows no links."""
    return sum(_sizes(path))


def _sizes(path: str) -> Iterator[int]:
    try:
        with os.scandir(path) as scan:
            entries = list(scan)
    except OSError:
        return
    for entry in entries:
        try:
            yield entry.stat(follow_symlinks=False).st_blocks * 512
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(entry.path)
        except OSError:  # removed while we look
            continue


def _places_of(dockerd: Dockerd, id_: str) -> Places:
    client = dockerd.client()
    try:
        found = dockerd.call(lambda: client.inspect_container(id_))
    except Refused:  # it has just ended
        return Places()
    volumes = (str(mount.get("Source") or "") for mount in found["Mounts"] or () if mount.get("Type") == "volume")
    try:
        accounts = accounts_in((PROCESSES / str(found["State"]["Pid"]) / "cgroup").read_text())
    except OSError:
        accounts = ()
    return Places(accounts, tuple(volume for volume in volumes if volume))


def accounts_in(text: str, root: Path = CGROUPS) -> tuple[str, ...]:
    """Return the directories of a process's control groups that exist, from `/proc/PID/cgroup`. Either version."""
    found = []
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            place = root / controller / path.lstrip("/") if controller else root / path.lstrip("/")
            if controller in ("", "memory", "cpuacct") and path != "/" and place.is_dir():
                found.append(str(place))
    return tuple(found)


def usage_of(accounts: Iterable[str]) -> Usage:
    """Read what the kernel has counted."""
    cpu_seconds, peak = 0.0, 0
    for account in map(Path, accounts):
        peak = max(peak, _number(account / "memory.peak"), _number(account / "memory.max_usage_in_bytes"))
        cpu_seconds = max(cpu_seconds, _number(account / "cpuacct.usage") / 1e9, _cpu_stat(account / "cpu.stat"))
    return Usage(cpu_seconds=cpu_seconds, memory_peak_bytes=peak)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _cpu_stat(path: Path) -> float:
    try:
        pairs = dict(line.split() for line in path.read_text().splitlines())
        return int(pairs.get("usage_usec", 0)) / 1e6
    except (OSError, ValueError):
        return 0.0
