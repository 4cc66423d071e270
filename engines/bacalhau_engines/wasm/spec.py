"""Parameters of `Engine.Type: wasm` and what the engine can give a task. Pure.

| Name | Meaning |
|---|---|
| `EntryModule` | the module's path: an input's target, or below one; a directory stands for its one `*.wasm` |
| `Entrypoint` | the exported function to call; `_start` when blank |
| `Parameters` | the program's arguments; argv is the empty string and then these, as in Bacalhau |
| `ImportModules` | guest's paths of modules to instantiate first |
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from bacalhau_engines.params import text, texts
from bacalhau_protocol.models.job import NetworkConfig, NetworkType, Task
from bacalhau_protocol.models.resources import Resources

MEMORY_MAX_BYTES = 4 * 1024**3
"""What 32-bit WebAssembly can address."""
DEFAULT_ENTRY_POINT = "_start"
_NAMES = ("EntryModule", "Entrypoint", "Parameters", "ImportModules")
_SPELLED = {name.lower(): name for name in _NAMES}
_NETWORKS = (NetworkType.DEFAULT, NetworkType.NONE)


class WasmSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters, read."""

    entry_module: str = ""
    entry_point: str = DEFAULT_ENTRY_POINT
    parameters: tuple[str, ...] = ()
    import_modules: tuple[str, ...] = ()


def read(params: Mapping[str, Any]) -> tuple[WasmSpec, list[str]]:
    """Return the parameters and everything that is wrong with them, in words. Names compare without case."""
    problems: list[str] = []
    found: dict[str, Any] = {}
    for key, value in params.items():
        if name := _SPELLED.get(key.lower()):
            found[name] = value
        else:
            near = difflib.get_close_matches(key, _NAMES, n=1)
            problems.append(f"wasm: unknown parameter {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    entry_module = text("wasm", found, "EntryModule", problems)
    if not entry_module and not problems:
        problems.append("wasm: EntryModule is missing: the path of the module among the task's inputs")
    spec = WasmSpec(
        entry_module=entry_module,
        entry_point=text("wasm", found, "Entrypoint", problems) or DEFAULT_ENTRY_POINT,
        parameters=texts("wasm", found, "Parameters", problems),
        import_modules=texts("wasm", found, "ImportModules", problems),
    )
    return spec, problems


def check(task: Task, resources: Resources) -> list[str]:
    """Return why this engine cannot run the task, in words; empty when it can."""
    problems = read(task.engine.values if task.engine else {})[1]
    if resources.memory > MEMORY_MAX_BYTES:
        asked = resources.memory / 1024**3
        problems.append(f"wasm: requested memory exceeds the wasm limit - {asked:.2f} GiB > 4.00 GiB")
    if resources.gpu:
        problems.append("wasm: WebAssembly modules cannot use GPUs")
    network = task.network.type if isinstance(task.network, NetworkConfig) else NetworkType.DEFAULT
    if network not in _NETWORKS:
        problems.append(f"wasm: this node gives modules no network, the task asks for {network.value}")
    return problems
