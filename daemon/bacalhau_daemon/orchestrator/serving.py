"""Serves checked calls: reads from the query side, the rest from the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from msgspec import structs

from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.orchestrator.access import Accesses
from bacalhau_daemon.orchestrator.driver import Driver
from bacalhau_daemon.orchestrator.endpoint import Call, Result
from bacalhau_daemon.orchestrator.kept_logs import KeptLogs
from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api

AT_LEAST_TIMEOUT_S = 5.0
MACHINE_TIMEOUT_S = 60.0

Read = Callable[[Call], Awaitable[api.Body]]


class Serving:
    """What the endpoint calls."""

    def __init__(self, driver: Driver, query: Query, accesses: Accesses, kept_logs: KeptLogs) -> None:
        self._driver, self._query = driver, query
        self._accesses, self._kept_logs = accesses, kept_logs
        self._reads: dict[str, Read] = {
            "job.list": self._jobs,
            "job.get": self._job,
            "job.executions": self._executions,
            "job.history": self._history,
            "job.logs": self._access,
            "job.results": self._access,
            "job.keptlog": self._kept_log,
        }

    async def serve(self, call: Call) -> Result:
        """Serve one call."""
        read = self._reads.get(call.verb)
        if read is None:
            return await self._ask_machine(call)
        if call.at_least > self._query.position:
            await self._query.wait_applied(call.at_least, AT_LEAST_TIMEOUT_S)
        position = self._query.position
        try:
            return Result(await read(call), position)
        except OverflowError as error:
            raise errors.UsageError("a number in the request is too large", place=call.verb) from error

    async def _ask_machine(self, call: Call) -> Result:
        if api.VERBS[call.verb].write:
            await self._query.room()
        request = Request(user=call.user, verb=call.verb, body=call.body, id=call.request_id, deadline=call.deadline)
        try:
            async with asyncio.timeout(MACHINE_TIMEOUT_S):
                body, position = await self._driver.request(request)
        except TimeoutError as error:
            raise errors.TimedOut(
                f"not decided within {MACHINE_TIMEOUT_S:g} s; it may still be", place=call.verb
            ) from error
        if isinstance(body, api.ClusterInfo):
            body = await self._complete(body)
        return Result(body, position)

    async def _complete(self, info: api.ClusterInfo) -> api.ClusterInfo:
        """Add what only the query side knows."""
        return structs.replace(info, jobs=await self._query.counts(), applied_position=self._query.position)

    # ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _jobs(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.JobQuery)
        return await self._query.jobs(call.body)

    async def _job(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.JobRef)
        return await self._query.job(call.body)

    async def _executions(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.JobRef)
        page = await self._query.executions(call.body)
        phases = self._driver.machine.queries.phases([one.id for one in page.executions])
        return structs.replace(page, phases=phases)

    async def _history(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.HistoryQuery)
        return await self._query.history(call.body)

    async def _access(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.TicketRequest)
        return await self._accesses.grant(call.user, call.body, time.time_ns())

    async def _kept_log(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.KeptLogQuery)
        kept = await asyncio.to_thread(self._kept_logs.get, call.body.execution)
        if kept is None:
            raise errors.NotFound(
                f"no log of execution {call.body.execution!r} was kept",
                hint="the end of a log is kept when its execution has ended; the oldest make room for new ones",
            )
        return kept
