"""Amounts as people write them: CPU, memory, disk, GPU. Results equal Bacalhau's for the same text.

Bacalhau computes with 64-bit floats and truncates; so do we, because both kinds of node must agree on a job's size.
All parsers raise `SpecError` with the text found, what is allowed, and an example.
"""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.models.resources import Resources, ResourcesConfig

AMOUNT_MAX = 2**63 - 1
"""Largest amount of anything. Bacalhau's limit is 2⁶⁴; one bit less fits every database and codec."""

TEXT_MAX = 100
"""Longest text of an amount, in characters."""

_DECIMAL_UNITS = {
    "": 1, "b": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15, "e": 10**18,
}  # fmt: skip
UNITS: dict[str, int] = {
    **_DECIMAL_UNITS,
    **{f"{unit}b": factor for unit, factor in _DECIMAL_UNITS.items() if unit not in ("", "b")},
    **{f"{unit}i{b}": 1 << (10 * n) for n, unit in enumerate("kmgtpe", start=1) for b in ("", "b")},
}
"""Units of memory and disk in lower case, in bytes. `m` is mega, `mi` is binary; there is no milli."""

_CPU_HINT = 'write cores ("0.5", "2") or millicores ("500m")'
_BYTES_HINT = (
    'write a number and a unit: "512Mb" (10⁶), "512Mi" (2²⁰), "2GB", "1Gi"; units k m g t p e, ki mi gi ti pi ei'
)
_GPU_HINT = 'write a whole number, for instance "1"'

_MILLICORES = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BYTES = re.compile(r"([0-9.,]*)(.*)", re.DOTALL)


def normalise_quantity(text: str) -> str:
    """Return the form in which Bacalhau stores an amount: lower case, without blanks and newlines."""
    return text.lower().replace(" ", "").replace("\n", "")


def _digest(text: str, what: str, hint: str) -> str:
    if len(text) > TEXT_MAX:
        raise SpecError(f"invalid {what} value: {len(text)} characters are too many", hint=hint)
    return normalise_quantity(text)


@lru_cache(maxsize=1024)
def parse_cpu(text: str) -> float:
    """Return cores, in whole millicores: `500m` and `0.5` are 0.5."""
    value = _digest(text, "CPU", _CPU_HINT)
    if value.endswith("m") and _MILLICORES.fullmatch(value[:-1]):
        millicores = int(value[:-1])
    elif _NUMBER.fullmatch(value) and float(value) <= AMOUNT_MAX:
        millicores = int(float(value) * 1000)
    else:
        raise SpecError(f"invalid CPU value: {text!r} is not an amount of CPU", hint=_CPU_HINT)
    if millicores < 0:
        raise SpecError(f"invalid CPU value: {text!r} is negative", hint=_CPU_HINT)
    if millicores > AMOUNT_MAX:
        raise SpecError(f"invalid CPU value: {text!r} is too large", hint=_CPU_HINT)
    return millicores / 1000


@lru_cache(maxsize=1024)
def parse_bytes(text: str, what: str = "memory") -> int:
    """Return bytes: `512Mb` is 512,000,000, `1Gi` is 1,073,741,824. `what` names the amount in errors."""
    value = _digest(text, what, _BYTES_HINT)
    match = _BYTES.fullmatch(value)
    assert match is not None, "the pattern matches any text"
    number, unit = match[1].replace(",", ""), match[2]
    if not _NUMBER.fullmatch(number):
        problem = "is negative" if value.startswith("-") else "does not begin with a number"
        raise SpecError(f"invalid {what} value: {text!r} {problem}", hint=_BYTES_HINT)
    if unit not in UNITS:
        raise SpecError(f"invalid {what} value: {text!r} has the unknown unit {unit!r}", hint=_BYTES_HINT)
    size = float(number) * UNITS[unit]
    if size >= AMOUNT_MAX:
        raise SpecError(f"invalid {what} value: {text!r} is too large", hint="the limit is 8 Ei")
    return int(size)


@lru_cache(maxsize=256)
def parse_gpu(text: str) -> int:
    """Return a count of GPUs."""
    value = _digest(text, "GPU", _GPU_HINT)
    if not (value.isascii() and value.isdigit()):
        raise SpecError(f"invalid GPU value: {text!r} is not a count of GPUs", hint=_GPU_HINT)
    if int(value) > AMOUNT_MAX:
        raise SpecError(f"invalid GPU value: {text!r} is too large", hint=_GPU_HINT)
    return int(value)


def parse_resources(config: ResourcesConfig | msgspec.UnsetType | None) -> Resources:
    """Return the amounts that a task asks for; blank or missing is zero. Raises at the first malformed amount."""
    if not isinstance(config, ResourcesConfig):
        return Resources()
    return Resources(
        cpu=parse_cpu(config.cpu) if config.cpu else 0.0,
        memory=parse_bytes(config.memory, "memory") if config.memory else 0,
        disk=parse_bytes(config.disk, "disk") if config.disk else 0,
        gpu=parse_gpu(config.gpu) if config.gpu else 0,
    )


def format_cpu(cores: float) -> str:
    """Write cores so that `parse_cpu` reads exactly them again: `2`, `500m`, `1500m`; decimals would be cut."""
    millicores = round(cores * 1000)
    return f"{millicores}m" if millicores % 1000 else str(millicores // 1000)


def format_bytes(size_bytes: int) -> str:
    """Write bytes for people, rounded to three digits or so: `0 B`, `512 MB`, `1.07 GB`. Units are decimal."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    units = iter(("kB", "MB", "GB", "TB", "PB", "EB"))
    size, unit = size_bytes / 1000, next(units)
    while size >= 999.5:
        size, unit = size / 1000, next(units, "EB")
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    text = f"{size:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {unit}"


def format_resources(amount: Resources) -> str:
    """Write amounts in one line for people: `CPU 500m, memory 512 MB`; `nothing` when all are zero."""
    parts = [
        f"CPU {format_cpu(amount.cpu)}" if amount.cpu else "",
        f"memory {format_bytes(amount.memory)}" if amount.memory else "",
        f"disk {format_bytes(amount.disk)}" if amount.disk else "",
        f"GPU {amount.gpu}" if amount.gpu else "",
    ]
    return ", ".join(part for part in parts if part) or "nothing"
