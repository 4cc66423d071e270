"""What must hold for a job to be accepted: every rule of Bacalhau's two levels, and what it would find only later.

`examine` walks a job once and yields everything, problems and warnings, each with the path of its field; it takes a
job as it was decoded, before normalisation. Rules that depend on defaults (a publisher, timeouts) see the defaults.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence

from msgspec import UnsetType

from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.models import params
from bacalhau_protocol.models.constraints import check_constraint
from bacalhau_protocol.models.ids import TOKEN
from bacalhau_protocol.models.job import (
    InputSource,
    Job,
    NetworkConfig,
    NetworkType,
    Port,
    ResultPath,
    SpecConfig,
    Task,
    TimeoutConfig,
)
from bacalhau_protocol.models.normalise import (
    DEFAULTS,
    ONE_EACH,
    JobDefaults,
    TypeDefaults,
    default_publisher,
    is_legacy_wasm,
    legacy_inputs,
    names_publisher,
)
from bacalhau_protocol.models.problems import Problem, join, nearest, quote
from bacalhau_protocol.models.quantities import parse_bytes, parse_cpu, parse_gpu
from bacalhau_protocol.models.resources import ResourcesConfig
from bacalhau_protocol.models.states import JobType

NAME_MAX = 256
"""Longest name of a job, namespace, task or output, in characters: lists and feeds carry them."""
COUNT_MAX = 100_000
"""Most executions that one job may ask for."""
TIMEOUT_MAX_S = (2**63 - 1) // 10**9
"""Longest timeout: Bacalhau computes in 64-bit nanoseconds."""
PORT_NAME_MAX = 237
PORT_MAX = 65535
PRIVILEGED_PORT_MAX = 1023
INT_MAX = 2**63 - 1

_TYPES = tuple(JobType)
_ENV_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_PORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DOMAIN = re.compile(r"\b[a-z0-9]+\.[a-z]{2,}\b", re.ASCII)  # of Bacalhau's unanchored pattern, what decides
_DOMAIN_MAX = 254
_PORT_NETWORKS = frozenset({NetworkType.HOST, NetworkType.FULL, NetworkType.BRIDGE})
_RESERVED_ENV = "BACALHAU_"
_RESERVED_RESULTS = frozenset({"stdout", "stderr", "exitCode"})


def validate(job: Job, defaults: JobDefaults = DEFAULTS) -> list[Problem]:
    """Return everything that forbids this job, in the order of its fields; empty when it may be submitted."""
    return [problem for problem in examine(job, defaults) if not problem.warning]


def examine(job: Job, defaults: JobDefaults = DEFAULTS) -> Iterator[Problem]:
    """Yield every problem and every warning about a job as it was decoded."""
    yield from _head(job)
    for index, constraint in enumerate(job.constraints or ()):
        yield from check_constraint(constraint, f"Constraints[{index}]")
    if not job.tasks:
        yield Problem("Tasks", "missing job tasks", "a job has one task")
    given = defaults.of(job.type)
    for index, task in enumerate(job.tasks or ()):
        yield from _task(task, f"Tasks[{index}]", given)


def _head(job: Job) -> Iterator[Problem]:
    if job.type not in _TYPES:
        found = f"invalid job type {quote(job.type)}" if job.type else "missing job type"
        yield Problem("Type", found, f"allowed are {', '.join(_TYPES)}", nearest(job.type, _TYPES))
    count = job.count or 0
    if count < 0:
        yield Problem("Count", f"job count must be >= 0, found {count}")
    elif count > 1 and job.type in ONE_EACH:
        yield Problem("Count", f"{job.type} jobs run on all matching nodes and cannot have a count > 1, found {count}")
    elif count > COUNT_MAX:
        yield Problem("Count", f"job count must be <= {COUNT_MAX}, found {count}")
    if not -INT_MAX <= job.priority <= INT_MAX:
        yield Problem("Priority", "the number does not fit into 64 bits")
    yield from _name(job.name, "Name")
    yield from _name(job.namespace, "Namespace")
    if job.id and job.type in (JobType.SERVICE, JobType.DAEMON) and not TOKEN.fullmatch(job.id):
        if any(map(str.isspace, job.id)):
            found = "job ID contains a space"
        else:
            found = f"job ID {quote(job.id)} is too long or has characters that are not allowed"
        yield Problem("ID", found, "at most 64 of A-Z a-z 0-9 _ -")


def _name(text: str, path: str) -> Iterator[Problem]:
    if "\0" in text:
        yield Problem(path, "contains a null character")
    if len(text) > NAME_MAX:
        yield Problem(path, f"has {len(text)} characters, the limit is {NAME_MAX}")


def _task(task: Task, path: str, given: TypeDefaults) -> Iterator[Problem]:
    if not task.name.strip():
        yield Problem(f"{path}.Name", "missing task name")
    yield from _name(task.name, f"{path}.Name")
    yield from _spec(task.engine, f"{path}.Engine", "engine", params.ENGINES, params.ENGINE_NAMES)
    if names_publisher(task):
        yield from _spec(task.publisher, f"{path}.Publisher", "publisher", params.PUBLISHERS, params.PUBLISHER_NAMES)
    elif task.result_paths and default_publisher(task, given) is None:
        yield Problem(f"{path}.Publisher", "a publisher must be set if result paths are set")
    if task.env:
        yield from _env(task.env, f"{path}.Env")
    yield from _inputs(task, path)
    if task.result_paths:
        yield from _results(task.result_paths, f"{path}.ResultPaths")
    if task.resources:
        yield from _resources(task.resources, f"{path}.Resources")
    if task.network:
        yield from _network(task.network, f"{path}.Network")
    yield from _timeouts(task.timeouts, f"{path}.Timeouts", given)


def _spec(
    config: SpecConfig | None, path: str, what: str, tables: dict[str, params.Table], names: Sequence[str]
) -> Iterator[Problem]:
    if config is None:
        yield Problem(path, f"missing {what}", f"an object with Type ({', '.join(names)}) and Params")
        return
    kind = config.kind
    if not kind:
        yield Problem(f"{path}.Type", f"missing type of the {what}", f"known are {', '.join(names)}")
        return
    table = tables.get(kind)
    if table is not None:
        yield from params.check_params(config.values, table, f"{path}.Params")
    elif kind not in map(str.lower, names) and (guess := nearest(kind, names)):
        yield Problem(f"{path}.Type", f"unknown {what} {quote(config.type)}: a plug-in?", "", guess, warning=True)


def _env(env: dict[str, str], path: str) -> Iterator[Problem]:
    for name, value in env.items():
        if not _ENV_NAME.fullmatch(name) or name.startswith(_RESERVED_ENV):
            yield from _env_name(name, join(path, name))
        if not value:
            yield Problem(join(path, name), f"environment variable {quote(name)} cannot have an empty value")
        elif "\0" in value:
            yield Problem(join(path, name), f"the value of {quote(name)} contains a null character")


def _env_name(name: str, path: str) -> Iterator[Problem]:
    """Bacalhau's letters and digits are Unicode's, so what the fast pattern refuses is looked at again."""
    shown = f"environment variable {quote(name)}"
    if not name:
        yield Problem(path, "an environment variable has an empty name")
    elif name.upper().startswith(_RESERVED_ENV):
        yield Problem(path, f"{shown} cannot start with BACALHAU_: such names are reserved")
    elif name != name.upper():
        yield Problem(path, f"{shown} must be uppercase", nearest=name.upper())
    elif not name[0].isalpha():
        yield Problem(path, f"{shown} must start with a letter")
    elif not all(char.isalpha() or char.isdecimal() or char == "_" for char in name):
        yield Problem(path, f"{shown} may have only letters, digits and underscores")


def _placed_inputs(task: Task, path: str) -> Iterator[tuple[str, InputSource]]:
    for index, source in enumerate(task.input_sources or ()):
        yield f"{path}.InputSources[{index}]", source
    if is_legacy_wasm(task):
        for key, source in legacy_inputs(task):
            yield f"{path}.Engine.Params.{key}", source


def _inputs(task: Task, path: str) -> Iterator[Problem]:
    aliases: dict[str, str] = {}
    targets: dict[str, str] = {}
    for place, source in _placed_inputs(task, path):
        yield from _input(source, place)
        alias, target = source.alias.strip(), source.target.strip()
        if alias and aliases.setdefault(alias, place) != place:
            found = f"input source with alias {quote(alias)} already exists"
            yield Problem(f"{place}.Alias", found, f"the first is {aliases[alias]}")
        if target and targets.setdefault(target, place) != place:
            found = f"input source with target {quote(target)} already exists"
            yield Problem(f"{place}.Target", found, f"the first is {targets[target]}")


def _input(source: InputSource, path: str) -> Iterator[Problem]:
    if not source.target.strip():
        yield Problem(f"{path}.Target", "input source is missing a target", "the path at which the task sees it")
    yield from _spec(source.source, f"{path}.Source", "source", params.STORAGES, params.STORAGE_NAMES)


def _results(results: Iterable[ResultPath], path: str) -> Iterator[Problem]:
    names: dict[str, int] = {}
    paths: dict[str, int] = {}
    for index, result in enumerate(results):
        place, name, target = f"{path}[{index}]", result.name.strip(), result.path.strip()
        yield from _result_name(name, f"{place}.Name")
        if name and names.setdefault(name, index) != index:
            found = f"result path with name {quote(name)} already exists"
            yield Problem(f"{place}.Name", found, f"the first is {path}[{names[name]}]")
        if not target:
            yield Problem(f"{place}.Path", "missing path", "where the task writes, for instance /outputs")
        elif not result.path.startswith("/"):
            yield Problem(f"{place}.Path", f"result path {quote(result.path)} must be absolute")
        elif paths.setdefault(target, index) != index:
            found = f"result path {quote(target)} already exists"
            yield Problem(f"{place}.Path", found, f"the first is {path}[{paths[target]}]")


def _result_name(name: str, path: str) -> Iterator[Problem]:
    """Names become directories of the result tree, so none may leave it or stand where another file stands."""
    if not name:
        yield Problem(path, "missing name", "the directory of the results that holds this output")
    elif name in _RESERVED_RESULTS:
        yield Problem(path, f"{quote(name)} is the name of a file that every execution has")
    elif name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
        yield Problem(path, f"{quote(name)} cannot be the name of a directory")
    yield from _name(name, path)


def _resources(config: ResourcesConfig, path: str) -> Iterator[Problem]:
    for name, text in (("CPU", config.cpu), ("Memory", config.memory), ("Disk", config.disk), ("GPU", config.gpu)):
        if not text.strip():
            continue
        try:
            match name:
                case "CPU":
                    parse_cpu(text)
                case "GPU":
                    parse_gpu(text)
                case _:
                    parse_bytes(text, name.lower())
        except SpecError as error:
            yield Problem(f"{path}.{name}", error.message, error.hint)


def _network(network: NetworkConfig, path: str) -> Iterator[Problem]:
    if network.domains and network.type is not NetworkType.HTTP:
        found = f"domains can only be set for HTTP network mode, found {network.type}"
        yield Problem(f"{path}.Domains", found)
    for index, domain in enumerate(network.domains or ()):
        if not _is_domain(domain):
            found = f"invalid domain {quote(domain)}"
            guess = domain.lower() if domain != domain.lower() and _is_domain(domain.lower()) else ""
            yield Problem(f"{path}.Domains[{index}]", found, "a DNS name in lower case or an IP address", guess)
    if network.type is NetworkType.HTTP and not network.domains:
        yield Problem(f"{path}.Domains", "HTTP network mode without domains reaches nothing", warning=True)
    if network.ports:
        yield from _ports(network, network.ports, f"{path}.Ports")


def _is_domain(text: str) -> bool:
    if len(text) > _DOMAIN_MAX:
        return False
    return _DOMAIN.search(text) is not None or _is_address(text)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _ports(network: NetworkConfig, ports: Iterable[Port], path: str) -> Iterator[Problem]:
    if network.type not in _PORT_NETWORKS:
        yield Problem(path, f"ports can only be set for Host or Bridge network modes, found {network.type}")
        return
    seen: dict[tuple[str, object], int] = {}
    for index, port in enumerate(ports):
        place = f"{path}[{index}]"
        yield from _port(port, network.type, place)
        marks: list[tuple[str, object]] = [("Name", port.name), ("Static", port.static or 0)]
        if network.type is NetworkType.BRIDGE:
            marks.append(("Target", port.target or 0))
        for what, value in marks:
            if value and seen.setdefault((what, value), index) != index:
                found = f"duplicate port mapping {what.lower()} {value}"
                yield Problem(f"{place}.{what}", found, f"the first is {path}[{seen[what, value]}]")


def _port(port: Port, network: NetworkType, path: str) -> Iterator[Problem]:
    if not port.name:
        yield Problem(f"{path}.Name", "missing port name")
    elif len(port.name) > PORT_NAME_MAX or not _PORT_NAME.fullmatch(port.name):
        found = f"port name {quote(port.name)} must be a valid environment variable name"
        yield Problem(f"{path}.Name", found, f"a letter or _, then letters, digits and _, at most {PORT_NAME_MAX}")
    static, target = port.static or 0, port.target or 0
    if 0 < static <= PRIVILEGED_PORT_MAX:
        yield Problem(f"{path}.Static", f"static port {static} is in the privileged port range (1-1023)")
    elif not 0 <= static <= PORT_MAX:
        yield Problem(f"{path}.Static", f"static port {static} is out of range", "0 (any free one) or 1024-65535")
    if target and network is not NetworkType.BRIDGE:
        yield Problem(f"{path}.Target", "a target port cannot be set for Host network mode", "set Static, or neither")
    elif not 0 <= target <= PORT_MAX:
        yield Problem(f"{path}.Target", f"target port {target} is out of range", "0 (as the static one) or 1-65535")
    if port.host_network and not _is_address(port.host_network):
        yield Problem(f"{path}.HostNetwork", f"{quote(port.host_network)} is not an IP address")


def _timeouts(timeouts: TimeoutConfig | UnsetType | None, path: str, given: TypeDefaults) -> Iterator[Problem]:
    asked = timeouts or TimeoutConfig()
    each = (("Execution", asked.execution), ("Queue", asked.queue), ("Total", asked.total))
    for what, seconds in each:
        if seconds < 0:
            yield Problem(f"{path}.{what}Timeout", f"invalid {what.lower()} timeout value: {seconds} is negative")
        elif seconds > TIMEOUT_MAX_S:
            yield Problem(f"{path}.{what}Timeout", f"invalid {what.lower()} timeout value: {seconds} s is too long")
    execution, total = asked.execution or given.execution_timeout_s, asked.total or given.total_timeout_s
    if total > 0 and execution + asked.queue > total:
        yield Problem(
            path,
            f"execution timeout {execution} s and queue timeout {asked.queue} s together are more than "
            f"the total timeout {total} s",
        )
