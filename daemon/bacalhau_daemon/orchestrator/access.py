"""`job.logs` and `job.results`: where each execution's log and files are, and the ticket that opens them."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import Access, AccessPage, JobRef, TicketRequest
from bacalhau_protocol.api.tokens import TICKET_TTL_S, Ticket, TicketSigner
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.states import ComputeStateType

EXECUTIONS_MAX = 1000

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
    """Grants access. `is_own` says whether a node is one of ours: others do not know tickets."""

    def __init__(self, query: Query, signer: TicketSigner, is_own: Callable[[str], bool]) -> None:
        self._query, self._signer, self._is_own = query, signer, is_own

    async def grant(self, user: str, request: TicketRequest, now: int) -> AccessPage:
        """Return all executions of a job, or one, in order of partition and creation.

        Raises
        ------
        NotFound
            when there is no such job, or it has no such execution.
        """
        job = (await self._query.job(JobRef(job=request.job, namespace=request.namespace))).job
        executions = await self._executions(job.id, request)
        if request.execution and not executions:
            raise errors.NotFound(
                f"job {job.id} has no execution {request.execution!r}", hint="job executions lists them"
            )
        executions.sort(key=lambda one: (one.partition_index or 0, one.create_time))
        return AccessPage(
            job_id=job.id, state=job.state.state_type, executions=[self._access(user, one, now) for one in executions]
        )

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

    def _access(self, user: str, execution: Execution, now: int) -> Access:
        state, output = execution.compute_state, execution.run_output
        ticket, message = "", state.message or ""
        if state.state_type not in _LEFT_SOMETHING:
            message = message or "it has not begun"
        elif self._is_own(execution.node_id):
            expires = now + TICKET_TTL_S * 1_000_000_000
            ticket = self._signer.sign(Ticket(user=user, execution=execution.id, expires=expires))
        else:
            message = f"node {execution.node_id} is not one of ours, or gone: only what it reported is known"
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
