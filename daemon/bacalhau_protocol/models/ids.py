"""Identifiers: a letter, a hyphen and a UUIDv4. The makers take their randomness as an argument.

Look-up by "id or name", everywhere: first an exact name in the namespace; else an id; else, when the text is not a
full id (`is_full`), the one id that begins with it (`prefix_range`).
"""

from __future__ import annotations

import re

JOB, EXECUTION, NODE, EVALUATION = "j-", "e-", "n-", "v-"
NAMESPACE_DEFAULT = "default"
RANDOM_BYTES = 16
"""How many bytes of randomness an id takes."""

TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What an id may be: one subject token."""

_UUID = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
_FULL = re.compile(rf"[A-Za-z]-{_UUID}")
_SHORTENABLE = re.compile(r"([A-Za-z])-(\w{8})-\w{4}-\w{4}-\w{4}-\w{12}")
_BARE = re.compile(r"(\w{8})-\w{4}-\w{4}-\w{4}-\w{12}")
_PEER = re.compile(r"Qm[A-Za-z0-9]{44}")
_SHORT_PEER_LENGTH = 8


def new_id(prefix: str, randomness: bytes) -> str:
    """Return prefix + UUIDv4 made of exactly 16 random bytes; evaluations of Bacalhau have a blank prefix."""
    digits = randomness.hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{prefix}{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def short_id(full: str) -> str:
    """Return the form for people: `j-1a2b3c4d`; a bare UUID's first 8 characters; anything else unchanged."""
    if match := _SHORTENABLE.fullmatch(full):
        return f"{match[1]}-{match[2]}"
    if match := _BARE.fullmatch(full):
        return match[1]
    return full[:_SHORT_PEER_LENGTH] if _PEER.fullmatch(full) else full


def is_full(text: str, prefix: str) -> bool:
    """Whether this is a whole id of that kind, so that a prefix search would be pointless."""
    return text.startswith(prefix) and _FULL.fullmatch(text) is not None


def prefix_range(text: str) -> tuple[str, str]:
    """Return (low, high) with low ≤ id < high for exactly the ids that begin with this text."""
    return text, f"{text}\x7f"  # ids are ASCII, and nothing in them sorts after DEL
