"""Look-ups of requests in the query side: those that come while others are being answered go together next."""

from __future__ import annotations

import asyncio

from bacalhau_daemon.core.requests import Found, Lookup
from bacalhau_daemon.query.service import Query

BATCH_MAX = 256


class Lookups:
    """Gathers look-ups, so that many requests cost one change of threads."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._waiting: list[tuple[Lookup, asyncio.Future[Found]]] = []
        self._answering: asyncio.Task[None] | None = None

    async def ask(self, question: Lookup) -> Found:
        """Return what the query side knows. Raises what it raises."""
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer(), name="lookups")
        return await future

    async def _answer(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            try:
                found = await self._query.lookup([question for question, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(one)
        self._answering = None
