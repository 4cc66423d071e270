"""What is wrong with a specification: values with place, path, words and a hint, and the error that carries them all.

A warning is a problem that refuses nothing: Bacalhau would ignore what it names, we say so.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import msgspec

from bacalhau_protocol.errors import SpecError

PROBLEMS_MAX = 100
"""Most problems that one error lists, and most warnings that one job may cause."""
QUOTED_MAX = 60
"""Most characters of a user's text that a message repeats."""
DETAIL = "problems"
"""The key of `SpecError.details` that holds the problems as JSON, so that they travel with the error."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong. `line` and `column` count from 1; 0 means that there is no text to point into."""

    path: str  # `Tasks[0].Env.foo`, in Bacalhau's spelling; blank: the whole document
    message: str  # what was found and why it is wrong
    hint: str = ""  # what is allowed
    nearest: str = ""  # the valid name that was probably meant
    source: str = ""  # file name, or `--set KEY`
    line: int = 0
    column: int = 0
    warning: bool = False

    def __str__(self) -> str:
        numbers = (str(self.line), str(self.column)) if self.line else ()
        place = ":".join(part for part in (self.source, *numbers) if part)
        words = "; ".join(part for part in (self.message, self.hint, self._suggestion) if part)
        return ": ".join(part for part in (place, self.path, words) if part)

    @property
    def _suggestion(self) -> str:
        return f"did you mean {self.nearest}?" if self.nearest else ""


def spec_error(problems: Sequence[Problem]) -> SpecError:
    """Make the error that carries these few problems: its text has a line for each, in the order of the document."""
    return _carrying(sorted(problems, key=lambda problem: (problem.line or 1 << 30, problem.column)))


def settle(found: Iterable[Problem]) -> tuple[Problem, ...]:
    """Return the warnings, or raise the `SpecError` of the problems, warnings among them: a key that is not known is
    mostly why another is missing.

    Stops looking when there are `PROBLEMS_MAX` of either: a job may hold tens of thousands of mistakes, and whoever
    checks it must not be kept busy by them. A job with that many warnings is refused with them.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    for problem in found:
        (warnings if problem.warning else problems).append(problem)
        if max(len(problems), len(warnings)) >= PROBLEMS_MAX:
            more = Problem("", f"… and more: looking ended after {PROBLEMS_MAX}")
            raise spec_error([*(problems or warnings), more])
    if problems:
        raise spec_error([*problems, *warnings])
    return tuple(warnings)


def named(error: SpecError, source: str) -> SpecError:
    """Return the same error, with the name of the file in front of each problem that has none."""
    return _carrying([with_source(problem, source) for problem in problems_of(error)])


def with_source(problem: Problem, source: str) -> Problem:
    """Return the problem with the name of its file, if it has none."""
    return problem if problem.source else msgspec.structs.replace(problem, source=source)


def _carrying(problems: Sequence[Problem]) -> SpecError:
    return SpecError("\n".join(map(str, problems)), details={DETAIL: msgspec.json.encode(problems).decode()})


def problems_of(error: SpecError) -> list[Problem]:
    """Return the problems that an error carries, also after it came over the wire; at least one, without a path."""
    try:
        return msgspec.json.decode(error.details.get(DETAIL, ""), type=list[Problem])
    except msgspec.MsgspecError:
        return [Problem("", error.message, error.hint, source=error.place)]


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return the allowed name that was probably meant, or blank."""
    by_fold = {choice.lower(): choice for choice in allowed}
    found = difflib.get_close_matches(name.strip().lower()[:QUOTED_MAX], by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else ""


def quote(text: str) -> str:
    """Repeat a user's text in a message: escaped, in double quotes, cut when long."""
    shown = text if len(text) <= QUOTED_MAX else text[:QUOTED_MAX] + "…"
    return msgspec.json.encode(shown).decode()


def join(path: str, key: str) -> str:
    """Return the path of a key below a path: `Meta.owner`, or `Meta["a.b"]` when the key is not a plain word."""
    if key and key.replace("_", "").replace("-", "").isalnum():
        return f"{path}.{key}" if path else key
    return f"{path}[{quote(key)}]"
