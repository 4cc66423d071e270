"""What a machine has: control groups and affinity count, GPUs as the vendors' tools list them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bacalhau_daemon.compute import capacity, gpus
from bacalhau_daemon.config import ComputeSettings
from bacalhau_protocol.models.resources import Gpu


def machine(root: Path, files: dict[str, str]) -> capacity.Machine:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return capacity.measure(root, (), root=root)


@pytest.mark.parametrize(
    ("files", "cpu", "memory"),
    [
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "50000 100000\n",
                "sys/fs/cgroup/a/b/memory.max": "300000000\n",
                "sys/fs/cgroup/a/memory.max": "200000000\n",
            },
            0.5,
            200_000_000,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/x\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "25000\n",
                "sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "100000000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            0.25,
            100_000_000,
        ),
    ],
)
def test_the_tightest_limit_of_the_control_groups_counts(
    tmp_path: Path, files: dict[str, str], cpu: float, memory: int
) -> None:
    """Of version 2 with all parents, and of version 1."""
    found = machine(tmp_path, files)
    assert (found.cpu, found.memory_bytes) == (cpu, memory)


def test_without_limits_the_machine_counts(tmp_path: Path) -> None:
    """More than nothing of everything."""
    found = machine(tmp_path, {"proc/self/cgroup": "0::/../../etc\nnonsense\n"})
    assert found.cpu >= 1
    assert found.memory_bytes > 10**8
    assert found.disk_free_bytes > 0


def test_jobs_get_a_share_unless_told_otherwise() -> None:
    """80 % of everything but GPUs; absolute amounts as they are; never more GPUs than there are."""
    devices = tuple(Gpu(index=index, name=f"G {index}", vendor="NVIDIA", memory=100) for index in range(3))
    found = capacity.Machine(cpu=4, memory_bytes=1000, disk_free_bytes=500, gpus=devices)

    share = capacity.allocate(found, ComputeSettings())
    assert (share.cpu, share.memory, share.disk, share.gpu, share.gpus) == (3.2, 800, 400, 3, devices)
    told = capacity.allocate(found, ComputeSettings(cpu=9, memory_bytes=7, disk_bytes=8, gpu=1))
    assert (told.cpu, told.memory, told.disk, told.gpu, told.gpus) == (9, 7, 8, 1, devices[:1])
    assert capacity.allocate(found, ComputeSettings(gpu=9)).gpu == 3
    assert capacity.allocate(found, ComputeSettings(gpu=0)).gpus is None


def test_labels_of_the_machine_win() -> None:
    """The operator's cannot name another node."""
    found = capacity.labels("n-1", {"name": "x", "zone": "eu"}, (Gpu(name="NVIDIA L4", memory=23034),))
    assert found == {
        "zone": "eu",
        "name": "n-1",
        "os_type": "linux",
        "os_arch": capacity.architecture(),
        "GPU-0": "NVIDIA-L4",
        "GPU-0-Memory": "23034-MiB",
    }


AMD = {
    "card1": {"Card series": "Second", "VRAM Total Memory (B)": "1048576", "PCI Bus": "0000:E8:00.0"},
    "card0": {
        "Card series": "AMD INSTINCT MI210",
        "VRAM Total Memory (B)": "68702699520",
        "PCI Bus": "0000:E7:00.0",
    },
    "system": {},
}
INTEL = {
    "device_id": 0,
    "device_name": "Intel Corporation Device 56c1 (rev 05)",
    "memory_physical_size_byte": "5314183168",
    "pci_bdf_address": "0000:e9:00.0",
}


async def test_all_vendors_are_asked() -> None:
    """Each in its own form."""

    async def tool(*command: str) -> str | None:
        match command[0]:
            case "nvidia-smi":
                return "0, Tesla T1, 16384\n1, NVIDIA, Odd\n".replace(", Odd", ", 8192") + "\n"
            case "rocm-smi":
                return json.dumps(AMD)
            case _:
                listing = {"device_list": [{"device_id": 0}]}
                return json.dumps(INTEL if "--device" in command else listing)

    found, problems = await gpus.detect(run=tool)
    assert problems == []
    assert [(gpu.index, gpu.name, gpu.vendor, gpu.memory, gpu.pci_address) for gpu in found] == [
        (0, "Tesla T1", "NVIDIA", 16384, ""),
        (1, "NVIDIA", "NVIDIA", 8192, ""),
        (0, "AMD INSTINCT MI210", "AMD/ATI", 65520, "0000:e7:00.0"),
        (1, "Second", "AMD/ATI", 1, "0000:e8:00.0"),
        (0, "Intel Corporation Device 56c1 (rev 05)", "Intel", 5068, "0000:e9:00.0"),
    ]


async def test_a_tool_that_is_absent_or_broken_is_said_and_skipped() -> None:
    """The node starts all the same."""

    async def tool(*command: str) -> str | None:
        if command[0] == "nvidia-smi":
            raise OSError("NVIDIA-SMI has failed")
        return None if command[0] == "rocm-smi" else "not json"

    found, problems = await gpus.detect(run=tool)
    assert found == []
    assert [problem.partition(":")[0] for problem in problems] == ["nvidia-smi", "xpu-smi"]


async def test_detection_works_on_this_machine() -> None:
    """With whatever tools it has."""
    found, _ = await gpus.detect()
    assert isinstance(found, list)
