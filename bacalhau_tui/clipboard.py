"""Copying to the clipboard of the terminal that the person sits at: OSC 52, through tmux too. Nobody knows if it came.

`sequence` is what to write to the terminal; text that terminals would not take is refused with what to do instead.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from bacalhau_protocol.errors import UsageError

ENCODED_MAX = 74_000
"""Many terminals ignore more, in base64 characters."""


def sequence(text: str, environment: Mapping[str, str]) -> str:
    """Return the escape sequence that copies text. Raises `UsageError` when it is too long."""
    encoded = base64.b64encode(text.encode()).decode()
    if len(encoded) > ENCODED_MAX:
        raise UsageError(
            f"{len(text):,} characters are more than terminals take", hint="use the one-shot command and a pipe"
        )
    copy = f"\x1b]52;c;{encoded}\x07"
    if environment.get("TMUX"):
        return "\x1bPtmux;" + copy.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return copy


def hint(environment: Mapping[str, str]) -> str:
    """Return what to do when nothing arrives."""
    if environment.get("TMUX"):
        return "if it does not arrive: tmux set -g allow-passthrough on"
    return "if it does not arrive, the terminal does not allow OSC 52"
