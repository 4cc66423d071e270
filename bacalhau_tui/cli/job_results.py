"""`job results`: download what a job left."""

from __future__ import annotations

import time
from pathlib import Path

import click
import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.results import Fetched, FetchedJob, FetchProgress, fetch_results
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command, job_argument, namespace_option

PROGRESS_S = 0.2


@command("results")
@job_argument
@namespace_option
@click.option("-d", "--dir", "directory", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("-e", "--execution", default="", metavar="ID", help="One execution only.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there with other content.")
def results(
    context: Context, *, job: str, namespace: str | None, directory: Path | None, execution: str, overwrite: bool
) -> int:
    """Download a job's results into DIR (./job-JOB by default) and print where they are.

    One execution's files lie in DIR itself: stdout, stderr, exitCode, and a directory per output. Of several
    executions each has a directory in DIR. Every file's SHA-256 is checked. What is there already is not fetched
    again; after an interruption the same command fetches the rest.
    """
    place = directory or Path(f"job-{job.replace('/', '_')}")
    meter = _Meter(context)

    async def work(client: Client) -> int:
        try:
            done = await fetch_results(
                client,
                job,
                place,
                namespace=context.namespace(namespace),
                execution=execution,
                overwrite=overwrite,
                progress=meter.take,
            )
        finally:
            context.out.progress_end()
        return _print(context, done)

    return context.run(work)


class _Meter:
    """One line on a terminal, some times a second."""

    def __init__(self, context: Context) -> None:
        self._out = context.out
        self._shown_at = 0.0

    def take(self, progress: FetchProgress) -> None:
        """Show how far it is."""
        now = time.monotonic()
        if now - self._shown_at >= PROGRESS_S:
            self._shown_at = now
            of = f" of {format_bytes(progress.total_bytes)}" if progress.total_bytes else ""
            where = short_id(progress.execution_id)
            self._out.progress(f"{where}: {format_bytes(progress.done_bytes)}{of}  {progress.path}")


def _print(context: Context, done: FetchedJob) -> int:
    out = context.out
    if context.machine:
        out.value({"JobID": done.job_id, "State": done.state, "Fetched": [_as_value(one) for one in done.fetched]})
    for one in done.fetched:
        if not context.machine:
            out.line(str(one.directory))
        code = f", exit code {one.exit_code}" if one.exit_code is not None else ""
        out.say(
            f"{short_id(one.execution_id)} on {short_id(one.node_id)}: {one.files} files, "
            f"{format_bytes(one.size_bytes)} ({format_bytes(one.received_bytes)} received now){code}"
        )
        for skipped in one.skipped:
            out.say(f"  left out: {skipped} (it points out of the results)")
    for left in done.not_fetched:
        out.say(f"{short_id(left.execution_id)}: {left.reason}")
        if left.result.get("Type"):
            out.say(msgspec.json.format(msgspec.json.encode(left.result), indent=2).decode())
    return 0 if done.fetched else errors.NotFound.exit_code


def _as_value(fetched: Fetched) -> dict[str, object]:
    return {
        "ExecutionID": fetched.execution_id,
        "NodeID": fetched.node_id,
        "Partition": fetched.partition,
        "State": fetched.state,
        "Directory": str(fetched.directory),
        "ExitCode": fetched.exit_code,
        "Files": fetched.files,
        "Bytes": fetched.size_bytes,
        "ReceivedBytes": fetched.received_bytes,
        "LeftOut": list(fetched.skipped),
    }
