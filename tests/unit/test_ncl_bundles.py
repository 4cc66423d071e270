"""Peers of ours get one message for several; nothing else notices, whatever is lost, and nobody else gets one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bacalhau_protocol.ncl import envelope, messages
from bacalhau_protocol.ncl.bundles import (
    ACK,
    BUNDLED_MAX,
    BUNDLED_MAX_BYTES,
    HOLD_NS,
    Outbox,
    gather,
    join,
    parts,
    split,
)
from bacalhau_protocol.ncl.events import Delivery, DeliveryConfirmed, Ignored, Malformed, Send
from bacalhau_protocol.ncl.receiver import Receiver
from bacalhau_protocol.ncl.sender import Sender, SenderOutput
from bacalhau_protocol.ncl.timings import LIMITS, OWN, SECOND
from tests.builders_ncl import NODE, START, Message, answer_to, connected, nobody, orchestrator, report, sent


def sender(*, joinable: bool = True) -> Sender:
    return Sender(
        node=NODE, subject="reports", source=NODE, inbox="_R.n-1.0", timings=OWN, limits=LIMITS, joinable=joinable
    )


def receiver(**limits: int) -> Receiver:
    kinds = frozenset[type]({messages.BidResult})
    return Receiver(node=NODE, session=1, kinds=kinds, limits=msgspec.structs.replace(LIMITS, **limits))


def push(machine: Sender, *numbers: int) -> list[SenderOutput]:
    out: list[SenderOutput] = []
    for number in numbers:
        bid = messages.BidResult(execution_id=f"e-{number}", accepted=True)
        out += machine.send(bid, seq=number, tag=number, now=START)
    return out


def message(send: object) -> Message:
    assert isinstance(send, Send)
    return Message(send.subject, send.data, send.reply)


def taken(machine: Receiver, sends: Sequence[object]) -> dict[int, Delivery]:
    """Hand messages over; return the deliveries by the numbers of what was sent."""

    def event(received: envelope.Envelope, delivery: Delivery) -> tuple[int, Delivery]:
        return received.seq or 0, delivery

    found = [output for send in sends for output in machine.message(message(send), event)]
    return dict(output for output in found if isinstance(output, tuple))


def confirmed(machine: Sender, acks: Sequence[object]) -> list[object]:
    out: list[SenderOutput] = []
    for ack in map(message, acks):
        out += machine.answer(ack.subject.removeprefix("_R.n-1.0."), ack, START)
    return [output.tag for output in out if isinstance(output, DeliveryConfirmed)]


def test_messages_that_leave_together_travel_as_one() -> None:
    """They come out in order, each on its own, and one answer is enough for all."""
    here, there = sender(), receiver()

    sends = gather([*push(here, 1, 2), "something else", *push(here, 3)])
    deliveries = taken(there, sends[:1])
    acks = gather([ack for delivery in deliveries.values() for ack in there.persisted(delivery)])

    assert len(sends) == 2, "one bundle, and what is no message"
    assert list(deliveries) == [1, 2, 3]
    assert acks == [Send("_R.n-1.0.0.2", b'{"count":3}')]
    assert confirmed(here, acks) == [1, 2, 3]


def test_a_part_of_a_bundle_may_be_stored_first() -> None:
    """It is acknowledged as if it had come alone; so is the rest."""
    here, there = sender(), receiver()
    deliveries = taken(there, gather(push(here, 1, 2, 3)))

    first = there.persisted(deliveries[1])
    rest = gather([*there.persisted(deliveries[2]), *there.persisted(deliveries[3])])

    assert confirmed(here, first) == [1]
    assert confirmed(here, rest) == [2, 3]


def test_a_lost_bundle_is_sent_again() -> None:
    """All of it, after the back-off; and what came meanwhile with it."""
    here, there = sender(), receiver()
    push(here, 1, 2)

    late = START + OWN.ack_timeout_ns
    assert here.tick(late) == []
    again = gather([*push(here, 3), *here.tick(late + SECOND)])

    assert list(taken(there, again)) == [1, 2, 3]
    assert len(again) == 1


def test_what_does_not_fit_any_more_is_left_for_a_repeat() -> None:
    """The first of a bundle are taken, the others ignored with words."""
    here, there = sender(), receiver(unpersisted_max=2)
    (bundle,) = gather(push(here, 1, 2, 3))

    outputs = there.message(message(bundle), lambda received, delivery: (received.seq, delivery))

    assert [type(output) for output in outputs] == [tuple, tuple, Ignored]


def test_one_bad_message_spoils_none_beside_it() -> None:
    """It is reported and acknowledged alone."""
    good, bad = report(1).data, b"\x01nothing"
    there = receiver()

    outputs = there.message(
        Message("reports", join([good, bad, good]), "_R.n-1.0.0.8"), lambda received, _: received.metadata.type
    )

    assert outputs[0] == outputs[-1] == "BidResult"
    assert isinstance(outputs[1], Malformed)
    assert len(outputs) == 3, "its acknowledgement waits for the first one's"


def test_a_bundle_has_limits() -> None:
    """Of messages and of bytes; what is beyond them goes into the next."""
    many = gather(push(sender(), *range(BUNDLED_MAX)))
    large = [Send("s", b"x" * (BUNDLED_MAX_BYTES // 2), f"_R.n.{number}", joinable=True) for number in range(3)]

    assert len(many) == 1
    assert [send.reply for send in gather(large)] == ["_R.n.1", "_R.n.2"]


def test_a_peer_that_is_not_ours_gets_each_message_alone() -> None:
    """As does one that has refused something: perhaps it cannot read bundles."""
    refused = sender()
    (bundle,) = gather(push(refused, 1, 2))
    assert isinstance(bundle, Send)
    refused.answer(bundle.reply.removeprefix("_R.n-1.0."), Message(bundle.reply, b'{"error":"what is this?"}'), START)
    again = refused.tick(START + SECOND)

    assert len(gather(push(sender(joinable=False), 1, 2))) == 2
    assert len(gather(again)) == len(again) == 2


@pytest.mark.parametrize("own", [True, False])
def test_an_orchestrator_bundles_for_its_own_nodes(own: bool) -> None:
    """They say what they are in their handshake; a node of Bacalhau gets what it knows."""
    sessions = orchestrator(NODE, own=own)
    commands = [messages.CancelExecution(None, f"e-{number}") for number in range(3)]

    outputs = [sessions.send(NODE, command, seq=8 + n, tag=n, now=START) for n, command in enumerate(commands)]

    assert len(gather(output for each in outputs for output in each)) == (1 if own else 3)


def test_a_node_bundles_once_it_is_welcome() -> None:
    """Only an orchestrator of ours says so, and each session anew."""
    session = connected()

    def told() -> int:
        bids = [messages.BidResult(execution_id=f"e-{number}", accepted=True) for number in range(3)]
        return len(gather(one for n, bid in enumerate(bids) for one in session.report(bid, seq=n, tag=n, now=START)))

    assert told() == 3
    session.bundle()
    assert told() == 1
    (beat,) = sent(session.tick(START + OWN.heartbeat_ns))
    session.message(nobody(beat), START)
    (handshake,) = sent(session.tick(START + 60 * SECOND))
    accepted = messages.HandshakeResponse(True, "node registered", 0, 7)
    session.message(answer_to(handshake, accepted), START)
    assert told() == 3


def test_an_acknowledgement_waits_for_company() -> None:
    """It leaves with the next message to a peer of ours; what is for others does not wait."""
    outbox = Outbox()
    ack, row, foreign = Send("_R.n-1.0.0.4", ACK), Send("feed", b"row"), Send("_INBOX.a.1", ACK)
    (report_,) = push(sender(), 1)

    assert outbox.gather([ack, row, foreign, "start a run"], START) == [row, foreign, "start a run"]
    assert outbox.due == START + HOLD_NS
    assert outbox.gather([report_], START + 1) == [ack, report_]
    assert outbox.gather([row], outbox.due) == [row]


def test_an_acknowledgement_waits_not_for_long() -> None:
    """All that wait leave as one, when the first has waited long enough."""
    outbox = Outbox()
    assert outbox.gather([Send("_R.n-1.0.0.4", ACK)], START) == []
    assert outbox.gather([Send("_R.n-1.0.0.5", ACK)], START + HOLD_NS - 1) == []

    assert outbox.gather([], outbox.due) == [Send("_R.n-1.0.0.5", b'{"count":2}')]
    assert outbox.gather([], START + SECOND) == []


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=BUNDLED_MAX))
def test_what_was_joined_splits_into_the_same(messages_: list[bytes]) -> None:
    """Empty ones too."""
    assert split(join(messages_)) == messages_


@given(st.binary(max_size=60), st.text(max_size=30))
def test_whatever_claims_to_be_a_bundle_is_harmless(junk: bytes, reply: str) -> None:
    """It is reported and acknowledged, and nothing is raised."""
    there = receiver()

    outputs = there.message(Message("reports", b"\xb1" + junk, reply), lambda *_: None)

    assert isinstance(outputs[0], Malformed)


def test_too_many_messages_are_no_bundle() -> None:
    """A small message could hold a million."""
    (wrong, _) = receiver().message(Message("reports", join([b""] * 1_000_000), "_R.n-1.x"), lambda *_: None)

    assert isinstance(wrong, Malformed)
    assert "bad bundle: it ends after 256 messages" in wrong.words


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("_R.n-1.0.7", ["_R.n-1.0.5", "_R.n-1.0.6", "_R.n-1.0.7"]),
        ("_R.n-1.0.1", ["", "", "_R.n-1.0.1"]),
        ("_INBOX.abc", ["", "", "_INBOX.abc"]),
    ],
)
def test_each_message_is_answered_as_if_it_were_alone(reply: str, expected: list[str]) -> None:
    """Only the last where the numbers are not ours, whatever a peer names there."""
    assert [where for _, where in parts(join([b"1", b"2", b"3"]), reply)] == expected


def test_acknowledgements_to_a_peer_of_ours_become_one() -> None:
    """Those of one stream that follow on each other, into the last, which says how many; whatever lies between."""
    other = Send("bacalhau.feed.v1.x", b"row")
    acks = [Send(f"_R.n-1.0.{number}", ACK) for number in (7, 8, 9, 11, 12)]
    elsewhere = Send("_R.n-2.0.10", ACK)

    merged = gather([acks[0], other, acks[1], elsewhere, acks[2], acks[3], acks[4]])

    assert merged == [
        Send("_R.n-1.0.9", b'{"count":3}'),
        other,
        elsewhere,
        Send("_R.n-1.0.12", b'{"count":2}'),
    ]


def test_a_reply_subject_without_a_number_is_acknowledged_alone() -> None:
    """Whatever a peer names there."""
    odd = [Send("_R.n-1.bad", ACK), Send("_R.n-1.0", ACK), Send("_R.n-1.²", ACK), Send(f"_R.n-1.{'9' * 5000}", ACK)]

    assert gather([Send("x", b"first"), *odd]) == [Send("x", b"first"), *odd]


def test_acknowledgements_to_a_foreign_peer_stay_apart() -> None:
    """It knows nothing of counts; nor is a repeated message acknowledged together with the first."""
    foreign = [Send(f"_INBOX.abc.{number}", ACK) for number in (1, 2)]
    repeated = [Send("_R.n-1.0.5", ACK), Send("_R.n-1.0.5", ACK)]

    assert gather([*foreign, *repeated]) == [*foreign, *repeated]
