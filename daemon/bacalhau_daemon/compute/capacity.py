"""What this machine has, what of it jobs may have, and the labels that say so.

Processor and memory are what this process may use: affinity and the limits of its control group count, not only what
is built in. Jobs get 80 % of processor, memory and free disk, and all GPUs, unless the settings say otherwise.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from bacalhau_daemon.config import ComputeSettings
from bacalhau_protocol.models.resources import Gpu, Resources

SHARE = 0.8
_UNLIMITED_BYTES = 2**60  # control groups of version 1 say "no limit" as a number near 2⁶³
_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is: cores, bytes, devices."""

    cpu: float
    memory_bytes: int
    disk_free_bytes: int
    gpus: tuple[Gpu, ...] = ()


def measure(data_dir: Path, gpus: tuple[Gpu, ...], *, root: Path = Path("/")) -> Machine:
    """Measure this machine. `root` is where `/proc` and `/sys` are, for tests."""
    cpu_limit, memory_limit = _control_group(root)
    cpu = float(len(os.sched_getaffinity(0)))
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=min(cpu, cpu_limit or cpu),
        memory_bytes=min(memory, memory_limit or memory),
        disk_free_bytes=shutil.disk_usage(data_dir).free,
        gpus=gpus,
    )


def allocate(machine: Machine, settings: ComputeSettings) -> Resources:
    """Return what jobs may have together: what the settings say, else a share of what there is."""
    count = settings.gpu if settings.gpu >= 0 else len(machine.gpus)
    return Resources(
        cpu=settings.cpu or round(machine.cpu * SHARE, 3),
        memory=settings.memory_bytes or int(machine.memory_bytes * SHARE),
        disk=settings.disk_bytes or int(machine.disk_free_bytes * SHARE),
        gpu=min(count, len(machine.gpus)),
        gpus=machine.gpus[:count] or None,
    )


def labels(node_id: str, configured: Mapping[str, str], gpus: tuple[Gpu, ...] | None) -> dict[str, str]:
    """Return a node's labels: the operator's, then the machine's, which win."""
    found = dict(configured)
    found["os_type"] = platform.system().lower()
    found["os_arch"] = architecture()
    found["name"] = node_id
    for number, gpu in enumerate(gpus or ()):
        found[f"GPU-{number}"] = gpu.name.replace(" ", "-")
        found[f"GPU-{number}-Memory"] = f"{gpu.memory}-MiB"
    return found


def architecture() -> str:
    """Return the processor's name as Go says it."""
    return _GOARCH.get(platform.machine(), platform.machine())


def _control_group(root: Path) -> tuple[float | None, int | None]:
    """Return the tightest limits on cores and bytes of the control groups that this process is in."""
    cpus: list[float] = []
    memories: list[int] = []
    for directory in _group_directories(root):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if not quota:
            quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            cpus.append(int(quota) / int(period))
        limit = _read(directory / "memory.max") or _read(directory / "memory.limit_in_bytes")
        if limit.isdecimal() and int(limit) < _UNLIMITED_BYTES:
            memories.append(int(limit))
    return min(cpus, default=None), min(memories, default=None)


def _group_directories(root: Path) -> Iterator[Path]:
    """Yield the directories of this process's control groups and their parents, in version 2 and version 1."""
    top = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        base = top / controllers if controllers else top
        if ".." in path or (controllers and "cpu" not in controllers and "memory" not in controllers):
            continue
        directory = base / path.strip("/")
        yield from (directory, *(parent for parent in directory.parents if parent.is_relative_to(base)))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
