"""The sender delivers each message at least once, in order, and never takes a message for delivered that was not."""

from __future__ import annotations

import msgspec
import pytest

from bacalhau_protocol.errors import Busy
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.ncl import envelope, messages
from bacalhau_protocol.ncl.events import DeliveryConfirmed, DeliveryRefused, Send
from bacalhau_protocol.ncl.sender import Sender, SenderOutput, backoff
from bacalhau_protocol.ncl.timings import LIMITS, OWN, SECOND, Limits
from tests.builders_ncl import START, Message, job, nobody, unpacked


def sender(**limits: int) -> Sender:
    return Sender(
        node="n-1",
        subject="bacalhau.global.compute.n-1.in.msgs",
        source="orchestrator-n-1",
        inbox="in",
        timings=OWN,
        limits=msgspec.structs.replace(LIMITS, **limits),
        name_subject=True,
    )


def push(machine: Sender, *numbers: int, now: int = START) -> list[Send]:
    out: list[SenderOutput] = []
    for number in numbers:
        out += machine.send(messages.CancelExecution(None, f"e-{number}"), seq=number, tag=number, now=now)
    return [output for output in out if isinstance(output, Send)]


def ack(machine: Sender, message: Send, data: bytes = b"{}", now: int = START) -> list[SenderOutput]:
    return machine.answer(message.reply.removeprefix("in."), Message(message.reply, data), now)


def ids(outputs: list[SenderOutput] | list[Send]) -> list[str]:
    found = []
    for output in outputs:
        if isinstance(output, Send):
            payload = unpacked(output)
            assert isinstance(payload, messages.CancelExecution)
            found.append(payload.execution_id)
    return found


def confirmed(outputs: list[SenderOutput]) -> list[object]:
    return [output.tag for output in outputs if isinstance(output, DeliveryConfirmed)]


def test_messages_leave_at_once_with_a_reply_subject_of_their_own() -> None:
    """Without waiting for earlier acknowledgements, numbered as the owner says, with the subject in their metadata."""
    machine = sender()

    first, second = push(machine, 4, 9)

    metadata = envelope.decode(second.data).metadata
    assert (metadata.seq, metadata.message_id) == ("9", "seq-9")
    assert metadata.subject == second.subject == "bacalhau.global.compute.n-1.in.msgs"
    assert first.reply != second.reply
    assert machine.next_tick() == START + OWN.ack_timeout_ns


def test_an_acknowledgement_confirms_its_message() -> None:
    """And nothing else; a repeated one means nothing."""
    machine = sender()
    first, second = push(machine, 1, 2)

    assert confirmed(ack(machine, first)) == [1]
    assert ack(machine, first) == []
    assert confirmed(ack(machine, second)) == [2]
    assert machine.next_tick() is None
    assert len(machine) == 0


def test_an_acknowledgement_of_several_confirms_those_before_its_message() -> None:
    """As many as it says, in order; the others stay out."""
    machine = sender()
    _, second, third, fourth = push(machine, 1, 2, 3, 4)

    assert confirmed(ack(machine, third, b'{"count":3}')) == [1, 2, 3]
    assert ack(machine, second, b'{"count":2}') == []
    assert confirmed(ack(machine, fourth)) == [4]
    assert (len(machine), machine.next_tick()) == (0, None)


@pytest.mark.parametrize("count", [-1, 0, 1, 3, 99])
def test_an_acknowledgement_of_several_that_skips_one_tells_of_a_loss(count: int) -> None:
    """What it does not name has not come, and nothing counts as delivered that never left."""
    machine = sender()
    _, second, _ = push(machine, 1, 2, 3)

    assert ack(machine, second, b'{"count":%d}' % count) == []
    assert ids(machine.tick(START + OWN.resend_min_ns)) == ["e-1", "e-2", "e-3"]


def test_an_acknowledgement_that_skips_one_tells_of_a_loss() -> None:
    """All unconfirmed messages leave again, in order, those after the gap included; nothing counts as delivered."""
    machine = sender()
    first, second, third = push(machine, 1, 2, 3)
    ack(machine, first)

    assert ack(machine, third) == []
    assert machine.next_tick() == START + OWN.resend_min_ns
    again = machine.tick(START + OWN.resend_min_ns)

    assert ids(again) == ["e-2", "e-3"]
    assert ack(machine, second) == [], "an answer to the earlier try comes too late"


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"[]", b'{"error":7}', b"\xff", b'{"x":' + b"[" * 100_000])
def test_an_unreadable_answer_is_a_failure(answer: bytes) -> None:
    """An acknowledgement is non-empty JSON."""
    machine = sender()
    (first,) = push(machine, 1)

    assert ack(machine, first, answer) == []
    assert ids(machine.tick(START + SECOND)) == ["e-1"]


def test_nobody_there_is_a_failure_at_once() -> None:
    """The server's 503 counts whatever other headers it has."""
    machine = sender()
    (first,) = push(machine, 1)

    machine.answer(first.reply.removeprefix("in."), nobody(first), START)

    assert ids(machine.tick(START + SECOND)) == ["e-1"]


def test_silence_is_a_failure_after_the_time_out() -> None:
    """Measured from the oldest message that is out."""
    machine = sender()
    push(machine, 1)
    push(machine, 2, now=START + SECOND)
    at = START + OWN.ack_timeout_ns

    assert machine.tick(at - 1) == []
    assert machine.tick(at) == []
    assert ids(machine.tick(at + SECOND)) == ["e-1", "e-2"]


def test_back_off_doubles_until_something_is_delivered() -> None:
    """1, 2, 4, … 30 s; messages that come meanwhile wait behind."""
    machine = sender()
    now = START
    outputs: list[Send] = push(machine, 1)
    for wait_s in (1, 2, 4, 8, 16, 30, 30):
        machine.answer(outputs[0].reply.removeprefix("in."), nobody(outputs[0]), now)
        assert push(machine, 2, now=now) == []
        assert machine.next_tick() == now + wait_s * SECOND
        now += wait_s * SECOND
        outputs = [output for output in machine.tick(now) if isinstance(output, Send)]

    ack(machine, outputs[0], now=now)
    ack(machine, outputs[2], now=now)
    assert machine.next_tick() == now + SECOND
    assert backoff(10**9, 1, 7) == 7


def test_a_refused_message_is_given_up_after_three_times() -> None:
    """The owner is told why; the messages behind it go on."""
    machine = sender()
    outputs = push(machine, 1, 2)
    now = START
    for _ in range(2):
        assert ack(machine, outputs[0], b'{"error":"no such type","delay":5}', now) == []
        now += 60 * SECOND
        outputs = [output for output in machine.tick(now) if isinstance(output, Send)]
        assert ids(outputs) == ["e-1", "e-2"]

    assert ack(machine, outputs[0], b'{"error":"no such type"}', now) == [DeliveryRefused("n-1", 1, "no such type")]

    (rest,) = (output for output in machine.tick(now + 60 * SECOND) if isinstance(output, Send))
    assert ids([rest]) == ["e-2"]
    assert confirmed(ack(machine, rest)) == [2]


def test_few_are_in_flight_and_many_wait() -> None:
    """Each acknowledgement lets the next one go."""
    machine = sender(in_flight_max=2)

    first, second = push(machine, 1, 2, 3, 4)

    assert ids(ack(machine, first)) == ["e-3"]
    assert ids(ack(machine, second)) == ["e-4"]


def test_bytes_in_flight_are_bounded() -> None:
    """One message may exceed the bound alone."""
    machine = sender(in_flight_max_bytes=10)

    (first,) = push(machine, 1, 2, 3)

    assert ids(ack(machine, first)) == ["e-2"]


def test_a_full_queue_says_so() -> None:
    """The owner then ends the session: all is derived again at the next handshake."""
    machine = sender(queued_max=2)
    push(machine, 1, 2)

    with pytest.raises(Busy, match="2 messages wait for n-1"):
        push(machine, 3)


def test_what_nats_cannot_carry_comes_back() -> None:
    """And does not hold up the others."""
    machine = sender()
    big = messages.AskForBid(execution=Execution(job=job(name="x" * envelope.SENT_MAX_BYTES)))

    (refused,) = machine.send(big, seq=1, tag="big", now=START)
    (other,) = push(machine, 2)

    assert isinstance(refused, DeliveryRefused)
    assert "the most that NATS carries" in refused.reason
    assert confirmed(ack(machine, other)) == [2]


@pytest.mark.parametrize("key", ["", "0", "0.", "0.x", "1.0", "0.1", "0.-1", "0.0.0", "x.0"])
def test_answers_to_nothing_are_ignored(key: str) -> None:
    """Reply subjects can be forged or late."""
    machine = sender()
    push(machine, 1)

    assert machine.answer(key, Message("in", b"{}"), START) == []
    assert len(machine) == 1


def test_limits_are_named() -> None:
    """Every queue has one."""
    assert Limits().queued_max == 100_000
