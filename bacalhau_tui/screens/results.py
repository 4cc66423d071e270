"""Results: the files of all executions as a tree, the one under the cursor beside it, downloads in the background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from textual import events
from textual.app import ComposeResult
from textual.containers import Container

from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.detail import JobDetail, ResultTree
from bacalhau_tui.data.downloads import DOWNLOADS, Wanted
from bacalhau_tui.data.filetree import Kind, TreeRow, row_page
from bacalhau_tui.data.format import clean
from bacalhau_tui.data.peek import Peek
from bacalhau_tui.keymap import bindings
from bacalhau_tui.look import Look
from bacalhau_tui.screens.lists import ListScreen
from bacalhau_tui.widgets.lines import Lines
from bacalhau_tui.widgets.preview import PreviewView
from bacalhau_tui.widgets.table import Table
from bacalhau_tui.widgets.tree import TreeView

if TYPE_CHECKING:
    from bacalhau_tui.app import ClusterApp
    from bacalhau_tui.screens.frame import Frame

WIDE_FROM = 110  # cells from which tree and file stand side by side
EMPTY = "nothing was downloaded yet: w in the results of a job"


class ResultsPane(Container):
    """Tree and file of one job. `show` brings it up to date."""

    def __init__(self, look: Look, detail: JobDetail, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.listing = TreeView(look, id="files")
        self.preview = PreviewView(look, id="file")
        self.in_file = False  # whether keys go to the file
        self._detail = detail
        self._peek: Peek | None = None
        self._trees: Sequence[ResultTree] | None = None

    def compose(self) -> ComposeResult:
        """Put tree and file together."""
        yield self.listing
        yield self.preview

    async def on_unmount(self) -> None:
        """Fetch no more."""
        if self._peek is not None:
            await self._peek.close()

    def on_resize(self, event: events.Resize) -> None:
        """Put them side by side where there is room."""
        self.set_class(event.size.width >= WIDE_FROM, "-wide")

    @property
    def _frame(self) -> Frame:
        return cast("Frame", self.screen)

    @property
    def _cluster(self) -> ClusterApp:
        return cast("ClusterApp", self.app)

    @property
    def focus_part(self) -> Lines:
        """The part that keys go to."""
        return self.preview if self.in_file else self.listing

    @property
    def summary(self) -> str:
        """What is marked, in a few words."""
        marked = len(self.listing.marked)
        return f"{marked} marked" if marked else ""

    def show(self) -> None:
        """Show what is known of the results, and of the file that is looked at."""
        if self._trees is not self._detail.results:
            self._trees = self._detail.results
            self.listing.files.show(self._trees)
            if len(self._trees) == 1:
                self.listing.files.open_all(self._trees[0].access.execution_id)
            self.listing.take_changes()
        self._look()

    def _look(self) -> None:
        row, peek = self.listing.row, self._looker()
        if row is None or peek is None:
            return
        is_file = row.kind is Kind.FILE
        peek.look(row.key if is_file else "", row.access, row.entry if is_file else None)
        if is_file:
            self.preview.take(peek, row.path)
        else:
            self.preview.say(row.path or row.name, row_page(row))

    def _looker(self) -> Peek | None:
        if self._peek is None and self._detail.update is not None:
            detail = self._detail
            job = detail.update.id if detail.update is not None else detail.job_ref
            self._peek = Peek(detail.client, job, detail.namespace, self._cluster.pulse.wake)
        return self._peek

    # ── what the parts want ───────────────────────────────────────────────────────────────────────────────────────

    def on_tree_view_moved(self) -> None:
        """Look at another file."""
        self._look()
        self._frame.show_bars()

    def on_tree_view_opened(self, message: TreeView.Opened) -> None:
        """Go into a file."""
        if message.row.kind is Kind.FILE:
            self.in_file = True
            self.preview.focus()

    def on_tree_view_write_wanted(self, message: TreeView.WriteWanted) -> None:
        """Ask where to write files to."""
        self._write(message.rows)

    def on_tree_view_zoom_wanted(self) -> None:
        """Give the file the whole screen, or half of it."""
        self._zoom()

    def on_preview_view_wanted(self, message: PreviewView.Wanted) -> None:
        """Do what the file's keys say."""
        match message.what:
            case "more" if self._peek is not None:
                if not self._peek.more():
                    self._frame.say("there is no more to be shown; w writes the whole file")
                self._look()
            case "write" if self.listing.row is not None:
                self._write([self.listing.row])
            case "zoom":
                self._zoom()

    def _zoom(self) -> None:
        row = self.listing.row
        zoomed = not self.has_class("-zoomed") and row is not None and row.kind is Kind.FILE
        self.set_class(zoomed, "-zoomed")
        self.in_file = zoomed or self.in_file
        self.call_after_refresh(self.focus_part.focus)

    def climb(self) -> bool:
        """Undo one step: a search, being in a file, marks; return whether there was one."""
        if self.in_file:
            if self.preview.wanted:
                self.preview.search("")
            else:
                self.in_file = False
                self.remove_class("-zoomed")
                self.call_after_refresh(self.listing.focus)
        elif self.listing.marked:
            self.listing.marked.clear()
            self.listing.repaint()
            self._frame.show_bars()
        else:
            return False
        return True

    def reload(self) -> None:
        """Fetch the file anew."""
        if self._peek is not None and self._peek.at:
            self._peek.again()

    # ── writing ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _write(self, rows: list[TreeRow]) -> None:
        detail = self._detail
        if detail.update is None or not detail.results:
            self._frame.say("there are no results to be written yet")
            return
        job = detail.update.id

        def write(text: str) -> None:
            directory = Path(text.strip() or ".").expanduser().absolute()
            wanted = _wanted(rows, job, detail.namespace, directory, several=len(detail.results) > 1)
            for each in wanted:
                self._cluster.downloads.start(each)
            self.listing.marked.clear()
            self.listing.repaint()
            what = wanted[0].words if len(wanted) == 1 else f"{len(wanted)} downloads"
            self._frame.say(f"writing {what} into {clean(str(directory))}; :downloads shows how it goes")

        self._frame.ask("write to: ", f"job-{short_id(job)}", done=write)


def _wanted(rows: list[TreeRow], job: str, namespace: str, directory: Path, *, several: bool) -> list[Wanted]:
    """Return what to fetch for some rows of the tree. Of several executions, each has a directory of its own."""
    if not rows:
        return [Wanted(job=job, namespace=namespace, directory=directory)]
    paths: dict[str, list[str]] = {}
    for row in rows:
        if row.access is not None:
            paths.setdefault(row.access.execution_id, []).append(row.path)
    return [
        Wanted(
            job=job,
            namespace=namespace,
            execution=execution,
            paths=() if "" in found else tuple(sorted(found)),
            directory=directory / short_id(execution) if several else directory,
        )
        for execution, found in paths.items()
    ]


class DownloadsScreen(ListScreen, inherit_bindings=False):
    """All downloads of this run of the program."""

    NAME = "Downloads"
    BINDINGS = bindings("downloads", "frame")

    def __init__(self) -> None:
        super().__init__(self.cluster.downloads.rows, DOWNLOADS, empty=EMPTY)

    def on_table_opened(self, message: Table.Opened) -> None:
        """Open the results that it comes from."""
        if (row := self.cluster.downloads.rows.get(message.key)) is not None:
            self.cluster.open_job(row.wanted.job, row.wanted.namespace, "results")

    def copy_text(self) -> str:
        """Return where the chosen ones are written to."""
        rows = [self.cluster.downloads.rows.get(key) for key in self.table.chosen]
        return "\n".join(str(row.wanted.directory) for row in rows if row is not None)

    def action_again(self) -> None:
        """Go on with the chosen ones."""
        for key in self.table.chosen:
            self.cluster.downloads.again(key)

    def action_stop_download(self) -> None:
        """Stop the chosen ones."""
        for key in self.table.chosen:
            self.cluster.downloads.stop(key)
