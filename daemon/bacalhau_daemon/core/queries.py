"""Reads that only the core can answer: what is soft, and what would be decided. They see the state as it is now."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.decide.credentials import list_credentials
from bacalhau_daemon.core.decide.find import by_ref
from bacalhau_daemon.core.decide.submissions import decide_submit, prepared_job
from bacalhau_daemon.core.events import AnyEvent
from bacalhau_daemon.core.inputs import Item
from bacalhau_daemon.core.loop import Loop
from bacalhau_daemon.core.requests import Request
from bacalhau_daemon.core.scheduling.explain import explain, unplaced
from bacalhau_daemon.core.scheduling.feasible import NO_HISTORY, History
from bacalhau_daemon.core.scheduling.need import need_of
from bacalhau_daemon.core.scheduling.reconcile import gap_of, nodes_used
from bacalhau_daemon.core.state import JobState, State
from bacalhau_daemon.core.views import node_state
from bacalhau_daemon.query.views import execution_of
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.models import ids
from bacalhau_protocol.models.constraints import matches_all, parse_selector
from bacalhau_protocol.models.node import NodeState
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_protocol.ncl.messages import is_own

EXPLAINED_MAX = 200  # executions whose reasons are in one answer
NODE_EXECUTIONS_MAX = 500


class Queries:
    """Answers requests that are not writes."""

    def __init__(self, context: Context, loop: Loop[State, Item, AnyEvent], node: str, version: str) -> None:
        self._context, self._loop, self._node, self._version = context, loop, node, version

    @property
    def _state(self) -> State:
        return self._loop.state

    def answer(self, request: Request, now: int) -> api.Body:
        """Answer a read. Raises `BacalhauError`."""
        match request.body:
            case api.JobSubmit() if request.verb == "job.validate":
                prepared = prepared_job(self._context, request.body.job)
                return api.JobValidated(job=prepared.job, warnings=list(prepared.warnings))
            case api.JobSubmit():
                dry: api.Body = decide_submit(self._context, self._state, request, request.body, now).answer
                return dry
            case api.JobExplain():
                return self.explain(request, request.body, now)
            case api.NodeQuery():
                return self.nodes(request.body)
            case api.NodeRef():
                return self.node(request.body.node)
            case api.Empty() if request.verb == "credential.list":
                return list_credentials(self._state)
            case api.Empty() if request.verb == "cluster.info":
                return self.info()
            case _:
                raise errors.UsageError(f"{request.verb} is not for the core", place=request.verb)

    # ── explanations ──────────────────────────────────────────────────────────────────────────────────────────────

    def explain(self, request: Request, body: api.JobExplain, now: int) -> api.Explanation:
        """Say where a job would run, or why it runs where it does or waits. As of now."""
        state, context = self._state, self._context
        recorded: dict[str, Any] = {}
        if body.spec is not None:
            need, used, history = need_of(prepared_job(context, body.spec).job), set[str](), NO_HISTORY
        else:
            job = by_ref(context, state, request, body.namespace or ids.NAMESPACE_DEFAULT, body.job)
            need = need_of(job.spec)
            tally = state.tallies.get(job.j)
            used = nodes_used(state, tally) if tally is not None else set()
            history, recorded = self._history(job, now), self._recorded(job)
        rows = explain(context.fleet, need, used=used, history=history)
        total = len(context.fleet.slots)
        matching = sum(row.fits for row in rows) if total <= len(rows) else len(context.fleet.shape(need).open)
        summary = f"{matching} of {total} nodes fit now"
        if not matching:
            summary = unplaced(context.fleet, need, 1, history).message
        return api.Explanation(as_of=now, matching=matching, nodes=rows, summary=summary, recorded=recorded)

    def _history(self, job: JobState, now: int) -> History:
        if job.j not in self._state.tallies or job.state.terminal:
            return NO_HISTORY
        gap = gap_of(self._state, job, now, self._context.policy, returning={}, limit=1)
        vacancy = gap.exhausted or next(iter(gap.wanted), None)
        return vacancy.history if vacancy is not None else NO_HISTORY

    def _recorded(self, job: JobState) -> dict[str, Any]:
        """Return what the log kept: why each execution is where it is, and why the job waits."""
        tally = self._state.tallies.get(job.j)
        xs = sorted(tally.xs) if tally is not None else []
        kept = {
            execution.id: msgspec.to_builtins(execution.why)
            for execution in (self._state.executions[x] for x in xs[:EXPLAINED_MAX])
            if execution.why is not None
        }
        waits = msgspec.to_builtins(job.unplaced) if job.unplaced is not None else None
        return {"Executions": kept, **({"Unplaced": waits} if waits is not None else {})}

    # ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def node_state(self, name: str) -> NodeState:
        """Return a node as Bacalhau shows it."""
        record = self._state.nodes[name]
        slot = self._context.fleet.by_id.get(name)
        running = len(self._state.use(name).live)
        return node_state(record, slot, running, self._context.beats.get(name, 0))

    def is_own(self, name: str) -> bool:
        """Whether a node is one of ours, so that its logs and results can be fetched over NATS."""
        record = self._state.nodes.get(name)
        return record is not None and is_own(record.info)

    def phases(self, execution_ids: list[str]) -> dict[str, api.Phase]:
        """Return what live executions do now, as far as their nodes have said."""
        heard = self._context.heard
        return {key: heard[key].phase for key in execution_ids if key in heard}

    def nodes(self, query: api.NodeQuery) -> api.NodePage:
        """Return a page of nodes, by id."""
        selector = parse_selector(query.labels)
        limit = min(max(query.limit, 1), api.PAGE_ROWS_MAX)
        names = sorted(name for name in self._state.nodes if name > query.page)
        if selector:
            names = [name for name in names if matches_all(selector, self._state.nodes[name].info.labels or {})]
        page: list[NodeState] = []
        size = 0
        for name in names[:limit]:
            row = self.node_state(name)
            size += len(msgspec.json.encode(row)) + 1
            if size > api.PAGE_BYTES_MAX and page:
                break
            page.append(row)
        last = page[-1].info.node_id if len(page) < len(names) else ""
        return api.NodePage(nodes=page, next_page=last)

    def node(self, ref: str) -> api.NodeFull:
        """Return a node, by its id or a unique start of it, with its live executions."""
        name = self._resolve(ref)
        state = self._state
        live = [state.executions[x] for x in list(state.use(name).live)[:NODE_EXECUTIONS_MAX]]
        shown = [execution_of(each, state.jobs[each.j].spec.task.name) for each in live if each.j in state.jobs]
        return api.NodeFull(node=self.node_state(name), executions=shown)

    def _resolve(self, ref: str) -> str:
        nodes = self._state.nodes
        if ref in nodes:
            return ref
        found = sorted(name for name in nodes if ref and name.startswith(ref))
        if not found:
            raise errors.NotFound(f"node not found: {ref}", hint="bacalhau-tui node list shows nodes")
        if len(found) > 1:
            some = ", ".join(found[:3])
            raise errors.Conflict(f"multiple nodes found for {ref}: {some}", hint="use the full node id")
        return found[0]

    # ── cluster ───────────────────────────────────────────────────────────────────────────────────────────────────

    def info(self) -> api.ClusterInfo:
        """Return what the core knows of the cluster; finished jobs are the query side's to count."""
        state, disk = self._state, self._context.disk
        reason = ""
        if disk.low:
            reason = f"{disk.path} has {format_bytes(disk.free_bytes)} free"
        return api.ClusterInfo(
            cluster=state.cluster,
            version=self._version,
            orchestrator=self._node,
            term=state.term,
            log_position=self._loop.chain.event,
            applied_position=self._context.recall.position,
            parked=[api.ParkedInput(at=each.at, what=each.what, error=each.error) for each in self._loop.parked],
            jobs=dict(Counter(str(job.state) for job in state.jobs.values())),
            nodes=dict(Counter(str(node.connection) for node in state.nodes.values())),
            disk_free_bytes=disk.free_bytes,
            disk_min_free_bytes=disk.min_free_bytes,
            accepting=not disk.low,
            reason=reason,
        )
