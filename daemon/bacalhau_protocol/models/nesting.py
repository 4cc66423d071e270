"""How deep the parameters of engines, sources and publishers may nest.

Decoders and encoders recurse, and each gives up at a depth that depends on who called it: what one could just read,
the next one might not be able to store, or to read again after a restart. So depth is limited far below that.
"""

from __future__ import annotations

from collections.abc import Iterator

from bacalhau_protocol.models.job import Job, SpecConfig, Task

DEPTH_MAX = 64
"""Deepest nesting of lists and objects."""


def nests_deeper(value: object, levels: int = DEPTH_MAX) -> bool:
    """Whether lists and objects are nested in a value more than so many levels deep. Looks no deeper than that."""
    if isinstance(value, dict):
        return levels <= 0 or any(nests_deeper(part, levels - 1) for part in value.values())
    if isinstance(value, list):
        return levels <= 0 or any(nests_deeper(part, levels - 1) for part in value)
    return False


def too_deep(job: Job) -> str:
    """Return the path of the first parameters of a job that nest too deep; blank if none do."""
    for index, task in enumerate(job.tasks or ()):
        for place, config in _configs(task):
            if config is not None and nests_deeper(config.values):
                return f"Tasks[{index}].{place}.Params"
    return ""


def _configs(task: Task) -> Iterator[tuple[str, SpecConfig | None]]:
    yield "Engine", task.engine
    yield "Publisher", task.publisher
    for index, source in enumerate(task.input_sources or ()):
        yield f"InputSources[{index}].Source", source.source
