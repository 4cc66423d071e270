"""`node list`, `get`, `invite`."""

from __future__ import annotations

import time

import click

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.watch import execution_row
from bacalhau_protocol.models.node import NodeState
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import command
from bacalhau_tui.cli.output import Output
from bacalhau_tui.cli.parsing import duration_s
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.node_table import NODES, labels_text, node_state
from bacalhau_tui.data.tables import EXECUTIONS


@command("list")
@click.option("--labels", default="", metavar="SELECTOR", help="For instance zone=a,tier!=web.")
@click.option("--wide", is_flag=True, help="All columns.")
def list_nodes(context: Context, *, labels: str, wide: bool) -> int:
    """List the nodes that the cluster knows."""

    async def work(client: Client) -> int:
        page, nodes = "", []
        while True:
            answer = await client.list_nodes(m.NodeQuery(labels=labels, page=page))
            nodes += answer.nodes
            page = answer.next_page
            if not page:
                break
        if context.machine:
            context.out.value(nodes)
        else:
            context.out.rows(NODES, nodes, time.time_ns(), wide=wide)
        return 0

    return context.run(work)


@command("get")
@click.argument("node")
def get(context: Context, *, node: str) -> int:
    """Print a node; with -o json or yaml as Bacalhau's API does."""

    async def work(client: Client) -> int:
        full = await client.get_node(node)
        if context.machine:
            context.out.value(full.node)
        else:
            _print(context.out, full)
        return 0

    return context.run(work)


def _print(out: Output, full: m.NodeFull) -> None:
    node, info = full.node, full.node.info.compute_node_info
    link = node.connection_state
    out.pairs(
        [
            ("ID", node.info.node_id),
            ("Type", node.info.node_type.value),
            ("State", node_state(node)),
            ("Membership", node.membership),
            ("Last heartbeat", fmt.moment(fmt.nanoseconds(link.last_heartbeat))),
            ("Connected since", fmt.moment(fmt.nanoseconds(link.connected_since))),
            ("Last error", link.last_error if isinstance(link.last_error, str) else ""),
            ("Version", node.info.version.git_version),
            ("Labels", labels_text(node.info.labels)),
            ("Engines", ", ".join(info.execution_engines or ())),
            ("Inputs", ", ".join(info.storage_sources or ())),
            ("Publishers", ", ".join(info.publishers or ())),
            *(("Lacks", f"{what}: {why}") for what, why in (info.unavailable or {}).items()),
            ("Free", _amounts(node)),
            ("Running", str(info.running_executions)),
        ]
    )
    if full.executions:
        out.line()
        out.rows(EXECUTIONS, [execution_row(one) for one in full.executions], time.time_ns(), wide=False)


def _amounts(node: NodeState) -> str:
    free, most = node.info.compute_node_info.available_capacity, node.info.compute_node_info.max_capacity
    parts = [
        f"CPU {fmt.cores(free.cpu)} of {fmt.cores(most.cpu)}" if most.cpu else "",
        f"memory {format_bytes(free.memory)} of {format_bytes(most.memory)}" if most.memory else "",
        f"disk {format_bytes(free.disk)} of {format_bytes(most.disk)}" if most.disk else "",
        f"GPU {free.gpu} of {most.gpu}" if most.gpu else "",
    ]
    return ", ".join(part for part in parts if part)


@command("invite")
@click.option("--name", default="", help="The node's id; it chooses one by default.")
@click.option(
    "--ttl", type=duration_s, default="24h", show_default=True, metavar="TIME", help="When it must have joined."
)
@click.option("--foreign", is_flag=True, help="For an unmodified Bacalhau 1.9 node.")
def invite(context: Context, *, name: str, ttl: float, foreign: bool) -> int:
    """Make a token that lets a node join, and print it. Who has it can join, so keep it to yourself."""

    async def work(client: Client) -> int:
        invited = await client.invite_node(m.NodeInvite(name=name, ttl_s=int(ttl), foreign=foreign))
        if context.machine:
            context.out.value(invited)
        else:
            context.out.line(invited.token)
            context.out.say(f"good until {fmt.moment(invited.expires)} UTC; on the other machine:\n  {invited.command}")
        return 0

    return context.run(work)
