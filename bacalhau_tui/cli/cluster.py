"""`cluster info` and `version`."""

from __future__ import annotations

from importlib import metadata

import click

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command
from bacalhau_tui.data import format as fmt


@command("info")
def info(context: Context) -> int:
    """Say how the cluster is: leader, log, jobs, nodes, disk."""

    async def work(client: Client) -> int:
        info = await client.cluster_info()
        if context.machine:
            context.out.value(info)
            return 0
        context.out.pairs(
            [
                ("Cluster", info.cluster),
                ("Version", info.version),
                ("Orchestrator", f"{info.orchestrator}, term {info.term}"),
                ("Log", f"{fmt.count(info.log_position)} events, {fmt.count(info.applied_position)} applied"),
                ("Jobs", _counts(info.jobs)),
                ("Nodes", _counts(info.nodes)),
                ("Disk", f"{format_bytes(info.disk_free_bytes)} free, {format_bytes(info.disk_min_free_bytes)} needed"),
                ("Accepting", "yes" if info.accepting else f"no: {info.reason}"),
                ("Parked", str(len(info.parked)) if info.parked else ""),
            ]
        )
        for parked in info.parked:
            context.out.say(f"parked {fmt.moment(parked.at)}: {parked.what}: {parked.error}")
        return 0

    return context.run(work)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{fmt.count(number)} {name.lower()}" for name, number in counts.items() if number)


@command("version")
@click.option("--client", "client_only", is_flag=True, help="Of this program only.")
def version(context: Context, *, client_only: bool) -> int:
    """Print the versions of this program and of the cluster."""
    own = metadata.version("bacalhau-tui")
    versions = {"ClientVersion": own, "ServerVersion": ""}
    code = 0
    if not client_only:

        async def ask(client: Client) -> int:
            versions["ServerVersion"] = (await client.cluster_info()).version
            return 0

        try:
            context.run(ask)
        except errors.BacalhauError as error:
            context.out.say(f"error: the cluster does not say its version: {error}")
            code = error.exit_code
    if context.machine:
        context.out.value(versions)
    else:
        context.out.pairs([("Client", own), ("Server", versions["ServerVersion"])])
    return code
