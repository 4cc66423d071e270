"""GPUs as the vendors' tools list them. Parsing is pure; `detect` runs the tools that are installed."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import shutil
from collections.abc import Callable
from typing import Any

from bacalhau_protocol.models.resources import Gpu

TOOL_TIMEOUT_S = 10.0
NVIDIA, AMD, INTEL = "NVIDIA", "AMD/ATI", "Intel"
_MIB = 1024 * 1024
_NVIDIA = ("nvidia-smi", "--query-gpu=index,gpu_name,memory.total", "--format=csv,noheader,nounits")
_AMD = ("rocm-smi", "--showproductname", "--showbus", "--showmeminfo", "vram", "--json")
_INTEL = ("xpu-smi", "discovery", "--json")


def parse_nvidia(text: str) -> list[Gpu]:
    """Read CSV lines of index, name and MiB."""
    return [
        Gpu(index=int(row[0]), name=row[1].strip(), vendor=NVIDIA, memory=int(float(row[2])))
        for row in csv.reader(io.StringIO(text), skipinitialspace=True)
        if len(row) == 3
    ]


def parse_amd(text: str) -> list[Gpu]:
    """Read the object `card<N>` per card."""
    found = []
    for key, card in sorted(json.loads(text).items()):
        if key.startswith("card") and key[4:].isdecimal():
            memory = int(card.get("VRAM Total Memory (B)", 0)) // _MIB
            address = str(card.get("PCI Bus", "")).lower()
            name = str(card.get("Card series", ""))
            found.append(Gpu(index=int(key[4:]), name=name, vendor=AMD, memory=memory, pci_address=address))
    return sorted(found, key=lambda gpu: gpu.index)


def parse_intel_list(text: str) -> list[int]:
    """Read the ids of the devices."""
    return [int(device["device_id"]) for device in json.loads(text).get("device_list", [])]


def parse_intel_device(text: str) -> Gpu:
    """Read one device."""
    device: dict[str, Any] = json.loads(text)
    return Gpu(
        index=int(device["device_id"]),
        name=str(device.get("device_name", "")),
        vendor=INTEL,
        memory=int(device.get("memory_physical_size_byte", 0)) // _MIB,
        pci_address=str(device.get("pci_bdf_address", "")),
    )


async def detect(*, run: Callable[..., Any] | None = None) -> tuple[list[Gpu], list[str]]:
    """Ask every tool that is installed; return the GPUs and what went wrong, in words."""
    ask = run or _run
    found: list[Gpu] = []
    problems: list[str] = []
    for command, read in ((_NVIDIA, parse_nvidia), (_AMD, parse_amd), (_INTEL, None)):
        try:
            text = await ask(*command)
            if text is None:
                continue
            found += read(text) if read else [await _intel(ask, number) for number in parse_intel_list(text)]
        except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
            problems.append(f"{command[0]}: {error or type(error).__name__}")
    return found, problems


async def _intel(ask: Callable[..., Any], number: int) -> Gpu:
    return parse_intel_device(await ask(*_INTEL, "--device", str(number)) or "{}")


async def _run(*command: str) -> str | None:
    """Return what a tool prints; None when it is not installed. Raises when it fails."""
    if shutil.which(command[0]) is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        stdout, stderr = await asyncio.wait_for(process.communicate(), TOOL_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise TimeoutError(f"no answer within {TOOL_TIMEOUT_S:g} s") from None
    if process.returncode:
        raise OSError(stderr.decode(errors="replace").strip()[:200] or f"exit status {process.returncode}")
    return stdout.decode(errors="replace")
