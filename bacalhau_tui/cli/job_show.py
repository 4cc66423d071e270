"""`job list`, `get`, `executions`, `history`, `stop`."""

from __future__ import annotations

import time

import click
import msgspec

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.watch import execution_row
from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.job import Job
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command, job_argument, namespace_option
from bacalhau_tui.cli.output import Head, Output
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.node_table import labels_text
from bacalhau_tui.data.tables import EXECUTIONS, JOBS

STATES = ["Pending", "Queued", "Running", "Completed", "Failed", "Stopped"]


@command("list")
@click.option("--namespace", default="", metavar="NAME", help="Of one namespace; all by default.")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False), help="Repeatable.")
@click.option("--type", "types", multiple=True, help="batch, ops, daemon, service; repeatable.")
@click.option("--labels", default="", metavar="SELECTOR", help="For instance env=prod,tier!=web.")
@click.option("--text", default="", help="Part of the id or the name.")
@click.option("--order-by", type=click.Choice(["created", "modified", "name", "priority"]), default="created")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--limit", type=click.IntRange(1, m.PAGE_ROWS_MAX), default=50, show_default=True)
@click.option("--next", "page", default="", metavar="TOKEN", help="Go on where the page before ended.")
@click.option("--wide", is_flag=True, help="All columns.")
def list_jobs(
    context: Context,
    *,
    namespace: str,
    states: tuple[str, ...],
    types: tuple[str, ...],
    labels: str,
    text: str,
    order_by: str,
    reverse: bool,
    limit: int,
    page: str,
    wide: bool,
) -> int:
    """List jobs, newest first."""
    wanted = m.JobQuery(
        namespace=namespace,
        states=list(states),
        types=list(types),
        labels=labels,
        text=text,
        order_by=order_by,
        reverse=reverse,
        limit=limit,
        page=page,
    )

    async def work(client: Client) -> int:
        answer = await client.list_jobs(wanted)
        if context.machine:
            context.out.value([_as_job(row) for row in answer.jobs])
        else:
            context.out.rows(JOBS, answer.jobs, time.time_ns(), wide=wide)
        if answer.next_page:
            context.out.say(f"{fmt.count(answer.total)} in all; more: job list --next {answer.next_page}")
        return 0

    return context.run(work)


def _as_job(row: m.JobRow) -> dict[str, object]:
    """Return a row with the names and the nesting of Bacalhau's Job, and what only we know behind."""
    return {
        "ID": row.id,
        "Name": row.name,
        "Namespace": row.namespace,
        "Type": row.type,
        "Priority": row.priority,
        "Count": row.count,
        "State": {"StateType": row.state, **({"Message": row.message} if row.message else {})},
        "Version": row.version,
        "CreateTime": row.created,
        "ModifyTime": row.modified,
        "EndTime": row.ended,
        "Engine": row.engine,
        "Executions": {"Running": row.running, "Completed": row.completed, "Failed": row.failed},
        "SubmittedBy": row.by,
    }


@command("get")
@job_argument
@namespace_option
@click.option("--version", type=int, default=0, help="An older version.")
def get(context: Context, *, job: str, namespace: str | None, version: int) -> int:
    """Print a job; with -o json or yaml as Bacalhau's API does."""

    async def work(client: Client) -> int:
        full = await client.get_job(job, namespace=context.namespace(namespace), version=version)
        if context.machine:
            context.out.value(full.job)
        else:
            print_job(context.out, full.job)
        return 0

    return context.run(work)


def print_job(out: Output, job: Job) -> None:
    """Print what a person wants to know first."""
    engine = job.tasks[0].engine.type if job.tasks and job.tasks[0].engine else ""
    out.pairs(
        [
            ("ID", job.id),
            ("Name", job.name if job.name != job.id else ""),
            ("Namespace", job.namespace),
            ("Type", job.type),
            ("Engine", engine),
            ("State", job.state.state_type.value),
            ("Message", job.state.message if isinstance(job.state.message, str) else ""),
            ("Count", str(job.count) if job.count and job.type in ("batch", "service") else ""),
            ("Priority", str(job.priority) if job.priority else ""),
            ("Labels", labels_text(job.labels)),
            ("Created", fmt.moment(job.create_time)),
            ("Modified", fmt.moment(job.modify_time)),
            ("Version", str(job.version)),
        ]
    )


@command("executions")
@job_argument
@namespace_option
@click.option("--version", type=int, default=0, help="Of one version.")
@click.option("--wide", is_flag=True, help="All columns.")
def executions(context: Context, *, job: str, namespace: str | None, version: int, wide: bool) -> int:
    """List a job's executions with what they do now."""

    async def work(client: Client) -> int:
        where, page, found, phases = context.namespace(namespace), "", [], {}
        while True:
            answer = await client.list_executions(job, namespace=where, version=version, page=page)
            found += answer.executions
            phases.update(answer.phases)
            page = answer.next_page
            if not page:
                break
        if context.machine:
            context.out.value(found)
        else:
            rows = sorted(
                (execution_row(one, phases.get(one.id)) for one in found), key=lambda row: (row.partition, row.created)
            )
            context.out.rows(EXECUTIONS, rows, time.time_ns(), wide=wide)
        return 0

    return context.run(work)


@command("history")
@job_argument
@namespace_option
@click.option("-e", "--execution", default="", metavar="ID", help="Of one execution.")
@click.option("--after", type=int, default=0, metavar="SEQNUM", help="What came after this event.")
@click.option("--limit", type=click.IntRange(1, m.PAGE_ROWS_MAX), default=m.PAGE_ROWS_DEFAULT, show_default=True)
def history(context: Context, *, job: str, namespace: str | None, execution: str, after: int, limit: int) -> int:
    """Print what happened to a job, oldest first."""
    query = m.HistoryQuery(
        job=job, namespace=context.namespace(namespace), execution=execution, after=after, limit=limit
    )

    async def work(client: Client) -> int:
        page = await client.job_history(query)
        if context.machine:
            context.out.value(page.items)
        else:
            print_history(context.out, page.items)
        if page.next_after:
            context.out.say(f"more: job history {job} --after {page.next_after}")
        return 0

    return context.run(work)


def print_history(out: Output, items: list[JobHistory], *, executions: bool = True) -> None:
    """Print history as a table; errors and hints are in the words."""
    heads = [Head("TIME"), *([Head("EXECUTION")] if executions else []), Head("TOPIC"), Head("EVENT", flexible=True)]
    rows = []
    for item in items:
        execution = short_id(item.execution_id) if isinstance(item.execution_id, str) else ""
        at = fmt.moment(fmt.nanoseconds(item.time))
        rows.append([at, *([execution] if executions else []), item.event.topic, event_text(item)])
    out.table(heads, rows)


def event_text(item: JobHistory) -> str:
    """Return an event's words, as Bacalhau's command line puts them: `Error: …`, `Hint: …`."""
    details = item.event.details if isinstance(item.event.details, dict) else {}
    prefix = "Error: " if details.get("IsError") == "true" else ""
    hint = f"; Hint: {details['Hint']}" if details.get("Hint") else ""
    return f"{prefix}{item.event.message}{hint}"


@command("stop")
@job_argument
@namespace_option
@click.option("--reason", default="", help="Is kept in the job's history.")
def stop(context: Context, *, job: str, namespace: str | None, reason: str) -> int:
    """Stop a job and all of its executions; print its id."""

    async def work(client: Client) -> int:
        answer = await client.stop_job(job, namespace=context.namespace(namespace), reason=reason)
        if context.machine:
            context.out.value(msgspec.to_builtins(answer))
        else:
            context.out.line(answer.job_id)
            context.out.say("stopping" if answer.evaluation_id else "it had been stopped before")
        return 0

    return context.run(work)
