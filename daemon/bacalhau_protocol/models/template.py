"""`{{.name}}` in job files, filled in from `-V name=value`: a step of its own, before the text is read as YAML.

Bacalhau runs Go's whole text/template; of that, only the substitution of a variable is done here, with the dashes that
trim blanks. Anything else between double braces is refused by name, never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from bacalhau_protocol.models.problems import Problem, nearest, quote, spec_error

_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_VARIABLE = re.compile(r"\s*\.([A-Za-z_][A-Za-z0-9_]*)\s*")
_COMMENT = re.compile(r"\s*/\*.*\*/\s*", re.DOTALL)
_HINT = "only {{.name}} is supported; use --no-template for a file with literal double braces"


def render(text: str, values: Mapping[str, str], name: str = "job.yaml") -> str:
    """Return the text with its variables filled in. Raises `SpecError` with every unknown variable and other syntax."""
    if "{{" not in text:
        return text
    problems: list[Problem] = []
    parts: list[str] = []
    at = 0
    trim = False
    for action in _ACTION.finditer(text):
        before = text[at : action.start()]
        before = before.lstrip() if trim else before
        parts.append(before.rstrip() if action[1] else before)
        filled = _fill(action[2], values)
        if isinstance(filled, Problem):
            problems.append(_placed(filled, text, action.start(), name))
        else:
            parts.append(filled)
        at, trim = action.end(), action[3] is not None
    rest = text[at:]
    if "{{" in rest:
        problems.append(_placed(Problem("", "{{ is not closed", _HINT), text, at + rest.index("{{"), name))
    if problems:
        raise spec_error(problems)
    return "".join([*parts, rest.lstrip() if trim else rest])


def _fill(body: str, values: Mapping[str, str]) -> str | Problem:
    if _COMMENT.fullmatch(body):
        return ""
    variable = _VARIABLE.fullmatch(body)
    if variable is None:
        return Problem("", f"template syntax {quote('{{' + body + '}}')} is not supported", _HINT)
    if variable[1] in values:
        return values[variable[1]]
    near = nearest(variable[1], values)
    given = f"given are {', '.join(values)}" if values else "give it with -V NAME=VALUE"
    return Problem("", f"template variable {quote(variable[1])} is not given", given, near)


def _placed(problem: Problem, text: str, at: int, name: str) -> Problem:
    line = text.count("\n", 0, at) + 1
    column = at - text.rfind("\n", 0, at)
    return Problem(problem.path, problem.message, problem.hint, problem.nearest, name, line, column)
