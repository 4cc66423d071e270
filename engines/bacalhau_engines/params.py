"""Reading an engine's parameters: what is wrong is added to a list of problems, so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def text(engine: str, found: Mapping[str, Any], name: str, problems: list[str]) -> str:
    """Return a parameter that is a text; blank when it is not given or not one."""
    value = found.get(name)
    if value is None:
        return ""
    return value if is_text(engine, value, name, problems) else ""


def texts(engine: str, found: Mapping[str, Any], name: str, problems: list[str]) -> tuple[str, ...]:
    """Return a parameter that is a list of texts, without those that are none."""
    value = found.get(name)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        problems.append(f"{engine}: {name} must be a list of texts, not {value!r}")
        return ()
    return tuple(item for place, item in enumerate(value) if is_text(engine, item, f"{name}[{place}]", problems))


def is_text(engine: str, value: object, name: str, problems: list[str]) -> bool:
    """Whether a value is a text that a program can be given."""
    if not isinstance(value, str):
        problems.append(f"{engine}: {name} must be text, not {value!r}; put it in quotes")
    elif "\0" in value:
        problems.append(f"{engine}: {name} must not hold a NUL character")
    else:
        return True
    return False
