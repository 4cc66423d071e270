"""One execution: what it does, for how long, what happened to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.widget import Widget

from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.detail import JobDetail
from bacalhau_tui.data.format import clean, mark
from bacalhau_tui.data.pages import execution_page
from bacalhau_tui.data.tables import execution_state
from bacalhau_tui.keymap import bindings
from bacalhau_tui.screens.tabbed import TabbedFrame
from bacalhau_tui.widgets.bars import Part
from bacalhau_tui.widgets.page import PageView


class ExecutionScreen(TabbedFrame, inherit_bindings=False):
    """A page about one execution of the job that the screen below follows."""

    TABS = ("execution",)
    BINDINGS = bindings("frame")

    def __init__(self, detail: JobDetail, execution: str) -> None:
        super().__init__()
        self.detail, self.execution = detail, execution
        self._loading = False

    def body(self) -> Iterable[Widget]:
        """Return the page."""
        self.bodies[self.tab] = self.make(self.tab)
        yield self.bodies[self.tab]

    def make(self, name: str) -> Widget:
        """Make the page."""
        return PageView(self.cluster.look, id=name)

    def update_data(self) -> None:
        """Show what is known of it; ask for what is stale."""
        if "history" in self.detail.stale and not self._loading:
            self._loading = True
            self.background(self._load(), "load")
        row = self.detail.executions.get(self.execution)
        page = self.bodies[self.tab]
        if row is not None and isinstance(page, PageView):
            page.show(execution_page(row, self.detail.history, self.cluster.clock()))

    async def _load(self) -> None:
        await self.detail.load("history")
        self._loading = False

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Say whose execution this is and how it stands."""
        look, row = self.cluster.look, self.detail.executions.get(self.execution)
        job = self.detail.update.id if self.detail.update else self.detail.job_ref
        left: list[Part] = [
            (clean(f" Jobs {look.into} {short_id(job)} {look.into} "), "lines--dim"),
            (clean(short_id(self.execution)), "lines--title"),
        ]
        if row is not None:
            state = mark(execution_state(row))
            left.append((f"  {look.mark(state)} {state.word}", state.tone.value))
        return left, []

    def copy_text(self) -> str:
        """Return its id."""
        return self.execution
