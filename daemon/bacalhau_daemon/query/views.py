"""Entities of the state as users and peers see them: pure functions, for answers, for rows and for the feed."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from bacalhau_daemon.core.state import ExecutionState, JobState
from bacalhau_protocol.api.messages import JobRow
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.resources import AllocatedResources
from bacalhau_protocol.models.states import ComputeState, DesiredState
from bacalhau_protocol.models.states import JobState as ShownState


def job_of(job: JobState) -> Job:
    """Return a job as Bacalhau shows it."""
    state = ShownState(job.state, job.message or msgspec.UNSET, job.details or msgspec.UNSET)
    return replace(
        job.spec,
        state=state,
        version=job.version,
        revision=job.revision,
        create_time=job.created,
        modify_time=job.modified,
    )


def job_row(job: JobState) -> JobRow:
    """Return one line of a list."""
    spec = job.spec
    engine = spec.task.engine
    return JobRow(
        id=job.id,
        name=job.name,
        namespace=job.namespace,
        type=spec.type,
        engine=engine.kind if engine is not None else "",
        state=job.state,
        message=job.message,
        priority=spec.priority,
        count=job.count,
        version=job.version,
        created=job.created,
        modified=job.modified,
        ended=job.ended,
        running=job.running,
        completed=job.completed,
        failed=job.failed,
        by=job.by,
    )


def execution_of(execution: ExecutionState, task: str) -> Execution:
    """Return an execution as Bacalhau shows it; `task` is the name of its job's task, which its resources are for."""
    details = execution.details or msgspec.UNSET
    return Execution(
        id=execution.id,
        namespace=execution.namespace,
        eval_id=execution.eval,
        node_id=execution.node,
        job_id=execution.job_id,
        job_version=execution.job_version,
        allocated_resources=AllocatedResources({task: execution.resources}),
        desired_state=DesiredState(execution.status.desired, execution.desired_message or msgspec.UNSET),
        compute_state=ComputeState(execution.status.compute, execution.message or msgspec.UNSET, details),
        published_result=execution.result or SpecConfig(),
        run_output=execution.output or RunOutput(),
        partition_index=execution.partition or msgspec.UNSET,
        revision=execution.revision,
        create_time=execution.created,
        modify_time=execution.modified,
    )
