"""Resources: what a task asks for (strings) and what a machine has (amounts). Units: cores, bytes, MiB for GPU memory."""

from __future__ import annotations

import msgspec


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. `memory` is MiB; `vendor` is `NVIDIA`, `AMD/ATI` or `Intel`."""

    index: int = msgspec.field(default=0, name="Index")
    name: str = msgspec.field(default="", name="Name")
    vendor: str = msgspec.field(default="", name="Vendor")
    memory: int = msgspec.field(default=0, name="Memory")
    pci_address: str = msgspec.field(default="", name="PCIAddress")


class Resources(msgspec.Struct, frozen=True, omit_defaults=True):
    """Amounts: `cpu` in cores, `memory` and `disk` in bytes, `gpu` as a count."""

    cpu: float = msgspec.field(default=0.0, name="CPU")
    memory: int = msgspec.field(default=0, name="Memory")
    disk: int = msgspec.field(default=0, name="Disk")
    gpu: int = msgspec.field(default=0, name="GPU")
    gpus: tuple[Gpu, ...] | None = msgspec.field(default=None, name="GPUs")


class ResourcesConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a task asks for, as the user wrote it (`500m`, `512mb`, `1Gi`); blank means "not said"."""

    cpu: str = msgspec.field(default="", name="CPU")
    memory: str = msgspec.field(default="", name="Memory")
    disk: str = msgspec.field(default="", name="Disk")
    gpu: str = msgspec.field(default="", name="GPU")


class AllocatedResources(msgspec.Struct, frozen=True):
    """What an execution was given, by task name."""

    tasks: dict[str, Resources] | None = msgspec.field(default_factory=dict, name="Tasks")
