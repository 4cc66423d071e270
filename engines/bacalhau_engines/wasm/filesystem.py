"""The file system that a guest sees: which directory of the host stands where, and what has to be laid out for it.

WASI hands out directories. So directory inputs and outputs become one each, and everything else lies in a small tree
made for the run, the guest's `/`: single files as hard links (copies across file systems), and an empty directory for
each of the others, so that listing `/` shows what is there. The tree itself is read-only.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bacalhau_engines.wasm.wire import Preopen
from bacalhau_protocol.errors import InputFailed, SpecError
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import PreparedInput


class Layout(msgspec.Struct, frozen=True):
    """What the guest sees where. Guest paths are absolute and normalised."""

    directories: tuple[Preopen, ...]
    files: tuple[tuple[Path, str], ...]  # host, guest
    outputs: tuple[str, ...]  # directories of the host that the guest may fill


def guest_path(path: str) -> str:
    """Return an absolute, normalised path of the guest: a leading slash, or none, means the same."""
    return posixpath.normpath("/" + path.lstrip("/"))


def plan(inputs: Sequence[PreparedInput], outputs: Sequence[ResultPath], results_dir: Path) -> Layout:
    """Lay out inputs and outputs; an output is found under its `Name` (as in Bacalhau) and under its `Path`.

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
        if item.path.is_dir():
            directories.append(Preopen(host=str(item.path), guest=guest, writable=not item.read_only))
        elif item.path.is_file():
            if not item.read_only:
                hint = "give its directory as a writable input instead"
                raise SpecError("a single file cannot be writable for a module", place=item.target, hint=hint)
            files.append((item.path, guest))
        else:
            raise InputFailed("the input is neither a file nor a directory on this node", place=item.target)
    roots = []
    for output in outputs:
        if output.name in ("", ".", "..") or "/" in output.name or "\0" in output.name:
            raise SpecError(f"an output cannot be called {output.name!r}", hint="letters, digits, '.', '_' and '-'")
        host = str(results_dir / output.name)
        roots.append(host)
        for guest in dict.fromkeys((guest_path(output.name), guest_path(output.path))):
            _claim(taken, guest, f"output {output.name}")
            directories.append(Preopen(host=host, guest=guest, writable=True))
    for _, guest in files:
        for other, who in taken.items():
            if other.startswith(guest + "/"):
                raise SpecError(f"{who} would lie below a file, {taken[guest]}", hint="use another target")
            if guest.startswith(other + "/"):
                raise SpecError(f"{taken[guest]} would be hidden below {who}", hint="use another target")
    return Layout(tuple(directories), tuple(files), tuple(roots))


def stage(layout: Layout, root: Path) -> tuple[Preopen, ...]:
    """Make the tree at `root` and return all directories that the guest gets. Blocks; raises `OSError`."""
    if root.exists():  # of a run that was cut short
        shutil.rmtree(root)
    root.mkdir(mode=0o755, parents=True)
    for directory in layout.directories:
        _below(root, directory.guest).mkdir(parents=True, exist_ok=True)
    for host, guest in layout.files:
        target = _below(root, guest)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = host.resolve(strict=True)
        try:
            target.hardlink_to(source)
        except OSError:  # another file system, or a file that we may not link
            shutil.copyfile(source, target)
    return (Preopen(host=str(root), guest="/"), *layout.directories)


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
