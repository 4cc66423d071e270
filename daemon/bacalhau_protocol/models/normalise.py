"""The form in which jobs are stored and shown: Bacalhau's normalisation, defaults, old forms. All functions are pure.

Order at submission: `convert_legacy_wasm`, `normalise`, `sanitise`, `apply_defaults`; `submission.prepare` calls them.
A normalised job has a count, and each of its tasks has Publisher, Resources, Network and Timeouts objects; empty maps
and lists that Bacalhau leaves out are left out (`UNSET`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from bacalhau_protocol.models.ids import NAMESPACE_DEFAULT
from bacalhau_protocol.models.job import (
    Constraint,
    InputSource,
    Job,
    NetworkConfig,
    Port,
    ResultPath,
    SpecConfig,
    Task,
    TimeoutConfig,
)
from bacalhau_protocol.models.quantities import normalise_quantity
from bacalhau_protocol.models.resources import ResourcesConfig
from bacalhau_protocol.models.states import JobState, JobType

RESERVED_META = "bacalhau.org/"
ONE_EACH = frozenset({JobType.OPS, JobType.DAEMON})
"""Types that run once on each matching node; their count is always 0."""
COUNTED = frozenset({JobType.BATCH, JobType.SERVICE})

_NO_PUBLISHER, _NO_RESOURCES, _NO_NETWORK, _NO_TIMEOUTS = (
    SpecConfig(),
    ResourcesConfig(),
    NetworkConfig(),
    TimeoutConfig(),
)
T = TypeVar("T")


# ── defaults ──────────────────────────────────────────────────────────────────────────────────────────────────────


class TypeDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """What a job of one type gets where it says nothing. Timeouts are seconds, 0: none."""

    priority: int = 0
    resources: ResourcesConfig = ResourcesConfig(cpu="500m", memory="512Mb")
    publisher: SpecConfig | None = None  # for every task that names none
    results_publisher: SpecConfig | None = None  # only for tasks with result paths that name none
    execution_timeout_s: int = 0
    total_timeout_s: int = 0


class JobDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults by job type."""

    batch: TypeDefaults = TypeDefaults()
    ops: TypeDefaults = TypeDefaults()
    daemon: TypeDefaults = TypeDefaults()
    service: TypeDefaults = TypeDefaults()

    def of(self, job_type: str) -> TypeDefaults:
        """Return the defaults of a type; a type that does not exist has those of batch."""
        match job_type:
            case JobType.OPS:
                return self.ops
            case JobType.DAEMON:
                return self.daemon
            case JobType.SERVICE:
                return self.service
            case _:
                return self.batch


BACALHAU_DEFAULTS = JobDefaults()
"""Bacalhau's own: result paths without a publisher are refused."""
_OURS = TypeDefaults(results_publisher=SpecConfig(type="nats"))
DEFAULTS = JobDefaults(batch=_OURS, ops=_OURS, daemon=_OURS, service=_OURS)
"""Ours: results stay on the node and are fetched over NATS, unless the job or the settings say otherwise."""


def default_publisher(task: Task, defaults: TypeDefaults) -> SpecConfig | None:
    """Return the publisher that a task which names none would get, or None."""
    return defaults.publisher or (defaults.results_publisher if task.result_paths else None)


def names_publisher(task: Task) -> bool:
    """Whether a task says where its results go."""
    return task.publisher is not None and bool(task.publisher.kind or task.publisher.values)


def apply_defaults(job: Job, defaults: JobDefaults = DEFAULTS) -> Job:
    """Fill in what a normalised job leaves open: priority, resources field by field, publisher, timeouts."""
    given = defaults.of(job.type)
    tasks = tuple(_task_defaults(task, given) for task in job.tasks or ())
    return replace(job, tasks=tasks, priority=job.priority or given.priority)


def _task_defaults(task: Task, given: TypeDefaults) -> Task:
    asked = task.resources or _NO_RESOURCES
    timeouts = task.timeouts or _NO_TIMEOUTS
    publisher = task.publisher if names_publisher(task) else default_publisher(task, given)
    return replace(
        task,
        publisher=publisher or _NO_PUBLISHER,
        resources=_normal_resources(
            ResourcesConfig(
                cpu=asked.cpu or given.resources.cpu,
                memory=asked.memory or given.resources.memory,
                disk=asked.disk or given.resources.disk,
                gpu=asked.gpu or given.resources.gpu,
            )
        ),
        timeouts=TimeoutConfig(
            execution=timeouts.execution or given.execution_timeout_s,
            queue=timeouts.queue,
            total=timeouts.total or given.total_timeout_s,
        ),
    )


# ── normal form ───────────────────────────────────────────────────────────────────────────────────────────────────


def default_count(job_type: str) -> int:
    """Return the count of a job that says none."""
    return 1 if job_type in COUNTED else 0


def normalise(job: Job) -> Job:
    """Return the job in normal form; normalising again changes nothing."""
    count = default_count(job.type) if job.count is None else job.count
    return replace(
        job,
        name=job.name if job.name.strip() else job.id,
        namespace=job.namespace if job.namespace.strip() else NAMESPACE_DEFAULT,
        count=0 if job.type in ONE_EACH else count,
        constraints=tuple(map(_normal_constraint, job.constraints or ())),
        meta=job.meta or {},
        labels=job.labels or {},
        tasks=tuple(map(_normal_task, job.tasks or ())),
    )


def _normal_constraint(constraint: Constraint) -> Constraint:
    return constraint if constraint.values else replace(constraint, values=UNSET)


def _normal_task(task: Task) -> Task:
    return Task(
        name=task.name,
        engine=_normal_spec(task.engine) if task.engine is not None else None,
        publisher=_normal_spec(task.publisher) if task.publisher is not None else _NO_PUBLISHER,
        env=task.env or UNSET,
        meta=task.meta or UNSET,
        input_sources=_each(task.input_sources, _normal_input),
        result_paths=_each(task.result_paths, _normal_result),
        resources=_normal_resources(task.resources) if task.resources else _NO_RESOURCES,
        network=_normal_network(task.network) if task.network else _NO_NETWORK,
        timeouts=task.timeouts or _NO_TIMEOUTS,
    )


def _each(items: tuple[T, ...] | UnsetType | None, normal: Callable[[T], T]) -> tuple[T, ...] | UnsetType:
    return tuple(map(normal, items)) if items else UNSET


def _normal_spec(config: SpecConfig) -> SpecConfig:
    return SpecConfig(type=config.type.strip(), params=config.params or UNSET)


def _normal_input(source: InputSource) -> InputSource:
    config = _normal_spec(source.source) if source.source is not None else None
    return InputSource(source=config, alias=source.alias.strip(), target=source.target.strip())


def _normal_result(result: ResultPath) -> ResultPath:
    return ResultPath(name=result.name.strip(), path=result.path.strip())


def _normal_resources(config: ResourcesConfig) -> ResourcesConfig:
    return ResourcesConfig(
        cpu=normalise_quantity(config.cpu),
        memory=normalise_quantity(config.memory),
        disk=normalise_quantity(config.disk),
        gpu=normalise_quantity(config.gpu),
    )


def _normal_network(network: NetworkConfig) -> NetworkConfig:
    domains = tuple(domain.strip().lower() for domain in network.domains or ())
    return NetworkConfig(type=network.type, domains=domains or UNSET, ports=_each(network.ports, _normal_port))


def _normal_port(port: Port) -> Port:
    return Port(
        name=port.name,
        static=port.static or UNSET,
        target=port.target or UNSET,
        host_network=port.host_network or UNSET,
    )


# ── what a submission may not set ─────────────────────────────────────────────────────────────────────────────────


def sanitise(job: Job) -> tuple[Job, tuple[str, ...]]:
    """Clear what the orchestrator sets itself and return a warning, in Bacalhau's words, for each thing cleared."""
    warnings: list[str] = []
    for attribute, words in _SERVER_SET:
        if getattr(job, attribute):
            warnings.append(f"job {words} is ignored when submitting a job")
            job = replace(job, **{attribute: 0})
    if job.state != JobState():
        warnings.insert(0, "job state is ignored when submitting a job")
        job = replace(job, state=JobState())
    if job.id and job.type in (JobType.BATCH, JobType.OPS):
        warnings.append("job ID is ignored when submitting a batch job")
        job = replace(job, id="")
    if job.tasks and len(job.tasks) > 1:
        warnings.append("only one task is supported per job")
        job = replace(job, tasks=job.tasks[:1])
    reserved = [key for key in job.meta or () if key.startswith(RESERVED_META)]
    if job.meta and reserved:
        warnings.extend(f'job meta key "{key}" is reserved and will be ignored' for key in reserved)
        kept = {key: value for key, value in job.meta.items() if not key.startswith(RESERVED_META)}
        job = replace(job, meta=kept)
    return job, tuple(warnings)


_SERVER_SET = (
    ("revision", "revision"),
    ("version", "version"),
    ("create_time", "create time"),
    ("modify_time", "modify time"),
)


# ── old forms ─────────────────────────────────────────────────────────────────────────────────────────────────────

ENTRY_TARGET = "/wasm/entry.wasm"


def import_target(index: int) -> str:
    """Return where the module of that index is put when its old form names no target."""
    return f"/wasm/imports/module_{index}.wasm"


def convert_legacy_wasm(job: Job) -> Job:
    """Rewrite the old form of wasm tasks, modules given as input sources, into inputs and their targets."""
    if not any(map(is_legacy_wasm, job.tasks or ())):
        return job
    return replace(job, tasks=tuple(_convert(task) if is_legacy_wasm(task) else task for task in job.tasks or ()))


def is_legacy_wasm(task: Task) -> bool:
    """Whether a task gives its modules as whole input sources."""
    if task.engine is None or task.engine.kind != "wasm":
        return False
    params = folded(task.engine.values)
    imports = params.get("importmodules")
    return isinstance(params.get("entrymodule"), dict) or (
        isinstance(imports, list) and any(isinstance(item, dict) for item in imports)
    )


def folded(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same parameters under lower-case keys, as Bacalhau matches them."""
    return {key.lower(): value for key, value in params.items()}


def legacy_inputs(task: Task) -> Iterator[tuple[str, InputSource]]:
    """Yield (path below Params, input) for each module that an old wasm task gives as an input source."""
    assert task.engine is not None, "asked only of wasm tasks"
    for key, value in task.engine.values.items():
        if key.lower() == "entrymodule" and isinstance(value, dict):
            yield key, embedded_input(value, ENTRY_TARGET)
        elif key.lower() == "importmodules" and isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    yield f"{key}[{index}]", embedded_input(item, import_target(index))


def embedded_input(value: Mapping[str, Any], target: str) -> InputSource:
    """Read an input source that stands inside parameters; what is not of the right kind counts as missing."""
    fields = folded(value)
    source = fields.get("source")
    config = None
    if isinstance(source, dict):
        parts = folded(source)
        params = parts.get("params")
        config = SpecConfig(type=_text(parts.get("type")), params=params if isinstance(params, dict) else UNSET)
    return InputSource(config, _text(fields.get("alias")), _text(fields.get("target")).strip() or target)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _convert(task: Task) -> Task:
    assert task.engine is not None, "asked only of wasm tasks"
    params = folded(task.engine.values)
    inputs = [source for _, source in legacy_inputs(task)]
    entry = params.get("entrymodule")
    modules = params.get("importmodules") or []
    kept: dict[str, Any] = {
        "EntryModule": embedded_input(entry, ENTRY_TARGET).target if isinstance(entry, dict) else entry,
        "Entrypoint": params.get("entrypoint") or "",
        "Parameters": params.get("parameters") or [],
        "ImportModules": [
            embedded_input(item, import_target(index)).target if isinstance(item, dict) else item
            for index, item in enumerate(modules)
        ],
    }
    engine = SpecConfig(type=task.engine.type, params=kept)
    return replace(task, engine=engine, input_sources=(*(task.input_sources or ()), *inputs))
