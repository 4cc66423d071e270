"""Finds a run's modules among its inputs and orders them so that each comes after those it imports from."""

from __future__ import annotations

import difflib
import hashlib
import os
import posixpath
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bacalhau_engines.wasm.filesystem import guest_path
from bacalhau_engines.wasm.spec import WasmSpec
from bacalhau_engines.wasm.wire import MODULES_PER_RUN_MAX, ModuleFile, ModuleInfo
from bacalhau_protocol.errors import InputFailed, SpecError
from bacalhau_protocol.plugins import PreparedInput

WASI = "wasi_snapshot_preview1"
MODULE_BYTES_MAX = 256 * 1024**2
DIGESTS_MAX = 4096
_MAGIC, _CORE, _COMPONENT = b"\0asm", b"\1\0\0\0", b"\r\0\1\0"
_SETTLED_NS = 1_000_000_000  # a file changed later than this ago can change again within the same time stamp
_SHOWN = 8  # names listed in a message
_NEAR = 0.8  # how alike a name must be to be offered

Known = Callable[[str], ModuleInfo | None]
"""`known(digest)`: what is known of a compiled module; None when it has not been loaded yet."""


class Gathered(msgspec.Struct, frozen=True):
    """The modules of a run."""

    files: tuple[ModuleFile, ...]  # in the order of instantiation, the entry module last
    paths: frozenset[str]  # of the guest, normalised


class Missing(msgspec.Struct, frozen=True):
    """A module that must be loaded before the others can be found."""

    file: ModuleFile
    path: str  # the guest's


class Unread(Exception):
    """A module's file has to be read."""


def gather(
    spec: WasmSpec, inputs: Sequence[PreparedInput], known: Known, digests: Digests, *, read: bool = True
) -> Gathered | Missing:
    """Return the modules of a run, or one of them that has to be loaded first.

    Blocks: call it in a thread, or without `read` when the inputs are near.

    Raises
    ------
    Unread
        without `read`, when nothing is known of a module's file yet.
    SpecError
        for a module that is not there, is no module, imports what nobody has, or lacks the entry point.
    InputFailed
        when its file cannot be read.
    """
    graph = _Graph(inputs, known, digests, read=read)
    try:
        for path in spec.import_modules:
            graph.visit(path, f"ImportModules names {path!r}")
        info = graph.visit(spec.entry_module, f"EntryModule is {spec.entry_module!r}")
    except _Unknown as unknown:
        return unknown.missing
    _check_entry_point(spec, info)
    return graph.gathered()


class _Unknown(Exception):
    def __init__(self, missing: Missing) -> None:
        self.missing = missing


class _Node(msgspec.Struct):
    file: ModuleFile
    names: list[str]
    info: ModuleInfo
    done: bool = False  # what it imports has been visited


class _Graph:
    def __init__(self, inputs: Sequence[PreparedInput], known: Known, digests: Digests, *, read: bool) -> None:
        self._inputs, self._known = inputs, known
        self._digests, self._read = digests, read
        self._nodes: dict[str, _Node] = {}  # by digest
        self._order: list[_Node] = []
        self._paths: set[str] = set()

    def visit(self, path: str, why: str, name: str = "") -> ModuleInfo:
        """Add a module and all that it needs; `name` is the import name that led here."""
        file = self._module_file(path, why)
        self._paths.add(guest_path(path))
        node = self._nodes.get(file.digest)
        if node is None:
            node = self._new(file, path)
            for imported in node.info.imports:
                if imported != WASI:
                    self.visit(imported, f"module {path} imports from {imported!r}", imported)
            node.done = True
            self._order.append(node)
        elif not node.done:
            raise SpecError(f"modules import from each other in a circle: {why}")
        if name and name not in node.names:
            node.names.append(name)
        return node.info

    def _new(self, file: ModuleFile, path: str) -> _Node:
        if len(self._nodes) >= MODULES_PER_RUN_MAX:
            raise SpecError(f"the run needs more than {MODULES_PER_RUN_MAX} modules")
        info = self._known(file.digest)
        if info is None:
            raise _Unknown(Missing(file, path))
        node = self._nodes[file.digest] = _Node(file, [], info)
        return node

    def _module_file(self, path: str, why: str) -> ModuleFile:
        host = _locate(path, self._inputs, why)
        try:
            status = host.stat()
            if not stat.S_ISREG(status.st_mode):
                raise SpecError("the module is not a file")
            if status.st_size > MODULE_BYTES_MAX:
                raise SpecError(f"the module has {status.st_size} bytes, at most {MODULE_BYTES_MAX} are taken")
            return ModuleFile(digest=self._digests.of(str(host), status, read=self._read), path=str(host))
        except SpecError as error:
            error.place = path
            raise
        except OSError as error:
            raise InputFailed(f"the module cannot be read: {error}", place=path) from error

    def gathered(self) -> Gathered:
        files = tuple(msgspec.structs.replace(node.file, names=tuple(node.names)) for node in self._order)
        return Gathered(files, frozenset(self._paths))


class Digests:
    """What module files hash to, for as long as they stay the same."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[int, ...]], str] = OrderedDict()
        self._lock = threading.Lock()  # threads ask, and the loop

    def of(self, host: str, status: os.stat_result, *, read: bool) -> str:
        """Return the sha256 of a module's file. Raises `Unread` when it is not known and must not be read now."""
        key = host, _identity(status)
        with self._lock:
            if (digest := self._known.get(key)) is not None:
                self._known.move_to_end(key)
                return digest
        if not read:
            raise Unread
        digest = _digest(host)
        if time.time_ns() - status.st_ctime_ns > _SETTLED_NS:
            with self._lock:
                self._known[key] = digest
                if len(self._known) > DIGESTS_MAX:
                    self._known.popitem(last=False)
        return digest


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(host: str) -> str:
    with Path(host).open("rb") as file:
        head = file.read(8)
        if head[:4] != _MAGIC:
            raise SpecError(f"not a WebAssembly module: it begins with {head!r}")
        if head[4:] == _COMPONENT:
            hint = "build it for WASI preview 1 (wasm32-wasi, wasm32-wasip1)"
            raise SpecError("this is a WebAssembly component, and only core modules run here", hint=hint)
        if head[4:] != _CORE:
            raise SpecError(f"unknown version of the WebAssembly format: {head[4:]!r}")
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _locate(path: str, inputs: Sequence[PreparedInput], why: str) -> Path:
    guest = guest_path(path)
    for item in inputs:
        target = guest_path(item.target)
        if guest == target or guest.startswith(target + "/"):
            return _inside(item.path, guest[len(target) :].lstrip("/"), why)
    targets = [item.target for item in inputs]
    near = difflib.get_close_matches(path, targets, n=1, cutoff=_NEAR)
    raise SpecError(
        f"{why}, but no input has that target; the targets are {_listed(targets)}",
        hint=f"did you mean {near[0]!r}?" if near else _hint(path),
        place=path,
    )


def _inside(base: Path, rest: str, why: str) -> Path:
    """Return the file below an input; a directory stands for the one module in it."""
    root = base.resolve() if rest else base  # an input is no link
    host = (root / rest).resolve() if rest else base
    if host != root and root not in host.parents:
        raise SpecError(f"{why}, which leads out of its input")
    try:
        if not stat.S_ISDIR(host.stat().st_mode):
            return host
    except (FileNotFoundError, NotADirectoryError):
        raise SpecError(f"{why}, but the input holds no such file") from None
    found = sorted(host.glob("*.wasm"))
    if len(found) != 1:
        names = _listed([item.name for item in found])
        raise SpecError(f"{why}, a directory that must hold one *.wasm file; it holds {names}")
    return _inside(base, posixpath.join(rest, found[0].name), why)


def _hint(name: str) -> str:
    if name == "wasi_unstable":
        return "it was built for an older WASI: build it for wasi_snapshot_preview1"
    if name.startswith("wasi:"):
        return "network and other newer WASI interfaces are not offered here"
    if name == "env":
        return "it was built with undefined symbols: link what it needs, or add a module as an input with target 'env'"
    return "add the module to InputSources with this path as its Target"


def _check_entry_point(spec: WasmSpec, info: ModuleInfo) -> None:
    name = spec.entry_point
    if name not in info.functions:
        near = difflib.get_close_matches(name, info.functions, n=1)
        raise SpecError(
            f"unable to find the entrypoint {name!r} in the WASM module; it exports {_listed(sorted(info.functions))}",
            hint=f"did you mean {near[0]!r}?" if near else "set Entrypoint to a function that the module exports",
            place=spec.entry_module,
        )
    takes, returns = info.functions[name]
    if takes or returns:
        message = f"the entrypoint {name!r} takes {takes} and returns {returns} values; it must take and return none"
        raise SpecError(message, place=spec.entry_module)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
