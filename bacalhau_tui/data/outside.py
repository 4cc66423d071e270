"""The user's own editor: how it is called, and how it is told the line. Pure."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from bacalhau_protocol.errors import UsageError

_TAKE_PLUS_LINE = ("vi", "vim", "nvim", "view", "nano", "emacs", "emacsclient", "micro", "kak", "joe", "mcedit", "ne")
_FALLBACKS = ("sensible-editor", "nano", "vi")


def editor_command(
    environment: Mapping[str, str], path: Path, line: int, which: Callable[[str], str | None] = shutil.which
) -> list[str]:
    """Return the command that edits a file at a line (from 1).

    Raises
    ------
    UsageError
        when `$VISUAL` and `$EDITOR` name nothing that can be run.
    """
    wanted = environment.get("VISUAL") or environment.get("EDITOR") or ""
    try:
        words = shlex.split(wanted)
    except ValueError as error:
        raise UsageError(f"$EDITOR cannot be read: {error}", hint=f"it is {wanted!r}") from error
    words = words or [next((name for name in _FALLBACKS if which(name)), "")]
    if not words[0] or which(words[0]) is None:
        hint = "set $EDITOR to the command of an editor"
        raise UsageError(f"no editor {words[0]!r}" if words[0] else "$EDITOR is not set", hint=hint)
    at = [f"+{line}"] if Path(words[0]).name in _TAKE_PLUS_LINE else []
    return [*words, *at, str(path)]
