"""Every subject of ours, built in one place. NCL's own subjects are in `bacalhau_protocol.ncl.subjects`.

The identity is part of the subject and pinned by NATS permissions, so a subject says truthfully who sent it.
"""

from __future__ import annotations

import hashlib
import re

TOKEN_CHARACTERS_MAX = 64
HASH_CHARACTERS = 32
TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")

API = "bacalhau.api.v1"
FEED = "bacalhau.feed.v1"
EXTENSION = "bacalhau.x.v1"


def api(user: str, noun: str, verb: str) -> str:
    """Return the subject of a request, for instance `bacalhau.api.v1.alice.job.submit`."""
    return f"{API}.{user}.{noun}.{verb}"


def feed(namespace: str, kind: str, *key: str) -> str:
    """Return the subject of a row change, for instance `bacalhau.feed.v1.default.job.j-…`.

    The key of an execution is its job's id and its own, so that one subscription follows a job's executions:
    `bacalhau.feed.v1.default.execution.j-….e-…`. Nodes have the namespace `-`. `*` and `>` may stand for any of them.
    """
    tokens = [namespace, kind, *key]
    return ".".join([FEED, *(token if token in ("*", ">") else encode_token(token) for token in tokens)])


def feed_tick() -> str:
    """Return the subject of the tick that comes once a second with the term and the newest numbers."""
    return f"{FEED}.-.tick.-"


def to_node(node: str, verb: str) -> str:
    """Return the subject of a request to one of our own nodes, for instance `bacalhau.x.v1.n-1.in.log.read`."""
    return f"{EXTENSION}.{node}.in.{verb}"


def from_node(node: str, verb: str) -> str:
    """Return the subject of a message of one of our own nodes, for instance `bacalhau.x.v1.n-1.out.hello`."""
    return f"{EXTENSION}.{node}.out.{verb}"


def inbox_prefix(identity: str) -> str:
    """Return the inbox prefix that only this identity may hear."""
    return f"_R.{identity}"


def encode_token(text: str) -> str:
    """Make one subject token of any text: itself if it is one, else `=` and its hexadecimal UTF-8, at most 64 long.

    What would be longer ends with a hash of the whole text, so that texts which begin alike stay apart.
    """
    if TOKEN.fullmatch(text):
        return text
    data = text.encode()
    if 2 * len(data) < TOKEN_CHARACTERS_MAX:
        return f"={data.hex()}"
    digest = hashlib.sha256(data).hexdigest()[:HASH_CHARACTERS]
    return f"={data.hex()[: TOKEN_CHARACTERS_MAX - 2 - HASH_CHARACTERS]}={digest}"
