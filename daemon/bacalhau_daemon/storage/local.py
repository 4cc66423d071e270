"""`local` (old name `localDirectory`): a file or directory of this machine, mounted where it lies.

What may be used is said by the operator: `allow = ["/data/**", "/scratch/*:rw"]`, globs (`core/compute_globs.py`),
read-only unless `:rw` is added. The pattern is matched against the *resolved* path: `..` is gone and every symbolic
link followed before it is looked at, and the resolved path is what the task gets. The literal beginning of a pattern is
resolved too, so that `/data/**` works where `/data` is itself a link.

A look at a network mount may hang, so it is taken in a thread. A path that was found on a disk of this machine before
is looked at on the loop, while that disk is quick (`compute/disk.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from bacalhau_daemon.compute.disk import Disk
from bacalhau_daemon.core import compute_globs
from bacalhau_daemon.storage import params
from bacalhau_protocol.errors import InputFailed, SpecError, UsageError
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig
from bacalhau_protocol.plugins import Ability, PluginContext, PreparedInput, Progress

PATH_BYTES_MAX = 4096
NEAR_MAX = 4096  # paths on disks of this machine that are remembered
T = TypeVar("T")
_SETTING = "allow-list it with `--allow-path GLOB[:rw]` or `allow` in `[storages.local]`"
_CREATE = {"": "noCreate", "nocreate": "noCreate", "dir": "dir", "file": "file"}


class _Allowed(msgspec.Struct, frozen=True):
    """One entry of the allow-list."""

    pattern: str
    writable: bool


class _Request(msgspec.Struct, frozen=True):
    """The parameters of a source, read."""

    path: str
    read_write: bool
    create_as: str


def parse_allowed(entry: str) -> _Allowed:
    """Read `GLOB[:ro|:rw]`.

    Raises
    ------
    UsageError
        when the pattern is not absolute or cannot be read.
    """
    pattern, colon, mode = entry.rpartition(":")
    if not colon or mode not in ("ro", "rw"):
        pattern, mode = entry, "ro"
    if not pattern.startswith("/"):
        raise UsageError("an allowed path must be absolute", place=entry, hint="for instance `/data/**:ro`")
    compute_globs.compile_glob(pattern)
    return _Allowed(pattern, mode == "rw")


class LocalStorage:
    """Mounts allow-listed paths of this machine."""

    def __init__(self, context: PluginContext) -> None:
        entries = context.settings.get("allow", [])
        if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
            raise UsageError("`allow` must be a list of globs", place="[storages.local]")
        self._allowed = [parse_allowed(entry) for entry in entries]
        self._disk = Disk()
        self._near: set[str] = set()  # paths that were found on a disk of this machine

    async def ability(self) -> Ability:
        """Available when something is allow-listed."""
        if not self._allowed:
            return Ability(available=False, reason=f"no local path is allowed; {_SETTING}")
        return Ability(available=True, details={"allow": ", ".join(entry.pattern for entry in self._allowed)})

    def check(self, source: SpecConfig) -> list[str]:
        """Look at the parameters only; the allow-list needs the file system and is asked in `size` and `prepare`."""
        return _read(source)[1]

    async def size(self, source: InputSource, job: Job, partition: int) -> int:
        """Return 0, as nothing is copied; raises `InputFailed` when the path is not allowed or cannot come to be."""
        await self._look(self._resolve, _request(source))
        return 0

    async def prepare(
        self, source: InputSource, job: Job, partition: int, into: Path, progress: Progress
    ) -> PreparedInput:
        """Resolve, check, create if asked, and hand the real path over."""
        request = _request(source)
        path = await self._look(self._prepare, request)
        return PreparedInput(
            source=source,
            path=path,
            target=source.target,
            read_only=not request.read_write,
            near=request.path in self._near and self._disk.quick,
        )

    async def release(self, prepared: PreparedInput) -> None:
        """Nothing: the data is the operator's, and what was created is kept."""

    async def _look(self, look: Callable[[_Request], T], request: _Request) -> T:
        if request.path in self._near:
            return await self._disk.do(look, request)
        return await asyncio.to_thread(look, request)

    def _resolve(self, request: _Request) -> tuple[str, bool]:
        """Return the real path and whether it exists; raises `InputFailed`."""
        if len(os.fsencode(request.path)) > PATH_BYTES_MAX or "\0" in request.path:
            raise InputFailed(f"path is longer than {PATH_BYTES_MAX} bytes or holds a NUL", place=request.path[:60])
        try:
            real = os.path.realpath(request.path)
        except (OSError, ValueError) as error:
            raise InputFailed(f"path cannot be resolved: {error}", place=request.path) from error
        matching = self._matching(real, read_write=request.read_write)
        shown = request.path if real == request.path.rstrip("/") else f"{request.path} (which is {real})"
        if not matching:
            raise InputFailed(f"volume {shown} is not allowlisted", hint=_SETTING)
        if request.read_write and not any(entry.writable for entry in matching):
            raise InputFailed(f"volume {shown} is not granted write access", hint=f"{_SETTING}, with `:rw`")
        exists = os.path.lexists(real)
        if not exists and request.create_as == "noCreate":
            hint = "set `CreateAs` to `dir` or `file`, and `ReadWrite` to true"
            raise InputFailed(f"volume {shown} does not exist and creation is not allowed", hint=hint)
        if not exists and not request.read_write:
            raise InputFailed(f"volume {shown} does not exist and read-write access is not allowed")
        if exists and os.major(Path(real).stat().st_dev):  # a block device; network file systems have none
            self._remember(request.path)
        return real, exists

    def _matching(self, real: str, *, read_write: bool) -> list[_Allowed]:
        """Return the entries that match. Their own links are followed only when without that there is none."""
        matching = [one for one in self._allowed if compute_globs.compile_glob(one.pattern).fullmatch(real)]
        if any(one.writable or not read_write for one in matching):
            return matching
        return [one for one in self._allowed if _matches(one.pattern, real)]

    def _remember(self, path: str) -> None:
        if len(self._near) >= NEAR_MAX:
            self._near.clear()
        self._near.add(path)

    def _prepare(self, request: _Request) -> Path:
        real, exists = self._resolve(request)
        if not exists:
            _create(Path(real), request)
            # A link planted while we created would lead elsewhere: what now lies there must still be what was checked.
            if os.path.realpath(real) != real:
                raise InputFailed("path changed while it was created", place=request.path)
        if not os.access(real, os.R_OK | (os.W_OK if request.read_write else 0)):
            raise InputFailed("the daemon's user may not access this path", place=request.path)
        return Path(real)


def _matches(pattern: str, real: str) -> bool:
    literal, rest = compute_globs.split_literal(pattern)
    resolved = os.path.realpath(literal).rstrip("/")
    whole = compute_globs.escape(resolved) + rest or "/"
    return compute_globs.compile_glob(whole).fullmatch(real) is not None


def _create(path: Path, request: _Request) -> None:
    try:
        if request.create_as == "dir":
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o700))
    except OSError as error:
        raise InputFailed(f"path cannot be created: {error.strerror}", place=request.path) from error


def _request(source: InputSource) -> _Request:
    request, problems = _read(source.source or SpecConfig(type="local"))
    if problems:
        raise SpecError("; ".join(problems), place=source.target)
    return request


def _read(source: SpecConfig) -> tuple[_Request, list[str]]:
    found, problems = params.read(source, ("SourcePath", "ReadWrite", "CreateAs"))
    path = params.text(source, found, "SourcePath", problems)
    read_write = params.flag(source, found, "ReadWrite", problems)
    create_as = _CREATE.get(str(found.get("CreateAs") or "").strip().lower())
    if path and not path.startswith("/"):
        problems.append(f"{source.type}: 'SourcePath' must be absolute, not {path!r}")
    if create_as is None:
        problems.append(f"{source.type}: invalid CreateAs value {found['CreateAs']!r}; use dir, file or noCreate")
    elif create_as == "file" and path.endswith("/"):
        problems.append(f"{source.type}: 'SourcePath' ends in a slash, so it cannot be created as a file")
    return _Request(path, read_write, create_as or "noCreate"), problems
