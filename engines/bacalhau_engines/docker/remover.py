"""Removing containers, beside everything else, and again when dockerd is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bacalhau_engines.docker.create import OWNER
from bacalhau_engines.docker.dockerd import Dockerd, Gone, Refused

TRIES, AGAIN_S, AGAIN_MAX_S = 60, 0.25, 10.0
CLOSE_S = 5.0


class Remover:
    """What is on its way out, by name; only containers of this owner. `in_thread` carries a blocking call out."""

    def __init__(
        self, dockerd: Dockerd, owner: str, in_thread: Callable[[Callable[[], None]], asyncio.Future[None]]
    ) -> None:
        self._dockerd, self._owner, self._in_thread = dockerd, owner, in_thread
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def soon(self, name: str, after: asyncio.Future[Any] | None = None) -> None:
        """Remove a container, once something else is over."""
        if name not in self._tasks and not self._closed:
            task = self._tasks[name] = asyncio.create_task(self._removal(name, after), name=f"remove {name}")
            task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def gone(self, name: str) -> None:
        """Wait until a container that is on its way out is gone."""
        if task := self._tasks.get(name):
            await asyncio.wait([task])

    async def now(self, name: str) -> None:
        """Remove a container with its volumes; none of that name is as good. Raises `Gone`, `Refused`."""
        await self._in_thread(lambda: self._remove(name))

    async def close(self) -> None:
        """Wait a little for those on their way; what is left then is swept at the next start."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=CLOSE_S)
        for task in list(self._tasks.values()):
            task.cancel()

    async def _removal(self, name: str, after: asyncio.Future[Any] | None) -> None:
        if after is not None:
            await asyncio.wait([after])
        pause_s = AGAIN_S
        for _ in range(TRIES):
            try:
                await self.now(name)
                break
            except (Gone, Refused):  # dockerd is away or busy
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, AGAIN_MAX_S)

    def _remove(self, name: str) -> None:
        client = self._dockerd.client()
        try:
            labels = self._dockerd.call(lambda: client.inspect_container(name))["Config"]["Labels"] or {}
            if labels.get(OWNER) != self._owner:
                return
            self._dockerd.call(lambda: client.remove_container(name, v=True, force=True), heavy=True)
        except Refused as refused:
            if refused.status != 404 and "already in progress" not in refused.words:
                raise
