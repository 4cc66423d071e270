"""Serves checked calls: reads from the query side, the rest from the machine."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from msgspec import structs

from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.orchestrator.access import Accesses
from bacalhau_daemon.orchestrator.driver import Driver
from bacalhau_daemon.orchestrator.endpoint import Call, Result
from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api

AT_LEAST_TIMEOUT_S = 5.0

Read = Callable[[Call], Awaitable[api.Body]]


class Serving:
    """What the endpoint calls."""

    def __init__(self, driver: Driver, query: Query, accesses: Accesses) -> None:
        self._driver, self._query = driver, query
        self._accesses = accesses
        self._reads: dict[str, Read] = {
            "job.list": self._jobs,
            "job.get": self._job,
            "job.executions": self._executions,
            "job.history": self._history,
            "job.logs": self._log_access,
            "job.results": self._result_access,
            "job.keptlog": self._kept_log,
        }

    def serve(self, call: Call) -> Awaitable[Result]:
        """Serve one call."""
        read = self._reads.get(call.verb)
        if read is not None:
            return self._read(call, read)
        if api.VERBS[call.verb].write and not self._query.has_room:
            return self._ask_later(call)
        if call.verb == "cluster.info":
            return self._cluster_info(call)
        return self._ask_machine(call)

    async def _read(self, call: Call, read: Read) -> Result:
        if call.at_least > self._query.position:
            await self._query.wait_applied(call.at_least, AT_LEAST_TIMEOUT_S)
        position = self._query.position
        try:
            return Result(await read(call), position)
        except OverflowError as error:
            raise errors.UsageError("a number in the request is too large", place=call.verb) from error

    def _ask_machine(self, call: Call) -> Awaitable[Result]:
        request = Request(user=call.user, verb=call.verb, body=call.body, id=call.request_id, deadline=call.deadline)
        return self._driver.request(request)

    async def _ask_later(self, call: Call) -> Result:
        """Hold a write back while the rows are far behind."""
        await self._query.room()
        return await self._ask_machine(call)

    async def _cluster_info(self, call: Call) -> Result:
        """Add what only the query side knows."""
        result = await self._ask_machine(call)
        assert isinstance(result.body, api.ClusterInfo)
        counts = await self._query.counts()
        body = structs.replace(result.body, jobs=counts, applied_position=self._query.position)
        return Result(body, result.position)

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

    async def _log_access(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.TicketRequest)
        return await self._accesses.logs(call.user, call.body, time.time_ns())

    async def _result_access(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.TicketRequest)
        return await self._accesses.results(call.user, call.body, time.time_ns())

    async def _kept_log(self, call: Call) -> api.Body:
        assert isinstance(call.body, api.KeptLogQuery)
        return await self._accesses.kept_log(call.body)
