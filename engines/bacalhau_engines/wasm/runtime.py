"""The wasmtime objects that the fork server builds once and every child inherits, warm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import wasmtime

from bacalhau_engines.wasm.native import Exit

WASI = "wasi_snapshot_preview1"
WASM_STACK_BYTES = 2 * 1024 * 1024  # the most that wasmtime takes without an asynchronous stack of its own


class Step(msgspec.Struct, frozen=True):
    """A module to instantiate: linked beforehand, or else one to link in the child under these names."""

    module: wasmtime.Module
    linked: wasmtime.InstancePre | None = None
    names: tuple[str, ...] = ()
    initialize: bool = False  # it exports `_initialize`, which a reactor module wants called before anything else


Program = Sequence[Step]
"""What a child instantiates, in order; the last one has the entry point."""


class Runtime:
    """An engine and a linker that knows WASI. Holds nothing of any run."""

    def __init__(self) -> None:
        config = wasmtime.Config()
        config.max_wasm_stack = WASM_STACK_BYTES
        # A shared memory escapes the store's limit, and a 64-bit memory the address space that is reserved for one.
        config.wasm_threads = False
        config.wasm_memory64 = False
        config.wasm_component_model = False
        self.engine = wasmtime.Engine(config)
        self.linker = wasmtime.Linker(self.engine)
        self.linker.define_wasi()
        # wasmtime's own proc_exit refuses codes of 126 and above; this one takes all 32 bits.
        self.linker.allow_shadowing = True
        self.exit = Exit(self.linker, WASI)

    def link(self, module: wasmtime.Module) -> wasmtime.InstancePre:
        """Resolve the imports of a module that needs nothing but WASI. Raises `WasmtimeError` for an unknown one."""
        return self.linker.instantiate_pre(module)


def describe(module: wasmtime.Module) -> tuple[tuple[str, ...], dict[str, tuple[int, int]]]:
    """Return the modules that it imports from, and how many values each exported function takes and returns."""
    imports = dict.fromkeys(item.module for item in module.imports)
    functions: dict[str, tuple[int, int]] = {}
    for item in module.exports:
        kind: Any = item.type
        if isinstance(kind, wasmtime.FuncType):
            functions[item.name] = len(kind.params), len(kind.results)
    return tuple(imports), functions
