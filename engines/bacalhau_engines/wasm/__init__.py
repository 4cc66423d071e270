"""`wasm`: runs WebAssembly modules (WASI preview 1) in wasmtime, in short-lived processes.

Three kinds of process, so that nothing a module does reaches the daemon::

    daemon (asyncio)  ──socketpair──►  fork server (single thread)  ──fork──►  workers, and one child per compilation
    engine, forkserver                 server, library                         child, compile, confine

Only the fork server and its children import wasmtime. `wire` is what they say to each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bacalhau_engines.wasm.engine import WasmEngine as WasmEngine

__all__ = ["WasmEngine"]


def __getattr__(name: str) -> Any:
    # The fork server imports this package too and must stay small: the engine is loaded when it is asked for.
    if name == "WasmEngine":
        from bacalhau_engines.wasm.engine import WasmEngine  # noqa: PLC0415

        return WasmEngine
    raise AttributeError(name)
