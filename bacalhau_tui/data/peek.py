"""Looks into a result file: fetches its beginning from the node, and more of it when more is wanted."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.transfer import NodeFiles
from bacalhau_tui.data.preview import ALL_BYTES_MAX, FIRST_BYTES, MORE_BYTES, Preview, preview

LOOK_PAUSE_S = 0.12
"""Who only moves past a file does not fetch it."""
KEPT_MAX = 30  # files whose beginning is kept


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is here of a file."""

    data: bytes
    preview: Preview


class Peek:
    """The file that is looked at. `at` is its key, `shown` what is known of it, `error` why it is not."""

    def __init__(self, client: Client, job: str, namespace: str, wake: Callable[[], None]) -> None:
        self.at = ""
        self.loading = False
        self.error: errors.BacalhauError | None = None
        self._client, self._job, self._namespace, self._wake = client, job, namespace, wake
        self._kept: OrderedDict[str, Seen] = OrderedDict()
        self._task: asyncio.Task[None] | None = None
        self._file: tuple[m.Access, m.FileEntry] | None = None

    @property
    def shown(self) -> Preview | None:
        """What is shown of the file."""
        seen = self._kept.get(self.at)
        return seen.preview if seen is not None else None

    def look(self, key: str, access: m.Access | None, entry: m.FileEntry | None) -> None:
        """Look at another file; None: at nothing."""
        if key == self.at and entry is not None and self._file is not None and self._file[1] == entry:
            return
        self.at, self.error = key, None
        self._file = (access, entry) if access is not None and entry is not None and not entry.link else None
        self._cancel()
        if self._file is not None and key not in self._kept:
            self._load(FIRST_BYTES, LOOK_PAUSE_S)

    def more(self) -> bool:
        """Fetch more of the file; return whether there is more."""
        shown = self.shown
        if shown is None or shown.whole or self.loading or shown.shown_bytes >= ALL_BYTES_MAX:
            return False
        self._load(MORE_BYTES, 0)
        return True

    def again(self) -> None:
        """Fetch it anew."""
        self._kept.pop(self.at, None)
        self.error = None
        if self._file is not None:
            self._load(FIRST_BYTES, 0)

    async def close(self) -> None:
        """Stop."""
        task = self._task
        self._cancel()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.loading = False

    def _load(self, limit: int, pause_s: float) -> None:
        assert self._file is not None, "there is a file to load"
        self._cancel()
        self.loading = True
        self._task = asyncio.create_task(self._read(self.at, *self._file, limit, pause_s), name="preview")

    async def _read(self, key: str, access: m.Access, entry: m.FileEntry, limit: int, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        seen = self._kept.get(key)
        data = seen.data if seen is not None else b""
        try:
            while len(data) < entry.size and limit > 0:
                chunk = await self._files(access).read(entry, len(data), min(limit, FIRST_BYTES))
                data, limit = data + chunk, limit - len(chunk)
            shown = await asyncio.to_thread(preview, entry.path, data, entry.size)
            self._kept[key] = Seen(data=data, preview=shown)
            while len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
        except errors.BacalhauError as error:
            self.error = error
        self.loading = False
        self._wake()

    def _files(self, access: m.Access) -> NodeFiles:
        async def renew() -> str:
            page = await self._client.result_access(self._job, namespace=self._namespace, execution=access.execution_id)
            return page.executions[0].ticket if page.executions else ""

        return NodeFiles(self._client, access, renew)
