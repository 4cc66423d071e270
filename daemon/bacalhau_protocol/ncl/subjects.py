"""NCL's subjects. The node's id is a token of each; a credential is pinned to it by NATS permissions.

::

    C ── request ──►  bacalhau.global.compute.<id>.out.ctrl      ──► O   handshake, heartbeat, node info, shutdown
    C ── publish ──►  bacalhau.global.compute.<id>.out.msgs      ──► O   BidResult, RunResult, ComputeError
    C ── request ──►  bacalhau.global.compute.<id>.out.requests  ──► O   managed-S3 pre-signed URL
    O ── publish ──►  bacalhau.global.compute.<id>.in.msgs       ──► C   AskForBid, BidAccepted, …, CancelExecution
    O ── publish ──►  node.compute.<id>.ExecutionLogs/v1         ──► C   log stream of foreign peers
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import Final

_ROOT = "bacalhau.global.compute"
_PREFIX = _ROOT + "."
PARSED_MAX: Final = 16_384
"""Subjects that are remembered with what they say."""

FOREIGN_INBOX: Final = "_INBOX."
OWN_INBOX: Final = "_R."
INBOXES: Final = (FOREIGN_INBOX, OWN_INBOX)
"""How reply subjects begin. We answer nowhere else: a request names its own reply subject, and must not be able to make
us publish into commands."""


class Plane(enum.StrEnum):
    """The last two tokens of a subject: who speaks, about what."""

    IN_MSGS = "in.msgs"
    OUT_CTRL = "out.ctrl"
    OUT_MSGS = "out.msgs"
    OUT_REQUESTS = "out.requests"


_PLANES = {plane.value: plane for plane in Plane}


def subject(node: str, plane: Plane) -> str:
    """Return a node's subject, for instance `bacalhau.global.compute.n-1.out.ctrl`."""
    return f"{_PREFIX}{node}.{plane.value}"


def of_all_nodes(plane: Plane) -> str:
    """Return the wildcard that an orchestrator subscribes to."""
    return f"{_PREFIX}*.{plane.value}"


def parse(subject_: str) -> tuple[str, Plane] | None:
    """Split a subject into node and plane; None when it is not NCL's."""
    return _parse(subject_) if subject_.startswith(_PREFIX) else None


@lru_cache(maxsize=PARSED_MAX)
def _parse(subject_: str) -> tuple[str, Plane] | None:
    node, _, rest = subject_[len(_PREFIX) :].partition(".")
    plane = _PLANES.get(rest)
    return (node, plane) if node and plane is not None else None


def is_inbox_of(node: str, reply: str) -> bool:
    """Whether a reply subject may be this node's: under its own prefix, or in what all foreign nodes share."""
    return reply.startswith((f"{OWN_INBOX}{node}.", FOREIGN_INBOX))


def execution_logs(node: str) -> str:
    """Return the subject of log requests to a node (`logstream`)."""
    return f"node.compute.{node}.ExecutionLogs/v1"
