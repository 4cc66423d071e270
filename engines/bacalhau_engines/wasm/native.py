"""The few calls of wasmtime's C API that a child makes, bound as thinly as ctypes allows.

A forked child pays for every page of the interpreter that it touches, because the kernel copies it: going through
wasmtime's Python classes touches some 250 pages more than this, half of the time of a short run. Everything that can be
made before the fork is made when this module is imported; pointers are plain integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import addressof, byref, c_bool, c_char_p, c_int64, c_size_t, c_void_p
from typing import Any, cast

import wasmtime
from wasmtime import _ffi as ffi

_POINTERS_MAX = 64  # arrays up to this length are of one type, made here; longer ones make their own


def _bind(name: str, result: Any, *arguments: Any) -> Callable[..., int]:
    function = ffi.dll[name]  # an object of our own, not the one that wasmtime's classes use
    function.restype, function.argtypes = result, arguments
    return cast("Callable[..., int]", function)


_store_new = _bind("wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
_store_delete = _bind("wasmtime_store_delete", None, c_void_p)
_store_context = _bind("wasmtime_store_context", c_void_p, c_void_p)
_store_limiter = _bind("wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)
_wasi_new = _bind("wasi_config_new", c_void_p)
_wasi_argv = _bind("wasi_config_set_argv", c_bool, c_void_p, c_size_t, c_void_p)
_wasi_env = _bind("wasi_config_set_env", c_bool, c_void_p, c_size_t, c_void_p, c_void_p)
_wasi_stdout = _bind("wasi_config_inherit_stdout", None, c_void_p)
_wasi_stderr = _bind("wasi_config_inherit_stderr", None, c_void_p)
_wasi_preopen = _bind("wasi_config_preopen_dir", c_bool, c_void_p, c_char_p, c_char_p, c_bool)
_set_wasi = _bind("wasmtime_context_set_wasi", c_void_p, c_void_p, c_void_p)
_pre_instantiate = _bind("wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)
_instantiate = _bind("wasmtime_linker_instantiate", c_void_p, *[c_void_p] * 5)
_define_instance = _bind("wasmtime_linker_define_instance", c_void_p, c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)
_export_get = _bind("wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)
_func_call = _bind("wasmtime_func_call", c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p)
_memory_size = _bind("wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
_trap_new = _bind("wasmtime_trap_new", c_void_p, c_char_p, c_size_t)
_define_func = _bind(
    "wasmtime_linker_define_func",
    *[c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t],
    *[c_void_p, c_void_p, c_void_p, c_void_p],
)

_Pointers = c_char_p * _POINTERS_MAX
_trap = c_void_p()
_trap_at = addressof(_trap)
_instance = ffi.wasmtime_instance_t()
_extern = ffi.wasmtime_extern_t()
_extern_at = addressof(_extern)
_item_at = _extern_at + ffi.wasmtime_extern_t.of.offset
_MEMORY_KIND: Any = ffi.WASMTIME_EXTERN_MEMORY.value

Instance = int
"""Where a `wasmtime_instance_t` lies."""


class Exit:
    """Defines `proc_exit` in a linker so that it unwinds the guest and leaves its `code` here, any one of 32 bits."""

    def __init__(self, linker: wasmtime.Linker, module: str) -> None:
        self.code: int | None = None
        kind = wasmtime.FuncType([wasmtime.ValType.i32()], [])
        self._callback = ffi.wasmtime_func_callback_t(self._called)  # kept alive here
        name, function = module.encode(), b"proc_exit"
        callback = ctypes.cast(self._callback, c_void_p)
        _raise(_define_func(linker.ptr(), name, len(name), function, len(function), kind.ptr(), callback, None, None))

    def _called(self, _env: Any, _caller: Any, arguments: Any, *_rest: Any) -> int:
        self.code = arguments[0].of.i32 & 0xFFFFFFFF
        return _trap_new(b"exit", 4)


class Store:
    """A store with WASI. All that a guest has and opened goes with `close`, or with the process."""

    def __init__(self, engine: wasmtime.Engine, *, memory_bytes: int, table_elements: int, instances: int) -> None:
        self._store = store = _store_new(engine.ptr(), None, None)
        _store_limiter(store, memory_bytes, table_elements, instances, instances, instances)
        self._context = _store_context(store)

    def close(self) -> None:
        """Free everything. Call it once."""
        _store_delete(self._store)

    def set_wasi(
        self,
        argv: Sequence[str],
        env: Sequence[tuple[str, str]],
        directories: Sequence[tuple[str, str, bool]],
    ) -> None:
        """Give the guest arguments, environment, directories (host, guest, writable) and descriptors 1 and 2.

        Raises `OSError` for a directory that cannot be opened, `ValueError` for text that is not UTF-8.
        """
        wasi = _wasi_new()
        names, values = _pointers([name for name, _ in env]), _pointers([value for _, value in env])
        if not (
            _wasi_argv(wasi, len(argv), byref(_pointers(argv)))
            and _wasi_env(wasi, len(env), byref(names), byref(values))
        ):
            raise ValueError("the arguments or the environment are not valid text")
        _wasi_stdout(wasi)
        _wasi_stderr(wasi)
        for host, guest, writable in directories:
            if not _wasi_preopen(wasi, host.encode(), guest.encode(), writable):
                raise FileNotFoundError(f"the directory {host} cannot be opened for {guest}")
        _raise(_set_wasi(self._context, wasi))

    def instantiate_linked(self, linked: wasmtime.InstancePre) -> Instance:
        """Instantiate what was linked beforehand. Raises `WasmtimeError` and `Trap`."""
        instance = addressof(_instance)
        _raise(_pre_instantiate(linked.ptr(), self._context, instance, _trap_at))
        return instance

    def instantiate(self, linker: wasmtime.Linker, module: wasmtime.Module, names: Sequence[str]) -> Instance:
        """Instantiate a module and make it known to the linker. Raises `WasmtimeError` and `Trap`."""
        instance = ffi.wasmtime_instance_t()
        _kept.append(instance)
        where = addressof(instance)
        _raise(_instantiate(linker.ptr(), self._context, module.ptr(), where, _trap_at))
        for name in names:
            data = name.encode()
            _raise(_define_instance(linker.ptr(), self._context, data, len(data), where))
        return where

    def call(self, instance: Instance, name: str) -> None:
        """Call an exported function that takes and returns nothing. Raises `WasmtimeError` and `Trap`."""
        data = name.encode()
        if not _export_get(self._context, instance, data, len(data), _extern_at):
            raise KeyError(name)
        _raise(_func_call(self._context, _item_at, None, 0, None, 0, _trap_at))

    def memory_bytes(self, instance: Instance) -> int:
        """Return how large the memory that it exports as `memory` is; 0 without one."""
        if _export_get(self._context, instance, b"memory", 6, _extern_at) and _extern.kind == _MEMORY_KIND:
            return _memory_size(self._context, _item_at)
        return 0


_kept: list[Any] = []


def _pointers(texts: Sequence[str]) -> Any:
    encoded = [text.encode() for text in texts]
    array = _Pointers if len(encoded) <= _POINTERS_MAX else c_char_p * len(encoded)
    return array(*encoded)


def _raise(error: int | None) -> None:
    if error:
        raise wasmtime.WasmtimeError._from_ptr(ctypes.cast(error, ctypes.POINTER(ffi.wasmtime_error_t)))
    if _trap.value:
        pointer = ctypes.cast(_trap.value, ctypes.POINTER(ffi.wasm_trap_t))
        _trap.value = None
        raise wasmtime.Trap._from_ptr(pointer)
