"""The settings `[engines.docker]`: what the operator of a node allows, and where dockerd is."""

from __future__ import annotations

import difflib
import enum
import os
from typing import Any

import msgspec

from bacalhau_protocol.errors import UsageError

DEFAULT_HOST = "unix:///var/run/docker.sock"
HERE = "containers work on files of this machine, so dockerd has to run on it, at unix:///PATH"
PORT_MIN, PORT_MAX = 1024, 65535


class Pull(enum.StrEnum):
    """When an image is fetched from its registry."""

    MISSING = "missing"  # when it is not here; a tag that has moved is not noticed
    ALWAYS = "always"
    NEVER = "never"


class Allowed(enum.StrEnum):
    """Networks that an operator can allow; without any, containers have none."""

    BRIDGE = "bridge"
    HOST = "host"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read from TOML. Sizes in bytes."""

    host: str = ""  # blank: $DOCKER_HOST, else the usual socket. Only `unix://`: containers see this machine's files
    networks: frozenset[Allowed] = frozenset()
    ports: tuple[int, int] = (20000, 32000)  # handed out to tasks that ask for any port
    pull: Pull = Pull.MISSING
    docker_config: str = ""  # the file with credentials of registries; blank: as the docker command finds it
    processes_max: int = 1024  # in one container
    output_bytes: int = 8 * 1024**3  # of outputs and container together, for a task that does not say how much disk
    stream_bytes: int = 1024**3  # of stdout and of stderr, each
    capabilities: frozenset[str] = frozenset()  # given to containers; none are kept without
    user: str = ""  # whom programs run as, `1000:1000` for instance; blank: as the image says, which is mostly root
    read_only_root: bool = False
    init: bool = True  # a small process 1 that passes signals on and reaps; dockerd brings it along
    runtime: str = ""  # another OCI runtime, `runsc` for instance

    def __post_init__(self) -> None:
        """Check what types cannot say."""
        first, last = self.ports
        if not PORT_MIN <= first <= last <= PORT_MAX:
            raise ValueError(f"ports must be two numbers from {PORT_MIN} to {PORT_MAX}, the smaller one first")
        if self.processes_max < 1 or self.output_bytes < 1 or self.stream_bytes < 1:
            raise ValueError("processes_max, output_bytes and stream_bytes must be larger than 0")
        if self.host and not self.host.startswith("unix:///"):
            raise ValueError(f"the docker host {self.host!r} is not a socket of this machine: {HERE}")

    @property
    def url(self) -> str:
        """Where dockerd listens."""
        return self.host or os.environ.get("DOCKER_HOST", "") or DEFAULT_HOST

    @property
    def socket(self) -> str:
        """The path of dockerd's socket."""
        return self.url.removeprefix("unix://")


def read(table: dict[str, Any]) -> Settings:
    """Return the settings. Raises `UsageError` that names what is wrong, and the nearest name."""
    try:
        return msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        known = Settings.__struct_fields__
        near = next((match for name in table for match in _near(name, known)), "")
        raise UsageError(
            f"[engines.docker]: {error}",
            hint=f"did you mean {near!r}?" if near else f"known: {', '.join(known)}",
        ) from error


def _near(name: str, known: tuple[str, ...]) -> list[str]:
    return [] if name in known else difflib.get_close_matches(name, known, n=1)
