"""The environment of a task: its own variables, those forwarded from the node, and Bacalhau's.

A value `env:NAME` means the node's own variable NAME, if the operator allows it by a glob (`AWS_*`, anchored). Any
other value is taken as it is. Whether every reference can be resolved is decided when we bid, so that a run does not
fail for it later.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from bacalhau_daemon.core import compute_globs
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job, Task

_REFERENCE = "env:"


def problems(task: Task, allowed: Sequence[str], known: Collection[str]) -> Iterator[str]:
    """Yield why a reference of this task cannot be resolved here, in Bacalhau's words."""
    for key, value in _given(task).items():
        if value.startswith(_REFERENCE) and (reason := _refusal(value[len(_REFERENCE) :], allowed, known)):
            yield f"resolve environment variable {key}: {reason}"


def build(execution: Execution, allowed: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the complete environment of a task. Raises `NodeFailed` when a reference cannot be resolved any more."""
    assert isinstance(execution.job, Job), "an execution has its job"
    job = execution.job
    env = {key: _resolve(key, value, allowed, environ) for key, value in _given(job.task).items()}
    return env | {
        "BACALHAU_EXECUTION_ID": execution.id,
        "BACALHAU_JOB_ID": job.id,
        "BACALHAU_JOB_TYPE": job.type,
        "BACALHAU_PARTITION_INDEX": str(execution.partition_index or 0),
        "BACALHAU_PARTITION_COUNT": str(job.count or 0),
    }


def _given(task: Task) -> dict[str, str]:
    return task.env if isinstance(task.env, dict) else {}


def _refusal(name: str, allowed: Sequence[str], known: Collection[str]) -> str:
    if not compute_globs.matches_any(allowed, name):
        return f"environment variable '{name}' is not in allowed patterns"
    return "" if name in known else f"required environment variable '{name}' not found"


def _resolve(key: str, value: str, allowed: Sequence[str], environ: Mapping[str, str]) -> str:
    if not value.startswith(_REFERENCE):
        return value
    name = value[len(_REFERENCE) :]
    if reason := _refusal(name, allowed, environ.keys()):
        raise NodeFailed(f"failed to resolve task environment variables: {reason}", place=key)
    return environ[name]
