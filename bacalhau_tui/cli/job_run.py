"""`job run` and `job validate`."""

from __future__ import annotations

import click

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.spec import NOT_SETTABLE, ParsedSpec
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.job_file import read_job
from bacalhau_tui.cli.job_logs import print_logs
from bacalhau_tui.cli.lazy import command, namespace_option
from bacalhau_tui.cli.output import as_yaml
from bacalhau_tui.cli.parsing import duration_s
from bacalhau_tui.cli.waiting import wait_for_job

_set = click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the job: Tasks[0].Name=a.")
_variables = click.option("-V", "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of {{.NAME}}.")
_no_template = click.option("--no-template", is_flag=True, help="Leave {{…}} in the file as it is.")


@command("run")
@click.argument("file", metavar="FILE|-")
@_set
@_variables
@_no_template
@namespace_option
@click.option("--wait", is_flag=True, help="Wait for the end; print state, nodes, phases, exit codes.")
@click.option("-f", "--follow", is_flag=True, help="Print the logs until the end.")
@click.option("--timeout", type=duration_s, default="0", metavar="TIME", help="Wait at most so long, for instance 10m.")
@click.option("--dry-run", is_flag=True, help="Print the job as it would be stored; change nothing.")
@click.option("--force", is_flag=True, help="Make a new version also when nothing changed.")
@click.option("--request-id", default="", metavar="ID", help="Sent again with the same id within a day: one job.")
def run(
    context: Context,
    *,
    file: str,
    changes: tuple[str, ...],
    variables: tuple[str, ...],
    no_template: bool,
    namespace: str | None,
    wait: bool,
    follow: bool,
    timeout: float,
    dry_run: bool,
    force: bool,
    request_id: str,
) -> int:
    """Submit a job (YAML or JSON) and print its id."""
    if namespace:
        changes = (*changes, f"Namespace={namespace}")
    parsed = read_job(file, settings=changes, variables=variables, template=not no_template)
    _say_warnings(context, parsed)

    async def submit(client: Client) -> int:
        submitted = await client.submit_job(parsed.job, force=force, dry_run=dry_run, request_id=request_id)
        for warning in submitted.warnings:
            context.out.say(f"warning: {warning}")
        if dry_run:
            _print_job(context, submitted.job or parsed.job)
            return 0
        where = submitted.job.namespace if submitted.job else parsed.job.namespace or "default"
        if follow or wait:
            context.out.say(f"job {submitted.job_id} submitted; ^C leaves it running")
        if follow:
            return await print_logs(context, client, submitted.job_id, namespace=where, timeout_s=timeout)
        if wait:
            return await wait_for_job(context, client, submitted.job_id, where, timeout)
        _print_submitted(context, submitted)
        return 0

    return context.run(submit)


def _print_submitted(context: Context, submitted: m.JobSubmitted) -> None:
    if context.machine:
        context.out.value(submitted)
        return
    context.out.line(submitted.job_id)
    context.out.say(f"submitted, version {submitted.version}; follow it: job logs -f {short_id(submitted.job_id)}")


def _say_warnings(context: Context, parsed: ParsedSpec) -> None:
    for warning in parsed.warnings:
        context.out.say(f"warning: {warning}")


def _print_job(context: Context, job: object) -> None:
    """Print a job as a job file: without what only the orchestrator sets."""
    import msgspec  # noqa: PLC0415

    fields = {key: value for key, value in msgspec.to_builtins(job).items() if key not in NOT_SETTABLE}
    if context.out.format == "json":
        context.out.value(fields)
    else:
        for line in as_yaml(fields).splitlines():
            context.out.line(line)


@command("validate")
@click.argument("file", metavar="FILE|-")
@_set
@_variables
@_no_template
@click.option("--remote", is_flag=True, help="Have the cluster check it too, and print the job as it would be stored.")
def validate(
    context: Context,
    *,
    file: str,
    changes: tuple[str, ...],
    variables: tuple[str, ...],
    no_template: bool,
    remote: bool,
) -> int:
    """Check a job file: every error at once, each with its place. Needs no cluster."""
    parsed = read_job(file, settings=changes, variables=variables, template=not no_template)
    _say_warnings(context, parsed)
    if not remote:
        if context.machine:
            _print_job(context, parsed.job)
        else:
            context.out.line("OK")
        return 0

    async def check(client: Client) -> int:
        validated = await client.validate_job(parsed.job)
        for warning in validated.warnings:
            context.out.say(f"warning: {warning}")
        _print_job(context, validated.job)
        return 0

    return context.run(check)
