"""`job logs`: the logs of all executions, merged."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TextIO

import click

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.logs import LineCutter, LogEnd, LogLine, LogNote, LogPiece, LogSource, follow_logs
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command, job_argument, namespace_option
from bacalhau_tui.cli.output import write
from bacalhau_tui.cli.parsing import size_bytes
from bacalhau_tui.data import format as fmt


@command("logs")
@job_argument
@namespace_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends; exit as the job did.")
@click.option("-e", "--execution", default="", metavar="ID", help="One execution only.")
@click.option(
    "--tail", type=size_bytes, default="0", metavar="SIZE", help="Begin so far before the end, for instance 64kB."
)
@click.option("-t", "--timestamps", is_flag=True, help="Before each line when it came (UTC).")
def logs(
    context: Context, *, job: str, namespace: str | None, follow: bool, execution: str, tail: int, timestamps: bool
) -> int:
    """Print the logs of a job's executions: stdout to stdout, stderr to stderr.

    Several executions are merged by line, each line behind the execution and its node.
    """

    async def work(client: Client) -> int:
        return await print_logs(
            context,
            client,
            job,
            namespace=context.namespace(namespace),
            execution=execution,
            follow=follow,
            tail_bytes=tail,
            timestamps=timestamps,
        )

    return context.run(work)


async def print_logs(
    context: Context,
    client: Client,
    job: str,
    *,
    namespace: str,
    execution: str = "",
    follow: bool = True,
    tail_bytes: int = 0,
    timestamps: bool = False,
    timeout_s: float = 0,
) -> int:
    """Print logs until their end; return the job's exit status when it was followed, else 0.

    Raises
    ------
    TimedOut
        when the job has not ended within `timeout_s` (0: no limit).
    """
    printer = _Printer(context, timestamps=timestamps)
    events = follow_logs(client, job, namespace=namespace, execution=execution, follow=follow, tail_bytes=tail_bytes)
    status = 0
    try:
        async with asyncio.timeout(timeout_s or None), contextlib.aclosing(events):
            async for event in events:
                match event:
                    case LogSource():
                        printer.source()
                    case LogPiece():
                        printer.piece(event)
                    case LogNote(text=text):
                        context.out.say(text)
                    case LogEnd(job=update):
                        printer.finish()
                        status = update.exit_status if follow else 0
                        if follow and (update.state != "Completed" or status):
                            why = f": {update.message}" if update.message else ""
                            context.out.say(f"job {update.id}: {update.state}, exit code {status}{why}")
    except TimeoutError as error:
        raise errors.TimedOut(
            f"job {job} has not ended within {timeout_s:g} s", hint=f"it goes on: job logs -f {short_id(job)}"
        ) from error
    return status


class _Printer:
    """Writes bytes as they are while there is one execution, no terminal and nothing to add; else line by line."""

    def __init__(self, context: Context, *, timestamps: bool) -> None:
        self._terminal = context.out.terminal
        self._timestamps = timestamps
        self._cutter = LineCutter()
        self._sources = 0
        self._raw = not self._terminal and not timestamps
        self._open_line = False

    def source(self) -> None:
        """Take note of one more execution; when there are several, each line says whose it is."""
        self._sources += 1
        if self._raw and self._sources > 1:
            self._raw = False
            if self._open_line:
                sys.stdout.write("\n")

    def piece(self, piece: LogPiece) -> None:
        """Write a piece, or the lines that it completes."""
        if self._raw:
            self._open_line = not piece.data.endswith(b"\n")
            stream = _stream(piece.stream)
            stream.buffer.write(piece.data)
            stream.flush()
            return
        for line in self._cutter.feed(piece):
            self._write(line)

    def finish(self) -> None:
        """Write lines without an end."""
        for line in self._cutter.finish():
            self._write(line)

    def _write(self, line: LogLine) -> None:
        prefix = f"{fmt.clock(line.at)} " if self._timestamps else ""
        if self._sources > 1:
            prefix += f"{short_id(line.execution_id)} {short_id(line.node_id)} | "
        text = fmt.clean_lines(line.text) if self._terminal else line.text
        write(_stream(line.stream), f"{prefix}{text}\n")


def _stream(name: str) -> TextIO:
    return sys.stderr if name == "stderr" else sys.stdout
