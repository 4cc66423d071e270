"""What the shell hands to the orchestrator's machine with a client's request, and what it must look up before.

Finished jobs and old Request-Ids live in the query side only, and the machine does no I/O. So the shell asks
`lookup_of` what a request refers to, puts that question to the query side (many at once), attaches the answer as
`found`, and only then hands the request over. `decide` checks again against its own state, which also remembers what
the query side had not applied yet when it looked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bacalhau_daemon.core.state import JobState
from bacalhau_protocol.api.messages import Body, JobExplain, JobRef, JobSubmit


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """Questions to the query side; a blank one is not asked."""

    user: str
    request: str = ""  # what was the first answer to this Request-Id of this user, within 24 h?
    namespace: str = ""
    name: str = ""  # which job has exactly this name in the namespace?
    ref: str = ""  # which job is this: an exact name in the namespace, an id, or the start of one?


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Answers of the query side, all of one moment."""

    as_of: int  # number of the last event that it had applied
    answer: bytes = b""  # the first answer, as `core/answers.py` encodes it
    job: JobState | None = None  # in any state; the newest version
    several: tuple[str, ...] = ()  # ids, when `ref` is the start of several (the first few)


class Request(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A client's request. The shell has checked the reply subject and decoded the body by `api.messages.VERBS`."""

    user: str  # the identity in the subject
    verb: str  # `job.submit`, …
    body: Body
    id: str = ""  # Request-Id
    deadline: int = 0  # ns since the epoch; 0: none
    found: Found | None = None
    token: Any = None  # the shell's own: comes back in `Answer`

    @property
    def what(self) -> str:
        """In one line, for people who read the log."""
        return f"{self.verb} by {self.user}"


def lookup_of(request: Request) -> Lookup | None:
    """Return what to look up before the request can be decided; None: nothing."""
    body = request.body
    match body:
        case JobSubmit(job=job):
            name, namespace = job.name.strip(), job.namespace.strip() or "default"
            return Lookup(user=request.user, request=request.id, namespace=namespace, name=name)
        case JobRef() | JobExplain(spec=None):
            namespace = body.namespace or "default"
            return Lookup(user=request.user, request=request.id, namespace=namespace, ref=body.job)
        case _ if request.id:
            return Lookup(user=request.user, request=request.id)
        case _:
            return None
