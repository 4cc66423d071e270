"""One execution's result tree from its node: the list of files, then chunks, several in flight, each verified."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client, decode, repeat
from bacalhau_protocol.client.threads import in_thread
from bacalhau_protocol.client.tree import Part, Tree
from bacalhau_protocol.transport.base import Message

CHUNK_BYTES = 256 * 1024
IN_FLIGHT_MAX = 8
FILES_MAX = 1_000_000
PATIENCE_S = 60.0  # how long one question to the node is repeated
LIST_ANSWER_S = 60.0  # a node hashes what it lists
DAMAGED_TRIES_MAX = 3

OnBytes = Callable[[str, int], None]
"""`on_bytes(path, more)`: so many more bytes of this file are here (taken up, or received)."""


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What came of copying a tree. `received_bytes` came over the line now; the rest was here already."""

    files: int
    size_bytes: int
    received_bytes: int
    skipped: tuple[str, ...]  # links that point out of the tree, with where they point


class NodeFiles:
    """Questions about one execution's files, with a ticket that is renewed when it has expired."""

    def __init__(self, client: Client, access: m.Access, renew: Callable[[], Awaitable[str]]) -> None:
        self._client, self._access, self._renew = client, access, renew
        self._ticket = access.ticket
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self.received_bytes = 0

    async def list(self) -> list[m.FileEntry]:
        """Return the whole tree.

        Raises `Conflict` when the execution still runs, `NodeFailed` when the node's pages do not go forward.
        """
        entries: list[m.FileEntry] = []
        paths: set[str] = set()
        after = ""
        while len(entries) < FILES_MAX:
            request = m.FileList(ticket="", execution_id=self._access.execution_id, after=after)
            message = await self._ask("file.list", request)
            page = decode(message.data, m.FilePage, "file.list")
            if not page.complete:
                raise errors.Conflict(
                    f"execution {self._access.execution_id} still runs", hint="wait for its end: job run --wait"
                )
            entries.extend(page.files)
            paths.update(entry.path for entry in page.files)
            if len(paths) < len(entries) or (page.next_after and not page.files):
                raise errors.NodeFailed(
                    f"the list of files of {self._access.execution_id} does not go forward after {after!r}",
                    place=self._access.node_id,
                )
            after = page.next_after
            if not after:
                return entries
        raise errors.UsageError(f"the result has more than {FILES_MAX} files")

    async def read(self, entry: m.FileEntry, offset: int, limit: int = CHUNK_BYTES) -> bytes:
        """Return one chunk of at most `limit` bytes, whole and verified."""
        limit = min(limit, CHUNK_BYTES, entry.size - offset)
        execution = self._access.execution_id
        request = m.FileRead(ticket="", execution_id=execution, path=entry.path, offset=offset, limit=limit)
        for _ in range(DAMAGED_TRIES_MAX):
            async with self._slots:
                message = await self._ask("file.read", request)
            self.received_bytes += len(message.data)
            if _is_whole(message, entry, offset, limit):
                return message.data
        raise errors.NodeFailed(
            f"{entry.path}: bytes {offset} to {offset + limit} came damaged {DAMAGED_TRIES_MAX} times",
            place=self._access.node_id,
        )

    async def _ask(self, verb: str, request: m.FileList | m.FileRead) -> Message:
        try:
            return await self._ask_with_ticket(verb, request)
        except errors.Unauthenticated:
            self._ticket = await self._renew()
            return await self._ask_with_ticket(verb, request)

    async def _ask_with_ticket(self, verb: str, request: m.FileList | m.FileRead) -> Message:
        node, ticketed = self._access.node_id, msgspec.structs.replace(request, ticket=self._ticket)

        async def send(timeout_s: float) -> Message:
            bus = await self._client.bulk_bus()
            return await self._client.ask_node(node, verb, ticketed, timeout_s=timeout_s, bus=bus)

        attempt_s = LIST_ANSWER_S if verb == "file.list" else self._client.timing.attempt_s
        timing = msgspec.structs.replace(self._client.timing, attempt_s=attempt_s)
        return await repeat(send, f"{verb} at {node}", PATIENCE_S, timing, self._client.on_retry)


def _is_whole(message: Message, entry: m.FileEntry, offset: int, limit: int) -> bool:
    headers = message.headers or {}
    if headers.get(m.FILE_SIZE) != str(entry.size):
        raise errors.NodeFailed(
            f"{entry.path} was {entry.size} bytes and is now {headers.get(m.FILE_SIZE)}", hint="start again"
        )
    return (
        headers.get(m.FILE_OFFSET) == str(offset)
        and len(message.data) == limit
        and headers.get(m.FILE_SHA256) == hashlib.sha256(message.data).hexdigest()
    )


async def copy_tree(
    files: NodeFiles, tree: Tree, entries: list[m.FileEntry], on_bytes: OnBytes, *, overwrite: bool
) -> Copied:
    """Copy a listed tree. Files that are here with the right content are left alone; parts are taken up.

    Raises
    ------
    Conflict
        when a file is here with other content (and not `overwrite`).
    NodeFailed
        when content does not have the hash that the node gave, or a path leads out of the tree.
    """
    regular = [entry for entry in entries if not entry.link and not entry.path.endswith("/")]
    queue = deque(regular)

    async def work() -> None:
        while queue:
            await _copy_file(files, tree, queue.popleft(), on_bytes, overwrite=overwrite)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT_MAX, len(regular))):
                group.create_task(work())
    except BaseExceptionGroup as failed:  # not `except*`: Python before 3.11.4 would wrap what is raised here again
        raise _first(failed) from failed
    skipped = await in_thread(_make_the_rest, tree, entries, overwrite)
    return Copied(
        files=len(entries) - len(skipped),
        size_bytes=sum(entry.size for entry in regular),
        received_bytes=files.received_bytes,
        skipped=tuple(skipped),
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _make_the_rest(tree: Tree, entries: list[m.FileEntry], overwrite: bool) -> list[str]:
    """Make empty directories, then links: after all files, so that no file goes through a link."""
    for entry in entries:
        if entry.path.endswith("/"):
            tree.make_directory(entry.path)
    skipped = []
    for entry in entries:
        if entry.link:
            if overwrite:
                tree.remove_file(entry.path)
            if not tree.make_link(entry.path, entry.link):
                skipped.append(f"{entry.path} -> {entry.link}")
    return skipped


async def _copy_file(files: NodeFiles, tree: Tree, entry: m.FileEntry, on_bytes: OnBytes, *, overwrite: bool) -> None:
    part = await in_thread(_open_part, tree, entry, overwrite)
    if part is None:
        on_bytes(entry.path, entry.size)
        return
    try:
        taken_up = part.size_bytes
        on_bytes(entry.path, taken_up)
        await _read_into(files, entry, part, on_bytes)
        if part.sha256 != entry.sha256 and taken_up:  # what lay on disk was not what had been written
            on_bytes(entry.path, -part.size_bytes)
            await in_thread(part.restart)
            await _read_into(files, entry, part, on_bytes)
        if part.sha256 != entry.sha256:
            await in_thread(part.restart)
            raise errors.NodeFailed(
                f"{entry.path} has the hash {part.sha256[:12]}…, the node said {entry.sha256[:12]}…",
                hint="the file changed while it was read, or the node's disk is damaged; try again",
            )
        await in_thread(part.finish, entry.mode)
    finally:
        part.close()


def _open_part(tree: Tree, entry: m.FileEntry, overwrite: bool) -> Part | None:
    """Open a file's part, with what is there of it; None when the whole file is here already."""
    if tree.has(entry.path, entry.size, entry.sha256):
        return None
    if not overwrite and not tree.is_free(entry.path):
        raise errors.Conflict(
            f"{tree.root / entry.path} is already there, with other content",
            hint="choose another directory, or --overwrite",
        )
    part = Part(tree.path_of(entry.path), f"{entry.path}\0{entry.sha256}")
    part.open(entry.size)
    return part


async def _read_into(files: NodeFiles, entry: m.FileEntry, part: Part, on_bytes: OnBytes) -> None:
    """Append chunks in order; the next ones are already asked for."""
    offsets = iter(range(part.size_bytes, entry.size, CHUNK_BYTES))
    ahead: deque[asyncio.Task[bytes]] = deque()
    try:
        while True:
            while len(ahead) < IN_FLIGHT_MAX and (offset := next(offsets, None)) is not None:
                ahead.append(asyncio.create_task(files.read(entry, offset)))
            if not ahead:
                return
            data = await ahead.popleft()
            await in_thread(part.append, data)
            on_bytes(entry.path, len(data))
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)
