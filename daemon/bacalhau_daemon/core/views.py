"""Rows of the feed and answers about nodes: entities of the state, with what is soft laid over them."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from bacalhau_daemon.core.events import Connection
from bacalhau_daemon.core.scheduling.slot import Slot
from bacalhau_daemon.core.state import ExecutionState, JobState, NodeRecord
from bacalhau_daemon.query.views import execution_of, job_of
from bacalhau_protocol.api.messages import ExecutionRow, Phase
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.node import ConnectionState, NodeState
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import DesiredStateType
from bacalhau_protocol.models.times import format_time

_DESIRED = {
    DesiredStateType.PENDING: "Pending",
    DesiredStateType.RUNNING: "Running",
    DesiredStateType.STOPPED: "Stopped",
}


def execution_row(execution: ExecutionState, phase: Phase | None = None) -> ExecutionRow:
    """Return one line of a list of executions."""
    return ExecutionRow(
        id=execution.id,
        job_id=execution.job_id,
        node_id=execution.node,
        namespace=execution.namespace,
        state=execution.status.compute.label,
        desired=_DESIRED[execution.status.desired],
        message=execution.message,
        partition=execution.partition,
        job_version=execution.job_version,
        created=execution.created,
        modified=execution.modified,
        exit_code=execution.output.exit_code if execution.output is not None else 0,
        phase=phase if execution.status.live else None,
    )


def offered(job: JobState, execution: ExecutionState) -> Execution:
    """Return an execution as it is offered to a node, with its job."""
    return replace(execution_of(execution, job.spec.task.name), job=job_of(job))


def node_state(record: NodeRecord, slot: Slot | None, running: int, last_heard: int) -> NodeState:
    """Return a node as Bacalhau shows it; times that are not known are Go's zero time."""
    there = record.connection is Connection.CONNECTED
    info = record.info
    if slot is not None:
        free = Resources(
            cpu=max(0, slot.free_cpu) / 1000,
            memory=max(0, slot.free_memory),
            disk=max(0, slot.free_disk),
            gpu=max(0, slot.free_gpu),
        )
        compute = replace(info.compute_node_info, available_capacity=free, running_executions=running)
        info = replace(info, compute_node_info=compute)
    status = "CONNECTED" if there else "DISCONNECTED"
    reason = record.reason or str(record.connection)
    connection = ConnectionState(
        status=status,
        last_heartbeat=format_time(last_heard),
        connected_since=format_time(record.since if there else 0),
        disconnected_since=format_time(0 if there else record.since),
        last_error=msgspec.UNSET if there else f"{record.connection}: {reason}" if record.reason else reason,
    )
    return NodeState(info=info, membership=record.membership, connection=status, connection_state=connection)
