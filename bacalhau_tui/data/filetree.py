"""The files that all executions of a job left, as one tree whose directories open and close. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

import msgspec

from bacalhau_protocol.api.messages import Access, FileEntry
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data.detail import ResultTree
from bacalhau_tui.data.format import clean, count
from bacalhau_tui.data.pages import Page, pairs, paragraph, state_cell
from bacalhau_tui.data.tables import exit_text

OPEN_EXECUTIONS_MAX = 3
"""So many executions are open at first."""


class Kind(enum.StrEnum):
    """What a row of the tree stands for."""

    EXECUTION = "execution"
    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"
    NOTE = "note"


class TreeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `key` is unique and stays; `size` is of the file, or of all below."""

    key: str
    depth: int
    kind: Kind
    name: str
    size: int = 0
    files: int = 0
    access: Access | None = None
    entry: FileEntry | None = None
    note: str = ""

    @property
    def path(self) -> str:
        """The path in the execution's tree; a directory's ends in `/`, an execution's is blank."""
        return self.key.partition("\0")[2]

    @property
    def opens(self) -> bool:
        """Whether there is something below."""
        return self.kind in (Kind.EXECUTION, Kind.DIRECTORY)


class _Directory:
    """A directory while the tree is built."""

    def __init__(self) -> None:
        self.directories: dict[str, _Directory] = {}
        self.entries: dict[str, FileEntry] = {}

    @property
    def size(self) -> int:
        own = sum(entry.size for entry in self.entries.values())
        return own + sum(directory.size for directory in self.directories.values())

    @property
    def files(self) -> int:
        return len(self.entries) + sum(directory.files for directory in self.directories.values())


def _tree_of(files: Sequence[FileEntry]) -> _Directory:
    root = _Directory()
    for entry in files:
        *parents, name = entry.path.rstrip("/").split("/")
        directory = root
        for parent in parents:
            directory = directory.directories.setdefault(parent, _Directory())
        if entry.path.endswith("/"):
            directory.directories.setdefault(name, _Directory())
        else:
            directory.entries[name] = entry
    return root


class FileTree:
    """Knows what is open; `rows` is what is shown."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.rows: list[TreeRow] = []
        self._trees: list[tuple[ResultTree, _Directory]] = []
        self._known: set[str] = set()

    def show(self, trees: Sequence[ResultTree]) -> None:
        """Take new trees; what is open stays open, and the first executions begin open."""
        self._trees = [(tree, _tree_of(tree.files)) for tree in trees]
        for tree in trees[:OPEN_EXECUTIONS_MAX]:
            key = tree.access.execution_id
            if key not in self._known:
                self.open.add(key)
        self._known |= {tree.access.execution_id for tree in trees}
        self._flatten()

    def turn(self, key: str, *, to_open: bool) -> bool:
        """Open or close; return whether anything changed."""
        before = set(self.open)
        (self.open.add if to_open else self.open.discard)(key)
        self._flatten()
        return self.open != before

    def place_of(self, key: str) -> int | None:
        """Return the place of a row, None when it is not shown."""
        return next((at for at, row in enumerate(self.rows) if row.key == key), None)

    def open_all(self, key: str) -> None:
        """Open everything below a row."""
        keys = {
            f"{tree.access.execution_id}\0{prefix}"
            for tree, _ in self._trees
            for entry in tree.files
            for prefix in _prefixes(entry.path)
        }
        self.open |= {each for each in keys if each.startswith(key)} | {key}
        self._flatten()

    def parent_of(self, place: int) -> int:
        """Return the place of the row that holds this one; the row itself when it is at the top."""
        depth = self.rows[place].depth
        return next((at for at in range(place - 1, -1, -1) if self.rows[at].depth < depth), place)

    def _flatten(self) -> None:
        self.rows = [row for tree, root in self._trees for row in self._execution(tree, root)]

    def _execution(self, tree: ResultTree, root: _Directory) -> Iterator[TreeRow]:
        access = tree.access
        key = access.execution_id
        name = f"{short_id(key)} on {short_id(access.node_id)}"
        yield TreeRow(
            key=key,
            depth=0,
            kind=Kind.EXECUTION,
            name=clean(name),
            size=root.size,
            files=root.files,
            access=access,
            note=access.state,
        )
        if key not in self.open:
            return
        if note := _note(tree):
            yield TreeRow(key=f"{key}\0", depth=1, kind=Kind.NOTE, name=clean(note), access=access)
        yield from self._below(root, access, f"{key}\0", 1)

    def _below(self, directory: _Directory, access: Access, prefix: str, depth: int) -> Iterator[TreeRow]:
        for name, each in sorted(directory.directories.items()):
            key = f"{prefix}{name}/"
            yield TreeRow(
                key=key,
                depth=depth,
                kind=Kind.DIRECTORY,
                name=f"{clean(name)}/",
                size=each.size,
                files=each.files,
                access=access,
            )
            if key in self.open:
                yield from self._below(each, access, key, depth + 1)
        for name, entry in sorted(directory.entries.items()):
            yield TreeRow(
                key=f"{prefix}{name}",
                depth=depth,
                kind=Kind.LINK if entry.link else Kind.FILE,
                name=clean(f"{name} -> {entry.link}" if entry.link else name),
                size=entry.size,
                access=access,
                entry=entry,
            )


def row_page(row: TreeRow) -> Page:
    """Return what is known of a row that is no file."""
    access = row.access
    if access is None or row.kind is Kind.NOTE:
        return paragraph(row.name, indent=1)
    if row.kind is Kind.LINK:
        return paragraph(f"a link: {row.name}", indent=1)
    found = [("files", count(row.files)), ("size", format_bytes(row.size))]
    if row.kind is Kind.DIRECTORY:
        return pairs(found)
    kind = str(access.result.get("Type", "")) if access.result else ""
    return pairs(
        [
            ("execution", access.execution_id),
            ("node", access.node_id),
            ("state", state_cell(access.state)),
            ("exit code", exit_text(access.exit_code) if access.state == "Completed" else ""),
            ("partition", str(access.partition)),
            ("published", kind),
            *found,
            ("message", access.message),
        ]
    )


def _prefixes(path: str) -> list[str]:
    parts = path.rstrip("/").split("/")[:-1]
    return [f"{'/'.join(parts[: at + 1])}/" for at in range(len(parts))]


def _note(tree: ResultTree) -> str:
    """Say why there are no files to be listed, or where they are."""
    if tree.error is not None:
        return f"cannot be listed: {tree.error}" + (f"; {tree.error.hint}" if tree.error.hint else "")
    kind = str(tree.access.result.get("Type", ""))
    if kind and kind.lower() != "nats":
        return f"published: {kind} {tree.access.result.get('Params') or ''}"
    return "" if tree.files else (tree.access.message or "it left no files")
