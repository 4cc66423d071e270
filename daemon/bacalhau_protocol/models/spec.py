"""Job files: text in, a `Job` and warnings out, or one error that carries every problem with line, column and path.

    parsed = read_spec(text, "job.yaml", settings=["Count=3"])

A file is YAML in Bacalhau's dialect, or JSON. Templates (`template.render`) are a step of their own before this one.
Lines and columns count from 1, in characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec

from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.models.binding import Binder
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.json_nodes import read_json
from bacalhau_protocol.models.nodes import Node
from bacalhau_protocol.models.normalise import DEFAULTS, JobDefaults
from bacalhau_protocol.models.problems import Problem, named, settle, spec_error, with_source
from bacalhau_protocol.models.submission import JOB_BYTES_MAX, too_large
from bacalhau_protocol.models.validate import examine
from bacalhau_protocol.models.yaml_nodes import read_yaml

NOT_SETTABLE = ("ID", "State", "Version", "Revision", "CreateTime", "ModifyTime")
"""Keys of a job that the orchestrator sets; Bacalhau's command line refuses them in a file, its API ignores them."""


class ParsedSpec(msgspec.Struct, frozen=True):
    """A job as its file says it, not normalised, ready to be submitted."""

    job: Job
    warnings: tuple[Problem, ...] = ()


def read_spec(
    text: str | bytes,
    name: str = "job.yaml",
    *,
    settings: Sequence[str] = (),
    defaults: JobDefaults = DEFAULTS,
    lenient: bool = False,
) -> ParsedSpec:
    """Read, bind and check a job file.

    `name` stands in front of every problem. `settings` are `--set` changes. `defaults` are what the orchestrator is
    believed to fill in: result paths need a publisher from somewhere. `lenient` reads the root as Bacalhau's API
    does: keys that it does not know, and keys that only the orchestrator sets, are warnings or nothing.

    Raises
    ------
    SpecError
        one line per problem; `problems.problems_of` gives them as values.
    """
    try:
        document = read_document(text, name)
        if settings:
            from bacalhau_protocol.models.settings import apply_settings  # noqa: PLC0415 - only `--set` needs it

            document = apply_settings(document, settings)
        parsed = _bind(document, defaults, lenient=lenient)
    except SpecError as error:
        raise named(error, name) from error
    return ParsedSpec(parsed.job, tuple(with_source(warning, name) for warning in parsed.warnings))


def read_document(text: str | bytes, name: str = "job.yaml") -> Node:
    """Read a text as a tree of nodes. Raises `SpecError` when it is too large, empty, or neither YAML nor JSON."""
    size_bytes = len(text) if isinstance(text, bytes) else len(text.encode(errors="surrogatepass"))
    if size_bytes > JOB_BYTES_MAX:
        raise too_large(size_bytes)
    decoded = _decode(text) if isinstance(text, bytes) else text
    document = _parse(decoded.removeprefix("\ufeff"), name)
    if document is None:
        raise spec_error([Problem("", "the file is empty", "a job has at least Type and Tasks")])
    return document


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        words = f"not a text: byte 0x{data[error.start]:02X} at offset {error.start} is not UTF-8"
        raise spec_error([Problem("", words, line=line, column=column)]) from error


def _parse(text: str, name: str) -> Node | None:
    """JSON has a reader of its own: YAML refuses its tabs, reads its escapes otherwise, and is much slower."""
    if text.lstrip()[:1] not in ("{", "["):
        return read_yaml(text)
    try:
        return read_json(text)
    except SpecError as not_json:
        try:
            return read_yaml(text)
        except SpecError as not_yaml:
            raise (not_json if name.endswith(".json") else not_yaml) from None


def _bind(document: Node, defaults: JobDefaults, *, lenient: bool) -> ParsedSpec:
    binder = Binder(() if lenient else NOT_SETTABLE)
    job = binder.bind(document, Job)
    found = (binder.placed(each) for each in examine(job, defaults) if not _is_below(each.path, binder.unusable))
    warnings = settle(chain(binder.problems, found))
    size_bytes = len(msgspec.json.encode(job))
    if size_bytes > JOB_BYTES_MAX:
        raise too_large(size_bytes)
    return ParsedSpec(job, warnings)


def _is_below(path: str, tops: Iterable[str]) -> bool:
    """Whether a path is one of these, or below one: then its value is missing only because it was unusable."""
    return any(not top or path == top or path.startswith((f"{top}.", f"{top}[")) for top in tops)
