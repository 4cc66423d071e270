"""The container that is created for a run, as dockerd's API wants it. Pure, but for looking at device links.

Its name holds execution and attempt, so that creating it a second time is a conflict, which means: found. Labels say
whose it is, and where the files of its output stood when it was created.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_engines.docker.settings import Settings
from bacalhau_engines.docker.spec import DockerSpec, network_of, normal_path
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.job import NetworkType
from bacalhau_protocol.models.resources import Gpu, Resources
from bacalhau_protocol.plugins import PluginContext, PreparedInput, RunRequest

OWNER, EXECUTION, ATTEMPT = "bacalhau.owner", "bacalhau.execution", "bacalhau.attempt"
JOB, NODE, IMAGE, PORTS = "bacalhau.job", "bacalhau.node", "bacalhau.image", "bacalhau.ports"
STDOUT_FROM, STDERR_FROM = "bacalhau.stdout-from", "bacalhau.stderr-from"

NAME_LENGTH = 8  # of an owner in a container's name
MEMORY_MIN_BYTES = 6 * 1024**2  # dockerd takes no less
CPU_MIN = 0.01
LOG_FILES = 4
HOST_NAME = "host.docker.internal"
DEVICES = Path("/dev")
OOM_SCORE = 500  # when the machine itself runs out of memory, jobs go before daemons


class HostPort(msgspec.Struct, frozen=True):
    """A port of a task: `host` on this machine, `target` in the container, both reached at `address`."""

    name: str
    host: int
    target: int
    address: str = ""


class Choices(msgspec.Struct, frozen=True, kw_only=True):
    """What was found out before a container is created."""

    spec: DockerSpec = DockerSpec()
    image: str = ""  # as dockerd is asked for it: its id
    digest: str = ""
    ports: tuple[HostPort, ...] = ()
    sizes: tuple[int, int] = (0, 0)  # of stdout and stderr
    mount_points: tuple[str, ...] = ()  # of this machine
    disk_quota: bool = False  # dockerd can limit what a container writes
    disk_bytes: int = 0


def name_of(owner: str, execution_id: str, attempt: int) -> str:
    """Return the name of a run's container."""
    return f"bacalhau-{execution_id}-{attempt}-{owner[:NAME_LENGTH]}"


def owner_of(context: PluginContext) -> str:
    """Return what marks the containers of this node and data directory."""
    return hashlib.sha256(f"{context.node_id}\0{context.data_dir.resolve()}".encode()).hexdigest()[:24]


def container(run: RunRequest, chosen: Choices, settings: Settings, owner: str, node_id: str) -> dict[str, Any]:
    """Return the body of `POST /containers/create`. Raises `NodeFailed` when a GPU's device is not there."""
    spec, network = chosen.spec, network_of(run.task)
    made: dict[str, Any] = {
        "Image": chosen.image,
        "Env": [f"{name}={value}" for name, value in environment(run, spec, chosen.ports).items()],
        "WorkingDir": spec.working_directory,
        "Labels": _labels(run, chosen, owner, node_id),
        "NetworkDisabled": network.type is NetworkType.NONE,
        "ExposedPorts": {f"{port.target}/tcp": {} for port in chosen.ports},
        "StopTimeout": 0,
        "HostConfig": _host(run, chosen, settings),
    }
    if settings.user:
        made["User"] = settings.user
    if spec.entrypoint:
        made["Entrypoint"] = list(spec.entrypoint)
    if spec.parameters:
        made["Cmd"] = list(spec.parameters)
    return made


def environment(run: RunRequest, spec: DockerSpec, ports: Iterable[HostPort]) -> dict[str, str]:
    """Return a task's variables: the job's, then the engine's own list, then the ports'."""
    env = dict(run.env)
    env |= {name: value for name, _, value in (entry.partition("=") for entry in spec.variables)}
    for port in ports:
        env[f"BACALHAU_HOST_PORT_{port.name}"] = str(port.host)
        env[f"BACALHAU_PORT_{port.name}"] = str(port.target)
    return env


def disk_bytes(run: RunRequest, settings: Settings) -> int:
    """Return what a run may write, outputs and container together."""
    asked = getattr(run.task.resources, "disk", "") or ""
    return run.resources.disk if asked.strip() and run.resources.disk else settings.output_bytes


def _labels(run: RunRequest, chosen: Choices, owner: str, node_id: str) -> dict[str, str]:
    return {
        OWNER: owner,
        NODE: node_id,
        JOB: run.job.id,
        EXECUTION: run.execution_id,
        ATTEMPT: str(run.attempt),
        IMAGE: chosen.digest,
        PORTS: ",".join(str(port.host) for port in chosen.ports),
        STDOUT_FROM: str(chosen.sizes[0]),
        STDERR_FROM: str(chosen.sizes[1]),
    }


def _host(run: RunRequest, chosen: Choices, settings: Settings) -> dict[str, Any]:
    network = network_of(run.task).type
    memory = max(run.resources.memory, MEMORY_MIN_BYTES) if run.resources.memory else 0
    log_file_bytes = max(settings.stream_bytes, 1024**2)
    host: dict[str, Any] = {
        "NetworkMode": {NetworkType.HOST: "host", NetworkType.BRIDGE: "bridge"}.get(network, "none"),
        "Mounts": mounts(run, chosen.mount_points),
        "Memory": memory,
        "MemorySwap": memory,  # as much as memory: no swap
        "NanoCpus": int(max(run.resources.cpu, CPU_MIN) * 1e9) if run.resources.cpu else 0,
        "PidsLimit": settings.processes_max,
        "OomScoreAdj": OOM_SCORE,
        "CapDrop": ["ALL"],
        "CapAdd": sorted(settings.capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": settings.read_only_root,
        "Init": settings.init,
        "IpcMode": "private",
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        # Exact to the byte, and enough of it that a daemon that returns finds all that it has not read.
        "LogConfig": {"Type": "local", "Config": {"max-size": str(log_file_bytes), "max-file": str(LOG_FILES)}},
    }
    if network is not NetworkType.NONE:
        host["ExtraHosts"] = [f"{HOST_NAME}:host-gateway"]
    if network is NetworkType.BRIDGE:
        host["PortBindings"] = {
            f"{port.target}/tcp": [{"HostIp": port.address, "HostPort": str(port.host)}] for port in chosen.ports
        }
    if settings.runtime:
        host["Runtime"] = settings.runtime
    if chosen.disk_quota:
        host["StorageOpt"] = {"size": str(chosen.disk_bytes)}
    return host | gpu_access(run.resources)


# ── files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def mounts(run: RunRequest, mount_points: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mounts of inputs, read-only unless the storage said otherwise, and of outputs."""
    made: list[dict[str, Any]] = []
    for item in run.inputs:
        made += _input(item, mount_points)
    results = os.path.abspath(run.results_dir)  # noqa: PTH100 (of a data directory that was named relatively)
    made += [_bind(f"{results}/{output.name}", output.path, read_only=False) for output in run.outputs]
    return sorted(made, key=lambda mount: str(mount["Target"]).count("/"))


def _input(item: PreparedInput, mount_points: Sequence[str]) -> list[dict[str, Any]]:
    """Mount an input. A read-only mount does not reach the file systems mounted below it: each gets one of its own."""
    path, target = item.real_path(), normal_path(item.target)
    made = [_bind(path, target, read_only=item.read_only)]
    if item.read_only:
        below = (point for point in mount_points if point.startswith(path.rstrip("/") + "/"))
        made += [_bind(point, target + point[len(path.rstrip("/")) :], read_only=True) for point in below]
    return made


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": normal_path(target),
        "ReadOnly": read_only,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": read_only},
    }


def mount_points_of(mountinfo: str) -> tuple[str, ...]:
    """Return the places where file systems are mounted, outermost first, from `/proc/self/mountinfo`."""
    found = [line.split(" ")[4] for line in mountinfo.splitlines() if line.count(" ") > 4]
    unescaped = (point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\") for point in found)
    return tuple(sorted(dict.fromkeys(unescaped), key=lambda point: point.count("/")))


# ── GPUs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def gpu_access(resources: Resources, devices: Path = DEVICES) -> dict[str, Any]:
    """Return how a container gets at the GPUs that were allocated, as their vendors want it.

    Raises
    ------
    NodeFailed
        when a device is not there.
    """
    by_vendor: dict[str, list[Gpu]] = {}
    for gpu in resources.gpus or ():
        by_vendor.setdefault(gpu.vendor, []).append(gpu)
    access: dict[str, Any] = {}
    if nvidia := by_vendor.get("NVIDIA"):
        ids = [str(gpu.index) for gpu in nvidia]
        access["DeviceRequests"] = [{"Driver": "", "DeviceIDs": ids, "Capabilities": [["gpu"]]}]
    paths: list[str] = []
    if amd := by_vendor.get("AMD/ATI"):
        paths += [str(devices / "kfd"), *_render_nodes(amd, devices)]
    paths += _render_nodes(by_vendor.get("Intel", ()), devices)
    if paths:
        access["Devices"] = [_device(path) for path in dict.fromkeys(paths)]
    return access


def _render_nodes(gpus: Sequence[Gpu], devices: Path) -> list[str]:
    found = []
    for gpu in gpus:
        for kind in ("card", "render"):
            link = devices / "dri" / "by-path" / f"pci-{gpu.pci_address}-{kind}"
            if not link.exists():
                raise NodeFailed(f"there is no device for the GPU at {gpu.pci_address}", place=str(link))
            found.append(str(link.resolve()))
    return found


def _device(path: str) -> Mapping[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}
