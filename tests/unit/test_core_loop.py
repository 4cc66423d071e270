"""The one loop, on a vocabulary of two events: batches, outcomes of appends, and inputs whose decision raises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import pytest

from bacalhau_daemon.core import loop as lp
from bacalhau_daemon.core.loop import Append, Decision, Halt, Loop, Refused, Released, Reload
from bacalhau_daemon.log.base import Fenced, Stored, Unavailable, Unknown
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.log.records import RECORD_BYTES_MAX, Chain, Codec, Event
from bacalhau_protocol import errors

NOW = 1_000


class Added(Event, frozen=True, kw_only=True):
    """So much was added."""

    amount: int


class Doubled(Event, frozen=True, kw_only=True):
    """The sum was doubled."""

    padding: str = ""


Toy = Added | Doubled


class Sum:
    """The state: a number, and what was folded."""

    def __init__(self) -> None:
        self.value = 0
        self.seen: list[tuple[int, int]] = []  # (number, at)


class Ask(msgspec.Struct, frozen=True):
    """A request: add this much. Negative ones are refused, 13 raises when decided, 14 when folded."""

    amount: int
    client: bool = True
    padding: int = 0


class Double(msgspec.Struct, frozen=True):
    """A follow-up of our own."""


Item = Ask | Double


class ToyRules:
    """Adds; a sum of 100 is doubled by a follow-up."""

    def decide(self, state: Sum, item: Item, now: int) -> Decision[Toy]:
        if isinstance(item, Double):
            return Decision([Doubled()])
        if item.amount < 0:
            raise errors.Conflict("cannot take away")
        if item.amount == 13:
            raise RuntimeError("bad luck")
        if item.amount == 0:
            return Decision((), state.value)
        return Decision(
            [Added(amount=item.amount), *([Doubled(padding="x" * item.padding)] if item.padding else [])], item.amount
        )

    def fold(self, state: Sum, event: Toy, n: int, at: int) -> None:
        state.seen.append((n, at))
        if isinstance(event, Doubled):
            state.value *= 2
            return
        state.value += event.amount
        if event.amount == 14:
            raise RuntimeError("half folded")

    def follow(self, state: Sum, events: Sequence[Toy]) -> Iterable[Item]:
        return [Double()] if state.value == 100 else []

    def answerable(self, item: Item) -> bool:
        return isinstance(item, Ask) and item.client


CODEC: Codec[Toy] = Codec(Toy)


def new_loop() -> Loop[Sum, Item, Toy]:
    """Return a loop on an empty log."""
    return Loop(ToyRules(), CODEC, Sum(), Chain(), cluster="c", by="me", term=1)


def offer(loop: Loop[Sum, Item, Toy], *amounts: int) -> None:
    """Offer requests."""
    for amount in amounts:
        loop.offer(Ask(amount))


def appended(loop: Loop[Sum, Item, Toy]) -> Append:
    """Return the one append that is asked for."""
    (append,) = [step for step in loop.take() if isinstance(step, Append)]
    return append


def released(loop: Loop[Sum, Item, Toy]) -> list[object]:
    """Return the answers of what is released."""
    return [one.answer for step in loop.take() if isinstance(step, Released) for one in step.decided]


def test_what_waits_becomes_one_record() -> None:
    """All inputs that wait are decided one after another and leave as one record."""
    loop = new_loop()
    offer(loop, 1, 2, 3)

    loop.run(NOW)
    record = CODEC.decode(appended(loop).data)

    assert [event.amount for event in record.events if isinstance(event, Added)] == [1, 2, 3]
    assert (
        record.n, record.first_event, record.prev, record.at, record.cause, record.by, record.term
    ) == (1, 1, "", NOW, "3 inputs", "me", 1)  # fmt: skip


def test_answers_leave_only_after_the_record_is_stored() -> None:
    """Nothing of a batch is released while its append is in flight."""
    loop = new_loop()
    offer(loop, 1)
    loop.run(NOW)

    assert [step for step in loop.take() if not isinstance(step, Append)] == []

    loop.settled(Stored(1), NOW)
    assert released(loop) == [1]


def test_while_an_append_is_in_flight_nothing_is_decided() -> None:
    """The next batch gathers; the state runs ahead of the log by one batch only."""
    loop = new_loop()
    offer(loop, 1)
    loop.run(NOW)
    offer(loop, 2, 3)
    loop.run(NOW)

    assert loop.state.value == 1
    assert loop.waiting == 2


def test_what_is_released_is_taken_before_more_is_decided() -> None:
    """Effects of a stored batch see the state as it was stored, not what is decided next."""
    loop = new_loop()
    offer(loop, 1)
    loop.run(NOW)
    appended(loop)
    offer(loop, 2, 3)
    loop.settled(Stored(1), NOW)
    loop.run(NOW)

    assert loop.state.value == 1
    assert released(loop) == [1]

    loop.run(NOW)
    assert loop.state.value == 6


def test_a_batch_has_at_most_so_many_inputs() -> None:
    """What is above the limit waits for the next batch."""
    loop = new_loop()
    offer(loop, *[1] * (lp.BATCH_INPUTS_MAX + 5))
    loop.run(NOW)

    assert len(CODEC.decode(appended(loop).data).events) == lp.BATCH_INPUTS_MAX
    assert loop.waiting == 5


def test_a_batch_stops_growing_at_its_size_and_one_input_may_exceed_it() -> None:
    """The limit is looked at before each input, so a large input is never split or lost."""
    loop = new_loop()
    for _ in range(3):
        loop.offer(Ask(1, padding=RECORD_BYTES_MAX * 2 // 3))
    loop.run(NOW)

    assert RECORD_BYTES_MAX < len(appended(loop).data) < 2 * RECORD_BYTES_MAX
    assert loop.waiting == 1


def test_inputs_without_events_need_no_record() -> None:
    """A read, or a refusal, is answered at once when nothing else is in its batch."""
    loop = new_loop()
    offer(loop, 0, -1)
    loop.run(NOW)
    first, second = released(loop)

    assert first == 0
    assert isinstance(second, errors.Conflict)
    assert not loop.busy


def test_a_refusal_waits_for_the_record_of_its_batch() -> None:
    """It may have been decided on what the batch changed."""
    loop = new_loop()
    offer(loop, 5, -1)
    loop.run(NOW)
    assert [step for step in loop.take() if isinstance(step, Released)] == []

    loop.settled(Stored(1), NOW)
    assert len(released(loop)) == 2


def test_follow_ups_are_decided_in_the_same_record_and_once() -> None:
    """Equal follow-ups of one batch are one."""
    loop = new_loop()
    offer(loop, 60, 40)
    loop.run(NOW)

    record = CODEC.decode(appended(loop).data)
    assert [Added, Added, Doubled] == [type(event) for event in record.events]
    assert loop.state.value == 200


def test_too_many_requests_are_told_to_come_again_while_reports_pass() -> None:
    """The queue is bounded; what nodes say has room of its own."""
    loop = new_loop()
    offer(loop, *[1] * lp.REQUESTS_WAITING_MAX)

    with pytest.raises(errors.Busy, match="wait already"):
        loop.offer(Ask(1))
    loop.offer(Ask(1, client=False))


def test_an_input_whose_decision_raises_is_parked_and_the_batch_goes_on() -> None:
    """It is counted, kept with its reason, and answered as our bug."""
    loop = new_loop()
    offer(loop, 1, 13, 2)
    loop.run(NOW)
    loop.settled(Stored(appended(loop).expected + 1), NOW)
    one, bug, two = released(loop)

    assert (one, two) == (1, 2)
    assert isinstance(bug, errors.Internal)
    assert loop.parked_count == 1
    assert "RuntimeError: bad luck (test_core_loop.py:" in loop.parked[0].error


def test_parked_inputs_are_bounded() -> None:
    """Only the newest are kept; all are counted."""
    loop = new_loop()
    offer(loop, *[13] * (lp.PARKED_KEPT_MAX + 20))
    loop.run(NOW)

    assert len(loop.parked) == lp.PARKED_KEPT_MAX
    assert loop.parked_count == lp.PARKED_KEPT_MAX + 20


def test_a_fold_that_raises_leaves_nothing_half_done() -> None:
    """The state is asked for again, the bad input is parked, all others are decided on the fresh state."""
    loop = new_loop()
    offer(loop, 1, 14, 2)
    loop.run(NOW)
    steps = loop.take()
    loop.reloaded(Sum(), Chain())
    loop.run(NOW)
    append = appended(loop)

    assert [errors.Internal] == [
        type(one.answer) for step in steps if isinstance(step, Released) for one in step.decided
    ]
    assert any(isinstance(step, Reload) for step in steps)
    assert [event.amount for event in CODEC.decode(append.data).events if isinstance(event, Added)] == [1, 2]
    assert loop.state.value == 3


def test_a_follow_up_that_cannot_be_folded_does_not_take_down_what_woke_it() -> None:
    """What led to it is stored first; then it is parked, alone."""
    loop = new_loop()
    offer(loop, 50, 50)
    fold = loop.rules.fold

    def broken(state: Sum, event: Toy, n: int, at: int) -> None:
        if isinstance(event, Doubled):
            raise RuntimeError("half folded")
        fold(state, event, n, at)

    loop.rules.fold = broken  # type: ignore[method-assign]
    loop.run(NOW)
    assert any(isinstance(step, Reload) for step in loop.take())
    loop.reloaded(Sum(), Chain())
    loop.run(NOW)
    append = appended(loop)
    loop.settled(Stored(1), NOW)

    assert [event.amount for event in CODEC.decode(append.data).events if isinstance(event, Added)] == [50, 50]
    assert released(loop) == [50, 50]
    loop.run(NOW)
    loop.take()
    loop.reloaded(loop.state, loop.chain)
    assert (loop.parked_count, loop.next_run()) == (2, None)


def test_an_append_of_unknown_outcome_is_repeated_with_the_same_bytes_until_known() -> None:
    """After a pause that grows; nothing is released or decided meanwhile."""
    loop = new_loop()
    offer(loop, 1)
    loop.run(NOW)
    first = appended(loop)
    loop.settled(Unknown("?"), NOW)
    loop.run(NOW)
    assert loop.take() == []

    again = loop.next_run()
    assert again == NOW + lp.RETRY_FIRST_NS
    loop.run(again)
    assert first == appended(loop)
    loop.settled(Unknown("?"), again)
    assert again + 2 * lp.RETRY_FIRST_NS == loop.next_run()

    loop.run(again + 2 * lp.RETRY_FIRST_NS)
    assert first == appended(loop)
    loop.settled(Stored(1), again)
    assert released(loop) == [1]


def test_a_closed_log_refuses_requests_and_decides_the_rest_again() -> None:
    """What surely was not stored is forgotten; reports of nodes are offered again, clients are told the truth."""
    loop = new_loop()
    loop.offer(Ask(1))
    loop.offer(Ask(2, client=False))
    loop.run(NOW)
    loop.settled(Unavailable("disk full"), NOW)
    steps = [step for step in loop.take() if not isinstance(step, Append)]

    refused, reload = steps
    assert isinstance(refused, Refused)
    assert [Ask(1)] == refused.items
    assert isinstance(refused.error, errors.Unavailable)
    assert Reload("disk full") == reload

    loop.run(NOW)
    assert loop.take() == []  # not before the state has come
    loop.reloaded(Sum(), Chain())
    loop.run(NOW)
    assert loop.take() == []  # nor before a pause
    later = loop.next_run()
    assert later is not None
    loop.run(later)
    assert [event.amount for event in CODEC.decode(appended(loop).data).events if isinstance(event, Added)] == [2]
    assert loop.state.value == 2


def test_a_fenced_writer_halts_for_good() -> None:
    """It says so once, refuses what waits, and takes nothing more."""
    loop = new_loop()
    offer(loop, 1)
    loop.run(NOW)
    offer(loop, 2)
    loop.take()
    loop.settled(Fenced("record 1 is another's"), NOW)
    refused, halt = loop.take()

    assert isinstance(refused, Refused)
    assert [Ask(1), Ask(2)] == refused.items
    assert Halt("record 1 is another's") == halt
    with pytest.raises(errors.Unavailable):
        loop.offer(Ask(3))
    assert loop.next_run() is None


def test_time_never_goes_back_in_the_log() -> None:
    """A clock that jumps back is not believed."""
    loop = new_loop()
    offer(loop, 1)
    loop.run(NOW)
    appended(loop)
    loop.settled(Stored(1), NOW)
    loop.take()
    offer(loop, 2)
    loop.run(NOW - 500)

    assert CODEC.decode(appended(loop).data).at == NOW


def test_records_form_a_chain_that_the_log_accepts() -> None:
    """Each record names the hash of the one before."""
    log, loop = MemoryLog(), new_loop()
    for amount in (1, 2, 3):
        offer(loop, amount)
        loop.run(NOW)
        append = appended(loop)
        loop.settled(log.append(append.expected, append.data), NOW)
        loop.take()

    chain = Chain()
    for _, data in log.read(1):
        chain = chain.verify(data)
    assert loop.chain == chain
