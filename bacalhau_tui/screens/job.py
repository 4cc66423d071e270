"""One job with its tabs. The job is followed while the screen is open; a tab's part is loaded when it is seen."""

from __future__ import annotations

from collections.abc import Sequence

from textual.widget import Widget

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.detail import HISTORY_MAX, JobDetail
from bacalhau_tui.data.format import clean, mark
from bacalhau_tui.data.history import HISTORY
from bacalhau_tui.data.pages import PageLine, paragraph, why_page
from bacalhau_tui.data.store import Table as Rows
from bacalhau_tui.data.tables import EXECUTIONS
from bacalhau_tui.data.view import TableView
from bacalhau_tui.keymap import bindings
from bacalhau_tui.screens.results import ResultsPane
from bacalhau_tui.screens.tabbed import TabbedFrame
from bacalhau_tui.widgets.bars import Part
from bacalhau_tui.widgets.lines import Lines
from bacalhau_tui.widgets.log import LogView
from bacalhau_tui.widgets.page import PageView, yaml_page
from bacalhau_tui.widgets.table import Table

LOAD_PAUSE_S = 1.0
"""A part is asked for at most this often while its job changes."""

_PARTS = {"why": "why", "history": "history", "results": "results", "spec": "spec"}


class JobScreen(TabbedFrame, inherit_bindings=False):
    """Why, executions, history, logs, results and specification of one job."""

    TABS = ("why", "executions", "history", "logs", "results", "spec")
    BINDINGS = bindings("job", "frame")

    def __init__(self, client: Client, job: str, namespace: str, tab: str = "") -> None:
        """`job` is an id, a beginning of one, or a name."""
        super().__init__(tab)
        self.detail = JobDetail(client, job, namespace=namespace, wake=self.cluster.pulse.wake)
        self.namespace = namespace
        self.log_of = ""  # only this execution's log
        self._history: Rows[JobHistory] = Rows(HISTORY_MAX, lambda row: None)
        self._loading: set[str] = set()
        self._log_begun = False

    def on_mount(self) -> None:
        """Begin to follow the job."""
        self.detail.start()

    async def on_unmount(self) -> None:
        """Stop following it."""
        await self.detail.close()

    def make(self, name: str) -> Widget:
        """Make a tab's widget."""
        look, clock, wake = self.cluster.look, self.cluster.clock, self.cluster.pulse.wake
        match name:
            case "executions":
                view = TableView(self.detail.executions, EXECUTIONS, wake)
                return ExecutionsTable(view, look, clock, empty="no execution yet: tab 1 says why", id=name)
            case "history":
                return Table(TableView(self._history, HISTORY, wake), look, clock, empty="loading", id=name)
            case "logs":
                return LogView(look, id=name)
            case "results":
                return ResultsPane(look, self.detail, id=name)
            case _:
                return PageView(look, wrap=name != "spec", id=name)

    # ── up to date ────────────────────────────────────────────────────────────────────────────────────────────────

    def update_data(self) -> None:
        """Load what is seen and stale; show what is here."""
        self._run_again()
        part = _PARTS.get(self.tab, "")
        if part and part in self.detail.stale and part not in self._loading and not self._gone:
            self._loading.add(part)
            self.background(self._load(part), "load")
        self._show(self.bodies[self.tab])

    @property
    def _gone(self) -> bool:
        return isinstance(self.detail.watch_error, errors.NotFound)

    async def _load(self, part: str) -> None:
        await self.detail.load(part)
        # While the job changes quickly, a part is not asked for at every beat.
        self.set_timer(LOAD_PAUSE_S, lambda: self._loaded(part))

    def _loaded(self, part: str) -> None:
        self._loading.discard(part)
        if part in self.detail.stale:
            self.cluster.pulse.wake()

    def _run_again(self) -> None:
        """Follow a job again that had ended, when the list says that a newer version of it runs."""
        update = self.detail.update
        row = self.cluster.store.jobs.get(update.id) if update is not None else None
        if update is not None and row is not None and update.ended and row.version > update.version:
            self.detail.follow_again()

    def _show(self, widget: Widget) -> None:
        detail = self.detail
        match self.tab:
            case "why" if isinstance(widget, PageView):
                widget.show(self._waiting() if detail.update is None else why_page(detail.update, detail.why))
            case "spec" if isinstance(widget, PageView):
                widget.show(yaml_page(self._yaml()) if detail.job is not None else self._waiting())
            case "history" if isinstance(widget, Table):
                self._history.snapshot(
                    {str(item.seq): item for item in detail.history}, len(detail.history), complete=True
                )
                widget.take_changes()
            case "executions" if isinstance(widget, Table):
                widget.take_changes()
            case "logs" if isinstance(widget, LogView):
                self._show_log(widget)
            case "results" if isinstance(widget, ResultsPane):
                widget.show()

    def _show_log(self, widget: LogView) -> None:
        if not self._log_begun:
            self._log_begun = True
            self.detail.follow_log(self.log_of)
        widget.ended = self.detail.log_end is not None
        widget.show(self.detail.log)
        widget.take_changes()

    def _waiting(self) -> list[PageLine]:
        error = self.detail.watch_error or self.detail.part_errors.get(self.tab)
        return paragraph(str(error), indent=2) if error is not None else [PageLine((Cell("  loading"),))]

    def _yaml(self) -> str:
        from bacalhau_tui.data.yamltext import job_yaml  # noqa: PLC0415  the YAML library is slow to import

        assert self.detail.job is not None, "asked for when it is here"
        return job_yaml(self.detail.job)

    # ── bars ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Say which job this is and how it stands; at the right what the tab shows."""
        update = self.detail.update
        left: list[Part] = [(f" Jobs {self.cluster.look.into} ", "lines--dim")]
        if update is None:
            left.append((clean(short_id(self.detail.job_ref)), "lines--title"))
        else:
            name = f" {update.name}" if update.name != update.id else ""
            left.append((clean(f"{short_id(update.id)}{name}"), "lines--title"))
            state = mark(update.state)
            left.append((f"  {self.cluster.look.mark(state)} {state.word}", state.tone.value))
        if self.detail.error is not None:
            return [*left, (f"  {clean(self.detail.error.message)}", "bad")], []
        return left, [(f"{self._tab_summary()} ", "lines--dim")]

    def _tab_summary(self) -> str:
        match self.bodies.get(self.tab):
            case Table() as table:
                return table.summary()
            case LogView() as log:
                one = f"{short_id(self.log_of)} {self.cluster.look.dot} " if self.log_of else ""
                return f"{one}{log.summary()}"
            case ResultsPane() as results:
                return results.summary
            case _:
                return ""

    def copy_text(self) -> str:
        """Return the chosen executions, the text of the page, or the job's id."""
        match self.bodies[self.tab]:
            case Table() as table if self.tab == "executions":
                return "\n".join(table.chosen)
            case PageView() as page if self.tab == "spec":
                return page.plain
            case _:
                return self.detail.update.id if self.detail.update else self.detail.job_ref

    def focus_in(self, name: str) -> Lines:
        """Return the widget of a tab that keys go to; of the results the tree, or the file that was opened."""
        widget = self.bodies[name]
        return widget.focus_part if isinstance(widget, ResultsPane) else super().focus_in(name)

    def climb(self) -> bool:
        """Undo one step inside the tab."""
        widget = self.bodies[self.tab]
        return widget.climb() if isinstance(widget, ResultsPane) else super().climb()

    def reload(self) -> None:
        """Ask for the tab's part again."""
        if isinstance(results := self.bodies[self.tab], ResultsPane):
            results.reload()
        if part := _PARTS.get(self.tab):
            self.detail.stale.add(part)
            self._loading.discard(part)
            self.flush()

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def on_table_opened(self, message: Table.Opened) -> None:
        """Open an execution."""
        if self.tab == "executions":
            from bacalhau_tui.screens.execution import ExecutionScreen  # noqa: PLC0415  when it is first shown

            self.app.push_screen(ExecutionScreen(self.detail, message.key))

    async def show_log_of(self, execution: str) -> None:
        """Show the log of one execution, or of all."""
        if execution != self.log_of:
            self.log_of, self._log_begun = execution, False
        await self.show_tab("logs")

    async def on_executions_table_log_wanted(self, message: ExecutionsTable.LogWanted) -> None:
        """Show its log."""
        await self.show_log_of(message.execution)

    async def action_tab(self, name: str) -> None:
        """Show a tab; the logs tab by its key shows the logs of all executions again."""
        if name == "logs" and self.log_of:
            self.log_of, self._log_begun = "", False
        await super().action_tab(name)
        if name == "logs":
            self.flush()

    def action_rerun(self) -> None:
        """Write a job that begins as this one."""
        from bacalhau_tui.screens.compose import compose_again  # noqa: PLC0415  imported when first shown

        self.background(compose_again(self.cluster, self.detail.job_ref, self.namespace), "rerun")

    def action_stop(self) -> None:
        """Ask whether to stop the job, then do."""
        update = self.detail.update
        if update is None or update.ended:
            self.say("the job has ended" if update is not None else "not known yet")
            return
        lines = ["Stop this job?", "", f"  {short_id(update.id)}  {update.state}  {update.name}"]
        self.cluster.confirm(lines, "Stop", lambda: self.background(self._stop(update.id), "stop"))

    async def _stop(self, job: str) -> None:
        await self.cluster.session.require().stop_job(job, namespace=self.namespace)
        self.say(f"stopping {short_id(job)}")


class ExecutionsTable(Table, inherit_bindings=True):
    """The executions; `l` is the log of the one under the cursor."""

    BINDINGS = bindings("executions")

    class LogWanted(Table.Opened):
        """The user wants the log of an execution."""

        @property
        def execution(self) -> str:
            """Its id."""
            return self.key

    def action_logs(self) -> None:
        """Ask for the log."""
        if self.cursor:
            self.post_message(self.LogWanted(self, self.cursor))
