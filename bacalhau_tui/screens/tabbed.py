"""A frame with tabs. A tab is made when it is first shown, and only the one that is shown is kept up to date."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.css.query import NoMatches
from textual.widget import Widget

from bacalhau_tui.screens.frame import Frame
from bacalhau_tui.screens.lists import ask_filter
from bacalhau_tui.widgets.bars import Tabs
from bacalhau_tui.widgets.lines import Lines
from bacalhau_tui.widgets.log import LogView
from bacalhau_tui.widgets.page import PageView
from bacalhau_tui.widgets.table import Table


class TabbedFrame(Frame, inherit_bindings=False):
    """See the module."""

    TABS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tab: str = "") -> None:
        super().__init__()
        self.tabs = Tabs(self.cluster.look, self.TABS)
        self.tab = tab or self.TABS[0]
        self.tabs.choose(self.tab)
        self.bodies: dict[str, Widget] = {}

    def make(self, name: str) -> Widget:
        """Make a tab's widget."""
        raise AssertionError("a subclass says it")

    def focus_in(self, name: str) -> Lines:
        """Return the widget of a tab that keys go to."""
        widget = self.bodies[name]
        assert isinstance(widget, Lines)
        return widget

    def body(self) -> Iterable[Widget]:
        """Return the tabs and the one that is shown."""
        yield self.tabs
        self.bodies[self.tab] = self.make(self.tab)
        yield self.bodies[self.tab]

    def main_widget(self) -> Lines:
        """Return what is shown."""
        return self.focus_in(self.tab)

    async def show_tab(self, name: str) -> None:
        """Show a tab; make it if it is not there yet."""
        if name == self.tab or self.prompt.asking:
            return
        self.bodies[self.tab].display = False
        self.tab = name
        self.tabs.choose(name)
        if name in self.bodies:
            self.bodies[name].display = True
        else:
            self.bodies[name] = self.make(name)
            await self.mount(self.bodies[name], before=self.prompt)
        self.main_widget().focus()
        self.flush()

    async def action_tab(self, name: str) -> None:
        """Show a tab."""
        await self.show_tab(name)

    async def action_tab_next(self, step: int) -> None:
        """Show the next tab."""
        await self.show_tab(self.TABS[(self.TABS.index(self.tab) + step) % len(self.TABS)])

    async def on_tabs_clicked(self, message: Tabs.Clicked) -> None:
        """Show what was clicked."""
        await self.show_tab(message.name)

    def tick(self) -> None:
        """Repaint ages."""
        try:
            self.main_widget().repaint()
        except (KeyError, NoMatches):
            return  # not made yet

    def climb(self) -> bool:
        """Take a search or a filter away."""
        match self.bodies[self.tab]:
            case PageView(wanted=wanted) as page if wanted:
                page.search("")
            case LogView(wanted=wanted) as log if wanted:
                log.search("")
            case LogView(keep=keep) as log if keep:
                log.keep_only("")
            case Table() as table if table.marked:
                table.action_unmark()
            case Table() as table if table.view.filter.text:
                table.set_filter("")
            case Table(problems_only=True) as table:
                table.action_problems()
            case _:
                return False
        return True

    # ── what the widgets want ─────────────────────────────────────────────────────────────────────────────────────

    def on_page_view_search_wanted(self, message: PageView.SearchWanted) -> None:
        """Search while it is typed."""
        view = message.view
        self.ask("/", view.wanted, typed=view.search, done=view.search, left=view.search)

    def on_page_view_said(self, message: PageView.Said) -> None:
        """Pass a word about the search on."""
        self._note(message.text)

    def on_log_view_prompt_wanted(self, message: LogView.PromptWanted) -> None:
        """Search, or keep only what matches."""
        view = message.view
        if message.sign == "&":
            self.ask("&", view.keep, typed=view.keep_only, done=view.keep_only, left=view.keep_only)
        else:
            self.ask("/", view.wanted, done=view.search)

    def on_log_view_said(self, message: LogView.Said) -> None:
        """Pass a word about the search on."""
        self._note(message.text)

    def on_log_view_changed(self) -> None:
        """Say the new counts."""
        self.show_bars()

    def on_table_changed(self) -> None:
        """Say the new counts."""
        self.show_bars()

    def on_table_filter_wanted(self, message: Table.FilterWanted) -> None:
        """Filter while it is typed."""
        ask_filter(self, message.table)

    def _note(self, text: str) -> None:
        if self.prompt.asking:
            self.prompt.warn(text)
        else:
            self.say(text)
