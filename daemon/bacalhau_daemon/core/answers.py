"""The first answer to a request, out of the event that the request led to: a repeated Request-Id gets it again."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core import events as ev
from bacalhau_protocol.api.messages import Body, CredentialIssued, Empty, JobSubmitted, StopAnswer


def first_answer(event: ev.AnyEvent) -> Body | None:
    """Return the answer that this event's request got; None when it had no request.

    A secret is never kept: the answer to a repeated request for a credential has none in it, and is refused.
    """
    match event:
        case ev.JobSubmitted():
            return JobSubmitted(
                job_id=event.spec.id,
                evaluation_id=event.eval,
                version=event.version,
                warnings=list(event.warnings),
            )
        case ev.JobStopped():
            return StopAnswer(job_id=event.id, evaluation_id=event.eval)
        case ev.CredentialIssued():
            return CredentialIssued(identity=event.identity, role=event.role, secret="", expires=event.expires)
        case ev.CredentialRevoked():
            return Empty()
        case _:
            return None


def encode_first_answer(event: ev.AnyEvent) -> bytes:
    """Return the same as bytes, for the query side's `Found.answer`; empty when there was no request."""
    answer = first_answer(event)
    return b"" if answer is None else msgspec.json.encode((type(event).__name__, answer))


def decode_first_answer(data: bytes) -> Body:
    """Read what `encode_first_answer` made."""
    kind, answer = msgspec.json.decode(data, type=tuple[str, msgspec.Raw])
    return msgspec.json.decode(answer, type=_ANSWERS[kind])


_ANSWERS: dict[str, type[Body]] = {
    "JobSubmitted": JobSubmitted,
    "JobStopped": StopAnswer,
    "CredentialIssued": CredentialIssued,
    "CredentialRevoked": Empty,
}
