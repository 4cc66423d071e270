"""Compiled modules in the fork server's memory, least recently used out first, and the queue of those to compile."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import msgspec
import wasmtime

from bacalhau_engines.wasm.cache import Cache
from bacalhau_engines.wasm.runtime import WASI, Program, Runtime, Step
from bacalhau_engines.wasm.wire import MODULES_PER_RUN_MAX, Loaded, ModuleFile, ModuleInfo, NotLoaded

MODULES_MAX = 128
CODE_BYTES_MAX = 512 * 1024**2  # mapped, not resident
COMPILATIONS_MAX = 2

Then = Callable[[Loaded | NotLoaded], None]


class _Entry(msgspec.Struct):
    info: ModuleInfo
    module: wasmtime.Module
    linked: wasmtime.InstancePre | None = None


class Library:
    """Holds modules that are ready to run."""

    def __init__(self, runtime: Runtime, cache: Cache) -> None:
        self._runtime, self._cache = runtime, cache
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._code_bytes = 0

    def info(self, digest: str) -> ModuleInfo | None:
        """Return what is known of a module that is here, and count it as used."""
        if entry := self._entries.get(digest):
            self._entries.move_to_end(digest)
            return entry.info
        return None

    def add(self, digest: str, info: ModuleInfo) -> None:
        """Map a compiled module out of the cache. Raises `WasmtimeError` when it is not for this machine."""
        module = wasmtime.Module.deserialize_file(self._runtime.engine, str(self._cache.code(digest)))
        self._entries[digest] = _Entry(info, module)
        self._code_bytes += info.compiled_bytes
        while self._too_many():
            _, dropped = self._entries.popitem(last=False)
            self._code_bytes -= dropped.info.compiled_bytes

    def program(self, modules: Sequence[ModuleFile]) -> Program:
        """Return what a child instantiates. Raises `WasmtimeError` when an import cannot be resolved."""
        entries = [self._entries[module.digest] for module in modules]
        if len(entries) == 1 and not set(entries[0].info.imports) - {WASI}:
            entry = entries[0]
            entry.linked = entry.linked or self._runtime.link(entry.module)
        return tuple(
            Step(entry.module, entry.linked, module.names, "_initialize" in entry.info.functions)
            for module, entry in zip(modules, entries, strict=True)
        )

    def _too_many(self) -> bool:
        count = len(self._entries)
        # What one run needs is never dropped while it is gathered.
        return count > MODULES_MAX or (self._code_bytes > CODE_BYTES_MAX and count > MODULES_PER_RUN_MAX)


class Loader:
    """Gets modules into the library, each compiled once however many ask, a few at a time."""

    def __init__(self, library: Library, cache: Cache, start: Callable[[ModuleFile], None]) -> None:
        self._library, self._cache, self._start = library, cache, start
        self._asking: dict[str, list[Then]] = {}
        self._queue: deque[ModuleFile] = deque()
        self._running: dict[str, ModuleFile] = {}
        self._again: set[str] = set()

    def want(self, module: ModuleFile, then: Then) -> None:
        """Call `then` once the module is in the library or cannot be loaded; at once if it is there."""
        if info := self._library.info(module.digest):
            then(Loaded(digest=module.digest, info=info))
            return
        asking = self._asking.setdefault(module.digest, [])
        asking.append(then)
        if len(asking) == 1:
            self._queue.append(module)
            self._next()

    def answered(self, answer: Loaded | NotLoaded) -> None:
        """Take what the compiling child said, or what is to be said for it."""
        module = self._running.pop(answer.digest)
        if isinstance(answer, Loaded):
            try:
                self._library.add(answer.digest, answer.info)
            except wasmtime.WasmtimeError as error:
                # Compiled for another machine, or trimmed in this moment: compile it once more.
                self._cache.remove(answer.digest)
                if answer.digest not in self._again:
                    self._again.add(answer.digest)
                    self._queue.append(module)
                    self._next()
                    return
                message = f"the compiled module cannot be used: {error}"
                answer = NotLoaded(digest=answer.digest, message=message, bad=False)
        self._again.discard(answer.digest)
        for then in self._asking.pop(answer.digest):
            then(answer)
        self._next()

    def _next(self) -> None:
        while self._queue and len(self._running) < COMPILATIONS_MAX:
            module = self._queue.popleft()
            self._running[module.digest] = module
            self._start(module)
