"""Parameters of `Engine.Type: docker`, and what the engine can give a task. Pure.

| Name | Meaning |
|---|---|
| `Image` | what to run; required |
| `Entrypoint` | replaces the image's entry point; the image's command is dropped then |
| `Parameters` | replaces the image's command |
| `EnvironmentVariables` | list of `NAME=VALUE`; stronger than the job's own variables, weaker than Bacalhau's |
| `WorkingDirectory` | an absolute path in the container |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from bacalhau_engines.docker.settings import Allowed, Settings
from bacalhau_engines.params import text, texts
from bacalhau_protocol.models.job import NetworkConfig, NetworkType, Port, Task
from bacalhau_protocol.models.resources import Gpu, Resources

RESERVED = "BACALHAU_"
VENDORS = ("NVIDIA", "AMD/ATI", "Intel")
_NAMES = ("Image", "Entrypoint", "Parameters", "EnvironmentVariables", "WorkingDirectory")
_SPELLED = {name.lower(): name for name in _NAMES}
_HOST = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:[0-9]))(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>[a-z0-9]+:[0-9a-f]{32,128}))?"
)


class DockerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters, read."""

    image: str = ""
    entrypoint: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    working_directory: str = ""


class Reference(msgspec.Struct, frozen=True):
    """An image's name, taken apart."""

    name: str  # as it was written, without tag and digest
    host: str  # of the registry; blank: Docker's own
    tag: str  # or the digest

    @property
    def full(self) -> str:
        """What dockerd is asked for."""
        return f"{self.name}{'@' if ':' in self.tag else ':'}{self.tag}"


def reference(image: str) -> Reference | None:
    """Take an image's name apart; None when it is not one."""
    match = _REFERENCE.fullmatch(image)
    if match is None:
        return None
    host, path, tag, digest = match["host"] or "", match["path"], match["tag"] or "latest", match["digest"]
    return Reference(name=f"{host}/{path}" if host else path, host=host, tag=digest or tag)


def read(params: Mapping[str, Any]) -> tuple[DockerSpec, list[str]]:
    """Return the parameters and everything that is wrong with them, in words. Names compare without case."""
    problems: list[str] = []
    found: dict[str, Any] = {}
    for key, value in params.items():
        if name := _SPELLED.get(key.lower()):
            found[name] = value
        else:
            near = difflib.get_close_matches(key, _NAMES, n=1)
            problems.append(f"docker: unknown parameter {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    spec = DockerSpec(
        image=text("docker", found, "Image", problems).strip(),
        entrypoint=texts("docker", found, "Entrypoint", problems),
        parameters=texts("docker", found, "Parameters", problems),
        variables=texts("docker", found, "EnvironmentVariables", problems),
        working_directory=text("docker", found, "WorkingDirectory", problems),
    )
    problems += _problems(spec, found)
    return spec, problems


def _problems(spec: DockerSpec, found: Mapping[str, Any]) -> list[str]:
    problems = []
    if not spec.image and isinstance(found.get("Image", ""), str):
        problems.append("docker: Image is missing: the name of the image to run, busybox:1.37 for instance")
    elif spec.image and reference(spec.image) is None:
        problems.append(
            f"docker: Image {spec.image!r} is not the name of an image; the form is [REGISTRY/]NAME[:TAG][@DIGEST], "
            "with the name in lower case"
        )
    if spec.working_directory and not spec.working_directory.startswith("/"):
        problems.append(f"docker: WorkingDirectory {spec.working_directory!r} must begin with '/'")
    for place, entry in enumerate(spec.variables):
        name, equals, _ = entry.partition("=")
        if not name or not equals:
            problems.append(f"docker: EnvironmentVariables[{place}] {entry!r} is not NAME=VALUE")
        elif name.upper().startswith(RESERVED):
            problems.append(f"docker: EnvironmentVariables[{place}] {name!r}: names with {RESERVED} are Bacalhau's own")
    return problems


def network_of(task: Task) -> NetworkConfig:
    """Return a task's network, `Full` under its newer name, and none at all for one that asks for nothing."""
    config = task.network if isinstance(task.network, NetworkConfig) else NetworkConfig()
    match config.type:
        case NetworkType.FULL:
            return msgspec.structs.replace(config, type=NetworkType.HOST)
        case NetworkType.DEFAULT:
            return msgspec.structs.replace(config, type=NetworkType.NONE)
        case _:
            return config


def ports_of(network: NetworkConfig) -> tuple[Port, ...]:
    """Return the ports that a network asks for."""
    return network.ports if isinstance(network.ports, tuple) else ()


def check(task: Task, resources: Resources, settings: Settings) -> list[str]:
    """Return why this engine cannot run the task, in words; empty when it can."""
    problems = read(task.engine.values if task.engine else {})[1]
    network = network_of(task)
    if network.type is NetworkType.HTTP:
        problems.append(
            "docker: networks of type HTTP (with allowed domains) are not there yet; use None, or Bridge where the "
            "node's operator allows it"
        )
    elif network.type is not NetworkType.NONE and Allowed(network.type.value.lower()) not in settings.networks:
        kind = network.type.value
        problems.append(
            f"docker: this node gives containers no network of type {kind}; its operator can allow it with "
            f'networks = ["{kind.lower()}"] under [engines.docker]'
        )
    problems += _path_problems(task)
    problems += [
        f"docker: GPUs of vendor {gpu.vendor!r} cannot be given to containers; known: {', '.join(VENDORS)}"
        for gpu in _gpus(resources)
        if gpu.vendor not in VENDORS
    ]
    return problems


def _gpus(resources: Resources) -> tuple[Gpu, ...]:
    return resources.gpus or ()


def _path_problems(task: Task) -> list[str]:
    problems = []
    taken: dict[str, str] = {}
    wanted = [(f"input {one.target!r}", one.target) for one in task.input_sources or ()]
    wanted += [(f"output {one.name!r}", one.path) for one in task.result_paths or ()]
    for who, path in wanted:
        normal = normal_path(path)
        if normal == "/":
            problems.append(f"docker: the {who} cannot take the place of the container's root directory")
        elif normal in taken:
            problems.append(f"docker: the {who} and the {taken[normal]} both want {normal} in the container")
        taken[normal] = who
    return problems


def normal_path(path: str) -> str:
    """Return an absolute path of the container without `.`, `..` and doubled slashes."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)
