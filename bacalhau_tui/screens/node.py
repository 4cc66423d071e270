"""One node: what it is and has, and what runs there."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widget import Widget

from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import ExecutionRow
from bacalhau_protocol.client.watch import execution_row
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.format import clean, mark
from bacalhau_tui.data.node_table import labels_text, node_state
from bacalhau_tui.data.pages import node_page, paragraph
from bacalhau_tui.data.store import Table as Rows
from bacalhau_tui.data.tables import EXECUTIONS
from bacalhau_tui.data.view import TableView
from bacalhau_tui.keymap import bindings
from bacalhau_tui.screens.tabbed import TabbedFrame
from bacalhau_tui.widgets.bars import Part
from bacalhau_tui.widgets.page import PageView
from bacalhau_tui.widgets.table import Table

EXECUTIONS_MAX = 1_000
_OF_THE_MACHINE = ("name", "os_arch", "os_type")  # labels that every node has
RELOAD_S = 5.0


class NodeScreen(TabbedFrame, inherit_bindings=False):
    """The node's row comes from the store; its executions are asked for while they are seen."""

    TABS = ("overview", "executions")
    BINDINGS = bindings("node", "frame")

    def __init__(self, node: str) -> None:
        super().__init__()
        self.node = node
        self.error: errors.BacalhauError | None = None
        self.executions: Rows[ExecutionRow] = Rows(EXECUTIONS_MAX, lambda row: row.modified)

    def on_mount(self) -> None:
        """Keep what is soft fresh."""
        self.set_interval(RELOAD_S, self._reload_if_seen)
        self.reload()

    def make(self, name: str) -> Widget:
        """Make a tab's widget."""
        cluster = self.cluster
        if name == "overview":
            return PageView(cluster.look, id=name)
        view = TableView(self.executions, EXECUTIONS, cluster.pulse.wake)
        return Table(view, cluster.look, cluster.clock, empty="nothing runs there now", id=name)

    def _reload_if_seen(self) -> None:
        if self.app.screen is self and self.cluster.session.link.writable:
            self.reload()

    def reload(self) -> None:
        """Ask for the node."""
        self.background(self._load(), "load")

    async def _load(self) -> None:
        try:
            full = await self.cluster.session.require().get_node(self.node)
        except errors.BacalhauError as error:
            self.error = error
        else:
            self.error = None
            self.node = full.node.info.node_id
            store = self.cluster.store.nodes
            store.put(self.node, full.node, store.position)
            rows = {one.id: execution_row(one) for one in full.executions}
            self.executions.snapshot(rows, self.executions.position + 1, complete=True)
        self.cluster.pulse.wake()

    def update_data(self) -> None:
        """Show what is known of it."""
        node = self.cluster.store.nodes.get(self.node)
        match self.bodies[self.tab]:
            case PageView() as page if node is not None:
                page.show(node_page(node, self.cluster.clock()))
            case PageView() as page if self.error is not None:
                page.show(paragraph(str(self.error), indent=2))
            case Table() as table:
                table.take_changes()

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Say which node this is and how it stands."""
        look, node = self.cluster.look, self.cluster.store.nodes.get(self.node)
        left: list[Part] = [
            (f" Nodes {look.into} ", "lines--dim"),
            (clean(short_id(self.node)), "lines--title"),
        ]
        if node is not None:
            state = mark(node_state(node))
            left.append((f"  {look.mark(state)} {state.word}", state.tone.value))
            own = {key: value for key, value in (node.info.labels or {}).items() if key not in _OF_THE_MACHINE}
            left.append((clean(f"  {labels_text(own)}"), "lines--dim"))
        return left, [(f"{clean(self.error.message)} ", "bad")] if self.error is not None else []

    def copy_text(self) -> str:
        """Return the chosen executions, or the node's id."""
        widget = self.bodies[self.tab]
        return "\n".join(widget.chosen) if isinstance(widget, Table) and widget.chosen else self.node

    def on_table_opened(self, message: Table.Opened) -> None:
        """Open the job of an execution."""
        row = self.executions.get(message.key)
        if row is not None:
            self.cluster.open_job(row.job_id, row.namespace, "executions")
