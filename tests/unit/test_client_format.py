"""Words and numbers as people see them; nothing that others wrote can steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_tui.data import format as fmt

S = fmt.SECOND_NS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcödé 日本", "plain ünïcödé 日本"),
        ("\x1b[31mred", "\\e[31mred"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x9b31m", "\\x9b31m"),
        ("rtl\u202eevil", "rtl\\u{202e}evil"),
        ("zero\u200bwidth", "zero\\u{200b}width"),
        ("lone\ud800", "lone\\u{d800}"),
    ],
)
def test_untrusted_text_is_escaped(text: str, expected: str) -> None:
    """Controls, direction marks and invisible characters are written out."""
    assert fmt.clean(text) == expected


def test_lines_keep_their_ends_and_tabs() -> None:
    """Of several lines only what is dangerous is escaped."""
    assert fmt.clean_lines("a\tb\n\x1b]0;title\x07\n") == "a\tb\n\\e]0;title\\x07\n"


@settings(deadline=None)
@given(st.text())
def test_clean_text_has_no_controls(text: str) -> None:
    """Whatever comes in, nothing comes out that is not shown."""
    cleaned = fmt.clean(text)

    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in cleaned)
    cleaned.encode()  # no lone surrogate is left


@pytest.mark.parametrize(
    ("length_ns", "expected"),
    [
        (0, "0ms"),
        (350_000_000, "350ms"),
        (S * 12 // 10, "1.2s"),
        (42 * S, "42s"),
        (182 * S, "3m2s"),
        (3600 * S, "1h"),
        (14_460 * S, "4h1m"),
        (2 * 86_400 * S + 3 * 3600 * S + 5 * S, "2d3h"),
    ],
)
def test_durations(length_ns: int, expected: str) -> None:
    """At most two units, zero second units dropped."""
    assert fmt.duration(length_ns) == expected


def test_ages_and_moments() -> None:
    """Ages are whole; what never was is blank."""
    at = 1_795_457_084_357_624_950

    assert fmt.age(at, at + 125 * S) == "2m5s"
    assert fmt.age(at, at - S) == "0s"
    assert fmt.age(0, at) == ""
    assert fmt.moment(at) == "2026-11-23 18:04:44"
    assert fmt.clock(at) == "18:04:44.357"
    assert fmt.moment(0) == fmt.clock(0) == ""
    assert fmt.nanoseconds("2026-11-23T18:04:44.35762495Z") == at
    assert fmt.nanoseconds("0001-01-01T00:00:00Z") == fmt.nanoseconds("rubbish") == 0


def test_text_is_cut_to_cells() -> None:
    """Wide characters count two; names lose their middle, sentences their end."""
    assert fmt.cell_width("日本a") == 5
    assert fmt.cut("short", 10) == "short"
    assert fmt.cut("a-long-sentence", 8) == "a-long-…"
    assert fmt.cut("a-long-file-name.txt", 10, middle=True) == "a-long…txt"
    assert fmt.cut("日本語", 5) == "日本…"
    assert fmt.cut("abc", 0) == ""


@settings(deadline=None)
@given(st.text(), st.integers(0, 40), st.booleans())
def test_cut_text_fits(text: str, width: int, middle: bool) -> None:
    """Never wider than asked."""
    assert fmt.cell_width(fmt.cut(text, width, middle=middle)) <= width


def test_states_have_glyph_word_and_tone() -> None:
    """A state is never shown by colour alone; one that is not known says so."""
    assert (fmt.mark("Completed").ascii, fmt.mark("Completed").tone) == ("+", fmt.Tone.GOOD)
    assert fmt.mark("BidRejected").word == "Not chosen"
    assert (fmt.mark("Odd\x1b").word, fmt.mark("Odd\x1b").tone) == ("Odd\\e", fmt.Tone.UNKNOWN)
