"""The list of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bacalhau_protocol import errors
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.tables import JOBS, job_name
from bacalhau_tui.keymap import bindings
from bacalhau_tui.screens.lists import ListScreen
from bacalhau_tui.widgets.table import Table

if TYPE_CHECKING:
    from bacalhau_protocol.api.messages import JobRow

EMPTY = "no jobs yet: ^n writes one, from a template; or bacalhau-tui job run FILE"
NAMED_MAX = 8  # jobs that a question names


class JobsScreen(ListScreen, inherit_bindings=False):
    """All jobs that the store knows, newest first."""

    NAME = "Jobs"
    BINDINGS = bindings("jobs", "root", "frame")

    def __init__(self) -> None:
        super().__init__(self.cluster.store.jobs, JOBS, empty=EMPTY)

    def reload(self) -> None:
        """Ask for all jobs again."""
        self.background(self.cluster.session.reload_jobs(), "reload")
        self.say("asking again")

    def on_table_opened(self, message: Table.Opened) -> None:
        """Open a job."""
        self._open(message.key, "")

    def action_open_tab(self, name: str) -> None:
        """Open the job under the cursor at one of its tabs."""
        if self.table.cursor:
            self._open(self.table.cursor, name)

    def _open(self, key: str, tab: str) -> None:
        row = self.cluster.store.jobs.get(key)
        if row is not None:
            self.cluster.open_job(row.id, row.namespace, tab)

    def action_new_job(self) -> None:
        """Write a job."""
        from bacalhau_tui.screens.compose import compose_new  # noqa: PLC0415  imported when first shown

        compose_new(self.cluster)

    def action_rerun(self) -> None:
        """Write a job that begins as the one under the cursor."""
        from bacalhau_tui.screens.compose import compose_again  # noqa: PLC0415  imported when first shown

        if (row := self.cluster.store.jobs.get(self.table.cursor)) is not None:
            self.background(compose_again(self.cluster, row.id, row.namespace), "rerun")

    def action_stop(self) -> None:
        """Ask whether to stop the chosen jobs, then do."""
        rows = [row for key in self.table.chosen if (row := self.cluster.store.jobs.get(key)) is not None]
        live = [row for row in rows if not row.ended]
        if not live:
            self.say("that job has ended" if len(rows) == 1 else "those jobs have ended")
            return
        self.cluster.confirm(question(live), "Stop", lambda: self.background(self._stop(live), "stop"))

    async def _stop(self, rows: list[JobRow]) -> None:
        client = self.cluster.session.require()
        stopped, failed = 0, list[errors.BacalhauError]()
        for row in rows:
            try:
                await client.stop_job(row.id, namespace=row.namespace)
                stopped += 1
            except errors.BacalhauError as error:
                failed.append(error)
        self.table.action_unmark()
        if failed:
            self.say_error(failed[0])
        else:
            self.say(f"stopping {short_id(rows[0].id)}" if stopped == 1 else f"stopping {stopped} jobs")


def question(rows: list[JobRow]) -> list[str]:
    """Return what is asked before jobs are stopped, line by line."""
    head = "Stop this job?" if len(rows) == 1 else f"Stop these {len(rows)} jobs?"
    named = [f"  {short_id(row.id)}  {row.state}  {job_name(row)}" for row in rows[:NAMED_MAX]]
    more = [f"  and {len(rows) - NAMED_MAX} more"] if len(rows) > NAMED_MAX else []
    return [head, "", *named, *more]
