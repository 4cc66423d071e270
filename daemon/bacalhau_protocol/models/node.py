"""Nodes: what a machine offers and whether it is there."""

from __future__ import annotations

import enum

import msgspec

from bacalhau_protocol.models.resources import Resources

ZERO_TIME = "0001-01-01T00:00:00Z"


class NodeType(enum.StrEnum):
    """A node that is both roles registers itself as Compute."""

    REQUESTER = "Requester"
    COMPUTE = "Compute"


class BuildVersion(msgspec.Struct, frozen=True):
    """A node's software."""

    major: str = msgspec.field(default="", name="Major")
    minor: str = msgspec.field(default="", name="Minor")
    git_version: str = msgspec.field(default="", name="GitVersion")
    git_commit: str = msgspec.field(default="", name="GitCommit")
    build_date: str = msgspec.field(default=ZERO_TIME, name="BuildDate")
    goos: str = msgspec.field(default="", name="GOOS")
    goarch: str = msgspec.field(default="", name="GOARCH")


class ComputeNodeInfo(msgspec.Struct, frozen=True):
    """What a compute node can do and how much of it is free. Names of engines and so on are lower case."""

    execution_engines: tuple[str, ...] | None = msgspec.field(default=(), name="ExecutionEngines")
    publishers: tuple[str, ...] | None = msgspec.field(default=(), name="Publishers")
    storage_sources: tuple[str, ...] | None = msgspec.field(default=(), name="StorageSources")
    max_capacity: Resources = msgspec.field(default_factory=Resources, name="MaxCapacity")
    queue_capacity: Resources = msgspec.field(default_factory=Resources, name="QueueCapacity")
    available_capacity: Resources = msgspec.field(default_factory=Resources, name="AvailableCapacity")
    max_job_requirements: Resources = msgspec.field(default_factory=Resources, name="MaxJobRequirements")
    running_executions: int = msgspec.field(default=0, name="RunningExecutions")
    enqueued_executions: int = msgspec.field(default=0, name="EnqueuedExecutions")
    address: str = msgspec.field(default="", name="address")  # lower case on Bacalhau's wire
    unavailable: dict[str, str] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="Unavailable")
    """Of our own nodes: what is installed but cannot work now, as `engine docker`, with the reason."""


class NodeInfo(msgspec.Struct, frozen=True):
    """A node as it describes itself."""

    node_id: str = msgspec.field(default="", name="NodeID")
    node_type: NodeType = msgspec.field(default=NodeType.COMPUTE, name="NodeType")
    labels: dict[str, str] | None = msgspec.field(default_factory=dict, name="Labels")
    supported_protocols: tuple[str, ...] | None = msgspec.field(default=(), name="SupportedProtocols")
    compute_node_info: ComputeNodeInfo = msgspec.field(default_factory=ComputeNodeInfo, name="ComputeNodeInfo")
    version: BuildVersion = msgspec.field(default_factory=BuildVersion, name="BacalhauVersion")


class ConnectionState(msgspec.Struct, frozen=True):
    """Whether a node is there. Times are RFC 3339, UTC. `status` is `CONNECTED` or `DISCONNECTED`."""

    status: str = msgspec.field(default="DISCONNECTED", name="Status")
    last_heartbeat: str = msgspec.field(default=ZERO_TIME, name="LastHeartbeat")
    connected_since: str = msgspec.field(default=ZERO_TIME, name="ConnectedSince")
    disconnected_since: str = msgspec.field(default=ZERO_TIME, name="DisconnectedSince")
    last_compute_seq_num: int = msgspec.field(default=0, name="LastComputeSeqNum")
    last_orchestrator_seq_num: int = msgspec.field(default=0, name="LastOrchestratorSeqNum")
    last_error: str | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="LastError")


class NodeState(msgspec.Struct, frozen=True):
    """A node as Bacalhau shows it. `membership` is `PENDING`, `APPROVED`, `REJECTED` or blank."""

    info: NodeInfo = msgspec.field(default_factory=NodeInfo, name="Info")
    membership: str = msgspec.field(default="APPROVED", name="Membership")
    connection: str = msgspec.field(default="DISCONNECTED", name="Connection")
    connection_state: ConnectionState = msgspec.field(default_factory=ConnectionState, name="ConnectionState")
