"""Reading a job file, from a path or from stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from bacalhau_protocol import errors
from bacalhau_protocol.models.spec import ParsedSpec, read_spec
from bacalhau_protocol.models.submission import JOB_BYTES_MAX
from bacalhau_protocol.models.template import render


def read_job(
    file: str, *, settings: Iterable[str] = (), variables: Iterable[str] = (), template: bool = True
) -> ParsedSpec:
    """Read `FILE` or `-`, fill in variables, apply `--set`, check.

    Raises
    ------
    UsageError
        when the file cannot be read or a variable is not `NAME=VALUE`.
    SpecError
        with every problem of the file, each with line and column.
    """
    name = "stdin" if file == "-" else file
    data = _read(file)
    if not template:
        return read_spec(data, name, settings=tuple(settings))
    values = dict(_variable(text) for text in variables)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return read_spec(data, name)  # says where it is not a text
    return read_spec(render(text, values, name), name, settings=tuple(settings))


def _read(file: str) -> bytes:
    try:
        if file == "-":
            return sys.stdin.buffer.read(JOB_BYTES_MAX + 1)
        with Path(file).open("rb") as opened:
            return opened.read(JOB_BYTES_MAX + 1)
    except OSError as error:
        raise errors.UsageError(f"cannot read the job file: {error.strerror}", place=file) from error


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise errors.UsageError(f"-V {text!r} is not NAME=VALUE", hint="for instance -V region=eu")
    return name, value
