"""The client API's endpoint: what is malformed gets a clear error, what is not allowed is refused, nothing piles up."""

from __future__ import annotations

import asyncio

import pytest

from bacalhau_daemon.core.events import Role
from bacalhau_daemon.core.state import CredentialState
from bacalhau_daemon.orchestrator import endpoint, roles
from bacalhau_daemon.orchestrator.endpoint import CALLS_PER_USER_MAX, Call, Endpoint, Result
from bacalhau_daemon.orchestrator.micro import MicroService
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages, subjects
from bacalhau_protocol.api.messages import DEADLINE, ERROR, ERROR_CODE, LOG_POSITION, REQUEST_ID, VERBS
from bacalhau_protocol.transport.base import Message
from bacalhau_protocol.transport.memory import MemoryBroker

WRITE = {REQUEST_ID: "r-1", DEADLINE: "99999999999999999999"}
JOB_REF = b'{"Job": "j-1"}'


class Stand:
    """An endpoint on a bus in memory; `serve` may be replaced."""

    def __init__(self, role: Role | None = Role.ADMIN) -> None:
        self.broker = MemoryBroker()
        self.client = self.broker.connect("alice")
        self.calls: list[Call] = []
        self.bus = self.broker.connect("orchestrator")
        self.micro = MicroService(self.bus, "n-1", "0.1.0", "c")
        self.endpoint = Endpoint(self.bus, lambda _: role, self.serve, self.micro.stats)

    async def start(self) -> None:
        """Subscribe."""
        await self.bus.subscribe(endpoint.SUBJECT, self.endpoint.received)
        await self.micro.start()

    async def serve(self, call: Call) -> Result:
        """Answer everything with nothing."""
        self.calls.append(call)
        return Result(messages.Empty(), 7)

    async def ask(self, verb: str, data: bytes = b"", headers: dict[str, str] | None = None) -> Message:
        """Ask as alice."""
        return await self.client.request(f"{subjects.API}.alice.{verb}", data, timeout_s=20, headers=headers)


async def stand(role: Role | None = Role.ADMIN) -> Stand:
    """Return a running stand."""
    made = Stand(role)
    await made.start()
    return made


def error_of(message: Message) -> errors.BacalhauError:
    """Return the error of an answer, whose headers agree with its body."""
    error = errors.from_wire(message.data)
    assert message.headers is not None
    assert message.headers[ERROR]
    assert message.headers[ERROR_CODE] == str(error.http_status)
    return error


async def test_a_good_request_is_served_and_counted() -> None:
    """The call has user, verb, body and numbers; the answer says how far it has seen; the micro service counts it."""
    it = await stand()

    answer = await it.ask("job.stop", JOB_REF, WRITE)

    assert (answer.data, answer.headers) == (b"{}", {LOG_POSITION: "7"})
    call = it.calls[0]
    assert (call.user, call.verb, call.request_id, call.deadline) == ("alice", "job.stop", "r-1", int(WRITE[DEADLINE]))
    assert call.body == messages.JobRef(job="j-1")
    assert it.micro.stats["job.stop"].requests == 1


@pytest.mark.parametrize(
    ("verb", "data", "headers", "code", "words"),
    [
        ("job.stopp", b"{}", WRITE, "NotFound", "there is no 'job.stopp'"),
        ("job.get", b"", None, "UsageError", "missing required field `Job`"),
        ("job.get", b"{", None, "UsageError", "cannot be read"),
        ("job.get", b"null", None, "UsageError", "Expected `object`"),
        ("job.get", b"[]", None, "UsageError", "Expected `object`"),
        ("job.get", b'{"Job": null}', None, "UsageError", "$.Job"),
        ("job.get", b'{"Job": "\xff"}', None, "UsageError", "cannot be read"),
        ("job.submit", b'{"Job": {"Tasks": [null]}}', WRITE, "UsageError", "$.Job.Tasks[0]"),
        ("job.list", b'{"Limit": "many"}', None, "UsageError", "$.Limit"),
        ("job.list", b"[" * 100_000, None, "UsageError", "cannot be read"),
        ("job.stop", JOB_REF, None, "UsageError", "must carry Request-Id and Deadline"),
        ("job.stop", JOB_REF, {**WRITE, REQUEST_ID: "a b"}, "UsageError", "Request-Id is not a token"),
        ("job.stop", JOB_REF, {**WRITE, DEADLINE: "soon"}, "UsageError", "Deadline is not a number"),
        ("job.get", JOB_REF, {"At-Least": "-1"}, "UsageError", "At-Least is not a number"),
        ("job.get", JOB_REF, {"At-Least": "9" * 50}, "UsageError", "At-Least is not a number"),
    ],
)
async def test_a_malformed_request_gets_a_clear_error(
    verb: str, data: bytes, headers: dict[str, str] | None, code: str, words: str
) -> None:
    """Each is answered with its reason, nothing is served, and the next request works."""
    it = await stand()

    error = error_of(await it.ask(verb, data, headers))

    assert error.code == code
    assert words in error.message
    assert it.calls == []
    assert (await it.ask("cluster.info")).data == b"{}"


async def test_an_unknown_verb_names_the_nearest() -> None:
    """A typo gets a hint."""
    assert "job.stop" in error_of(await (await stand()).ask("job.stopp")).hint


@pytest.mark.parametrize("reply", ["", "bacalhau.global.compute.n-1.in.msgs", "_R.bob.x", "_R.alicex.y", "_INBOX.x"])
async def test_nothing_is_published_to_a_subject_that_is_not_the_senders(reply: str) -> None:
    """A request whose answer would go elsewhere is dropped."""
    it = await stand()
    heard: list[Message] = []

    async def note(message: Message) -> None:
        heard.append(message)

    if reply:
        await it.bus.subscribe(reply, note)
    await it.client.publish(f"{subjects.API}.alice.cluster.info", b"", reply=reply)
    await it.ask("cluster.info")

    assert heard == []
    assert len(it.calls) == 1


@pytest.mark.parametrize("role", [None, *roles.ORDER])
async def test_roles_limit_verbs(role: Role | None) -> None:
    """Each role may what those below it may; without one nothing works."""
    it = await stand(role)
    allowed = set()
    for verb in VERBS:
        answer = await it.ask(verb, b"{}", WRITE)
        if not (answer.headers or {}).get(ERROR) or error_of(answer).code != "Forbidden":
            allowed.add(verb)

    expected = {
        verb for verb, least in roles.LEAST.items() if role and roles.ORDER.index(least) <= roles.ORDER.index(role)
    }
    assert allowed == expected
    assert ("job.submit" in allowed) == (role not in (None, Role.VIEWER))
    assert ("credential.issue" in allowed) == (role is Role.ADMIN)


def test_the_strongest_valid_credential_counts() -> None:
    """Revoked and expired ones, and those of nodes, give nothing."""

    def credential(role: Role, **more: object) -> CredentialState:
        return CredentialState(sha256="", identity="a", role=role, created=0, **more)  # type: ignore[arg-type]

    assert roles.role_of([], 10) is None
    assert roles.role_of([credential(Role.COMPUTE)], 10) is None
    assert roles.role_of([credential(Role.VIEWER), credential(Role.OPERATOR)], 10) is Role.OPERATOR
    assert roles.role_of([credential(Role.ADMIN, revoked=True), credential(Role.ADMIN, expires=10)], 10) is None
    assert roles.role_of([credential(Role.ADMIN, expires=11)], 10) is Role.ADMIN


async def test_a_user_cannot_pile_up_calls() -> None:
    """Above the limit the answer is `Busy`; when calls end there is room again."""
    it = await stand()
    go_on = asyncio.Event()

    async def wait(_: Call) -> Result:
        await go_on.wait()
        return Result(messages.Empty(), 1)

    it.endpoint._serve = wait
    waiting = [asyncio.create_task(it.ask("cluster.info")) for _ in range(CALLS_PER_USER_MAX)]
    await wait_until(lambda: it.endpoint._calls["alice"] == CALLS_PER_USER_MAX)

    assert error_of(await it.ask("cluster.info")).code == "Busy"
    go_on.set()
    assert {answer.data for answer in await asyncio.gather(*waiting)} == {b"{}"}
    assert (await it.ask("cluster.info")).data == b"{}"


@pytest.mark.parametrize(("raised", "code"), [(errors.Conflict("no"), "Conflict"), (ValueError("bug"), "Internal")])
async def test_what_serving_raises_is_the_answer(raised: Exception, code: str) -> None:
    """Errors of ours pass; anything else is a bug of ours, said so, and counted."""
    it = await stand()

    async def fail(_: Call) -> Result:
        raise raised

    it.endpoint._serve = fail

    error = error_of(await it.ask("cluster.info"))

    assert (error.code, str(raised) in error.message) == (code, True)
    assert it.micro.stats["cluster.info"].last_error == code


async def test_the_micro_service_describes_itself() -> None:
    """PING, INFO and STATS answer on all three subjects, to inboxes only."""
    it = await stand()
    await it.ask("cluster.info")

    for who in ("", ".bacalhau", ".bacalhau.n-1"):
        for verb, words in [("PING", b"ping_response"), ("INFO", b"*.job.submit"), ("STATS", b'"num_requests":1')]:
            assert words in (await it.client.request(f"$SRV.{verb}{who}", b"", timeout_s=20)).data
    heard: list[Message] = []

    async def note(message: Message) -> None:
        heard.append(message)

    await it.bus.subscribe("bacalhau.global.compute.n-1.in.msgs", note)
    await it.client.publish("$SRV.PING", b"", reply="bacalhau.global.compute.n-1.in.msgs")
    await it.ask("cluster.info")
    assert heard == []
