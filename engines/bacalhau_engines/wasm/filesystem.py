"""The file system that a guest sees: which directory of the host stands where, and what has to be laid out for it.

WASI hands out directories. So directory inputs and outputs become one each, and everything else lies in a small,
read-only tree, the guest's `/`: single files as hard links (copies across file systems), and an empty directory for
each of the others, so that listing `/` shows what is there. Module files are code and not in it. A run without single
files shares the tree with all that have the same directories: making one costs more than a short run itself.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bacalhau_engines.wasm.wire import Preopen
from bacalhau_protocol.errors import InputFailed, SpecError
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import PreparedInput, real_path

SHARED_ROOTS_MAX = 256  # beyond them each run makes its own


class Layout(msgspec.Struct, frozen=True):
    """What the guest sees where. Guest paths are absolute and normalised."""

    directories: tuple[Preopen, ...]
    files: tuple[tuple[Path, str], ...]  # host, guest
    outputs: tuple[str, ...]  # directories of the host that the guest may fill


def guest_path(path: str) -> str:
    """Return an absolute, normalised path of the guest: a leading slash, or none, means the same."""
    return posixpath.normpath("/" + path.lstrip("/"))


def plan(
    inputs: Sequence[PreparedInput],
    outputs: Sequence[ResultPath],
    results_dir: Path,
    modules: frozenset[str] = frozenset(),
) -> Layout:
    """Lay out inputs and outputs; an output is found under its `Name` (as in Bacalhau) and under its `Path`.

    `modules` are the guest's paths of the run's modules: files there are left out.

    Raises
    ------
    SpecError
        when two of them claim one place, a file would lie hidden below a directory, or is to be writable.
    InputFailed
        when an input is not there, or neither a file nor a directory.
    """
    taken: dict[str, str] = {}
    directories: list[Preopen] = []
    files: list[tuple[Path, str]] = []
    for item in inputs:
        guest = _claim(taken, guest_path(item.target), f"input {item.target}")
        if _is_directory(item):
            directories.append(Preopen(host=str(item.path), guest=guest, writable=not item.read_only))
        elif guest not in modules:
            if not item.read_only:
                hint = "give its directory as a writable input instead"
                raise SpecError("a single file cannot be writable for a module", place=item.target, hint=hint)
            files.append((item.path, guest))
    roots = []
    for output in outputs:
        if output.name in ("", ".", "..") or "/" in output.name or "\0" in output.name:
            raise SpecError(f"an output cannot be called {output.name!r}", hint="letters, digits, '.', '_' and '-'")
        host = str(results_dir / output.name)
        roots.append(host)
        for guest in dict.fromkeys((guest_path(output.name), guest_path(output.path))):
            _claim(taken, guest, f"output {output.name}")
            directories.append(Preopen(host=host, guest=guest, writable=True))
    _check_nesting(taken, [guest for _, guest in files])
    return Layout(tuple(directories), tuple(files), tuple(roots))


def _is_directory(item: PreparedInput) -> bool:
    item.real_path()
    if item.path.is_dir():
        return True
    if item.path.is_file():
        return False
    raise InputFailed("the input is neither a file nor a directory on this node", place=item.target)


def _check_nesting(taken: dict[str, str], files: Sequence[str]) -> None:
    for guest in files:
        for other, who in taken.items():
            if other.startswith(guest + "/"):
                raise SpecError(f"{who} would lie below a file, {taken[guest]}", hint="use another target")
            if guest.startswith(other + "/"):
                raise SpecError(f"{taken[guest]} would be hidden below {who}", hint="use another target")


def stage(layout: Layout, own: Path, shared: Path) -> tuple[Preopen, ...]:
    """Return all directories that the guest gets, with its `/`: made at `own`, or found or made below `shared`.

    Blocks; raises `OSError`, and `InputFailed` when a link took the place of an input.
    """
    for directory in layout.directories:
        if directory.host not in layout.outputs:
            real_path(Path(directory.host), directory.guest)
    root = None if layout.files else _shared_root(layout, shared)
    if root is None:
        root = own
        if root.exists():  # of a run that was cut short
            shutil.rmtree(root)
        _make_root(layout, root)
        for host, guest in layout.files:
            target = _below(root, guest)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = real_path(host, guest)
            try:
                os.link(source, target, follow_symlinks=False)
            except OSError:  # another file system, or a file that we may not link
                shutil.copyfile(source, target, follow_symlinks=False)
    return (Preopen(host=str(root), guest="/"), *layout.directories)


def _shared_root(layout: Layout, shared: Path) -> Path | None:
    """Return a tree of nothing but the empty directories of this layout; None when there are too many such trees."""
    names = "\0".join(sorted(directory.guest for directory in layout.directories))
    root = shared / hashlib.sha256(names.encode()).hexdigest()
    if not root.is_dir():
        shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.listdir(shared)) >= SHARED_ROOTS_MAX:  # noqa: PTH208 - how many, not which
            return None
        making = Path(tempfile.mkdtemp(dir=shared))
        _make_root(layout, making)
        try:
            making.rename(root)
        except OSError:  # another run was quicker
            shutil.rmtree(making)
    return root


def _make_root(layout: Layout, root: Path) -> None:
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    for directory in layout.directories:
        _below(root, directory.guest).mkdir(parents=True, exist_ok=True)


def _claim(taken: dict[str, str], guest: str, who: str) -> str:
    if "\0" in guest:
        raise SpecError(f"{who} has a NUL character in its path")
    if guest == "/":
        raise SpecError(f"{who} cannot take the place of the root directory", hint="use a directory below it")
    if guest in taken:
        raise SpecError(f"{who} and {taken[guest]} both want {guest}", hint="use another target")
    taken[guest] = who
    return guest


def _below(root: Path, guest: str) -> Path:
    return root / guest.lstrip("/")
