"""Indentation in job files: where a new line begins, what is put behind a name that was chosen. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

INDENT = 2

_LEAD = re.compile(r" *(?:- +)*")
_OPENS = re.compile(r":\s*(#.*)?$")


def _content(line: str) -> int:
    """Return the column at which a line's content begins, behind dashes."""
    found = _LEAD.match(line)
    return found.end() if found else 0


def new_line(line: str, column: int) -> str:
    """Return what enter puts into a line at a column: a line end, and the indentation of what comes below."""
    before = line[:column]
    content = _content(before)
    if not before.strip(" -"):
        return "\n" + " " * (len(before) - len(before.lstrip(" ")))
    return "\n" + " " * (content + (INDENT if _OPENS.search(before) else 0))


def indent_of(lines: Sequence[str], row: int) -> int:
    """Return where a line would begin, judged by the one above that is not blank."""
    above = next((line for line in reversed(lines[:row]) if line.strip()), "")
    return len(new_line(above, len(above))) - 1 if above else 0


def outdent(line: str) -> int:
    """Return how many blanks to take away at the beginning of a line."""
    blanks = len(line) - len(line.lstrip(" "))
    return min(blanks, (blanks - 1) % INDENT + 1) if blanks else 0


def tail_text(line: str, column: int, tail: str) -> str:
    """Return what is put behind a name at a column: `↵` becomes a new line, indented below the name."""
    return tail.replace("↵", "\n" + " " * (max(column, _content(line[:column])) + INDENT))
