"""Records: bytes that never change, the chain that shows damage, and events of other releases."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bacalhau_daemon.log.records import Chain, Codec, Event, LogDamaged, LogTooNew, digest, head, version
from tests.builders_log import records, sealed


class Planned(Event, frozen=True):
    """An event that never changed."""

    x: int = 0


class Ended(Event, frozen=True, kw_only=True):
    """An event of version 3: `how` was called `outcome` in version 1, and `code` came with version 3."""

    how: str
    code: int
    v: int = version(3)


def first_to_second(event: dict[str, Any]) -> dict[str, Any]:
    return {"t": "Ended", "v": 2, "how": event["outcome"]}


def second_to_third(event: dict[str, Any]) -> dict[str, Any]:
    return {**event, "v": 3, "code": 0}


UPGRADES = {("Ended", 1): first_to_second, ("Ended", 2): second_to_third}
CODEC: Codec[Planned | Ended] = Codec(Planned | Ended, upgrades=UPGRADES, vocabulary=2, min_reader=1)


def record_of(*events: Planned | Ended) -> bytes:
    return CODEC.seal(Chain(), events, cluster="c", term=1, at=5, cause="request", by="n-1")[1]


def test_a_record_is_one_line_of_json_with_its_versions_first() -> None:
    """The format on disk, as it will be read for ever."""
    assert record_of(Planned(7), Ended(how="done", code=1)) == (
        b'{"v":2,"min_reader":1,"cluster":"c","term":1,"n":1,"prev":"","first_event":1,"at":5,"cause":"request",'
        b'"by":"n-1","events":[{"t":"Planned","x":7,"v":1},{"t":"Ended","v":3,"how":"done","code":1}]}'
    )


def test_sealing_numbers_records_and_events_and_links_them() -> None:
    """Each record has the next number, the hash of the one before, and the number of its first event."""
    first, chain = sealed(Chain(), "a", "b", "c")
    second, end = sealed(chain, "d")
    assert (head(first).n, head(first).prev, head(first).first_event) == (1, "", 1)
    assert (head(second).n, head(second).prev, head(second).first_event) == (2, digest(first), 4)
    assert end == Chain("c-1", 2, digest(second), 4)
    assert Chain().verify(first).verify(second) == end


@given(st.text(), st.integers(min_value=0, max_value=2**53))
def test_what_was_sealed_decodes_equal(text: str, number: int) -> None:
    """Any text survives, and a record decodes to what was sealed."""
    record, data, _ = CODEC.seal(
        Chain(), [Ended(how=text, code=number)], cluster="c", term=1, at=number, cause=text, by="n"
    )
    assert CODEC.decode(data) == record
    assert CODEC.encode(record) == data
    assert b"\n" not in data


@given(st.lists(st.text(), min_size=1))
def test_events_that_are_encoded_beforehand_make_the_same_record(texts: list[str]) -> None:
    """Byte for byte."""
    events = [Ended(how=text, code=1) for text in texts]
    named: dict[str, Any] = {"cluster": "c", "term": 1, "at": 5, "cause": "test", "by": "n"}
    assert CODEC.seal(Chain(), events, **named) == CODEC.seal(
        Chain(), events, **named, encoded=map(CODEC.encode_event, events)
    )


def test_the_size_of_a_record_is_the_sum_of_its_events_sizes() -> None:
    """So that a batch can stop before the limit."""
    one, two = Planned(1), Ended(how="x", code=2)
    assert len(record_of(one, two)) - len(record_of(one)) == len(CODEC.encode_event(two)) + 1


def test_old_events_are_upgraded_step_by_step() -> None:
    """Version 1 passes through version 2 to 3; events of the current version beside it are untouched."""
    data = record_of(Planned(7), Ended(how="done", code=1))
    old = data.replace(b'"v":3,"how":"done","code":1', b'"v":1,"outcome":"done"')
    assert CODEC.decode(old).events == (Planned(7), Ended(how="done", code=0))


@pytest.mark.parametrize(
    ("found", "changed", "words"),
    [
        (b'"Planned"', b'"Vanished"', "record 1, event 1: event type 'Vanished' version 1 is not known"),
        (b'"x":7,"v":1', b'"x":7,"v":9', "record 1, event 1: event type 'Planned' version 9 is not known"),
        (
            b'"min_reader":1',
            b'"min_reader":3',
            "record 1: it needs a reader of vocabulary 3, this release reads up to 2",
        ),
    ],
)
def test_what_a_newer_release_wrote_stops_the_process(found: bytes, changed: bytes, words: str) -> None:
    """An unknown type, an unknown version and a vocabulary above ours are errors with words, never skipped."""
    data = record_of(Planned(7))
    assert found in data
    with pytest.raises(LogTooNew, match=re.escape(words)):
        CODEC.decode(data.replace(found, changed))


def test_a_field_of_a_newer_release_is_ignored_when_the_writer_says_that_we_understand() -> None:
    """`min_reader` is the writer's word that old readers may go on; they do."""
    data = record_of(Planned(7)).replace(b'{"v":2', b'{"v":3').replace(b'"x":7', b'"x":7,"colour":"red"')
    assert CODEC.decode(data).events == (Planned(7),)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'"\xff"', b'{"v":1}', record_of(Planned(7)).replace(b"7", b'"a"')])
def test_bytes_that_are_no_record_are_damage(data: bytes) -> None:
    """Neither a traceback nor a guess."""
    with pytest.raises(LogDamaged):
        CODEC.decode(data)


def test_the_chain_names_the_place_and_both_values() -> None:
    """A refused record is named with what was expected and what was found."""
    one, two, three = records(3)
    chain = Chain().verify(one)
    with pytest.raises(LogDamaged, match="record 2: expected its number to be 2, found 3"):
        chain.verify(three)
    with pytest.raises(LogDamaged, match=f"record 3: expected the hash of record 2 to be {digest(two + b' ')}"):
        chain.verify(two + b" ").verify(three)
    with pytest.raises(LogDamaged, match="record 2: expected the cluster to be c-1, found c-2"):
        chain.verify(two.replace(b'"c-1"', b'"c-2"'))
    with pytest.raises(LogDamaged, match="record 2: expected the number of its first event to be 2, found 9"):
        chain.verify(two.replace(b'"first_event":2', b'"first_event":9'))


@given(st.data())
def test_any_flipped_bit_shows_when_the_next_record_is_verified(data: st.DataObject) -> None:
    """One bit anywhere in a record is found at it or at the record after it."""
    written = list(records(3))
    number = data.draw(st.integers(0, 1))
    bit = data.draw(st.integers(0, len(written[number]) * 8 - 1))
    flipped = bytearray(written[number])
    flipped[bit // 8] ^= 1 << bit % 8
    written[number] = bytes(flipped)
    with pytest.raises(LogDamaged):
        reduce(Chain.verify, written, Chain())
