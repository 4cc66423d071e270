"""The one matcher of allow-lists: anchored globs over paths and names.

`*` and `?` stay within one path element, `**` as a whole element crosses elements (and `/data/**` is also `/data`
itself), `[a-z]` and `[!a-z]` are classes, `{a,b}` alternatives, a backslash takes the next character as it is. A
pattern always matches the whole text: Bacalhau's unanchored regular expressions let `MY_AWSOME` through for `AWS_*`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from bacalhau_protocol.errors import UsageError

PATTERN_LENGTH_MAX = 1024
_MAGIC = re.compile(r"[*?\[{\\]")


@functools.lru_cache(maxsize=512)
def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a glob; use its `fullmatch`.

    Raises
    ------
    UsageError
        when a class or a group of alternatives is not closed, a range runs backwards, or the
        pattern is longer than 1,024 characters.
    """
    if len(pattern) > PATTERN_LENGTH_MAX:
        raise UsageError(f"pattern is longer than {PATTERN_LENGTH_MAX} characters", place=pattern[:60] + "…")
    try:
        return re.compile("".join(_Translator(pattern).run()), re.DOTALL)
    except re.error as error:
        raise UsageError(f"pattern cannot be read: {error.msg}", place=pattern) from error


def matches_any(patterns: Iterable[str], text: str) -> bool:
    """Say whether some pattern matches the whole text."""
    return any(compile_glob(pattern).fullmatch(text) for pattern in patterns)


def split_literal(pattern: str) -> tuple[str, str]:
    """Split an absolute path pattern into the directories before the first wildcard, and the rest with its slash."""
    magic = _MAGIC.search(pattern)
    if magic is None:
        return pattern, ""
    cut = pattern.rfind("/", 0, magic.start())
    return pattern[: max(cut, 0)] or "/", pattern[max(cut, 0) :]


def escape(text: str) -> str:
    """Return a pattern that matches this text only."""
    return re.sub(r"([*?\[\]{},\\])", r"\\\1", text)


class _Translator:
    """One pass over a pattern; `depth` counts open alternatives."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.depth = 0

    def run(self) -> Iterable[str]:
        while self.at < len(self.pattern):
            yield self._next()
        if self.depth:
            raise UsageError("`{` is not closed", place=self.pattern)

    def _next(self) -> str:
        pattern, at = self.pattern, self.at
        if pattern.startswith("/**", at) and pattern[at + 3 : at + 4] in ("", "/"):
            self.at += 3
            return "(?:/.*)?" if at + 3 == len(pattern) else "(?:/[^/]+)*"
        if at == 0 and (pattern == "**" or pattern.startswith("**/")):
            self.at = min(3, len(pattern))
            return ".*" if pattern == "**" else "(?:[^/]+/)*"
        self.at += 1
        match pattern[at]:
            case "*":
                return "[^/]*"
            case "?":
                return "[^/]"
            case "[":
                return self._class()
            case "{":
                self.depth += 1
                return "(?:"
            case "," if self.depth:
                return "|"
            case "}" if self.depth:
                self.depth -= 1
                return ")"
            case "\\":
                self.at += 1
                return re.escape(pattern[at + 1 : at + 2] or "\\")
            case char:
                return re.escape(char)

    def _class(self) -> str:
        end = self.pattern.find("]", self.at + 1 + self.pattern.startswith(("!", "^"), self.at))
        if end < 0:
            raise UsageError("`[` is not closed", place=self.pattern)
        body = self.pattern[self.at : end]
        self.at = end + 1
        negated = body.startswith(("!", "^"))
        members = body[negated:].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
        return f"(?![/])[{'^' if negated else ''}{members}]"
