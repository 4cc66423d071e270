"""Execution: one try of one partition of a job on one node, and what came out of it."""

from __future__ import annotations

import msgspec

from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.resources import AllocatedResources
from bacalhau_protocol.models.states import ComputeState, DesiredState

EXIT_CODE_UNKNOWN = -1
"""Of a completed execution: its node did not learn the code. Bacalhau 1.9 reports it of every wasm module that returns
without calling `proc_exit`; nobody can act on it, so it is shown as unknown and does not fail who waits."""


class RunOutput(msgspec.Struct, frozen=True):
    """The first 2 KiB of each stream, and the exit code. A non-empty `error_message` means it could not run."""

    stdout: str = msgspec.field(default="", name="Stdout")
    stdout_truncated: bool = msgspec.field(default=False, name="StdoutTruncated")
    stderr: str = msgspec.field(default="", name="stderr")  # lower case on Bacalhau's wire
    stderr_truncated: bool = msgspec.field(default=False, name="StderrTruncated")
    exit_code: int = msgspec.field(default=0, name="ExitCode")
    error_message: str = msgspec.field(default="", name="ErrorMsg")


class Execution(msgspec.Struct, frozen=True):
    """An execution as Bacalhau shows it. Times are nanoseconds since the epoch."""

    id: str = msgspec.field(default="", name="ID")
    namespace: str = msgspec.field(default="", name="Namespace")
    eval_id: str = msgspec.field(default="", name="EvalID")
    name: str = msgspec.field(default="", name="Name")
    node_id: str = msgspec.field(default="", name="NodeID")
    job_id: str = msgspec.field(default="", name="JobID")
    job: Job | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="Job")
    job_version: int = msgspec.field(default=0, name="JobVersion")
    allocated_resources: AllocatedResources | None = msgspec.field(
        default_factory=AllocatedResources, name="AllocatedResources"
    )
    desired_state: DesiredState = msgspec.field(default_factory=DesiredState, name="DesiredState")
    compute_state: ComputeState = msgspec.field(default_factory=ComputeState, name="ComputeState")
    published_result: SpecConfig | None = msgspec.field(default_factory=SpecConfig, name="PublishedResult")
    run_output: RunOutput | None = msgspec.field(default_factory=RunOutput, name="RunOutput")
    previous_execution: str = msgspec.field(default="", name="PreviousExecution")
    next_execution: str = msgspec.field(default="", name="NextExecution")
    followup_eval_id: str = msgspec.field(default="", name="FollowupEvalID")
    partition_index: int | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name="PartitionIndex")
    revision: int = msgspec.field(default=0, name="Revision")
    create_time: int = msgspec.field(default=0, name="CreateTime")
    modify_time: int = msgspec.field(default=0, name="ModifyTime")
