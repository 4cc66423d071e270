"""`job describe`: all about a job on one page."""

from __future__ import annotations

import time

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.watch import execution_row
from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.job_show import print_history, print_job
from bacalhau_tui.cli.lazy import command, job_argument, namespace_option
from bacalhau_tui.cli.output import Output
from bacalhau_tui.data.tables import EXECUTIONS

EXECUTIONS_SHOWN_MAX = 20  # whose own history and output are printed; the table has all


@command("describe")
@job_argument
@namespace_option
def describe(context: Context, *, job: str, namespace: str | None) -> int:
    """Print a job, its executions, its history, and the beginning of its output."""

    async def work(client: Client) -> int:
        where = context.namespace(namespace)
        full = await client.get_job(job, namespace=where)
        executions = await client.list_executions(full.job.id, namespace=where)
        query = m.HistoryQuery(job=full.job.id, namespace=where, limit=m.PAGE_ROWS_MAX)
        history = (await client.job_history(query)).items
        if context.machine:
            context.out.value(
                {
                    "Job": full.job,
                    "Executions": {"Items": executions.executions},
                    "History": {"Items": history},
                    "Phases": executions.phases,
                }
            )
        else:
            _print(context.out, full, executions, history)
        return 0

    return context.run(work)


def _print(out: Output, full: m.JobFull, page: m.ExecutionPage, history: list[JobHistory]) -> None:
    print_job(out, full.job)
    newest = sorted(page.executions, key=lambda one: -one.create_time)
    rows = [execution_row(one, page.phases.get(one.id)) for one in newest]
    if rows:
        _title(out, "Summary")
        states = [row.state for row in rows]
        out.pairs([(state, str(states.count(state))) for state in dict.fromkeys(states)])
    _title(out, "Job history")
    print_history(out, [item for item in history if not isinstance(item.execution_id, str)], executions=False)
    if rows:
        _title(out, "Executions")
        out.rows(EXECUTIONS, rows, time.time_ns(), wide=False)
    for execution in newest[:EXECUTIONS_SHOWN_MAX]:
        own = [item for item in history if item.execution_id == execution.id]
        if own:
            _title(out, f"Execution {short_id(execution.id)}: history")
            print_history(out, own, executions=False)
        _print_output(out, execution)


def _title(out: Output, text: str) -> None:
    out.line()
    out.line(text)


def _print_output(out: Output, execution: Execution) -> None:
    output = execution.run_output
    if output is None:
        return
    for name, text, cut in (
        ("standard output", output.stdout, output.stdout_truncated),
        ("standard error", output.stderr, output.stderr_truncated),
    ):
        if text:
            _title(out, f"Execution {short_id(execution.id)}: {name}" + (" (its beginning)" if cut else ""))
            for line in text.splitlines():
                out.line(line)
