"""Compiling a module in a child of its own: an untrusted one may crash the compiler, or keep it busy for ever."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NoReturn

import msgspec
import wasmtime

from bacalhau_engines.wasm import confine
from bacalhau_engines.wasm.cache import Cache
from bacalhau_engines.wasm.child import Surroundings
from bacalhau_engines.wasm.runtime import describe
from bacalhau_engines.wasm.wire import Loaded, ModuleFile, ModuleInfo, NotLoaded, frame

COMPILE_MEMORY_BYTES = 2 * 1024**3
COMPILED_BYTES_MAX = 512 * 1024**2
INFO_BYTES_MAX = 1024**2  # the names of exported functions and of modules imported from
_NICENESS = 10


def play(module: ModuleFile, cache: Cache, cpu_s: int, around: Surroundings, pipe: int) -> NoReturn:
    """Find the module compiled or compile it, write `Loaded` or `NotLoaded` into `pipe`, and end the process."""
    try:
        confine.die_with(around.server_pid)
        confine.child_limits(
            data_bytes=around.writable_bytes + COMPILE_MEMORY_BYTES,
            file_bytes=COMPILED_BYTES_MAX,
            cpu_seconds=cpu_s,
        )
        os.nice(_NICENESS)
        if around.filter is not None:
            around.filter.install()
        answer = _load(module, cache, around)
    except OSError as error:
        answer = NotLoaded(digest=module.digest, message=f"the module could not be compiled: {error}", bad=False)
    except BaseException as error:  # whatever it is, it must not reach the fork server's loop
        message = f"the module could not be compiled: {type(error).__name__}: {error}"
        answer = NotLoaded(digest=module.digest, message=message, bad=False)
    try:
        with os.fdopen(pipe, "wb") as file:
            file.write(frame(answer))
    finally:
        os._exit(0)


def _load(module: ModuleFile, cache: Cache, around: Surroundings) -> Loaded | NotLoaded:
    if info := cache.find(module.digest):
        return Loaded(digest=module.digest, info=info)
    data = Path(module.path).read_bytes()
    if hashlib.sha256(data).hexdigest() != module.digest:
        return NotLoaded(digest=module.digest, message="the module's file changed while it was read", bad=False)
    try:
        compiled = wasmtime.Module(around.runtime.engine, data)
    except wasmtime.WasmtimeError as error:
        text = " ".join(str(error).replace("Caused by:", "").split())
        return NotLoaded(digest=module.digest, message=f"not a valid module: {text}")
    imports, functions = describe(compiled)
    if (size := len(msgspec.msgpack.encode((imports, functions)))) > INFO_BYTES_MAX:
        message = f"the names of its imports and exports take {size} bytes, at most {INFO_BYTES_MAX} are supported"
        return NotLoaded(digest=module.digest, message=message)
    code = bytes(compiled.serialize())
    info = ModuleInfo(
        imports=imports,
        functions=functions,
        compiled_digest=hashlib.sha256(code).hexdigest(),
        compiled_bytes=len(code),
    )
    cache.store(module.digest, code, info)
    return Loaded(digest=module.digest, info=info)
