"""How deep the parameters of engines, sources and publishers may nest.

Decoders and encoders recurse, and each gives up at a depth that depends on who called it: what one could just read,
the next one might not be able to store, or to read again after a restart. So depth is limited far below that.
"""

from __future__ import annotations

DEPTH_MAX = 64
"""Deepest nesting of lists and objects."""


def nests_deeper(value: object, levels: int = DEPTH_MAX) -> bool:
    """Whether lists and objects are nested in a value more than so many levels deep. Looks no deeper than that."""
    if isinstance(value, dict):
        return levels <= 0 or any(nests_deeper(part, levels - 1) for part in value.values())
    if isinstance(value, list):
        return levels <= 0 or any(nests_deeper(part, levels - 1) for part in value)
    return False
