"""Requests to the orchestrator and to nodes: typed, with deadlines, repeated safely.

A write carries one `Request-Id` however often it is sent, so the orchestrator carries it out once. Whatever may help
(after `Busy`, `Unavailable`, `TimedOut`) is sent again with growing, jittered pauses until the deadline. After a write
this client's reads ask for at least the log position of the write's answer: it sees what it did.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.tokens import Credential
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.transport.base import Bus, Message

A = TypeVar("A", bound=m.Body)

OnRetry = Callable[[errors.BacalhauError, float], None]
"""Told of every failed try and of the pause (seconds) before the next."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a client is, in seconds. An answer is awaited `attempt_s`, then the request is repeated."""

    read_s: float = 10.0
    write_s: float = 30.0
    attempt_s: float = 5.0
    pause_min_s: float = 0.05
    pause_max_s: float = 2.0
    connect_s: float = 5.0
    tick_missing_s: float = 3.5  # ticks come once a second; after this long without one the feed is silent


TIMING = Timing()
ANSWER_MIN_S = 0.25  # an answer is awaited at least so long
ALL_JOBS, ALL_NODES = m.JobQuery(), m.NodeQuery()


class Answer(msgspec.Struct, Generic[A], frozen=True):
    """What was answered, and the log position it has seen."""

    body: A
    position: int


class Client:
    """One connection with one identity. Build it with `connect`, or on any `Bus`; `close` it."""

    def __init__(
        self,
        bus: Bus,
        identity: str,
        *,
        timing: Timing = TIMING,
        read_only: bool = False,
        open_bulk: Callable[[], Awaitable[Bus]] | None = None,
        on_retry: OnRetry | None = None,
    ) -> None:
        """`open_bulk` makes a second connection, for large transfers; without it they share this one."""
        self.bus, self.identity, self.timing, self.read_only = bus, identity, timing, read_only
        self.on_retry = on_retry
        self.position = 0  # newest log position among the answers to our writes
        self.interruptions = 0  # how often the link has ended; the feed asks again when it grows
        self._ahead_ns = 0  # how far the orchestrator's clock is ahead of ours, as far as it matters for deadlines
        self._open_bulk = open_bulk
        self._bulk: Bus | None = None
        self._bulk_opening = asyncio.Lock()

    @classmethod
    async def connect(
        cls,
        credential: Credential,
        *,
        timing: Timing = TIMING,
        read_only: bool = False,
        on_retry: OnRetry | None = None,
        on_link: Callable[[bool, errors.BacalhauError | None], None] | None = None,
    ) -> Client:
        """Connect over NATS. `on_link(up, why)` is told when the link comes and goes.

        Raises
        ------
        Unauthenticated
            when the credential is refused.
        Unavailable
            when nobody answers at the address.
        """
        from bacalhau_protocol.transport import nats  # noqa: PLC0415  heavy: `--help` must not wait for it
        from bacalhau_protocol.transport.settings import NatsSettings  # noqa: PLC0415

        settings = NatsSettings(
            address=credential.address, identity=credential.identity, token=credential.secret, ca=credential.ca
        )

        async def bulk() -> Bus:
            return await nats.connect(settings, timeout_s=timing.connect_s)

        client: Client

        async def up(_: object) -> None:
            if on_link is not None:
                on_link(True, None)

        def down(error: errors.BacalhauError) -> None:
            client.interruptions += 1
            if on_link is not None:
                on_link(False, error)

        bus = nats.NatsBus(settings, on_connect=up, on_disconnect=down)
        client = cls(bus, credential.identity, timing=timing, read_only=read_only, open_bulk=bulk, on_retry=on_retry)
        bus.start()
        try:
            await bus.wait_connected(timing.connect_s)
        except BaseException:
            await bus.close()
            raise
        return client

    async def close(self) -> None:
        """Close all connections."""
        if self._bulk is not None:
            await self._bulk.close()
        await self.bus.close()

    async def bulk_bus(self) -> Bus:
        """Return the connection for large transfers, so that the feed and requests never wait behind them.

        Raises `Unavailable` when it cannot be made now.
        """
        async with self._bulk_opening:
            if self._bulk is None and self._open_bulk is not None:
                self._bulk = await self._open_bulk()
        return self._bulk or self.bus

    # ── jobs ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit_job(
        self, job: Job, *, force: bool = False, dry_run: bool = False, request_id: str = "", deadline_s: float = 0
    ) -> m.JobSubmitted:
        """Run a job; a job of this name gets a new version. Nothing changes in a dry run."""
        request = m.JobSubmit(job=job, force=force, dry_run=dry_run)
        return await self.write("job.submit", request, m.JobSubmitted, request_id=request_id, deadline_s=deadline_s)

    async def stop_job(self, job: str, *, namespace: str = "default", reason: str = "") -> m.StopAnswer:
        """Stop a job and all of its executions."""
        return await self.write("job.stop", m.JobRef(job=job, namespace=namespace, reason=reason), m.StopAnswer)

    async def validate_job(self, job: Job) -> m.JobValidated:
        """Have a job checked as a submission would be; return it as it would be stored."""
        return await self.read("job.validate", m.JobSubmit(job=job), m.JobValidated)

    async def get_job(self, job: str, *, namespace: str = "default", version: int = 0) -> m.JobFull:
        """Return a job with its executions; `job` is an id, a unique beginning of one, or a name."""
        return await self.read("job.get", m.JobRef(job=job, namespace=namespace, version=version), m.JobFull)

    async def list_jobs(self, query: m.JobQuery = ALL_JOBS) -> m.JobPage:
        """Return one page of jobs."""
        return await self.read("job.list", query, m.JobPage)

    async def list_executions(
        self, job: str, *, namespace: str = "default", version: int = 0, page: str = ""
    ) -> m.ExecutionPage:
        """Return one page of a job's executions, with what the live ones do now."""
        request = m.JobRef(job=job, namespace=namespace, version=version, page=page)
        return await self.read("job.executions", request, m.ExecutionPage)

    async def job_history(self, query: m.HistoryQuery) -> m.HistoryPage:
        """Return one page of a job's history."""
        return await self.read("job.history", query, m.HistoryPage)

    async def explain(self, request: m.JobExplain) -> m.Explanation:
        """Say where a specification would run, or why a job runs or waits."""
        return await self.read("job.explain", request, m.Explanation)

    async def log_access(self, job: str, *, namespace: str = "default", execution: str = "") -> m.AccessPage:
        """Return where the logs of a job's executions are, with tickets."""
        return await self.read(
            "job.logs", m.TicketRequest(job=job, namespace=namespace, execution=execution), m.AccessPage
        )

    async def result_access(self, job: str, *, namespace: str = "default", execution: str = "") -> m.AccessPage:
        """Return where the results of a job's executions are, with tickets."""
        return await self.read(
            "job.results", m.TicketRequest(job=job, namespace=namespace, execution=execution), m.AccessPage
        )

    async def kept_log(self, job: str, execution: str, *, namespace: str = "default") -> m.KeptLog:
        """Return the end of an execution's log that the orchestrator kept; it survives the node."""
        query = m.KeptLogQuery(execution=execution, job=job, namespace=namespace)
        return await self.read("job.keptlog", query, m.KeptLog)

    # ── nodes and cluster ─────────────────────────────────────────────────────────────────────────────────────────

    async def list_nodes(self, query: m.NodeQuery = ALL_NODES) -> m.NodePage:
        """Return one page of nodes."""
        return await self.read("node.list", query, m.NodePage)

    async def get_node(self, node: str) -> m.NodeFull:
        """Return a node with its executions; `node` is an id or a unique beginning of one."""
        return await self.read("node.get", m.NodeRef(node=node), m.NodeFull)

    async def invite_node(self, request: m.NodeInvite) -> m.NodeInvited:
        """Make a join token."""
        return await self.write("node.invite", request, m.NodeInvited)

    async def issue_credential(self, identity: str, role: str, *, ttl_s: int = 0) -> m.CredentialIssued:
        """Make a credential; the answer is the only place where its secret is ever shown."""
        request = m.CredentialIssue(identity=identity, role=role, ttl_s=ttl_s)
        return await self.write("credential.issue", request, m.CredentialIssued)

    async def revoke_credential(self, identity: str) -> m.Empty:
        """End all credentials of an identity and cut its connections."""
        return await self.write("credential.revoke", m.CredentialRevoke(identity=identity), m.Empty)

    async def list_credentials(self) -> m.CredentialPage:
        """Return all credentials, without their secrets."""
        return await self.read("credential.list", m.Empty(), m.CredentialPage)

    async def cluster_info(self) -> m.ClusterInfo:
        """Return what the orchestrator says of itself and of the cluster."""
        return await self.read("cluster.info", m.Empty(), m.ClusterInfo)

    # ── how ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def read(self, verb: str, request: m.Body, answer: type[A], *, at_least: int = 0) -> A:
        """Ask, repeating until the deadline; `at_least` is a log position that the answer must have seen."""
        return (await self.ask(verb, request, answer, at_least=at_least)).body

    async def ask(self, verb: str, request: m.Body, answer: type[A], *, at_least: int = 0) -> Answer[A]:
        """Like `read`, and say which log position the answer has seen."""
        assert not m.VERBS[verb].write, f"{verb} changes things"
        headers = {}
        if position := max(at_least, self.position):
            headers[m.AT_LEAST] = str(position)
        return await self._call(verb, request, answer, self.timing.read_s, headers)

    async def write(
        self, verb: str, request: m.Body, answer: type[A], *, request_id: str = "", deadline_s: float = 0
    ) -> A:
        """Have something changed, once, however often the request has to be sent.

        Raises
        ------
        Forbidden
            when this client is read-only.
        TimedOut
            when no answer came before the deadline: it may or may not have been done; the same `request_id` finds out.
        """
        assert m.VERBS[verb].write, f"{verb} changes nothing"
        if self.read_only:
            raise errors.Forbidden(
                f"this profile is read-only, {verb} was not sent", hint="choose another --profile, or unset read_only"
            )
        deadline_s = deadline_s or self.timing.write_s
        headers = {m.REQUEST_ID: request_id or uuid.uuid4().hex, m.DEADLINE: self._deadline(deadline_s)}

        def on_failure(error: errors.BacalhauError) -> None:
            # Nothing was done, because our clock is behind: say it again by the orchestrator's clock.
            if (now := error.details.get("now", "")).isdecimal():
                self._ahead_ns = int(now) - time.time_ns()
                headers[m.DEADLINE] = self._deadline(deadline_s)

        answered = await self._call(verb, request, answer, deadline_s, headers, on_failure=on_failure)
        self.position = max(self.position, answered.position)
        return answered.body

    def _deadline(self, deadline_s: float) -> str:
        return str(time.time_ns() + self._ahead_ns + int(deadline_s * 1e9))

    async def _call(
        self,
        verb: str,
        request: m.Body,
        answer: type[A],
        deadline_s: float,
        headers: dict[str, str],
        *,
        on_failure: Callable[[errors.BacalhauError], None] | None = None,
    ) -> Answer[A]:
        assert m.VERBS[verb].answer is answer, f"{verb} is answered by {m.VERBS[verb].answer.__name__}"
        subject = subjects.api(self.identity, *verb.split("."))

        def failed(error: errors.BacalhauError, pause_s: float) -> None:
            if on_failure is not None:
                on_failure(error)
            if self.on_retry is not None:
                self.on_retry(error, pause_s)

        message = await repeat(
            lambda timeout_s: self.bus.request(
                subject, msgspec.json.encode(request), timeout_s=timeout_s, headers=headers
            ),
            verb,
            deadline_s,
            self.timing,
            failed,
        )
        position = (message.headers or {}).get(m.LOG_POSITION, "")
        return Answer(decode(message.data, answer, verb), int(position) if position.isdecimal() else 0)

    async def ask_node(
        self, node: str, verb: str, request: m.Body, *, timeout_s: float, bus: Bus | None = None
    ) -> Message:
        """Ask one of our own nodes, once. Raises what the node answers, `Unavailable` or `TimedOut`."""
        data = msgspec.json.encode(request)
        return checked(await (bus or self.bus).request(subjects.to_node(node, verb), data, timeout_s=timeout_s))


async def repeat(
    send: Callable[[float], Awaitable[Message]],
    what: str,
    deadline_s: float,
    timing: Timing,
    on_retry: OnRetry | None = None,
) -> Message:
    """Call `send(timeout_s)` until it answers, fails for good, or the deadline comes; then raise the last failure.

    When that is silence, its words say too why it had failed before.
    """
    end = time.monotonic() + deadline_s
    least_s = min(ANSWER_MIN_S, deadline_s / 4)  # a try that cannot be answered in time would only hide the reason
    tries, told = 0, ""
    while True:
        try:
            return checked(await send(max(least_s, min(timing.attempt_s, end - time.monotonic()))))
        except (errors.Busy, errors.Unavailable, errors.TimedOut) as error:
            tries += 1
            if not isinstance(error, errors.TimedOut):
                told = error.message
            pause_s = random.uniform(0.5, 1.0) * min(timing.pause_max_s, timing.pause_min_s * 2**tries)
            if time.monotonic() + pause_s + least_s >= end:
                raise _gave_up(error, what, tries, deadline_s, told) from error
            if on_retry is not None:
                on_retry(error, pause_s)
        await asyncio.sleep(pause_s)


def _gave_up(error: errors.BacalhauError, what: str, tries: int, deadline_s: float, told: str) -> errors.BacalhauError:
    message = f"{what}: {error.message} (tried {tries} times in {deadline_s:g} s)" if tries > 1 else error.message
    if told and told != error.message:
        message += f"; before that: {told}"
    return type(error)(message, hint=error.hint, place=error.place, details=error.details)


def checked(message: Message) -> Message:
    """Return the message, or raise the error that it carries."""
    if message.headers and m.ERROR in message.headers:
        raise errors.from_wire(message.data) if message.data else errors.Internal(message.headers[m.ERROR])
    return message


def decode(data: bytes, kind: type[A], what: str) -> A:
    """Decode an answer. Raises `Internal` when it is not what was agreed on."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise errors.Internal(
            f"the answer to {what} cannot be read: {error}", hint="are client and cluster of about the same version?"
        ) from error
