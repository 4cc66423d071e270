"""Job and everything inside a job file. Times are integer nanoseconds since the epoch, UTC; timeouts are seconds."""

from __future__ import annotations

import enum

import msgspec

from bacalhau_protocol.models.resources import ResourcesConfig
from bacalhau_protocol.models.states import JobState, Params


class SpecConfig(msgspec.Struct, frozen=True):
    """A typed bag of parameters: engine, publisher, source. `type` compares trimmed and without case (`kind`)."""

    type: str = msgspec.field(default="", name="Type")
    params: Params | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Params")

    @property
    def kind(self) -> str:
        """The type as registries and nodes know it: trimmed, lower case."""
        return self.type.strip().lower()

    @property
    def values(self) -> Params:
        """The parameters, never None."""
        return self.params if isinstance(self.params, dict) else {}


class NetworkType(enum.StrEnum):
    """What network a task sees. `Full` is the old name of `Host`."""

    DEFAULT = "Default"
    NONE = "None"
    HOST = "Host"
    FULL = "Full"
    HTTP = "HTTP"
    BRIDGE = "Bridge"

    @classmethod
    def _missing_(cls, value: object) -> NetworkType | None:
        """Read as Go does: without case and surrounding blanks; a blank is not a type."""
        return _NETWORK_TYPES.get(value.strip().lower()) if isinstance(value, str) else None


_NETWORK_TYPES = {kind.lower(): kind for kind in NetworkType}


class Port(msgspec.Struct, frozen=True):
    """A port mapping. `static` is the host's port (0: allocate), `target` the task's, `host_network` the address."""

    name: str = msgspec.field(default="", name="Name")
    static: int | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Static")
    target: int | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Target")
    host_network: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="HostNetwork")


class NetworkConfig(msgspec.Struct, frozen=True):
    """A task's network."""

    type: NetworkType = msgspec.field(default=NetworkType.DEFAULT, name="Type")
    domains: tuple[str, ...] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Domains")
    ports: tuple[Port, ...] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Ports")


class TimeoutConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """Limits in whole seconds; 0 means none. `execution` counts the Running phase only."""

    execution: int = msgspec.field(default=0, name="ExecutionTimeout")
    queue: int = msgspec.field(default=0, name="QueueTimeout")
    total: int = msgspec.field(default=0, name="TotalTimeout")


class InputSource(msgspec.Struct, frozen=True):
    """Data that the task sees at `target`."""

    source: SpecConfig | None = msgspec.field(default=None, name="Source")
    alias: str = msgspec.field(default="", name="Alias")
    target: str = msgspec.field(default="", name="Target")


class ResultPath(msgspec.Struct, frozen=True):
    """A directory that the task may write and that is published under `name`."""

    name: str = msgspec.field(default="", name="Name")
    path: str = msgspec.field(default="", name="Path")


class Constraint(msgspec.Struct, frozen=True):
    """A requirement on a node's labels; a key with the prefix `favour_` only prefers."""

    key: str = msgspec.field(default="", name="Key")
    operator: str = msgspec.field(default="", name="Operator")
    values: tuple[str, ...] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Values")


class Task(msgspec.Struct, frozen=True):
    """What runs. Exactly one task of a job is used."""

    name: str = msgspec.field(default="", name="Name")
    engine: SpecConfig | None = msgspec.field(default=None, name="Engine")
    publisher: SpecConfig | None = msgspec.field(default_factory=SpecConfig, name="Publisher")
    env: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Env")
    meta: dict[str, str] | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Meta")
    input_sources: tuple[InputSource, ...] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="InputSources"
    )
    result_paths: tuple[ResultPath, ...] | msgspec.UnsetType | None = msgspec.field(
        default=msgspec.UNSET, name="ResultPaths"
    )
    resources: ResourcesConfig | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Resources")
    network: NetworkConfig | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Network")
    timeouts: TimeoutConfig | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Timeouts")


class Job(msgspec.Struct, frozen=True):
    """A job as Bacalhau shows it. `count` is None only before the defaults of its type are filled in."""

    id: str = msgspec.field(default="", name="ID")
    name: str = msgspec.field(default="", name="Name")
    namespace: str = msgspec.field(default="", name="Namespace")
    type: str = msgspec.field(default="", name="Type")
    priority: int = msgspec.field(default=0, name="Priority")
    count: int | None = msgspec.field(default=None, name="Count")
    constraints: tuple[Constraint, ...] | None = msgspec.field(default=(), name="Constraints")
    meta: dict[str, str] | None = msgspec.field(default_factory=dict, name="Meta")
    labels: dict[str, str] | None = msgspec.field(default_factory=dict, name="Labels")
    tasks: tuple[Task, ...] | None = msgspec.field(default=(), name="Tasks")
    state: JobState = msgspec.field(default_factory=JobState, name="State")
    version: int = msgspec.field(default=0, name="Version")
    revision: int = msgspec.field(default=0, name="Revision")
    create_time: int = msgspec.field(default=0, name="CreateTime")
    modify_time: int = msgspec.field(default=0, name="ModifyTime")

    @property
    def task(self) -> Task:
        """The one task that is used; a job without one does not get past validation."""
        assert self.tasks, "a validated job has a task"
        return self.tasks[0]
