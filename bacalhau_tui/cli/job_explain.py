"""`job explain`: why a job waits or runs where it does, or where a file would run."""

from __future__ import annotations

import click

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.job_file import read_job
from bacalhau_tui.cli.lazy import command, namespace_option
from bacalhau_tui.cli.output import Head
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell


@command("explain")
@click.argument("job", required=False, default="")
@click.option("--file", metavar="FILE|-", default="", help="Of a job file instead: where would it run now?")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change the file's job.")
@click.option("-V", "--var", "variables", multiple=True, metavar="NAME=VALUE", help="Value of {{.NAME}}.")
@namespace_option
def explain(
    context: Context,
    *,
    job: str,
    file: str,
    changes: tuple[str, ...],
    variables: tuple[str, ...],
    namespace: str | None,
) -> int:
    """Say for each node what fits and what does not: required, actual, and what helps. Nearest misses first."""
    if bool(job) == bool(file):
        raise errors.UsageError("name a job or a --file", hint="job explain j-849169ae")
    spec = read_job(file, settings=changes, variables=variables).job if file else None
    request = m.JobExplain(spec=spec, job=job, namespace=context.namespace(namespace))

    async def work(client: Client) -> int:
        explanation = await client.explain(request)
        if context.machine:
            context.out.value(explanation)
            return 0
        out = context.out
        for line in (explanation.summary or f"{explanation.matching} of {len(explanation.nodes)} nodes fit").split(
            "\n"
        ):
            out.line(line)
        rows = [row for node in nearest_first(explanation.nodes) for row in _rows(node)]
        if rows:
            heads = [Head("NODE", middle=True), Head("CHECK"), Head("REQUIRED", flexible=True)]
            out.table([*heads, Head("ACTUAL", flexible=True), Head("HINT", flexible=True)], rows)
        out.say(f"as of {fmt.moment(explanation.as_of)}; what was recorded when it was placed: -o json")
        return 0

    return context.run(work)


def nearest_first(nodes: list[m.NodeFindings]) -> list[m.NodeFindings]:
    """Sort: nodes that fit by score, then those with the fewest findings against them, permanent ones last."""

    def key(node: m.NodeFindings) -> tuple[bool, int, int, int, str]:
        against = [finding for finding in node.findings if not finding.passed]
        return not node.fits, sum(one.permanent for one in against), len(against), -node.score, node.node_id

    return sorted(nodes, key=key)


def _rows(node: m.NodeFindings) -> list[list[Cell | str]]:
    name = short_id(node.node_id)
    if node.fits:
        return [[name, Cell("fits", fmt.Tone.GOOD), "", f"score {node.score}", ""]]
    return [
        [
            name,
            Cell(fmt.clean(finding.check), fmt.Tone.BAD if finding.permanent else fmt.Tone.WAITING),
            finding.required,
            finding.actual,
            finding.hint or ("" if finding.permanent else "may pass by itself"),
        ]
        for finding in node.findings
        if not finding.passed
    ]
