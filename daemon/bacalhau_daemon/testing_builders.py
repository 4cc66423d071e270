"""Builders for tests of the orchestrator: jobs, nodes, ids, and what the query side would hold. See `testing`."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from bacalhau_daemon.core import actions as act
from bacalhau_daemon.core.answers import encode_first_answer
from bacalhau_daemon.core.events import AnyEvent
from bacalhau_daemon.core.requests import Found, Lookup
from bacalhau_daemon.core.state import ExecutionState, JobState
from bacalhau_protocol.models.job import Constraint, InputSource, Job, SpecConfig, Task, TimeoutConfig
from bacalhau_protocol.models.node import BuildVersion, ComputeNodeInfo, NodeInfo
from bacalhau_protocol.models.resources import Resources, ResourcesConfig
from bacalhau_protocol.ncl import messages


class SeededIds:
    """Ids that look random and are always the same."""

    def __init__(self, seed: str = "") -> None:
        self._seed, self._count = seed, 0

    def random(self, count: int) -> bytes:
        """Return the next bytes."""
        self._count += 1
        return hashlib.shake_128(f"{self._seed}/{self._count}".encode()).digest(count)


def a_job(
    name: str = "",
    *,
    count: int = 1,
    cpu: str = "1",
    memory: str = "",
    engine: str = "noop",
    publisher: str = "",
    inputs: tuple[str, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    priority: int = 0,
    execution_s: int = 0,
    queue_s: int = 0,
    total_s: int = 0,
    namespace: str = "",
    type: str = "batch",
) -> Job:
    """Return a batch job that asks for one core; name only what matters."""
    sources = tuple(
        InputSource(source=SpecConfig(type=kind, params=_PARAMS[kind]), target=f"/in/{n}")
        for n, kind in enumerate(inputs)
    )
    task = Task(
        name="main",
        engine=SpecConfig(type=engine, params=_ENGINE_PARAMS.get(engine, msgspec.UNSET)),
        publisher=SpecConfig(type=publisher),
        input_sources=sources,
        resources=ResourcesConfig(cpu=cpu, memory=memory),
        timeouts=TimeoutConfig(execution=execution_s, queue=queue_s, total=total_s),
    )
    return Job(
        name=name,
        namespace=namespace,
        type=type,
        count=count,
        priority=priority,
        constraints=constraints,
        tasks=(task,),
    )


_ENGINE_PARAMS: dict[str, dict[str, Any]] = {"docker": {"Image": "alpine"}, "wasm": {"EntryModule": "/in/0"}}
_PARAMS: dict[str, dict[str, Any]] = {
    "urlDownload": {"URL": "http://127.0.0.1/data"},
    "inline": {"URL": "data:,hello"},
    "localDirectory": {"SourcePath": "/data"},
}


def a_node(
    name: str,
    *,
    cpu: float = 4.0,
    memory: int = 16_000_000_000,
    disk: int = 100_000_000_000,
    gpu: int = 0,
    engines: tuple[str, ...] = ("noop", "wasm"),
    publishers: tuple[str, ...] = ("local", "nats"),
    storages: tuple[str, ...] = ("inline", "localdirectory", "urldownload"),
    labels: dict[str, str] | None = None,
    version: str = "v1.9.3",
    foreign: bool = False,
    unavailable: dict[str, str] | None = None,
) -> NodeInfo:
    """Return a node of four cores that describes itself; name only what matters."""
    most = Resources(cpu=cpu, memory=memory, disk=disk, gpu=gpu)
    return NodeInfo(
        node_id=name,
        labels={"name": name, **(labels or {})},
        supported_protocols=(messages.NCL_PROTOCOL, *(() if foreign else (messages.OWN_PROTOCOL,))),
        compute_node_info=ComputeNodeInfo(
            execution_engines=engines,
            publishers=publishers,
            storage_sources=storages,
            max_capacity=most,
            available_capacity=most,
            max_job_requirements=most,
            unavailable=unavailable or msgspec.UNSET,
        ),
        version=BuildVersion(major="1", minor="9", git_version=version),
    )


class Rows:
    """What the query side would hold: the last state of everything, finished jobs too."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobState] = {}
        self.executions: dict[int, ExecutionState] = {}
        self.answers: dict[tuple[str, str], bytes] = {}
        self.events: list[AnyEvent] = []
        self.position = 0

    def apply(self, project: act.Project) -> None:
        """Take a record in."""
        self.jobs.update(project.jobs)
        self.executions.update(project.executions)
        for event in project.record.events:
            self.events.append(event)
            if getattr(event, "request", ""):
                key = (event.by, event.request)  # type: ignore[union-attr]
                self.answers.setdefault(key, encode_first_answer(event))
        self.position = project.record.last_event

    def find(self, lookup: Lookup) -> Found:
        """Answer a look-up as the query side does."""
        wanted = lookup.name or lookup.ref
        named = [job for job in self.jobs.values() if (job.namespace, job.name) == (lookup.namespace, wanted)]
        found = named[-1:] or [job for job in self.jobs.values() if lookup.ref and job.id.startswith(lookup.ref)]
        return Found(
            as_of=self.position,
            answer=self.answers.get((lookup.user, lookup.request), b""),
            job=found[0] if len(found) == 1 else None,
            several=tuple(job.id for job in found) if len(found) > 1 else (),
        )
