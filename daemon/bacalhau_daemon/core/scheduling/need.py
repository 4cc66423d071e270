"""What a job asks of a node, taken out of its specification once."""

from __future__ import annotations

from functools import cached_property

import msgspec

from bacalhau_protocol.models.constraints import preferred, required
from bacalhau_protocol.models.job import Constraint, Job, Task
from bacalhau_protocol.models.normalise import names_publisher
from bacalhau_protocol.models.quantities import parse_resources
from bacalhau_protocol.models.resources import Resources


class Need(msgspec.Struct, frozen=True, dict=True):
    """One execution's needs; jobs whose needs are equal share everything that is computed from them.

    CPU is in millicores, memory and disk in bytes. Names are lower case.
    """

    engine: str
    publisher: str  # blank: none
    storages: tuple[str, ...]  # sorted
    constraints: tuple[Constraint, ...]  # must hold
    favours: tuple[Constraint, ...]  # raise the score
    cpu: int
    memory: int
    disk: int
    gpu: int

    @cached_property
    def weights(self) -> tuple[float, float, float, float]:
        """How much each resource counts in the score, per millicore, byte, byte, GPU.

        As Bacalhau has it: cores, MB, GB and GPUs, each weighted by its share of what is asked for.
        """
        asked = (self.cpu / 1000, self.memory / 1e6, self.disk / 1e9, float(self.gpu))
        total = sum(asked)
        cpu, memory, disk, gpu = (share / total for share in asked) if total else (0.4, 0.3, 0.2, 0.1)
        return cpu / 1000, memory / 1e6, disk / 1e9, gpu

    @property
    def resources(self) -> Resources:
        """As an amount."""
        return Resources(cpu=self.cpu / 1000, memory=self.memory, disk=self.disk, gpu=self.gpu)

    @property
    def asks_for_something(self) -> bool:
        """Whether any amount is asked for."""
        return bool(self.cpu or self.memory or self.disk or self.gpu)


def need_of(job: Job) -> Need:
    """Return what an execution of this (normalised) job asks of a node."""
    task = job.task
    amount = parse_resources(task.resources)
    inputs = task.input_sources or ()
    constraints = job.constraints or ()
    return Need(
        engine=task.engine.kind if task.engine is not None else "",
        publisher=_publisher(task),
        storages=tuple(sorted({source.source.kind for source in inputs if source.source is not None})),
        constraints=required(constraints) if constraints else (),
        favours=preferred(constraints) if constraints else (),
        cpu=round(amount.cpu * 1000),
        memory=amount.memory,
        disk=amount.disk,
        gpu=amount.gpu,
    )


def _publisher(task: Task) -> str:
    return task.publisher.kind if task.publisher is not None and names_publisher(task) else ""
