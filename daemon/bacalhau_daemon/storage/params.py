"""Reading the parameters of a source or a publisher: names compare without case, unknown ones are ignored.

As Bacalhau ignores them; whoever submits the job has been warned (`models.params`). `read` never raises: it returns
what is wrong in words, so that `check` can list everything at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bacalhau_protocol.models.job import SpecConfig


def read(config: SpecConfig, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the parameters under the given spelling of their names, and the problems found."""
    spelled = {name.lower(): name for name in names}
    found: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in config.values.items():
        name = spelled.get(key.lower())
        if name is None:
            continue
        if name in found:
            problems.append(f"{config.type}: parameter {name!r} is given twice")
        else:
            found[name] = value
    return found, problems


def text(config: SpecConfig, found: dict[str, Any], name: str, problems: list[str]) -> str:
    """Return a required text parameter, trimmed; blank (and a problem) when it is missing or not text."""
    value = found.get(name)
    if not isinstance(value, str) or not value.strip():
        what = "is missing" if value in (None, "") else f"must be text, not {value!r}"
        problems.append(f"{config.type}: parameter {name!r} {what}")
        return ""
    return value.strip()


def flag(config: SpecConfig, found: dict[str, Any], name: str, problems: list[str]) -> bool:
    """Return an optional flag: a boolean, or the text `true` or `false` as Bacalhau's command line sends it."""
    value = found.get(name, False)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false", ""):
        return value.strip().lower() == "true"
    problems.append(f"{config.type}: parameter {name!r} must be true or false, not {value!r}")
    return False
