"""The frame of every full screen: header or banner, crumb, body, the prompt's row, hints.

A frame is brought up to date by `flush`, when the app's pulse beats and when it comes to the front; while it is
covered it does nothing. Subclasses say what the body is (`body`), what the crumb says (`crumb`), and how to take in
what changed (`update_data`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget

from bacalhau_protocol import errors
from bacalhau_tui.data.format import Tone
from bacalhau_tui.data.query import FilterError
from bacalhau_tui.keymap import ACTS, Act, bindings, is_write
from bacalhau_tui.widgets.bars import Bar, Header, Hints, Part
from bacalhau_tui.widgets.prompt import Complete, Prompt

if TYPE_CHECKING:
    from bacalhau_tui.app import ClusterApp

OnText = Callable[[str], None]


def _nothing(text: str) -> None:
    """Do nothing with a text."""


class Frame(Screen[None], inherit_bindings=False):
    """See the module."""

    BINDINGS = bindings("frame")
    AUTO_FOCUS = ""  # set in `on_mount`

    def __init__(self) -> None:
        super().__init__()
        look = self.cluster.look
        self.header = Header(look, id="header")
        self.crumbs = Bar(look, id="crumbs")
        self.prompt = Prompt(look, id="prompt")
        self.hints = Hints(look, id="hints")
        self._typed: OnText = _nothing
        self._done: OnText = _nothing
        self._left: OnText = _nothing

    @property
    def cluster(self) -> ClusterApp:
        """The app, typed."""
        return cast("ClusterApp", self.app)

    # ── what a subclass says ──────────────────────────────────────────────────────────────────────────────────────

    def body(self) -> Iterable[Widget]:
        """Return the widgets between crumb and prompt."""
        raise AssertionError("a subclass says it")

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Return what the crumb says, at the left and at the right."""
        raise AssertionError("a subclass says it")

    def update_data(self) -> None:
        """Take in what changed; called when woken and when shown again."""

    def tick(self) -> None:
        """Repaint what depends on the clock."""

    def main_widget(self) -> Widget:
        """Return the widget that has the focus when nothing else has."""
        raise AssertionError("a subclass says it")

    def copy_text(self) -> str:
        """Return what `copy` copies; blank: nothing."""
        return ""

    def reload(self) -> None:
        """Ask the cluster again for what is shown."""

    def climb(self) -> bool:
        """Undo one step inside the screen (a filter, a search); return whether there was one."""
        return False

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def compose(self) -> ComposeResult:
        """Put the rows together."""
        yield self.header
        yield self.crumbs
        yield from self.body()
        yield self.prompt
        yield self.hints

    def on_mount(self) -> None:
        """Give the focus to the body."""
        self.bindings_updated_signal.subscribe(self, self._show_hints)
        self.main_widget().focus()

    def on_screen_resume(self) -> None:
        """Come up to date when shown (again)."""
        if self.focused is None:
            self.main_widget().focus()
        self.flush()

    def flush(self) -> None:
        """Bring all rows up to date."""
        if self.is_mounted:
            self.update_data()
            self.show_bars()

    def show_bars(self) -> None:
        """Bring header and crumb up to date."""
        cluster = self.cluster
        session = cluster.session
        self.header.tell(
            session.link,
            profile=cluster.settings.profile_name,
            cluster=session.info.cluster if session.info else "",
            read_only=cluster.read_only,
            now_ns=cluster.clock(),
            work=cluster.downloads.summary,
        )
        self.crumbs.put(*self.crumb())

    def _show_hints(self, _: object = None) -> None:
        shown: list[tuple[str, Act, bool]] = []
        for key, active in self.active_bindings.items():
            act = ACTS.get(active.binding.id or "")
            if act is not None and act.hint and all(act.id != before.id for _, before, _ in shown):
                shown.append((key, act, active.enabled))
        own = [entry for entry in shown if entry[1].id not in _COMMON]
        self.hints.offer(own, [entry for entry in shown if entry[1].id in _COMMON])

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Hide what changes the cluster from read-only profiles; grey it out while nothing can be sent."""
        if not is_write(action):
            return True
        if self.cluster.read_only:
            return False
        return True if self.cluster.session.link.writable else None

    # ── the prompt ────────────────────────────────────────────────────────────────────────────────────────────────

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Show a short message until the next one, or until something is typed."""
        self.prompt.say(text, tone)

    def say_error(self, error: errors.BacalhauError) -> None:
        """Say what went wrong and what to do."""
        self.say(f"{error}; {error.hint}" if error.hint else str(error), Tone.BAD)

    def ask(
        self,
        sign: str,
        text: str = "",
        *,
        done: OnText = _nothing,
        typed: OnText = _nothing,
        left: OnText = _nothing,
        complete: Complete = lambda text: (),
    ) -> None:
        """Let the user type a line. `typed` is told of every change; `left` of escape, with the text from before."""
        self._typed, self._done = typed, done
        self._left = lambda _: left(text)
        self.prompt.ask(sign, text, complete=complete)

    def on_prompt_typed(self, message: Prompt.Typed) -> None:
        """Pass a change on; what is wrong with it stands beside it."""
        self._tell(self._typed, message.text)

    def on_prompt_done(self, message: Prompt.Done) -> None:
        """Pass the text on and close, unless something is wrong with it."""
        if self._tell(self._done, message.text):
            self._close_prompt()

    def on_prompt_left(self, message: Prompt.Left) -> None:
        """Close; whoever asked takes back what the typing did."""
        self._left(message.prompt.text)
        self._close_prompt()

    def _tell(self, callback: OnText, text: str) -> bool:
        try:
            callback(text)
        except FilterError as error:
            self.prompt.warn(f"{error.message}; {error.hint}" if error.hint else error.message)
            return False
        except errors.BacalhauError as error:
            self.say_error(error)
            self._close_prompt()
            return False
        return True

    def _close_prompt(self) -> None:
        self.prompt.close()
        self.set_focus(self.main_widget())
        self.show_bars()

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def action_back(self) -> None:
        """Undo one step inside, else go up one level."""
        if not self.climb():
            await self.cluster.go_up()

    async def action_leave(self) -> None:
        """Go up one level; at the top, ask whether to quit."""
        if not await self.cluster.go_up():
            self.cluster.confirm(["Leave bacalhau-tui?"], "Quit", lambda: self.app.exit(0))

    def action_refresh_data(self) -> None:
        """Ask the cluster again."""
        self.reload()

    def action_copy(self) -> None:
        """Copy the id under the cursor."""
        if text := self.copy_text():
            self.cluster.copy(text)

    def background(self, work: Any, group: str) -> None:
        """Run a coroutine; what goes wrong is said, never fatal."""
        self.run_worker(self._guarded(work), group=group, exit_on_error=False)

    async def _guarded(self, work: Any) -> None:
        try:
            await work
        except errors.BacalhauError as error:
            self.say_error(error)


_COMMON = ("command", "help", "back")
"""Hints that every screen has."""
