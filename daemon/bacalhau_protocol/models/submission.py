"""What an orchestrator does with a submitted job before it decides anything: check, normalise, clear, fill in."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.normalise import (
    DEFAULTS,
    JobDefaults,
    apply_defaults,
    convert_legacy_wasm,
    normalise,
    sanitise,
)
from bacalhau_protocol.models.problems import PROBLEMS_MAX, Problem, settle, spec_error
from bacalhau_protocol.models.validate import examine

JOB_BYTES_MAX = 384 * 1024
"""Largest job, encoded."""


class Prepared(msgspec.Struct, frozen=True):
    """A job ready to be stored, its encoded form, and what was ignored or changed, in words."""

    job: Job
    warnings: tuple[str, ...]
    encoded: bytes


def prepare(job: Job, job_id: str, meta: Mapping[str, str] | None = None, defaults: JobDefaults = DEFAULTS) -> Prepared:
    """Make a submitted job ready to be stored.

    `job_id` is the id of a new job; a service or daemon that brings its own keeps that. `meta` is added by the
    orchestrator (keys `bacalhau.org/…`). State, version, revision and times stay zero: they are the caller's.

    Raises
    ------
    SpecError
        carrying every problem, each with the path of its field; or the job is too large, with its size.
    """
    found = settle(examine(job, defaults))
    ready, ignored = sanitise(normalise(job))
    ready = replace(ready, id=ready.id or job_id, name=ready.name or ready.id or job_id)
    if meta:
        ready = replace(ready, meta={**(ready.meta or {}), **meta})
    ready = convert_legacy_wasm(apply_defaults(ready, defaults))
    encoded = msgspec.json.encode(ready)
    if len(encoded) > JOB_BYTES_MAX:
        raise too_large(len(encoded))
    return Prepared(ready, _some((*ignored, *map(str, found))), encoded)


def _some(warnings: tuple[str, ...]) -> tuple[str, ...]:
    if len(warnings) <= PROBLEMS_MAX:
        return warnings
    return (*warnings[:PROBLEMS_MAX], f"… and {len(warnings) - PROBLEMS_MAX} more warnings")


def too_large(size_bytes: int) -> SpecError:
    """Return the error for a job or a job file of that size."""
    words = f"the job has {size_bytes:,} bytes, the limit is {JOB_BYTES_MAX:,}"
    hint = "put large data where nodes can fetch it, and name it as an input"
    return spec_error([Problem("", words, hint)])
