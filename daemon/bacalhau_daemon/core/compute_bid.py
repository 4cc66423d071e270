"""Whether to run an execution, and with what: pure. All findings are collected, so that a refusal says everything."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import structs

from bacalhau_daemon.core import compute_env
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_protocol.api.subjects import TOKEN
from bacalhau_protocol.errors import BacalhauError
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import InputSource, Job, NetworkConfig, NetworkType, Task
from bacalhau_protocol.models.nesting import DEPTH_MAX, too_deep
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.models.quantities import format_resources, parse_resources
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.models.states import JobType

DEFAULT_CPU, DEFAULT_MEMORY_BYTES = 0.1, 100 * 1024 * 1024  # of a task that does not say, as Bacalhau's nodes assume
EXECUTIONS_MAX = 4096  # not over, on one node
QUEUE_SHARE = 0.5  # of the maximum, may wait in the queue: what Bacalhau's orchestrators count on
CAPACITY = "Capacity"  # error code: the node is full now
_JOB_TYPES = frozenset(JobType)
_OUTPUT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RESERVED = frozenset({"stdout", "stderr", "exitCode"})


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """What this node can do now. Names are lower case."""

    engines: frozenset[str] = frozenset()
    publishers: frozenset[str] = frozenset()
    storages: frozenset[str] = frozenset()
    capacity: Resources = Resources()  # all that executions may hold together; `gpus` lists the devices
    largest: Resources = Resources()  # all that one may hold
    env_allowed: tuple[str, ...] = ()  # globs over names of the node's own variables
    env_known: frozenset[str] = frozenset()
    reject_networked: bool = False
    reject_stateless: bool = False
    full: str = ""  # why nothing new is taken now (disk, shutdown); blank: it is


Check = Callable[[Job, Resources], list[str]]
"""What the plug-ins say of a job's parameters: `Engine.check` and so on. Pure."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at an execution's inputs gave: what they need on disk, or why they cannot be prepared here."""

    id: str
    disk_bytes: int = 0
    problems: tuple[str, ...] = ()

    @property
    def what(self) -> str:
        """In one line, for people who read the journal."""
        return f"inputs of {self.id} measured"


class Bid(msgspec.Struct, frozen=True, kw_only=True):
    """The decision. `reasons` is empty when we run it; `code` says what kind of refusal, for programs."""

    resources: Resources = Resources()
    reserved: bool = True
    reasons: tuple[str, ...] = ()
    code: str = ""


def inputs(task: Task) -> Sequence[InputSource]:
    """Return a task's inputs."""
    return task.input_sources or ()


def worth_measuring(execution: Execution, state: ComputeState) -> bool:
    """Whether its inputs have to be looked at before it is answered."""
    if not isinstance(execution.job, Job) or not execution.job.tasks:
        return False
    if not inputs(execution.job.task) or unreadable(execution):
        return False
    return execution.id not in state.runs and execution.id not in state.finished


def unreadable(execution: Execution | None) -> str:
    """Return why an execution cannot even be considered; blank when it can."""
    if execution is None:
        return "there is no execution in it"
    job = execution.job
    if not TOKEN.fullmatch(execution.id):
        return f"execution id {execution.id[:80]!r} is not one token of letters, digits, - and _"
    if not isinstance(job, Job) or not job.tasks:
        return "the job has no task"
    if place := too_deep(job):
        return f"{place} has lists and objects nested more than {DEPTH_MAX} deep"
    if job.type not in _JOB_TYPES:
        return f"job type {job.type!r} is not known"
    if job.task.engine is None or not job.task.engine.kind:
        return "the task names no engine"
    if any(source.source is None for source in inputs(job.task)):
        return "an input names no source"
    return ""


def decide_bid(
    execution: Execution, offer: Offer, state: ComputeState, check: Check, measured: Measured, *, queueing: bool
) -> Bid:
    """Decide. `queueing`: more than fits now may be taken, to wait for room (for orchestrators that count on it)."""
    assert isinstance(execution.job, Job), "it was looked at"
    job = execution.job
    try:
        resources = wanted(execution, job, measured.disk_bytes)
    except BacalhauError as error:
        return Bid(reasons=(f"understand its resources: {error.message}",))
    reasons = [*_unable(job, offer), *measured.problems]
    reasons = reasons or [f"accept its parameters: {problem}" for problem in check(job, resources)]
    if not resources.fits(offer.largest):
        amounts = f"requested: {format_resources(resources)}, available: {format_resources(offer.largest)}"
        reasons.append(f"have enough resources - {amounts}")
    if reasons:
        return Bid(reasons=tuple(reasons))
    return _place(resources, offer, state, queueing)


def wanted(execution: Execution, job: Job, input_bytes: int) -> Resources:
    """Return what an execution is to be given: what the orchestrator allocated, else what its task asks for."""
    tasks = execution.allocated_resources.tasks if execution.allocated_resources else None
    asked = (tasks or {}).get(job.task.name) or parse_resources(job.task.resources)
    return Resources(
        asked.cpu or DEFAULT_CPU,
        asked.memory or DEFAULT_MEMORY_BYTES,
        max(asked.disk, input_bytes),
        asked.gpu,
    )


def free(offer: Offer, state: ComputeState) -> Resources:
    """Return what is not given away."""
    return offer.capacity - state.room.as_resources()


def describe(info: NodeInfo, offer: Offer, state: ComputeState) -> NodeInfo:
    """Return what the node says of itself: `info`, with what is free and how many executions there are."""
    gpus = tuple(gpu for gpu in offer.capacity.gpus or () if gpu not in state.room.gpus)
    return structs.replace(
        info,
        compute_node_info=structs.replace(
            info.compute_node_info,
            available_capacity=structs.replace(free(offer, state), gpus=gpus or None),
            queue_capacity=state.wanted.as_resources(),
            running_executions=state.room.count,
            enqueued_executions=state.wanted.count,
        ),
    )


def assign(resources: Resources, offer: Offer, state: ComputeState) -> Resources:
    """Pick GPUs: the first free ones."""
    if not resources.gpu:
        return resources
    available = [gpu for gpu in offer.capacity.gpus or () if gpu not in state.room.gpus]
    return structs.replace(resources, gpus=tuple(available[: resources.gpu]))


def _unable(job: Job, offer: Offer) -> Iterator[str]:
    task = job.task
    assert task.engine is not None, "it was looked at"
    kinds = [(task.engine.kind, offer.engines)]
    if task.publisher is not None and task.publisher.kind:
        kinds.append((task.publisher.kind, offer.publishers))
    kinds += [(source.source.kind, offer.storages) for source in inputs(task) if source.source]
    for kind, installed in kinds:
        if kind not in installed:
            yield f'support "{kind}"'
    yield from _output_problems(task)
    network = task.network.type if isinstance(task.network, NetworkConfig) else NetworkType.DEFAULT
    if offer.reject_networked and network not in (NetworkType.DEFAULT, NetworkType.NONE):
        yield "run jobs that require network access"
    if offer.reject_stateless and not inputs(task):
        yield "accept jobs without any input volumes"
    yield from compute_env.problems(task, offer.env_allowed, offer.env_known)


def _output_problems(task: Task) -> Iterator[str]:
    """An output's name becomes a directory on this node: it must be one harmless path element."""
    names: set[str] = set()
    for output in task.result_paths or ():
        if not _OUTPUT_NAME.fullmatch(output.name) or output.name in _RESERVED or output.name in names:
            rule = "letters, digits, `.`, `_` and `-`, each name once, none of the streams'"
            yield f"accept the output name {output.name[:80]!r}: {rule}"
        names.add(output.name)


def _place(resources: Resources, offer: Offer, state: ComputeState, queueing: bool) -> Bid:
    if offer.full or len(state.runs) >= EXECUTIONS_MAX:
        reason = offer.full or f"take more than {EXECUTIONS_MAX} executions at once"
        return Bid(reasons=(reason,), code=CAPACITY)
    available = free(offer, state)
    if resources.fits(available) and not state.wanted.count:  # nobody overtakes who waits
        return Bid(resources=assign(resources, offer, state))
    queued = state.wanted.as_resources() + resources
    soon = queued.fits(available + state.stopping.as_resources())
    if soon or (queueing and queued.fits(_scaled(offer.capacity, QUEUE_SHARE).larger(resources))):
        return Bid(resources=resources, reserved=False)
    amounts = f"requested: {format_resources(resources)}, free: {format_resources(available)}"
    return Bid(reasons=(f"have enough resources now - {amounts}",), code=CAPACITY)


def _scaled(amount: Resources, share: float) -> Resources:
    return Resources(
        amount.cpu * share, int(amount.memory * share), int(amount.disk * share), max(int(amount.gpu * share), 0)
    )
