"""Resources: what a task asks for (strings), what a machine has (amounts: cores, bytes; MiB for GPU memory)."""

from __future__ import annotations

import msgspec


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. `memory` is MiB; `vendor` is `NVIDIA`, `AMD/ATI` or `Intel`."""

    index: int = msgspec.field(default=0, name="Index")
    name: str = msgspec.field(default="", name="Name")
    vendor: str = msgspec.field(default="", name="Vendor")
    memory: int = msgspec.field(default=0, name="Memory")
    pci_address: str = msgspec.field(default="", name="PCIAddress")


class Resources(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Amounts: `cpu` in cores, `memory` and `disk` in bytes, `gpu` as a count."""

    cpu: float = msgspec.field(default=0.0, name="CPU")
    memory: int = msgspec.field(default=0, name="Memory")
    disk: int = msgspec.field(default=0, name="Disk")
    gpu: int = msgspec.field(default=0, name="GPU")
    gpus: tuple[Gpu, ...] | None = msgspec.field(default=None, name="GPUs")

    def __add__(self, other: Resources) -> Resources:
        """Return the sum; cores are kept in whole millicores, so that sums of tenths do not drift."""
        gpus = (*(self.gpus or ()), *(other.gpus or ()))
        return Resources(
            round(self.cpu + other.cpu, 3),
            self.memory + other.memory,
            self.disk + other.disk,
            self.gpu + other.gpu,
            gpus or None,
        )

    def __sub__(self, other: Resources) -> Resources:
        """Return what is left when `other` is taken away; never below zero."""
        taken = other.gpus or ()
        return Resources(
            max(round(self.cpu - other.cpu, 3), 0.0),
            max(self.memory - other.memory, 0),
            max(self.disk - other.disk, 0),
            max(self.gpu - other.gpu, 0),
            tuple(gpu for gpu in self.gpus if gpu not in taken) if self.gpus else self.gpus,
        )

    def fits(self, capacity: Resources) -> bool:
        """Whether this much can be had out of `capacity`. Cores compare in whole millicores."""
        return (
            self.memory <= capacity.memory
            and self.disk <= capacity.disk
            and self.gpu <= capacity.gpu
            and round(self.cpu * 1000) <= round(capacity.cpu * 1000)
        )

    def larger(self, other: Resources) -> Resources:
        """Return the larger of both, amount by amount; the list of GPUs is that of the side with more of them."""
        return Resources(
            max(self.cpu, other.cpu),
            max(self.memory, other.memory),
            max(self.disk, other.disk),
            max(self.gpu, other.gpu),
            self.gpus if self.gpu >= other.gpu else other.gpus,
        )

    def smaller(self, other: Resources) -> Resources:
        """Return the smaller of both, amount by amount; the list of GPUs is that of the side with fewer of them."""
        return Resources(
            min(self.cpu, other.cpu),
            min(self.memory, other.memory),
            min(self.disk, other.disk),
            min(self.gpu, other.gpu),
            self.gpus if self.gpu <= other.gpu else other.gpus,
        )

    @property
    def is_zero(self) -> bool:
        """Whether there is nothing of anything."""
        return not (self.cpu or self.memory or self.disk or self.gpu)


ZERO = Resources()


class ResourcesConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task asks for, as the user wrote it (`500m`, `512mb`, `1Gi`); blank means "not said"."""

    cpu: str = msgspec.field(default="", name="CPU")
    memory: str = msgspec.field(default="", name="Memory")
    disk: str = msgspec.field(default="", name="Disk")
    gpu: str = msgspec.field(default="", name="GPU")


class AllocatedResources(msgspec.Struct, frozen=True):
    """What an execution was given, by task name."""

    tasks: dict[str, Resources] | None = msgspec.field(default_factory=dict, name="Tasks")
