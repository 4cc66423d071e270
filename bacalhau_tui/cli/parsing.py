"""Values of options: durations and sizes as people write them."""

from __future__ import annotations

import re

import click

from bacalhau_protocol.errors import BacalhauError
from bacalhau_protocol.models.quantities import parse_bytes
from bacalhau_protocol.models.times import SECOND, parse_duration

_DAYS = re.compile(r"(\d+)d")
_SECONDS = re.compile(r"\d+(\.\d+)?")


def duration_s(text: str) -> float:
    """Return seconds: `90`, `90s`, `10m`, `24h`, `30d`. Raises `BadParameter`."""
    try:
        if days := _DAYS.fullmatch(text):
            return int(days[1]) * 86_400.0
        return float(text) if _SECONDS.fullmatch(text) else parse_duration(text) / SECOND
    except BacalhauError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}") from error


def size_bytes(text: str) -> int:
    """Return bytes: `64kB`, `10MB`, `1Gi`. Raises `BadParameter`."""
    try:
        return parse_bytes(text, "size")
    except BacalhauError as error:
        raise click.BadParameter(f"{error.message}; {error.hint}") from error
