"""The receiver hands over in order, acknowledges in order and only what is stored, and never refuses."""

from __future__ import annotations

import msgspec
import pytest

from bacalhau_protocol.ncl import envelope, messages
from bacalhau_protocol.ncl.bundles import ACK
from bacalhau_protocol.ncl.events import Delivery, Ignored, Malformed, Send
from bacalhau_protocol.ncl.receiver import Receiver
from bacalhau_protocol.ncl.timings import LIMITS
from tests.builders_ncl import START, Message, captured, message, packed, report, seal


class Got(msgspec.Struct, frozen=True):
    id: str
    delivery: Delivery


def receiver(**limits: int) -> Receiver:
    return Receiver(
        node="n-1",
        session=3,
        kinds=frozenset({messages.BidResult}),
        limits=msgspec.structs.replace(LIMITS, **limits),
        last_seq=5,
    )


def got(received: envelope.Envelope, delivery: Delivery) -> Got:
    assert isinstance(received.payload, messages.BidResult)
    return Got(received.payload.execution_id, delivery)


def take(machine: Receiver, number: int, seq: int | None = None) -> Delivery:
    (output,) = machine.message(report(number, seq=seq), got)
    assert isinstance(output, Got)
    assert output.id == f"e-{number}"
    return output.delivery


def replies(outputs: list[Send]) -> list[str]:
    assert all(output.data == ACK == b"{}" for output in outputs)
    return [output.subject for output in outputs]


def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    """Then once, with two bytes of JSON, to the message's own reply subject."""
    machine = receiver()
    delivery = take(machine, 1)

    assert machine.last_seq == 5
    assert replies(machine.persisted(delivery)) == [report(1).reply]
    assert machine.persisted(delivery) == []
    assert machine.last_seq == 1


def test_acknowledgements_keep_the_order_of_the_messages() -> None:
    """One that is stored early waits for those before it."""
    machine = receiver()
    first, second, third = take(machine, 1), take(machine, 2), take(machine, 3)

    assert machine.persisted(third) == []
    assert machine.persisted(second) == []
    assert machine.last_seq == 5
    assert replies(machine.persisted(first)) == [report(n).reply for n in (1, 2, 3)]
    assert machine.last_seq == 3


def test_repeats_are_handed_over_again() -> None:
    """A lower number proves nothing: the sender's log may have begun anew."""
    machine = receiver()
    machine.persisted(take(machine, 9))

    machine.persisted(take(machine, 9))
    machine.persisted(take(machine, 2))

    assert machine.last_seq == 2


def test_what_cannot_be_read_is_reported_and_acknowledged_in_its_turn() -> None:
    """A refusal would make the sender repeat everything, for ever."""
    machine = receiver()
    first = take(machine, 1)

    outputs = machine.message(Message("x.out.msgs", b"junk", "_R.n-1.bad"), got)

    assert outputs == [Malformed("n-1", "failed to deserialize message envelope: bad message: too short")]
    assert replies(machine.persisted(first)) == [report(1).reply, "_R.n-1.bad"]


def test_what_does_not_belong_here_is_skipped_and_acknowledged() -> None:
    """As a real node does."""
    outputs = receiver().message(message(captured("bid-accepted")), got)

    assert [type(output) for output in outputs] == [Ignored, Send]
    assert isinstance(outputs[0], Ignored)
    assert outputs[0].words == "BidAccepted does not belong on bacalhau.global.compute.n-comp.in.msgs"


def test_a_message_without_reply_subject_gets_no_acknowledgement() -> None:
    """It is handled all the same."""
    machine = receiver()
    (output,) = machine.message(Message("s", packed(messages.BidResult("e-1"), seq=8)), got)
    assert isinstance(output, Got)

    assert machine.persisted(output.delivery) == []
    assert machine.last_seq == 8


def test_a_message_without_number_leaves_the_tracker_alone() -> None:
    """And one with a nonsensical number resets it, as in a real node."""
    machine = receiver()
    bid = messages.BidResult("e-1")
    metadata = envelope.metadata(bid, source="n-1", now=START)
    for number, tracked in ((msgspec.UNSET, 5), ("x", 0)):
        data = envelope.encode(msgspec.structs.replace(metadata, seq=number), bid)
        (output,) = machine.message(Message("s", data), got)
        assert isinstance(output, Got)
        machine.persisted(output.delivery)

        assert machine.last_seq == tracked


def test_too_many_at_once_are_left_to_their_sender() -> None:
    """Neither handed over nor acknowledged: it repeats them."""
    machine = receiver(unpersisted_max=2)
    first = take(machine, 1)
    take(machine, 2)

    (output,) = machine.message(report(3), got)

    assert isinstance(output, Ignored)
    assert "2 messages wait to be stored" in output.words
    machine.persisted(first)
    take(machine, 3)


@pytest.mark.parametrize("delivery", [Delivery("n-1", 2, 0), Delivery("n-1", 3, 1), Delivery("n-1", 3, -1)])
def test_deliveries_of_another_session_are_ignored(delivery: Delivery) -> None:
    """Their sender has given up waiting for them."""
    machine = receiver()
    take(machine, 1)

    assert machine.persisted(delivery) == []
    assert machine.last_seq == 5


def test_ten_megabytes_are_not_looked_into() -> None:
    """They are acknowledged with words."""
    outputs = receiver().message(Message("s", seal(b" " * 10_000_000), "_R.n-1.big"), got)

    assert isinstance(outputs[0], Malformed)
    assert "10000005 bytes; at most 8388608 are read" in outputs[0].words
    assert outputs[1] == Send("_R.n-1.big", ACK)
