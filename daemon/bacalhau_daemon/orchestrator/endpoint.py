"""The client API's endpoint: from a message to a checked call, from a result to an answer.

The callback never waits: each call is a future, and their number is bounded, per user and in all. What only the machine
decides has no task of its own: its future is done when the machine has answered.
An answer goes only to the sender's own inbox: the subject says truthfully who sent the request, and a request that
names another's subject for its answer is dropped, for answering would make us publish there.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from bacalhau_daemon.core.events import Role
from bacalhau_daemon.orchestrator import roles
from bacalhau_daemon.orchestrator.micro import VerbStats
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import (
    AT_LEAST,
    DEADLINE,
    ERROR,
    ERROR_CODE,
    LOG_POSITION,
    REQUEST_ID,
    VERBS,
    Body,
)
from bacalhau_protocol.api.subjects import API, TOKEN, inbox_prefix
from bacalhau_protocol.transport.base import Bus, Message

SUBJECT = f"{API}.*.*.*"
CALLS_PER_USER_MAX = 512
CALLS_MAX = 4096
NUMBER_DIGITS_MAX = 20

log = structlog.get_logger(__name__)


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose form, sender and role have been checked."""

    user: str
    verb: str
    body: Body
    request_id: str = ""
    deadline: int = 0  # ns since the epoch; 0: none
    at_least: int = 0  # event number that a read must have seen


class Result(msgspec.Struct, frozen=True):
    """What a call gets: an answer, and the log position that it has seen."""

    body: Body
    position: int


class Endpoint:
    """Serves all verbs of the client API on one subscription."""

    def __init__(
        self,
        bus: Bus,
        role_of: Callable[[str], Role | None],
        serve: Callable[[Call], Awaitable[Result]],
        stats: dict[str, VerbStats],
    ) -> None:
        self._bus, self._role_of, self._serve, self._stats = bus, role_of, serve, stats
        self._calls: Counter[str] = Counter()
        self._open: set[asyncio.Future[Result]] = set()

    def received(self, message: Message) -> None:
        """Take one request; it is answered when it is done."""
        user, verb = split(message.subject)
        if not message.reply.startswith(f"{inbox_prefix(user)}."):
            log.warning("request.reply_refused", user=user, verb=verb, reply=message.reply[:128])
            return
        started = time.perf_counter_ns()
        try:
            call = self._check(user, verb, message)
        except errors.BacalhauError as error:
            self._refuse(message.reply, error, verb, started)
            return
        self._calls[user] += 1
        future = asyncio.ensure_future(self._serve(call))
        self._open.add(future)
        future.add_done_callback(lambda done: self._answer(done, call, message.reply, started))

    async def close(self, grace_s: float) -> None:
        """Let calls end for a while, then drop them; their clients ask again."""
        if self._open:
            _, late = await asyncio.wait(list(self._open), timeout=grace_s)
            for future in late:
                future.cancel()

    def _check(self, user: str, verb: str, message: Message) -> Call:
        if verb not in VERBS:
            close = difflib.get_close_matches(verb, VERBS, n=1)
            raise errors.NotFound(
                f"there is no {verb!r}", place=message.subject, hint=f"do you mean {close[0]}?" if close else ""
            )
        roles.check(user, self._role_of(user), verb)
        if self._calls[user] >= CALLS_PER_USER_MAX or len(self._open) >= CALLS_MAX:
            raise errors.Busy(f"{self._calls[user]} requests of {user!r} wait already", hint="try again in a moment")
        return read(user, verb, message)

    def _answer(self, done: asyncio.Future[Result], call: Call, reply: str, started: int) -> None:
        self._open.discard(done)
        self._calls[call.user] -= 1
        if not self._calls[call.user]:
            del self._calls[call.user]
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            result = done.result()
            self._send(reply, msgspec.json.encode(result.body), {LOG_POSITION: str(result.position)})
            self._stats[call.verb].count(time.perf_counter_ns() - started)
        elif isinstance(error, errors.BacalhauError):
            self._refuse(reply, error, call.verb, started)
        else:
            log.error("request.failed", verb=call.verb, user=call.user, exc_info=error)
            bug = errors.Internal(f"{type(error).__name__}: {error}", place=call.verb, hint="please report this bug")
            self._refuse(reply, bug, call.verb, started)

    def _refuse(self, reply: str, error: errors.BacalhauError, verb: str, started: int) -> None:
        headers = {ERROR: error.message[:512] or error.code, ERROR_CODE: str(error.http_status)}
        self._send(reply, error.to_wire(), headers)
        if verb in self._stats:
            self._stats[verb].count(time.perf_counter_ns() - started, error.code)

    def _send(self, reply: str, data: bytes, headers: dict[str, str]) -> None:
        try:
            self._bus.send(reply, data, headers=headers)
        except errors.Unavailable as error:  # the client asks again when its link is back
            log.info("answer.not_sent", reason=error.message)


def split(subject: str) -> tuple[str, str]:
    """Return user and verb of a request's subject."""
    user, _, verb = subject.removeprefix(f"{API}.").partition(".")
    return user, verb


def read(user: str, verb: str, message: Message) -> Call:
    """Decode headers and body. Raises `UsageError`."""
    headers = message.headers or {}
    request_id = headers.get(REQUEST_ID, "")
    deadline = _number(headers, DEADLINE, verb)
    kind = VERBS[verb]
    if request_id and not TOKEN.fullmatch(request_id):
        raise errors.UsageError(f"{REQUEST_ID} is not a token of letters, digits, - and _, at most 64", place=verb)
    if kind.write and not (request_id and deadline):
        raise errors.UsageError(f"a write must carry {REQUEST_ID} and {DEADLINE}", place=verb)
    try:
        body = msgspec.json.decode(message.data or b"{}", type=kind.request)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise errors.UsageError(f"the request cannot be read: {error}", place=verb) from error
    return Call(
        user=user,
        verb=verb,
        body=body,
        request_id=request_id,
        deadline=deadline,
        at_least=_number(headers, AT_LEAST, verb),
    )


def _number(headers: dict[str, str], name: str, place: str) -> int:
    text = headers.get(name, "0")
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS_MAX:
        raise errors.UsageError(f"{name} is not a number: {text[:64]!r}", place=place)
    return int(text)
