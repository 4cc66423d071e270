"""The list of nodes. Free capacity and heartbeats are not in the feed: they are asked for while the list is seen."""

from __future__ import annotations

from textual.timer import Timer

from bacalhau_tui.data.node_table import NODES
from bacalhau_tui.keymap import bindings
from bacalhau_tui.screens.lists import ListScreen
from bacalhau_tui.widgets.table import Table

EMPTY = "no node has joined: bacalhau-tui node invite"
RELOAD_S = 5.0


class NodesScreen(ListScreen, inherit_bindings=False):
    """All nodes that the cluster knows."""

    NAME = "Nodes"
    BINDINGS = bindings("root", "frame")

    def __init__(self) -> None:
        super().__init__(self.cluster.store.nodes, NODES, empty=EMPTY)
        self._reloader: Timer | None = None

    def on_screen_resume(self) -> None:
        """Keep soft figures fresh while they are seen."""
        if self._reloader is None:
            self._reloader = self.set_interval(RELOAD_S, self._reload)
        self._reloader.resume()
        self._reload()

    def on_screen_suspend(self) -> None:
        """Ask no more."""
        if self._reloader is not None:
            self._reloader.pause()

    def _reload(self) -> None:
        if self.cluster.session.link.writable:
            self.background(self.cluster.session.reload_nodes(), "reload")

    def reload(self) -> None:
        """Ask for all nodes again."""
        self.background(self.cluster.session.reload_nodes(), "reload")
        self.say("asking again")

    def on_table_opened(self, message: Table.Opened) -> None:
        """Open a node."""
        self.cluster.open_node(message.key)
