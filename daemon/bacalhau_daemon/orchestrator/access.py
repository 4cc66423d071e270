"""`job.logs` and `job.results`: where each execution's log and files are, and the ticket that opens them.

Of a foreign node's execution the log is served by the orchestrator (`foreign_logs`), if the node has one; its results
are where its publisher has put them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from bacalhau_daemon.orchestrator.foreign_logs import ForeignLogs
from bacalhau_daemon.orchestrator.kept_logs import KeptLogs
from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import Access, AccessPage, JobRef, KeptLog, KeptLogQuery, TicketRequest
from bacalhau_protocol.api.tokens import TICKET_TTL_S, Ticket, TicketSigner
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.states import ComputeStateType

EXECUTIONS_MAX = 1000
FOREIGN_ENGINES_WITH_LOGS = frozenset({"docker"})
"""Bacalhau 1.9 keeps no log of the others' runs; asked for one it waits a minute, and all other readers with it."""

_LEFT_SOMETHING = frozenset(
    {
        ComputeStateType.BID_ACCEPTED,
        ComputeStateType.RUNNING,
        ComputeStateType.PUBLISHING,
        ComputeStateType.COMPLETED,
        ComputeStateType.FAILED,
        ComputeStateType.CANCELLED,
    }
)


class Accesses:
    """Grants access. `is_own` says whether a node is one of ours, `is_foreign` whether it is another that we know."""

    def __init__(
        self,
        query: Query,
        signer: TicketSigner,
        *,
        is_own: Callable[[str], bool],
        is_foreign: Callable[[str], bool],
        foreign_logs: ForeignLogs,
        kept_logs: KeptLogs,
    ) -> None:
        self._query, self._signer = query, signer
        self._is_own, self._is_foreign = is_own, is_foreign
        self._foreign_logs, self._kept_logs = foreign_logs, kept_logs

    async def logs(self, user: str, request: TicketRequest, now: int) -> AccessPage:
        """Return how to read the logs of a job's executions (or of one), in order of partition and creation.

        Raises
        ------
        NotFound
            when there is no such job, or it has no such execution.
        """
        job, executions = await self._find(request)
        engine = job.task.engine.type.lower() if job.task.engine is not None else ""
        page: list[Access] = []
        for execution in executions:
            foreign = self._is_foreign(execution.node_id) and execution.compute_state.state_type in _LEFT_SOMETHING
            served = foreign and engine in FOREIGN_ENGINES_WITH_LOGS
            if served:
                await self._foreign_logs.serve(execution.node_id)
            page.append(self._access(user, execution, now, served=served))
        return AccessPage(job_id=job.id, state=job.state.state_type, executions=page)

    async def results(self, user: str, request: TicketRequest, now: int) -> AccessPage:
        """Like `logs`, for result files."""
        job, executions = await self._find(request)
        page = [self._access(user, execution, now, served=False) for execution in executions]
        return AccessPage(job_id=job.id, state=job.state.state_type, executions=page)

    async def kept_log(self, query: KeptLogQuery) -> KeptLog:
        """Return what is known of a log without its node: what was kept, or else what the report of the run holds.

        Raises
        ------
        NotFound
            when there is neither.
        """
        kept = await asyncio.to_thread(self._kept_logs.get, query.execution)
        if kept is None and query.job:
            request = TicketRequest(job=query.job, namespace=query.namespace, execution=query.execution)
            found = [one for one in await self._executions(query.job, request) if one.id == query.execution]
            kept = self._reported(found[0]) if found else None
        if kept is None:
            raise errors.NotFound(
                f"no log of execution {query.execution!r} was kept",
                hint="the end of a log is kept when its execution has ended; the oldest make room for new ones",
            )
        return kept

    def _reported(self, execution: Execution) -> KeptLog | None:
        """Return what a node has said of a log with its report, if that is all there will ever be.

        Our own nodes send the end of the log besides when it does not fit into the report.
        """
        output = execution.run_output
        if output is None or not (output.stdout or output.stderr):
            return None
        if not self._is_foreign(execution.node_id) and (output.stdout_truncated or output.stderr_truncated):
            return None
        return KeptLog(stdout=output.stdout.encode(), stderr=output.stderr.encode())

    async def _find(self, request: TicketRequest) -> tuple[Job, list[Execution]]:
        job = (await self._query.job(JobRef(job=request.job, namespace=request.namespace))).job
        executions = await self._executions(job.id, request)
        if request.execution and not executions:
            raise errors.NotFound(
                f"job {job.id} has no execution {request.execution!r}", hint="job executions lists them"
            )
        return job, sorted(executions, key=lambda one: (one.partition_index or 0, one.create_time))

    async def _executions(self, job: str, request: TicketRequest) -> list[Execution]:
        found: list[Execution] = []
        page = ""
        while len(found) < EXECUTIONS_MAX:
            answer = await self._query.executions(JobRef(job=job, namespace=request.namespace, page=page))
            found += [one for one in answer.executions if one.id.startswith(request.execution)]
            page = answer.next_page
            if not page:
                break
        return found[:EXECUTIONS_MAX]

    def _access(self, user: str, execution: Execution, now: int, *, served: bool) -> Access:
        """Make one line. `served`: the orchestrator itself opens the log."""
        state, output = execution.compute_state, execution.run_output
        ticket, message = "", state.message or ""
        if state.state_type not in _LEFT_SOMETHING:
            message = message or "it has not begun"
        elif served or self._is_own(execution.node_id):
            expires = now + TICKET_TTL_S * 1_000_000_000
            ticket = self._signer.sign(Ticket(user=user, execution=execution.id, expires=expires))
        elif self._is_foreign(execution.node_id):
            message = f"node {execution.node_id} runs Bacalhau 1.9 and serves no more of it than it has reported"
        else:
            message = f"node {execution.node_id} is gone: only what it reported is known"
        return Access(
            execution_id=execution.id,
            node_id=execution.node_id,
            state=state.state_type.label,
            partition=execution.partition_index or 0,
            ticket=ticket,
            result=msgspec.to_builtins(execution.published_result) if execution.published_result else {},
            exit_code=output.exit_code if output is not None else 0,
            message=message,
        )
