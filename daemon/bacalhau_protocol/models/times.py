"""Times and durations as text: RFC 3339 with nanoseconds, and Go's durations (`1m30s`). Inside, all is integer ns.

An integer time is nanoseconds since the epoch, UTC; 0 means "not set" and is Go's zero time in text.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.node import ZERO_TIME

SECOND = 1_000_000_000
TEXT_MAX = 100
"""Longest text of a duration, in characters."""
TIME_MIN, TIME_MAX = -(2**63), 2**63 - 1

_EPOCH = dt.datetime(1970, 1, 1)
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9})\d*)?(?:([Zz])|([+-])(\d\d):(\d\d))", re.ASCII
)
_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")


def format_time(at_ns: int) -> str:
    """Write a time as RFC 3339 in UTC, with as many of nine digits as it needs: `2025-06-01T10:00:00.5Z`."""
    if at_ns == 0:
        return ZERO_TIME
    seconds, fraction = divmod(at_ns, SECOND)
    text = _format_second(seconds)
    return f"{text}.{fraction:09d}".rstrip("0") + "Z" if fraction else f"{text}Z"


@lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    return (_EPOCH + dt.timedelta(seconds=seconds)).isoformat()


def parse_time(text: str) -> int:
    """Read RFC 3339 with any offset and up to nine digits of fraction (more are dropped). Raises `UsageError`.

    Go's zero time is 0; any other time outside of the years 1678 to 2262 is refused, since it has no 64-bit form.
    """
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a time", hint="write it as 2025-06-01T10:00:00Z or with an offset, +02:00")
    try:
        at = dt.datetime(*(int(part) for part in match.groups()[:6]))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"{text!r} is not a time: {error}", hint="check month, day and hour") from error
    seconds = (at - _EPOCH) // dt.timedelta(seconds=1)
    if match[9]:
        offset = int(match[10]) * 3600 + int(match[11]) * 60
        seconds += offset if match[9] == "-" else -offset
    at_ns = seconds * SECOND + int((match[7] or "0").ljust(9, "0"))
    if at_ns == _ZERO_NS:
        return 0
    if not TIME_MIN <= at_ns <= TIME_MAX:
        raise UsageError(f"{text!r} lies outside of the years 1678 to 2262")
    return at_ns


_ZERO_NS = (dt.datetime(1, 1, 1) - _EPOCH) // dt.timedelta(seconds=1) * SECOND


def format_duration(duration_ns: int) -> str:
    """Write a duration as Go does: `0s`, `1.5ms`, `10s`, `1m30s`, `1h0m0s`."""
    if duration_ns < 0:
        return "-" + format_duration(-duration_ns)
    if duration_ns == 0:
        return "0s"
    for unit, factor, below in (("ns", 1, 10**3), ("µs", 10**3, 10**6), ("ms", 10**6, SECOND)):
        if duration_ns < below:
            return _decimal(duration_ns, factor) + unit
    minutes, rest_ns = divmod(duration_ns, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_decimal(rest_ns, SECOND)}s"


def _decimal(amount: int, factor: int) -> str:
    whole, fraction = divmod(amount, factor)
    digits = f"{fraction:0{len(str(factor)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def parse_duration(text: str) -> int:
    """Read a duration as Go does (`10s`, `1h30m`, `1.5h`, `-2s`, `0`) and return nanoseconds. Raises `UsageError`."""
    body = text[1:] if text[:1] in ("+", "-") else text
    if len(body) > TEXT_MAX:
        raise UsageError(f"{len(body)} characters are too many for a duration")
    parts = list(_PART.finditer(body))
    if body != "0" and (not parts or "".join(part[0] for part in parts) != body):
        raise UsageError(f"{text!r} is not a duration", hint='write for instance "30s", "10m", "1h30m"')
    total = sum(_scaled(part[1], _UNITS[part[2]]) for part in parts)
    if total > TIME_MAX:
        raise UsageError(f"{text!r} is too long a duration", hint="the limit is about 292 years")
    return -total if text[:1] == "-" else total


def _scaled(number: str, factor: int) -> int:
    whole, _, fraction = number.partition(".")
    return int(whole or "0") * factor + int(fraction[:18].ljust(18, "0")) * factor // 10**18
