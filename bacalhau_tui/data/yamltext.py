"""Values as YAML text: specifications to read, and to begin a new one from."""

from __future__ import annotations

import io
from typing import Any

import msgspec

from bacalhau_protocol.models.job import Job

_SET_BY_THE_CLUSTER = ("ID", "State", "Version", "Revision", "CreateTime", "ModifyTime", "EvaluationID")


def as_yaml(plain: Any) -> str:
    """Return a plain value as YAML, keys in their order."""
    from ruamel.yaml import YAML  # noqa: PLC0415  slow to import, and seldom needed

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    buffer = io.StringIO()
    yaml.dump(plain, buffer)
    return buffer.getvalue()


def job_yaml(job: Job) -> str:
    """Return a job as a file that could be submitted: without what the cluster sets, and without what is empty."""
    plain = {key: value for key, value in msgspec.to_builtins(job).items() if key not in _SET_BY_THE_CLUSTER}
    if plain.get("Name") == job.id:
        del plain["Name"]
    return as_yaml(_tidy(plain))


_VERBATIM = ("Params", "Env", "Meta", "Labels", "Values")
"""What a person wrote freely: an empty value in there may mean something."""


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        tidied = {key: each if key in _VERBATIM else _tidy(each) for key, each in value.items()}
        return {key: each for key, each in tidied.items() if not _says_nothing(key, each)}
    return [_tidy(each) for each in value] if isinstance(value, list | tuple) else value


def _says_nothing(key: str, value: Any) -> bool:
    if isinstance(value, int):
        return value == 0 and (key == "Priority" or key.endswith("Timeout"))
    return value is None or (isinstance(value, str | list | tuple | dict) and not value)
