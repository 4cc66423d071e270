"""What a screen with one table has: its filter, its counts, opening rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from textual.widget import Widget

from bacalhau_tui.data.columns import Layout
from bacalhau_tui.data.format import count, mark
from bacalhau_tui.data.query import FilterError, split
from bacalhau_tui.data.store import Table as Rows
from bacalhau_tui.data.view import TableView
from bacalhau_tui.screens.frame import Frame
from bacalhau_tui.widgets.bars import Part
from bacalhau_tui.widgets.lines import Lines
from bacalhau_tui.widgets.table import Table


def complete_filter(layout: Layout[Any], text: str) -> list[str]:
    """Return the text with its last word completed: to a field of the list, or to a value that its help names."""
    terms = split(text)
    if not terms or text[-1:].isspace():
        return []
    last = terms[-1]
    if last.sign:
        field = layout.fields.get(last.field)
        known = field.help.replace("…", "").split(",") if field is not None and field.prefix else []
        at = text.rfind(last.value) if last.value else len(text)
        word = last.value.rpartition(",")[2].lower()
        head = text[: len(text) - len(word)] if at >= 0 else text
        return [head + value.strip() for value in known if value.strip().startswith(word)]
    word = last.value.lower()
    head = text[: len(text) - len(last.value)]
    return [f"{head}{name}:" for name in layout.fields if word and name.startswith(word)]


def ask_filter(frame: Frame, table: Table) -> None:
    """Filter a table while the filter is typed; escape brings the filter from before back."""

    def left(before: str) -> None:
        try:
            table.set_filter(before)
        except FilterError:
            table.set_filter("")

    frame.ask(
        "/",
        table.view.filter.text,
        typed=table.set_filter,
        done=table.set_filter,
        left=left,
        complete=lambda text: complete_filter(table.view.layout, text),
    )


class ListScreen(Frame, inherit_bindings=False):
    """A frame around one table of the store."""

    NAME = ""

    def __init__(self, rows: Rows[Any], layout: Layout[Any], *, empty: str) -> None:
        super().__init__()
        cluster = self.cluster
        self.table = Table(TableView(rows, layout, cluster.pulse.wake), cluster.look, cluster.clock, empty=empty)

    def body(self) -> Iterable[Widget]:
        """Return the table."""
        yield self.table

    def main_widget(self) -> Lines:
        """Return the table."""
        return self.table

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Say what list this is and how much of it is shown; at the right how many rows are in which state."""
        look, tally = self.cluster.look, list[Part]()
        for state, rows in self.table.view.tally().items():
            shown = mark(state)
            tally.append((f"  {look.mark(shown)} {count(rows)} {shown.word.lower()}", shown.tone.value))
        return [(f" {self.NAME}  ", "lines--title"), (self.table.summary(), "")], [*tally, (" ", "")]

    def update_data(self) -> None:
        """Take in what changed."""
        self.table.take_changes()

    def tick(self) -> None:
        """Repaint ages."""
        self.table.repaint()

    def copy_text(self) -> str:
        """Return the chosen ids."""
        return "\n".join(self.table.chosen)

    def climb(self) -> bool:
        """Take marks, filter and `problems only` away, one after another."""
        table = self.table
        if table.marked:
            table.action_unmark()
        elif table.view.filter.text:
            table.set_filter("")
        elif table.problems_only:
            table.action_problems()
        else:
            return False
        return True

    def on_unmount(self) -> None:
        """Stop listening to the store."""
        self.table.view.close()

    def on_table_changed(self) -> None:
        """Say the new counts."""
        self.show_bars()

    def on_table_filter_wanted(self, message: Table.FilterWanted) -> None:
        """Filter while it is typed."""
        ask_filter(self, message.table)
