"""`local`: an archive of the results on this node, served over HTTP as Bacalhau does.

The result is `urlDownload {URL: http://ADDRESS:PORT/<execution id>.tar.gz}`. The address is the one that is bound
(Bacalhau binds every interface whatever it says), there is no listing, and an execution id cannot be guessed: who has
the URL may fetch it. Archives are removed oldest first when they are too old or too many bytes.

Settings: `address` (127.0.0.1), `port` (6001; 0 picks one), `listen` (the address), `keep_s`, `bytes_max`.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path

from bacalhau_daemon.compute import retention
from bacalhau_daemon.publishers import archive
from bacalhau_daemon.publishers.http_files import FileServer
from bacalhau_daemon.storage import params
from bacalhau_protocol.errors import NodeFailed, UsageError
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.plugins import Ability, PluginContext, Progress, Published, RunRequest

ADDRESS_DEFAULT, PORT_DEFAULT = "127.0.0.1", 6001
KEEP_S_DEFAULT = 7 * 24 * 3600
BYTES_MAX_DEFAULT = 20 * 1024**3
_HOST = re.compile(r"[A-Za-z0-9.:_-]+")
_WORDS = frozenset({"public", "private", "any"})


class LocalPublisher:
    """Packs results and serves them."""

    def __init__(self, context: PluginContext) -> None:
        settings = context.settings
        self._directory = context.data_dir
        self._address = str(settings.get("address", ADDRESS_DEFAULT))
        if not _HOST.fullmatch(self._address) or self._address in _WORDS:
            raise UsageError(f"`address` must be a host name or an address, not {self._address!r}", place=_PLACE)
        self._port = int(settings.get("port", PORT_DEFAULT))
        self._listen = str(settings.get("listen", self._address))
        self._limits = retention.Limits(
            keep_s=float(settings.get("keep_s", KEEP_S_DEFAULT)),
            bytes_max=int(settings.get("bytes_max", BYTES_MAX_DEFAULT)),
        )
        self._server = FileServer(self._directory, re.compile(r"[A-Za-z0-9_-]{1,64}\.tar\.gz"))

    async def ability(self) -> Ability:
        """Start serving if that has not happened yet; not available while the port is taken."""
        try:
            port = await self._server.start(self._listen, self._port)
        except OSError as error:
            where = f"{self._listen}:{self._port}"
            words = os.strerror(error.errno) if error.errno else str(error)
            return Ability(
                available=False, reason=f"cannot listen on {where}: {words}; set another `port` in `[publishers.local]`"
            )
        await asyncio.to_thread(retention.prune_files, self._directory, "*.tar.gz", self._limits, time.time())
        return Ability(available=True, details={"address": f"{self._address}:{port}"})

    def check(self, publisher: SpecConfig) -> list[str]:
        """There are no parameters."""
        return params.read(publisher, ())[1]

    async def publish(self, run: RunRequest, progress: Progress) -> Published:
        """Pack the results, once per execution."""
        if not self._server.port:
            raise NodeFailed("the local publisher does not serve now", hint="its port may be in use; see `ability`")
        path = self._directory / f"{run.execution_id}.tar.gz"
        try:
            size = await asyncio.to_thread(_pack_once, run.results_dir, path, progress)
        except OSError as error:
            raise NodeFailed(f"results cannot be packed: {error}", place=run.execution_id) from error
        host = f"[{self._address}]" if ":" in self._address else self._address
        url = f"http://{host}:{self._server.port}/{path.name}"
        return Published(result=SpecConfig(type="urlDownload", params={"URL": url}), size_bytes=size)

    async def close(self) -> None:
        """Stop serving."""
        await self._server.close()


_PLACE = "[publishers.local]"


def _pack_once(root: Path, path: Path, progress: Progress) -> int:
    return path.stat().st_size if path.is_file() else archive.pack(root, path, progress)
