"""Results of a job into a directory: wherever they are, resumable, verified, never outside of the directory.

One execution's tree goes into the directory itself, as Bacalhau's `job get` lays it out: `stdout`, `stderr`, `exitCode`
and one directory per output. Trees of several executions go into one directory each, named by the execution's short id:
Bacalhau merges them, which loses what has the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.archive import fetch_archive
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.threads import in_thread
from bacalhau_protocol.client.transfer import Copied, NodeFiles, copy_tree
from bacalhau_protocol.client.tree import Tree
from bacalhau_protocol.models.execution import EXIT_CODE_UNKNOWN
from bacalhau_protocol.models.ids import short_id

EXIT_CODE_FILE = "exitCode"
_EXIT_CODE_CHARACTERS_MAX = 12


class FetchProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is. Totals are 0 until they are known (an archive's never are)."""

    execution_id: str
    path: str
    done_bytes: int
    total_bytes: int
    files: int


OnProgress = Callable[[FetchProgress], None]


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """One execution's results, here now. `received_bytes` came over the line; the rest was here already."""

    execution_id: str
    node_id: str
    partition: int
    state: str
    directory: Path
    exit_code: int | None
    files: int
    size_bytes: int
    received_bytes: int
    skipped: tuple[str, ...] = ()


class NotFetched(msgspec.Struct, frozen=True, kw_only=True):
    """One execution's results that this program cannot fetch, and why; `result` says where they are."""

    execution_id: str
    node_id: str
    state: str
    reason: str
    result: dict[str, object]


class FetchedJob(msgspec.Struct, frozen=True, kw_only=True):
    """What came of fetching a job's results."""

    job_id: str
    state: str
    fetched: tuple[Fetched, ...]
    not_fetched: tuple[NotFetched, ...]


async def fetch_results(
    client: Client,
    job: str,
    directory: Path,
    *,
    namespace: str = "default",
    execution: str = "",
    paths: Collection[str] = (),
    overwrite: bool = False,
    progress: OnProgress | None = None,
) -> FetchedJob:
    """Fetch the results of a job's executions (or of one). Run again, it goes on where it broke off.

    `paths` are files and directories (ending in `/`) of the result trees; none: everything.

    Raises
    ------
    NotFound
        when there is no such job, execution or path, or a node does not have the result any more.
    Conflict
        when the job has not ended, or files with other content are in the way.
    Unavailable
        when a node does not answer for a minute.
    NodeFailed
        when what a node sends is damaged or hostile.
    """
    page = await client.result_access(job, namespace=namespace, execution=execution)
    chosen = _chosen(page.executions, one=bool(execution))
    if not chosen:
        raise _nothing(page)
    fetched: list[Fetched] = []
    not_fetched: list[NotFetched] = []
    for access in chosen:
        place = directory if len(chosen) == 1 else directory / short_id(access.execution_id)
        fetch = _Fetch(
            client,
            access,
            await in_thread(Tree, place),
            job_id=page.job_id,
            namespace=namespace,
            paths=paths,
            overwrite=overwrite,
            progress=progress,
        )
        outcome = await fetch.run()
        if isinstance(outcome, Fetched):
            fetched.append(outcome)
        else:
            not_fetched.append(outcome)
    return FetchedJob(job_id=page.job_id, state=page.state, fetched=tuple(fetched), not_fetched=tuple(not_fetched))


def _chosen(executions: list[m.Access], *, one: bool) -> list[m.Access]:
    """Choose those that completed; when none did, those that failed and left something."""
    if one:
        return executions
    completed = [access for access in executions if access.state == "Completed"]
    return completed or [access for access in executions if access.ticket and access.state in ("Failed", "Cancelled")]


def _among(entries: list[m.FileEntry], paths: Collection[str]) -> list[m.FileEntry]:
    """Return the entries at or below some paths. Raises `NotFound` when one of them is not there."""
    if not paths:
        return entries
    for path in paths:
        if not any(_is_at(entry, path) for entry in entries):
            raise errors.NotFound(f"the results have no {path!r}", hint="the list of files may have changed")
    return [entry for entry in entries if any(_is_at(entry, path) for path in paths)]


def _is_at(entry: m.FileEntry, path: str) -> bool:
    return entry.path == path or (path.endswith("/") and entry.path.startswith(path))


def _nothing(page: m.AccessPage) -> errors.BacalhauError:
    if page.state in ("Pending", "Queued", "Running"):
        return errors.Conflict(f"job {page.job_id} is {page.state}, it has no results yet", hint="job run --wait")
    return errors.NotFound(
        f"job {page.job_id} ({page.state}) left no results", hint=f"its output: job logs {short_id(page.job_id)}"
    )


class _Fetch:
    """Fetches one execution's results."""

    def __init__(
        self,
        client: Client,
        access: m.Access,
        tree: Tree,
        *,
        job_id: str,
        namespace: str,
        paths: Collection[str],
        overwrite: bool,
        progress: OnProgress | None,
    ) -> None:
        self._client, self._job_id, self._namespace, self._access = client, job_id, namespace, access
        self._tree, self._paths, self._overwrite, self._progress = tree, paths, overwrite, progress
        self._done_bytes = self._total_bytes = self._files = 0

    async def run(self) -> Fetched | NotFetched:
        """Fetch by the way that the published result names."""
        access = self._access
        kind = str(access.result.get("Type", "")).strip().lower()
        if kind == "urldownload" and not self._paths:
            return await self._from_url()
        if access.ticket and kind in ("", "nats", "urldownload"):
            return self._fetched(await self._from_node())
        if not kind:
            return self._refuse(access.message or "it left no results")
        return self._refuse(f"results of the type {kind!r} have to be fetched from where they are")

    async def _from_node(self) -> Copied:
        files = NodeFiles(self._client, self._access, self._renew)
        try:
            entries = await files.list()
        except errors.NotFound as error:
            raise errors.NotFound(
                f"node {self._access.node_id} does not have the results of {self._access.execution_id} any more:"
                f" {error.message}",
                hint="nodes keep results for a limited time; run the job again, or publish to s3",
            ) from error
        entries = _among(entries, self._paths)
        self._files = len(entries)
        self._total_bytes = sum(entry.size for entry in entries)
        return await copy_tree(files, self._tree, entries, self._on_bytes, overwrite=self._overwrite)

    async def _from_url(self) -> Fetched | NotFetched:
        params = self._access.result.get("Params")
        url = str(params.get("URL", "")) if isinstance(params, dict) else ""
        received = 0

        def on_bytes(path: str, more: int) -> None:
            nonlocal received
            received += more
            self._on_bytes(path, more)

        try:
            unpacked = await fetch_archive(url, self._tree, on_bytes, overwrite=self._overwrite)
        except errors.Unavailable as error:
            if not self._access.ticket:
                return self._refuse(f"{error.message}; {error.hint}")
            return self._fetched(await self._from_node())
        return self._fetched(
            Copied(files=unpacked.files, size_bytes=received, received_bytes=received, skipped=unpacked.skipped)
        )

    async def _renew(self) -> str:
        page = await self._client.result_access(
            self._job_id, namespace=self._namespace, execution=self._access.execution_id
        )
        return page.executions[0].ticket if page.executions else ""

    def _on_bytes(self, path: str, more: int) -> None:
        self._done_bytes += more
        if self._progress is not None:
            self._progress(
                FetchProgress(
                    execution_id=self._access.execution_id,
                    path=path,
                    done_bytes=self._done_bytes,
                    total_bytes=self._total_bytes,
                    files=self._files,
                )
            )

    def _fetched(self, copied: Copied) -> Fetched:
        access = self._access
        return Fetched(
            execution_id=access.execution_id,
            node_id=access.node_id,
            partition=access.partition,
            state=access.state,
            directory=self._tree.root,
            exit_code=_read_exit_code(self._tree.root / EXIT_CODE_FILE, access),
            files=copied.files,
            size_bytes=copied.size_bytes,
            received_bytes=copied.received_bytes,
            skipped=copied.skipped,
        )

    def _refuse(self, reason: str) -> NotFetched:
        access = self._access
        return NotFetched(
            execution_id=access.execution_id,
            node_id=access.node_id,
            state=access.state,
            reason=reason,
            result=dict(access.result),
        )


def _read_exit_code(place: Path, access: m.Access) -> int | None:
    try:
        return int(place.read_text()[:_EXIT_CODE_CHARACTERS_MAX].strip())
    except (OSError, ValueError):
        known = access.state == "Completed" and access.exit_code != EXIT_CODE_UNKNOWN
        return access.exit_code if known else None
