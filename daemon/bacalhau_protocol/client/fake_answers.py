"""How a `FakeOrchestrator` answers each verb from what its test has said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.states import ComputeStateType, JobStateType


def _job(fake: FakeOrchestrator, name: str) -> Job:
    for job in fake.jobs.values():
        if name in (job.id, job.name):
            return job
    found = [job for job in fake.jobs.values() if job.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    raise errors.NotFound(f"no job {name!r}", hint="bacalhau-tui job list")


def _submit(fake: FakeOrchestrator, request: m.JobSubmit) -> m.JobSubmitted:
    if request.dry_run:
        return m.JobSubmitted(job_id="", evaluation_id="", version=1, job=request.job, warnings=["dry"])
    job_id = fake.add_job(job=request.job)
    if fake.on_submit is not None:
        fake.on_submit(job_id)
    return m.JobSubmitted(job_id=job_id, evaluation_id="v-1", version=1)


def _stop(fake: FakeOrchestrator, request: m.JobRef) -> m.StopAnswer:
    job = _job(fake, request.job)
    if job.state.state_type.terminal:
        raise errors.Conflict(f"job {job.id} is {job.state.state_type.value} already")
    fake.set_job(job.id, JobStateType.STOPPED, request.reason)
    return m.StopAnswer(job_id=job.id, evaluation_id="v-2")


def _executions(fake: FakeOrchestrator, request: m.JobRef) -> m.ExecutionPage:
    job = _job(fake, request.job)
    executions = [execution for execution in fake.executions.values() if execution.job_id == job.id]
    phases = {one.id: fake.phases[one.id] for one in executions if one.id in fake.phases}
    return m.ExecutionPage(executions=executions, phases=phases)


def _get(fake: FakeOrchestrator, request: m.JobRef) -> m.JobFull:
    return m.JobFull(job=_job(fake, request.job), executions=_executions(fake, request).executions)


def _list(fake: FakeOrchestrator, query: m.JobQuery) -> m.JobPage:
    rows = [fake.job_row(job_id) for job_id in fake.jobs]
    rows = [row for row in rows if (not query.states or row.state in query.states) and query.text in row.name + row.id]
    rows.sort(key=lambda row: row.created, reverse=not query.reverse)
    start = int(query.page or "0")
    more = str(start + query.limit) if start + query.limit < len(rows) else ""
    return m.JobPage(jobs=rows[start : start + query.limit], next_page=more, total=len(rows))


def _history(fake: FakeOrchestrator, query: m.HistoryQuery) -> m.HistoryPage:
    job = _job(fake, query.job)
    items = [item for item in fake.history if item.job_id == job.id and item.seq > query.after]
    more = items[query.limit - 1].seq if len(items) > query.limit else 0
    return m.HistoryPage(items=items[: query.limit], next_after=more)


def _explain(fake: FakeOrchestrator, request: m.JobExplain) -> m.Explanation:
    nodes = [
        m.NodeFindings(
            node_id=node_id,
            fits=state.connection == "CONNECTED",
            findings=[
                m.Finding(check="engine", passed=True, required="wasm", actual="noop, wasm"),
                m.Finding(
                    check="connection",
                    passed=state.connection == "CONNECTED",
                    required="connected",
                    actual=state.connection.lower(),
                    hint="start the daemon on that machine",
                ),
            ],
        )
        for node_id, state in fake.node_states.items()
    ]
    fits = sum(node.fits for node in nodes)
    return m.Explanation(as_of=fake.now, matching=fits, nodes=nodes, summary=f"{fits} of {len(nodes)} nodes fit")


_MAY_HAVE_LEFT_SOMETHING = (
    ComputeStateType.BID_ACCEPTED,
    ComputeStateType.RUNNING,
    ComputeStateType.PUBLISHING,
    ComputeStateType.COMPLETED,
    ComputeStateType.FAILED,
    ComputeStateType.CANCELLED,
)


def _access(fake: FakeOrchestrator, request: m.TicketRequest) -> m.AccessPage:
    job = _job(fake, request.job)
    executions = [
        m.Access(
            execution_id=one.id,
            node_id=one.node_id,
            state=one.compute_state.state_type.label,
            partition=one.partition_index if isinstance(one.partition_index, int) else 0,
            ticket=f"ticket-{one.id}" if one.compute_state.state_type in _MAY_HAVE_LEFT_SOMETHING else "",
            result=msgspec.to_builtins(one.published_result),
            exit_code=one.run_output.exit_code if one.run_output else 0,
        )
        for one in fake.executions.values()
        if one.job_id == job.id and one.id.startswith(request.execution)
    ]
    if request.execution and not executions:
        raise errors.NotFound(f"job {job.id} has no execution {request.execution!r}")
    return m.AccessPage(job_id=job.id, state=job.state.state_type.value, executions=executions)


def _kept(fake: FakeOrchestrator, query: m.KeptLogQuery) -> m.KeptLog:
    if query.execution not in fake.kept:
        raise errors.NotFound("no log of it was kept")
    return fake.kept[query.execution]


def _node(fake: FakeOrchestrator, request: m.NodeRef) -> m.NodeFull:
    found = [state for node_id, state in fake.node_states.items() if node_id.startswith(request.node)]
    if len(found) != 1:
        raise errors.NotFound(f"no node {request.node!r}", hint="bacalhau-tui node list")
    running = [one for one in fake.executions.values() if one.node_id == found[0].info.node_id]
    return m.NodeFull(node=found[0], executions=running)


def _invite(fake: FakeOrchestrator, request: m.NodeInvite) -> m.NodeInvited:
    command = "bacalhau-daemon --compute --join bacalhau-join-abc"
    return m.NodeInvited(token="bacalhau-join-abc", expires=fake.now + request.ttl_s * 10**9, command=command)  # noqa: S106


def _issue(fake: FakeOrchestrator, request: m.CredentialIssue) -> m.CredentialIssued:
    fake.credentials.append(m.CredentialRow(identity=request.identity, role=request.role, created=fake.now))
    return m.CredentialIssued(identity=request.identity, role=request.role, secret=f"{request.identity}.secret")


def _revoke(fake: FakeOrchestrator, request: m.CredentialRevoke) -> m.Empty:
    fake.credentials = [
        msgspec.structs.replace(row, revoked=row.revoked or row.identity == request.identity)
        for row in fake.credentials
    ]
    return m.Empty()


def _info(fake: FakeOrchestrator, _: m.Empty) -> m.ClusterInfo:
    states = [job.state.state_type.value for job in fake.jobs.values()]
    return m.ClusterInfo(
        cluster="c-test",
        version="0.1.0",
        orchestrator="n-orchestrator",
        term=fake.term,
        log_position=fake.seq,
        applied_position=fake.seq,
        jobs={state: states.count(state) for state in states},
        nodes={"CONNECTED": len(fake.node_states)},
        disk_free_bytes=10**10,
        disk_min_free_bytes=256_000_000,
    )


ANSWERS: dict[str, Callable[[FakeOrchestrator, Any], m.Body]] = {
    "job.submit": _submit,
    "job.stop": _stop,
    "job.validate": lambda fake, request: m.JobValidated(job=request.job),
    "job.get": _get,
    "job.list": _list,
    "job.executions": _executions,
    "job.history": _history,
    "job.explain": _explain,
    "job.logs": _access,
    "job.results": _access,
    "job.keptlog": _kept,
    "node.list": lambda fake, query: m.NodePage(nodes=list(fake.node_states.values())),
    "node.get": _node,
    "node.invite": _invite,
    "credential.issue": _issue,
    "credential.revoke": _revoke,
    "credential.list": lambda fake, request: m.CredentialPage(credentials=fake.credentials),
    "cluster.info": _info,
}
