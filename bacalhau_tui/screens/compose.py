"""The composer: a job file in an editor; beside it what is wrong with it, and which nodes it would fit on, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual.app import SuspendNotSupported
from textual.containers import Container
from textual.widget import Widget
from textual.widgets import TextArea

from bacalhau_protocol import errors
from bacalhau_protocol.client.threads import in_thread
from bacalhau_protocol.models.ids import short_id
from bacalhau_tui.data.compose import Composer
from bacalhau_tui.data.composepage import compose_page, match_words, summary
from bacalhau_tui.data.drafts import Draft, Drafts, Kept, find_state_dir
from bacalhau_tui.data.format import Tone, calm_age, clean, count
from bacalhau_tui.data.outside import editor_command
from bacalhau_tui.data.templates import TEMPLATES, Template
from bacalhau_tui.keymap import bindings
from bacalhau_tui.screens.frame import Frame
from bacalhau_tui.screens.palette import Choice, PaletteScreen
from bacalhau_tui.widgets.bars import Part
from bacalhau_tui.widgets.editor import Editor
from bacalhau_tui.widgets.page import PageView

if TYPE_CHECKING:
    from bacalhau_tui.app import ClusterApp

WIDE_FROM = 120

Begin = Callable[[str, str, Kept | None], None]
"""Called with a text, what it is in a few words, and the draft that it comes from."""


class ComposeScreen(Frame, inherit_bindings=False):
    """Writes one job."""

    BINDINGS = bindings("compose")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE_FROM, "-wide")]  # noqa: RUF012  Textual declares it so
    CSS = """
    ComposeScreen #beside { height: 1fr; width: 100%; layout: vertical; }
    ComposeScreen #reasons { height: 7; border-top: solid $dim; }
    ComposeScreen.-wide #beside { layout: horizontal; }
    ComposeScreen.-wide #text { width: 3fr; }
    ComposeScreen.-wide #reasons { width: 2fr; height: 1fr; border-top: none; border-left: solid $dim; }
    """

    def __init__(self, text: str, draft: Draft, *, what: str, is_draft: bool = False, force: bool = False) -> None:
        """`what` says in the crumb what it began as; `force` runs it again though nothing may have changed."""
        super().__init__()
        cluster = self.cluster
        namespace = cluster.settings.profile.namespace
        self.composer = Composer(cluster.session.require, draft, namespace=namespace, wake=cluster.pulse.wake)
        self.composer.force = force
        self.what = what
        self.editor = Editor(cluster.look, text, id="text")
        self.reasons = PageView(cluster.look, id="reasons")
        self._begin = (text, is_draft)
        self._was_writable = cluster.session.link.writable
        self._kept = True  # whether leaving keeps the draft

    def body(self) -> Iterable[Widget]:
        """Return the text and what is said of it."""
        yield Container(self.editor, self.reasons, id="beside")

    def main_widget(self) -> Widget:
        """Return the editor."""
        return self.editor

    def on_mount(self) -> None:
        """Begin to check."""
        text, is_draft = self._begin
        self.composer.start(text, is_draft=is_draft)

    async def on_unmount(self) -> None:
        """Keep what is not kept yet."""
        await self.composer.close()

    # ── up to date ────────────────────────────────────────────────────────────────────────────────────────────────

    def on_text_area_changed(self, message: TextArea.Changed) -> None:
        """Follow the text."""
        self.composer.set_text(message.text_area.text)

    def update_data(self) -> None:
        """Show what is known of the text; ask again which nodes fit when the link is back."""
        composer = self.composer
        writable = self.cluster.session.link.writable
        if writable and (not self._was_writable or composer.match_error is not None):
            composer.match_again()
        self._was_writable = writable
        if composer.checked is not None:
            self.editor.show_problems(composer.checked.problems if composer.is_current else ())
        self.editor.read_only = composer.busy == "submitting"
        self.reasons.show(compose_page(composer))

    def crumb(self) -> tuple[Sequence[Part], Sequence[Part]]:
        """Say what is written here, how it stands, and where it would run."""
        composer, look = self.composer, self.cluster.look
        kept = "  draft kept" if composer.is_changed and composer.draft_error is None else ""
        left: list[Part] = [
            (f" Jobs {look.into} ", "lines--dim"),
            (f"new job: {clean(self.what)}", "lines--title"),
            (kept, "lines--dim"),
        ]
        state, match = summary(composer), match_words(composer)
        gap = f" {look.dot} " if match.text and state.text else ""
        return left, [(look.cell(state), state.tone.value), (gap, ""), (f"{match.text} ", match.tone.value)]

    def copy_text(self) -> str:
        """Return the text."""
        return self.editor.text

    def climb(self) -> bool:
        """Close what is offered."""
        return self.editor.close_menu()

    def on_editor_said(self, message: Editor.Said) -> None:
        """Pass it on."""
        self.say(message.words)

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def action_back(self) -> None:
        """Leave; say that the text is kept."""
        if self.climb():
            return
        changed = self.composer.is_changed
        self.composer.keep_now()
        await self.cluster.go_up()
        if changed:
            self.cluster.say("kept as a draft; a new job offers it")

    def action_next_problem(self) -> None:
        """Go to the next problem."""
        if self.editor.next_problem() is None:
            self.say("nothing is wrong with it" if self.composer.is_current else "not checked yet")

    def action_reasons(self) -> None:
        """Scroll what stands beside the text; from its end back to its beginning."""
        before = self.reasons.top
        self.reasons.action_page(1)
        if self.reasons.top == before:
            self.reasons.action_top()

    def action_submit(self) -> None:
        """Submit; then show the job."""
        self.background(self._submit(), "submit")

    async def _submit(self) -> None:
        composer = self.composer
        if composer.busy:
            return
        submitted = await composer.submit()
        if submitted is None:
            self._say_why_not()
            return
        job = submitted.job
        namespace = (job.namespace if job is not None else "") or self._namespace()
        self.app.call_later(_show_submitted, self.cluster, submitted.job_id, namespace)

    def _namespace(self) -> str:
        checked = self.composer.checked
        return (checked.job.namespace if checked is not None and checked.job else "") or self.composer.namespace

    def _say_why_not(self) -> None:
        self.flush()
        rejection = self.composer.rejection
        if rejection is not None:
            self.say(f"not taken, the text is kept: {rejection.message.splitlines()[0]}", Tone.BAD)
        elif self.composer.checked is not None:
            wrong = len(self.composer.checked.wrong)
            self.editor.next_problem()
            self.say(f"not submitted: {count(wrong)} {'problem' if wrong == 1 else 'problems'}", Tone.BAD)

    def action_dry_run(self) -> None:
        """Have the cluster check it."""
        self.background(self._dry_run(), "submit")

    async def _dry_run(self) -> None:
        if self.composer.busy:
            return
        await self.composer.dry_run()
        if self.composer.dry is None:
            self._say_why_not()

    def action_template(self) -> None:
        """Begin anew; undo brings the text from before back."""

        def chosen(text: str, what: str, kept: Kept | None) -> None:
            self.what = what
            self.editor.put(text)
            self.editor.go_to(0, 0)
            self.show_bars()

        choose_beginning(self.cluster, chosen)

    def action_discard(self) -> None:
        """Ask, then throw the text away."""

        def discard() -> None:
            self.composer.discard()
            self.app.call_later(self.cluster.go_up)

        if self.composer.is_changed:
            self.cluster.confirm(["Throw this text away?", "", "  It was not submitted."], "Discard", discard)
        else:
            discard()

    def action_save(self) -> None:
        """Ask where to write the text to."""

        def save(text: str) -> None:
            path = Path(text.strip()).expanduser()
            try:
                path.write_text(self.editor.text, encoding="utf-8")
            except OSError as error:
                raise errors.UsageError(f"cannot write {path}: {error.strerror or error}") from error
            self.say(f"written to {path.absolute()}", Tone.GOOD)

        self.ask("save as: ", "job.yaml", done=save)

    # ── the user's own editor ─────────────────────────────────────────────────────────────────────────────────────

    def action_outside(self) -> None:
        """Edit in the user's own editor."""
        self.background(self._outside(), "outside")

    async def _outside(self) -> None:
        """Hand the terminal to another program; the connection lives on meanwhile, nothing is painted."""
        path = self.composer.draft.path
        self.composer.draft.keep(self.editor.text or "\n")
        row, _ = self.editor.cursor_location
        command = editor_command(self.cluster.environment, path, row + 1)
        try:
            with self.app.batch_update(), self.app.suspend():
                process = await asyncio.create_subprocess_exec(*command)
                status = await process.wait()
        except SuspendNotSupported as error:
            raise errors.UsageError("this terminal cannot be handed to another program") from error
        except OSError as error:
            raise errors.UsageError(f"cannot run {command[0]}: {error.strerror or error}") from error
        self.app.refresh(layout=True)
        await self._take_back(path, status)

    async def _take_back(self, path: Path, status: int) -> None:
        text = await in_thread(path.read_text, encoding="utf-8", errors="replace")
        if text != self.editor.text:
            self.editor.put(text)
            self.composer.set_text(text)
        if not self.composer.is_changed:
            self.composer.draft.drop()
        checked = await self.composer.settled()
        self.flush()
        if checked.wrong:
            first = checked.wrong[0]
            self.editor.go_to(first.line - 1, first.column - 1)
        if status:
            self.say(f"the editor ended with {status}", Tone.WAITING)


async def _show_submitted(app: ClusterApp, job: str, namespace: str) -> None:
    """Leave the composer for the job. Called by the app: a screen cannot wait for its own end."""
    await app.go_up()
    app.open_job(job, namespace)
    app.say(f"submitted {short_id(job)}", Tone.GOOD)


# ── opening ───────────────────────────────────────────────────────────────────────────────────────────────────────


def drafts_of(app: ClusterApp) -> Drafts:
    """Return the user's drafts."""
    return Drafts(find_state_dir(app.environment))


def compose_new(app: ClusterApp) -> None:
    """Choose how to begin, drafts first, then write."""

    def chosen(text: str, what: str, kept: Kept | None) -> None:
        drafts = drafts_of(app)
        draft = drafts.new() if kept is None else drafts.take(kept)
        app.push_screen(ComposeScreen(text, draft, what=what, is_draft=kept is not None))

    choose_beginning(app, chosen)


def compose_from(app: ClusterApp, template: Template) -> None:
    """Write from a template."""
    app.push_screen(ComposeScreen(template.text, drafts_of(app).new(), what=template.name))


async def compose_again(app: ClusterApp, job: str, namespace: str) -> None:
    """Write a job that begins as one that was submitted. Raises as `Client.get_job` does."""
    from bacalhau_tui.data.yamltext import job_yaml  # noqa: PLC0415  the YAML library is slow to import

    found = (await app.session.require().get_job(job, namespace=namespace)).job
    text = job_yaml(found)
    app.push_screen(ComposeScreen(text, drafts_of(app).new(), what=f"again {short_id(found.id)}", force=True))


def choose_beginning(app: ClusterApp, chosen: Begin) -> None:
    """Offer drafts and templates."""

    def draft_choice(kept: Kept) -> Choice:
        lines = count(kept.text.count("\n") + 1)
        used = ", open in another program" if kept.in_use else ""
        age = calm_age(kept.written, app.clock())
        words = clean(f"draft  {kept.name}: {lines} lines, {age} old{used}")
        return Choice(words, "draft", lambda: chosen(kept.text, f"draft {kept.name}", kept))

    def template_choice(template: Template) -> Choice:
        words = f"{template.name}  {template.words}"
        return Choice(words, "new", lambda: chosen(template.text, template.name, None))

    def take(choice: Choice | None) -> None:
        if choice is not None:
            choice.run()

    app.push_screen(PaletteScreen([*map(draft_choice, drafts_of(app).found()), *map(template_choice, TEMPLATES)]), take)
