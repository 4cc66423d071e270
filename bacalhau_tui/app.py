"""The application: one session, one store, one pulse, and the screens that look at them. It decides nothing else.

Data comes in through the session, on this event loop; whatever changes wakes the pulse, and the screen in front is
brought up to date at most four times a second (twice in lite mode). Nothing repaints unless something changed; ages
grow by whole minutes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events
from textual.app import App, ScreenStackError
from textual.binding import ActiveBinding, BindingType
from textual.reactive import Initialize, Reactive
from textual.screen import Screen
from textual.theme import Theme
from textual.timer import Timer

from bacalhau_protocol import errors
from bacalhau_tui import clipboard, keymap
from bacalhau_tui.commands import complete_command, run_command
from bacalhau_tui.data.downloads import Download, Downloads, State
from bacalhau_tui.data.format import Tone
from bacalhau_tui.data.session import Connect, LinkState, Session
from bacalhau_tui.data.settings import Settings
from bacalhau_tui.data.store import Store
from bacalhau_tui.look import OURS, choose_look, choose_theme, styles, variable_defaults
from bacalhau_tui.pulse import Pulse
from bacalhau_tui.screens.frame import Frame
from bacalhau_tui.typeahead import Through, TypeAhead

if TYPE_CHECKING:
    from bacalhau_protocol.api.messages import JobRow

BEAT_S, BEAT_LITE_S = 0.25, 0.5
TICK_S = 30.0
"""How often ages are looked at again; they are in whole minutes."""

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def _jobs() -> Screen[None]:
    from bacalhau_tui.screens.jobs import JobsScreen  # noqa: PLC0415  imported when first shown

    return JobsScreen()


def _nodes() -> Screen[None]:
    from bacalhau_tui.screens.nodes import NodesScreen  # noqa: PLC0415  imported when first shown

    return NodesScreen()


class ClusterApp(App[int], inherit_bindings=False):
    """See the module. `connect` makes the client; tests give one that is connected to a fake."""

    CSS_PATH = "styles/app.tcss"
    BINDINGS: ClassVar[list[BindingType]] = keymap.bindings("app")
    MODES = {"jobs": _jobs, "nodes": _nodes}  # noqa: RUF012  Textual declares it so
    DEFAULT_MODE = "jobs"
    ENABLE_COMMAND_PALETTE = False
    TITLE = "bacalhau"
    theme: Reactive[str] = Reactive(Initialize(lambda app: cast("ClusterApp", app).first_theme))
    """Ours from the beginning: a change would have all style sheets read again."""

    def __init__(
        self,
        settings: Settings,
        connect: Connect,
        *,
        clock: Callable[[], int] = time.time_ns,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`clock` gives nanoseconds since the epoch."""
        self.environment = dict(os.environ) if environment is None else environment
        self.settings, self.clock = settings, clock
        self.look = choose_look(ascii_only=settings.tui.ascii)
        self.first_theme: str = choose_theme(settings.tui.theme, self.environment)
        self.store: Store = Store()
        self.pulse = Pulse(self._beat, BEAT_LITE_S if settings.tui.lite else BEAT_S)
        self.session = Session(connect, self.store, wake=self.pulse.wake, clock=clock)
        self.downloads = Downloads(self.session.require, wake=self.pulse.wake, clock=clock)
        self.downloads.on_end = self._say_download
        self.typed = TypeAhead(self, super().on_event)
        self._chords = keymap.Chords()
        self._second_key: Timer | None = None  # runs while the second key of a chord may come
        self._last_mode = "nodes"
        self._link_was: LinkState | None = None
        super().__init__()
        self.set_keymap(keymap.keymap(settings.tui.keys))

    @property
    def available_themes(self) -> dict[str, Theme]:
        """Textual's themes and ours."""
        return {**super().available_themes, **{theme.name: theme for theme in OURS}}

    def get_css_variables(self) -> dict[str, str]:
        """Return the variables of the theme of now, for our own styles too."""
        variables = super().get_css_variables()
        self.look.styles.update(styles(variables, ansi=self.native_ansi_color, no_color=self.no_color))
        return variables

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Give other people's themes what our style sheets ask for."""
        return variable_defaults()

    @property
    def read_only(self) -> bool:
        """Whether the profile may only look. The client enforces it; screens hide what would be refused."""
        return self.settings.profile.read_only

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_mount(self) -> None:
        """Connect once the first frame is on the screen."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._leave, number)
        self._count_bytes()
        self.call_after_refresh(self.session.start)
        self.set_interval(TICK_S, self._tick)

    async def on_unmount(self) -> None:
        """Close the connection."""
        self.pulse.stop()
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
        await self.downloads.close()
        await self.session.close()

    def _count_bytes(self) -> None:
        """Have the pulse's budget pay for whatever is written to the terminal."""
        driver, budget = self._driver, self.pulse.budget
        if driver is None:
            return
        write = driver.write

        def counted(data: str) -> None:
            budget.spend(len(data))
            write(data)

        driver.write = counted  # type: ignore[method-assign]  # Textual picks the driver's class by platform

    def _leave(self, number: int) -> None:
        """End as if the signal had ended us, but with the terminal restored."""
        self.exit(128 + number, return_code=128 + number)

    def _beat(self) -> None:
        # The pulse beats outside of Textual's context; a message brings it in.
        self.call_later(self.flush)

    def flush(self) -> None:
        """Bring the screen in front up to date."""
        screen = self._front()
        if screen is None:
            return
        if self.session.link.state is not self._link_was:
            self._link_was = self.session.link.state
            screen.refresh_bindings()
        if isinstance(screen, Frame):
            screen.flush()

    def _front(self) -> Screen[object] | None:
        """Return the screen in front; None while the app comes up or goes."""
        try:
            return self.screen
        except ScreenStackError:
            return None

    def _tick(self) -> None:
        screen = self._front()
        if isinstance(screen, Frame) and screen.is_mounted:
            screen.tick()
            screen.show_bars()

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Say something in the row of the prompt."""
        if isinstance(self.screen, Frame):
            self.screen.say(text, tone)

    # ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def on_event(self, event: events.Event) -> None:
        """Let what the user does go free (see `pulse.Budget`); hand keys on one at a time."""
        if isinstance(event, events.InputEvent):
            self.pulse.budget.paying = False
        if isinstance(event, events.Key | events.Paste) and not event.is_forwarded:
            await self.typed.take(event)
        else:
            await super().on_event(event)

    async def on_through(self, message: Through) -> None:
        """Hand the next key on."""
        await self.typed.through(message)

    async def on_key(self, event: events.Key) -> None:
        """Hold the first key of a chord back until the second tells what is meant."""
        self._stop_waiting()
        screen = self._front()
        if screen is None:
            return
        keys = self._chords.feed(event.key, screen.active_bindings)
        if keys == [event.key]:
            self._explain_refusal(event.key)
            return  # Textual looks for its binding
        event.prevent_default()
        if self._chords.held:
            self._second_key = self.set_timer(keymap.CHORD_S, self._expire_chord)
        await self._handle(keys)

    def _explain_refusal(self, key: str) -> None:
        """Say why a key does nothing that would change the cluster."""
        for _, bindings in self.screen._modal_binding_chain:
            for binding in bindings.key_to_bindings.get(key, ()):
                if keymap.is_write(binding.action) and isinstance(self.screen, Frame):
                    if self.read_only:
                        self.say("this profile is read-only: nothing that changes the cluster is sent", Tone.WAITING)
                    elif not self.session.link.writable:
                        self.say(f"not now, the link is {self.session.link.state.value}: nothing was sent", Tone.BAD)

    async def _expire_chord(self) -> None:
        self._second_key = None
        await self._handle(self._chords.expire())

    def _stop_waiting(self) -> None:
        if self._second_key is not None:
            self._second_key.stop()
            self._second_key = None

    async def _handle(self, keys: Sequence[str]) -> None:
        """Run what these keys are bound to, at once: posted again they would come after later keys."""
        for key in keys:
            if self._front() is not None:
                await self._check_bindings(key)

    async def action_view(self, name: str) -> None:
        """Show one of the lists."""
        if name != self.current_mode:
            self._last_mode = self.current_mode
            await self.switch_mode(name)

    async def action_last_view(self) -> None:
        """Show the list that was shown before."""
        await self.action_view(self._last_mode)

    def action_command(self) -> None:
        """Let a command be typed."""
        screen = self.screen
        if isinstance(screen, Frame):
            screen.ask(
                ":", done=lambda text: run_command(self, text), complete=lambda text: complete_command(self, text)
            )

    def action_help(self) -> None:
        """Show all keys of this screen."""
        self.show_help()

    def show_help(self) -> None:
        """Show all keys of this screen."""
        from bacalhau_tui.screens.help import HelpScreen, help_page  # noqa: PLC0415  imported when first shown
        from bacalhau_tui.widgets.table import Table  # noqa: PLC0415

        screen = self.screen
        if isinstance(screen, Frame) and not isinstance(screen, HelpScreen):
            widget = screen.main_widget()
            fields = widget.view.layout.fields if isinstance(widget, Table) else None
            widget.focus()
            self.push_screen(HelpScreen(help_page(screen.active_bindings, fields)))

    def action_palette(self) -> None:
        """Offer everything that can be done here."""
        from bacalhau_tui.screens.palette import Choice, PaletteScreen, offered  # noqa: PLC0415

        def run(active: ActiveBinding) -> None:
            self.call_later(self.run_action, active.binding.action, active.node)

        def chosen(choice: Choice | None) -> None:
            if choice is not None:
                choice.run()

        if isinstance(self.screen, Frame):
            self.push_screen(PaletteScreen(offered(self.screen.active_bindings, run)), chosen)

    def action_quit_now(self) -> None:
        """Leave."""
        self.exit(0)

    async def go_up(self) -> bool:
        """Leave a screen for the one below; return whether there was one."""
        if len(self.screen_stack) == 1:
            return False
        await self.pop_screen()
        return True

    # ── opening ───────────────────────────────────────────────────────────────────────────────────────────────────

    def confirm(self, lines: Sequence[str], verb: str, then: Callable[[], object]) -> None:
        """Ask, with Cancel focused; do it when the answer is yes."""
        from bacalhau_tui.screens.dialogs import ConfirmScreen  # noqa: PLC0415  imported when first shown

        def answered(yes: bool | None) -> None:
            if yes:
                then()

        self.push_screen(ConfirmScreen(lines, verb), answered)

    def open_list(self, name: str, filter_text: str = "") -> None:
        """Show a list, filtered. Raises `FilterError` when the filter cannot be understood."""
        from bacalhau_tui.data.node_table import NODES  # noqa: PLC0415
        from bacalhau_tui.data.query import parse_filter  # noqa: PLC0415
        from bacalhau_tui.data.tables import JOBS  # noqa: PLC0415
        from bacalhau_tui.screens.lists import ListScreen  # noqa: PLC0415

        layout = JOBS if name == "jobs" else NODES
        parse_filter(filter_text, layout.fields, layout.search)

        async def show() -> None:
            await self.action_view(name)
            while len(self.screen_stack) > 1:
                await self.pop_screen()
            if filter_text and isinstance(self.screen, ListScreen):
                self.screen.table.set_filter(filter_text)

        self.call_later(show)

    def find_job(self, name: str) -> JobRow | None:
        """Return the job that a name, an id or the beginning of one means, if the store knows exactly one."""
        rows = self.store.jobs.rows()
        found = [row for row in rows.values() if row.name == name] or [
            row for key, row in rows.items() if key.startswith(name)
        ]
        return found[0] if len(found) == 1 else None

    def open_job(self, job: str, namespace: str, tab: str = "") -> None:
        """Open a job at one of its tabs."""
        from bacalhau_tui.screens.job import JobScreen  # noqa: PLC0415  imported when first shown

        if self.session.client is None:
            self.say(f"not connected: {self.session.link.reason or self.session.link.state.value}", Tone.BAD)
        else:
            self.push_screen(JobScreen(self.session.client, job, namespace, tab))

    def open_node(self, node: str) -> None:
        """Open a node."""
        from bacalhau_tui.screens.node import NodeScreen  # noqa: PLC0415  imported when first shown

        self.push_screen(NodeScreen(node))

    def _say_download(self, row: Download) -> None:
        """Say how a download ended, whatever screen is in front."""
        if row.state is State.DONE:
            self.say(f"written: {row.words}, into {row.wanted.directory}", Tone.GOOD)
        else:
            self.say(f"{row.wanted.words} was not written: {row.words}", Tone.BAD)

    def open_downloads(self) -> None:
        """Show the downloads of results."""
        from bacalhau_tui.screens.results import DownloadsScreen  # noqa: PLC0415  imported when first shown

        self.push_screen(DownloadsScreen())

    # ── themes and clipboard ──────────────────────────────────────────────────────────────────────────────────────

    def theme_names(self) -> list[str]:
        """Return the names that `:theme` takes."""
        return [name.removeprefix("bacalhau-") for name in self.available_themes]

    def find_theme(self, name: str) -> str:
        """Return a theme's full name, or blank."""
        return next((full for full in (f"bacalhau-{name}", name) if full in self.available_themes), "")

    def copy(self, text: str) -> None:
        """Send text to the terminal's clipboard; whether it arrives, nobody can know."""
        try:
            sequence = clipboard.sequence(text, self.environment)
        except errors.UsageError as error:
            self.say(f"{error}; {error.hint}", Tone.BAD)
            return
        if self._driver is not None:
            self._driver.write(sequence)
        lines = text.count("\n") + 1
        what = text if lines == 1 and len(text) <= 60 else f"{lines} lines"
        self.say(f"sent to the terminal's clipboard: {what} ({clipboard.hint(self.environment)})")
