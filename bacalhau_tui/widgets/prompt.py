"""The line in which `:` commands, `/` filters and searches are typed; when nothing is typed it shows short messages.

An editor of one line, ours because Textual's `Input` blinks and costs a tenth of the start-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip

from bacalhau_tui.data.format import Tone, clean, cut
from bacalhau_tui.look import Look
from bacalhau_tui.widgets.lines import Painted

TEXT_MAX = 1000
HISTORY_MAX = 100
TEXT_ROOM = 8  # cells that a note leaves behind the text

Complete = Callable[[str], Sequence[str]]
"""Given the text so far, whole texts that could be meant, the likeliest first."""


class Prompt(Painted, can_focus=False, inherit_bindings=False):
    """Edits one line between `ask` and `close`: it posts `Typed` at every change, then `Done` or `Left`.

    Otherwise it shows what was last said with `say`.
    """

    class Typed(Message):
        """The text has changed."""

        def __init__(self, prompt: Prompt) -> None:
            super().__init__()
            self.prompt, self.text = prompt, prompt.text

    class Done(Message):
        """Enter was typed."""

        def __init__(self, prompt: Prompt) -> None:
            super().__init__()
            self.prompt, self.text = prompt, prompt.text

    class Left(Message):
        """Escape was typed, or the focus went elsewhere."""

        def __init__(self, prompt: Prompt) -> None:
            super().__init__()
            self.prompt = prompt

    def __init__(self, look: Look, *, id: str | None = None) -> None:
        super().__init__(look, id=id)
        self.sign = ":"
        self.text = ""
        self.note = ""  # what is wrong, at the right
        self.asking = False
        self._message: tuple[str, str] = ("", "")
        self._at = 0  # position of the cursor in the text
        self._complete: Complete = lambda text: ()
        self._history: dict[str, list[str]] = {}
        self._past = 0  # how far back in the history

    @property
    def takes_text(self) -> bool:
        """Whether letters are text (see `typeahead`)."""
        return self.asking

    def ask(self, sign: str, text: str = "", *, complete: Complete = lambda text: ()) -> None:
        """Begin to edit."""
        self.sign, self.text, self.note, self._at = sign, text, "", len(text)
        self._complete, self._past = complete, 0
        self._message = ("", "")
        self.asking = self.can_focus = True
        self.focus()
        self.repaint()

    def close(self) -> None:
        """End editing."""
        self.asking = self.can_focus = False
        self.repaint()

    def say(self, text: str, tone: Tone = Tone.PLAIN) -> None:
        """Show a message; blank: none."""
        self._message = (clean(text), tone.value)
        self.repaint()

    def warn(self, note: str) -> None:
        """Show what is wrong with the text; blank: nothing."""
        self.note = clean(note)
        self.repaint()

    # ── painting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def strip_at(self, y: int) -> Strip:
        """Return the row: sign, text with cursor, the rest of a completion, a note."""
        if not self.asking:
            text, tone = self._message
            return self.strip([(" ", Style.null()), (cut(text, self.size.width - 2), self.style(tone or "plain"))])
        note = f"  {cut(self.note, self._note_room, ellipsis=self.look.ellipsis)} " if self.note else ""
        room = max(4, self.size.width - len(self.sign) - 1 - cell_len(note))
        start = max(0, self._at - room + 1)
        before, after = self.text[start : self._at], self.text[self._at :]
        rest = self._rest()
        under, after = (after[:1], after[1:]) if after else (rest[:1], "")
        spans = [
            (self.sign, self.style("lines--key")),
            (before, Style.null()),
            (under or " ", Style(reverse=True)),
            (after, Style.null()),
            (rest[1:] if self._at == len(self.text) else "", self.style("lines--dim")),
        ]
        used = sum(cell_len(text) for text, _ in spans)
        space = " " * max(0, self.size.width - used - cell_len(note))
        return self.strip([*spans, (space, Style.null()), (note, self.style("bad"))])

    @property
    def _note_room(self) -> int:
        return max(self.size.width // 3, self.size.width - cell_len(self.text) - TEXT_ROOM)

    def _rest(self) -> str:
        if self._at < len(self.text):
            return ""
        meant = next((text for text in self._complete(self.text) if text.startswith(self.text)), "")
        return meant[len(self.text) :]

    # ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_key(self, event: events.Key) -> None:
        """Edit. What is not for us goes on to the bindings (ctrl+q, for instance)."""
        before = self.text
        if event.key == "enter":
            self._remember()
            self.post_message(self.Done(self))
        elif event.key in ("escape", "ctrl+c") or (event.key == "backspace" and not self.text):
            self.post_message(self.Left(self))
        elif event.is_printable and event.character is not None:
            self._insert(event.character)
        elif not self._edit(event.key):
            return
        event.stop()
        event.prevent_default()
        self._after(before)

    def on_blur(self) -> None:
        """A click elsewhere ends editing too."""
        if self.asking:
            self.post_message(self.Left(self))

    def on_paste(self, event: events.Paste) -> None:
        """Insert the first line of what was pasted."""
        before = self.text
        event.stop()
        self._insert(event.text.splitlines()[0] if event.text else "")
        self._after(before)

    def _after(self, before: str) -> None:
        if self.text != before:
            self.note = ""
            self.post_message(self.Typed(self))
        self.repaint()

    def _insert(self, text: str) -> None:
        text = "".join(character for character in text if character.isprintable())[: TEXT_MAX - len(self.text)]
        self.text = self.text[: self._at] + text + self.text[self._at :]
        self._at += len(text)

    def _edit(self, key: str) -> bool:
        """Carry out an editing key; return whether it was one."""
        match key:
            case "backspace" | "ctrl+h":
                self._cut(self._at - 1, self._at)
            case "delete" | "ctrl+d":
                self._cut(self._at, self._at + 1)
            case "ctrl+u":
                self._cut(0, self._at)
            case "ctrl+k":
                self._cut(self._at, len(self.text))
            case "ctrl+w":
                kept = self.text[: self._at].rstrip()
                self._cut(kept.rfind(" ") + 1, self._at)
            case "left" | "ctrl+b":
                self._at = max(0, self._at - 1)
            case "right" | "ctrl+f" | "tab" | "end" | "ctrl+e":
                self._go_right(key)
            case "home" | "ctrl+a":
                self._at = 0
            case "up" | "ctrl+p":
                self._recall(1)
            case "down" | "ctrl+n":
                self._recall(-1)
            case _:
                return False
        return True

    def _cut(self, start: int, end: int) -> None:
        start = max(0, start)
        self.text, self._at = self.text[:start] + self.text[end:], start

    def _go_right(self, key: str) -> None:
        if self._at < len(self.text):
            self._at = self._at + 1 if key in ("right", "ctrl+f") else len(self.text)
        elif rest := self._rest():
            self._insert(rest)

    def _remember(self) -> None:
        past = self._history.setdefault(self.sign, [])
        if self.text and self.text not in past[-1:]:
            past.append(self.text)
            del past[:-HISTORY_MAX]

    def _recall(self, step: int) -> None:
        past = self._history.get(self.sign, [])
        self._past = max(0, min(len(past), self._past + step))
        self.text = past[-self._past] if self._past else ""
        self._at = len(self.text)
