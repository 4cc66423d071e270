"""Amounts, resources, times and ids: texts mean what they mean in Bacalhau; what is written is read again."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_protocol.errors import SpecError, UsageError
from bacalhau_protocol.models import ids
from bacalhau_protocol.models.node import ZERO_TIME
from bacalhau_protocol.models.quantities import (
    AMOUNT_MAX,
    UNITS,
    format_bytes,
    format_cpu,
    format_resources,
    parse_bytes,
    parse_cpu,
    parse_gpu,
    parse_resources,
)
from bacalhau_protocol.models.resources import ZERO, Gpu, Resources, ResourcesConfig
from bacalhau_protocol.models.times import SECOND, format_duration, format_time, parse_duration, parse_time

MILLICORES = st.integers(0, 10**7)
AMOUNTS = st.builds(
    Resources,
    cpu=MILLICORES.map(lambda m: m / 1000),
    memory=st.integers(0, 2**50),
    disk=st.integers(0, 2**50),
    gpu=st.integers(0, 64),
)
FEW = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("500m", 0.5),
        ("0.5", 0.5),
        (".25", 0.25),
        ("2", 2.0),
        ("1 00m", 0.1),
        ("1e3", 1000.0),
        ("0", 0.0),
        ("1.0019", 1.001),
    ],
)
def test_cpu_is_cores_or_millicores(text: str, cores: float) -> None:
    """CPU is decimal cores or whole millicores, cut to whole millicores."""
    assert parse_cpu(text) == cores


@pytest.mark.parametrize("text", ["lots", "-1", "-5m", "1.5m", "0x1", "nan", "inf", "1,5", "m", "", "9" * 200])
def test_what_is_no_amount_of_cpu_is_refused(text: str) -> None:
    """Words, negative amounts, fractions of a millicore and endless digits are refused with a hint."""
    with pytest.raises(SpecError, match="invalid CPU value") as caught:
        parse_cpu(text)

    assert "500m" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("512Mb", 512_000_000),
        ("1Gi", 1_073_741_824),
        ("100m", 100_000_000),
        ("10 MiB", 10_485_760),
        ("1,000.5k", 1_000_500),
        ("42", 42),
        ("42B", 42),
        ("1.001k", 1000),  # 64-bit floats, truncated, as Bacalhau computes
        ("2eb", 2 * 10**18),
    ],
)
def test_memory_has_decimal_and_binary_units(text: str, size_bytes: int) -> None:
    """`m` is mega and decimal, `mi` is binary, without regard to letter case; fractions are cut."""
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize("text", ["5 buckets", "-5mb", "Mb", "", "1.2.3g", "10e", "1e3mb", "²", "1" * 200])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    """Unknown units, negative, missing or too large numbers are refused; the message names the amount."""
    with pytest.raises(SpecError, match="invalid disk value"):
        parse_bytes(text, "disk")


@pytest.mark.parametrize("text", ["all", "-1", "1.5", "+1", "", "٣", "9" * 30])
def test_gpus_are_counted_in_whole_numbers(text: str) -> None:
    """Only ASCII digits are a count of GPUs."""
    assert parse_gpu("2") == 2

    with pytest.raises(SpecError, match="invalid GPU value"):
        parse_gpu(text)


@FEW
@given(MILLICORES)
def test_cpu_is_read_again_as_it_was_written(millicores: int) -> None:
    """Writing cores and reading them gives the same millicores."""
    assert round(parse_cpu(format_cpu(millicores / 1000)) * 1000) == millicores


@FEW
@given(st.integers(0, 2**53), st.sampled_from(sorted(UNITS)))
def test_any_whole_number_with_any_unit_is_exact_or_refused(number: int, unit: str) -> None:
    """A whole number that a float holds, times its unit, is exact below the limit and refused above."""
    if number * UNITS[unit] >= AMOUNT_MAX:
        with pytest.raises(SpecError, match="too large"):
            parse_bytes(f"{number}{unit}")
    else:
        assert parse_bytes(f"{number}{unit.upper()}") == pytest.approx(number * UNITS[unit], rel=1e-15)


def test_a_task_that_says_nothing_asks_for_nothing() -> None:
    """Missing and blank amounts are zero."""
    assert parse_resources(None) == parse_resources(ResourcesConfig()) == ZERO
    assert parse_resources(ResourcesConfig(cpu="1", gpu="2")) == Resources(cpu=1.0, gpu=2)


def test_amounts_are_written_for_people() -> None:
    """Bytes have a decimal unit and about three digits; zero amounts are left out."""
    assert [format_bytes(size) for size in (0, 999, 1500, 999_500, 2**30)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "1 MB",
        "1.07 GB",
    ]
    assert format_resources(Resources(cpu=0.5, memory=512_000_000)) == "CPU 500m, memory 512 MB"
    assert format_resources(ZERO) == "nothing"


@FEW
@given(AMOUNTS, AMOUNTS)
def test_adding_and_taking_away_gives_back(one: Resources, other: Resources) -> None:
    """Sums do not drift, and both parts fit into the sum."""
    total = one + other

    assert total - other == one
    assert one.fits(total)
    assert other.fits(total)
    assert one.larger(other).fits(total)
    assert one.smaller(other).fits(one)


def test_tenths_of_a_core_fill_a_core_exactly() -> None:
    """Ten times 0.1 core is one core: capacity is compared in millicores, not in floats."""
    used = ZERO
    for _ in range(10):
        used += Resources(cpu=0.1)

    assert used == Resources(cpu=1.0)
    assert Resources(cpu=0.1 + 0.2).fits(Resources(cpu=0.3))


def test_taking_away_too_much_leaves_nothing() -> None:
    """What is left is never negative, and GPUs that were taken are gone from the list."""
    have = Resources(cpu=1, gpu=2, gpus=(Gpu(index=0), Gpu(index=1)))

    left = have - Resources(cpu=2, memory=5, gpu=1, gpus=(Gpu(index=1),))

    assert left == Resources(gpu=1, gpus=(Gpu(index=0),))
    assert not Resources(gpu=2).fits(left)


@FEW
@given(st.integers(-(2**62), 2**62).filter(bool))
def test_times_keep_all_nine_digits(at_ns: int) -> None:
    """A time written as RFC 3339 is read again to the nanosecond."""
    assert parse_time(format_time(at_ns)) == at_ns


@pytest.mark.parametrize(
    ("text", "at_ns"),
    [
        ("1970-01-01T00:00:01Z", SECOND),
        ("1970-01-01T02:00:00.5+02:00", SECOND // 2),
        ("1969-12-31T23:30:00.000000001-00:30", 1),
        ("2025-06-01t10:00:00z", 1_748_772_000 * SECOND),
        (ZERO_TIME, 0),
    ],
)
def test_times_have_any_offset(text: str, at_ns: int) -> None:
    """Offsets, missing fractions and Go's zero time are understood."""
    assert parse_time(text) == at_ns


@pytest.mark.parametrize(
    "text", ["", "2025-06-01", "2025-13-01T00:00:00Z", "2025-06-01T10:00:00", "9999-01-01T00:00:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    """No time, no offset, no such month, and years that 64 bits of nanoseconds do not hold are refused."""
    with pytest.raises(UsageError):
        parse_time(text)


def test_no_time_is_zero() -> None:
    """A time that is not set is written as Go writes it."""
    assert format_time(0) == ZERO_TIME


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (20_000_000, "20ms"),
        (10 * SECOND, "10s"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
        (-1_500_000_000, "-1.5s"),
    ],
)
def test_durations_are_written_as_go_does(duration_ns: int, text: str) -> None:
    """Durations have Go's form, and are read again."""
    assert format_duration(duration_ns) == text
    assert parse_duration(text) == duration_ns


@FEW
@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_durations_are_read_as_written(duration_ns: int) -> None:
    """Any 64-bit duration survives its text."""
    assert parse_duration(format_duration(duration_ns)) == duration_ns


@pytest.mark.parametrize("text", ["", "10", "ten", "1h 5m", "5 s", "1d", "-", "1" * 200 + "s", "9999999999h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """Bare numbers, blanks, unknown units and more than 64 bits are refused."""
    with pytest.raises(UsageError):
        parse_duration(text)


def test_ids_are_made_of_given_randomness() -> None:
    """The same 16 bytes make the same id, a UUIDv4 behind its prefix."""
    made = ids.new_id(ids.JOB, bytes(range(16)))

    assert made == "j-00010203-0405-4607-8809-0a0b0c0d0e0f"
    assert ids.short_id(made) == "j-00010203"
    assert ids.is_full(made, ids.JOB)
    assert not ids.is_full(made, ids.NODE)
    assert not ids.is_full(made[:-1], ids.JOB)


@pytest.mark.parametrize(
    ("full", "short"),
    [
        ("00010203-0405-4607-8809-0a0b0c0d0e0f", "00010203"),
        ("Qm" + "a" * 44, "Qmaaaaaa"),
        ("node-1", "node-1"),
    ],
)
def test_short_ids_follow_the_form(full: str, short: str) -> None:
    """Bare UUIDs and old peer ids are cut to eight characters, names stay."""
    assert ids.short_id(full) == short


def test_a_prefix_is_a_range() -> None:
    """Exactly the ids that begin with the text lie in its range."""
    low, high = ids.prefix_range("j-1a")

    assert [key for key in ("j-1", "j-1a", "j-1azz", "j-1a_-z", "j-1b", "k-") if low <= key < high] == [
        "j-1a",
        "j-1azz",
        "j-1a_-z",
    ]
