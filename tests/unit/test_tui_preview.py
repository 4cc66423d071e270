"""What a result file is shown as, from its beginning alone."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_tui.data.format import clean
from bacalhau_tui.data.preview import CELL_WIDTH_MAX, FIRST_BYTES, HEX_BYTES, LINES_MAX, Shape, preview


def text(path: str, data: bytes, size_bytes: int = -1) -> str:
    found = preview(path, data, len(data) if size_bytes < 0 else size_bytes)
    head = [found.head.text] if found.head is not None else []
    return "\n".join([*head, *(line.text for line in found.page)])


@pytest.mark.parametrize(
    ("path", "data", "shape"),
    [
        ("stdout", b"hello\nworld\n", Shape.TEXT),
        ("stdout", b"", Shape.EMPTY),
        ("a.json", b'{"a": [1, 2.50]}', Shape.JSON),
        ("noname", b'[{"a": 1}]', Shape.JSON),
        ("a.json", b'{"a": ', Shape.TEXT),
        ("log.jsonl", b'{"a": 1}\n{"a": 2}\n', Shape.TEXT),
        ("a.csv", b"x,y\n1,2\n", Shape.TABLE),
        ("a.tsv", b"x\ty\n1\t2\n", Shape.TABLE),
        ("a.CSV", b"x;y\n1;2\n", Shape.TABLE),
        ("a.csv.d/plain", b"x,y\n", Shape.TEXT),
        ("a.gz", b"\x1f\x8b\x08\x00\x00", Shape.HEX),
        ("latin1.txt", b"caf\xe9\n", Shape.HEX),
        ("colours", b"\x1b[31mred\x1b[0m\n", Shape.TEXT),
        ("controls", bytes(range(1, 32)), Shape.HEX),
        ("bom.csv", "\ufeffä,ö\n1,2\n".encode(), Shape.TABLE),
    ],
)
def test_shapes(path: str, data: bytes, shape: Shape) -> None:
    """By content first, by name second."""
    assert preview(path, data, len(data)).shape is shape


def test_json_is_indented_and_nothing_in_it_changes() -> None:
    """Numbers keep their spelling, keys their order; a cut one is text."""
    shown = text("a.json", b'{"b":1.10,"a":[12345678901234567890,null],"n\\u0061":"\xc3\xa4"}')

    assert shown.splitlines()[1:3] == ['  "b": 1.10,', '  "a": [']
    assert "12345678901234567890" in shown
    assert "ä" in shown
    assert preview("a.json", b'{"a": 1', 100).shape is Shape.TEXT
    deep = b"[" * 5000 + b"]" * 5000
    assert preview("a.json", deep, len(deep)).shape in (Shape.TEXT, Shape.JSON)


def test_tables_align_their_columns() -> None:
    """Numbers at the right, words at the left, under the head; long cells are cut, a cut last row is left out."""
    shown = text("a.csv", b'word,count\n"a, b",5\nlonger word,1200\n' + b"x" * 100 + b",7\ncut", 1000).splitlines()

    assert shown[0].split() == ["word", "count"]
    assert [line[line.rindex(" ") :] for line in shown[1:3]] == [" 5", " 1200"]
    assert len({len(line) for line in shown}) == 1
    assert shown[3].split()[0] == "x" * (CELL_WIDTH_MAX - 1) + "…"
    assert len(shown) == 4


def test_bytes_are_shown_as_digits_and_letters() -> None:
    """Offset, sixteen bytes, and what is printable of them; only so much."""
    shown = text("a.bin", b"\x7fELF\x00" + b"A" * 20).splitlines()

    assert shown[0] == "00000000  7f 45 4c 46 00 41 41 41  41 41 41 41 41 41 41 41  .ELF.AAAAAAAAAAA"
    assert shown[1].startswith("00000010  41 41")
    assert preview("a.bin", b"\0" * FIRST_BYTES, FIRST_BYTES).shown_bytes == HEX_BYTES


def test_a_beginning_may_end_in_the_middle_of_a_letter() -> None:
    """It is text all the same; what is shown says how much of the file it is."""
    found = preview("a.txt", "zwölf Bücher ".encode()[:4], 5000)

    assert found.shape is Shape.TEXT
    assert found.words == "text, first 4 B of 5 kB"
    assert preview("a.txt", b"\xc3", 1).shape is Shape.HEX


@given(st.binary(max_size=300), st.sampled_from(["a", "a.json", "a.csv", "a.tsv"]), st.integers(0, 400))
@settings(max_examples=300)
def test_whatever_a_file_holds_its_lines_are_clean(data: bytes, path: str, more: int) -> None:
    """No line has anything that steers a terminal, and none is lost in a trap."""
    found = preview(path, data, len(data) + more)

    for line in [*found.page, *([found.head] if found.head is not None else [])]:
        assert clean(line.text) == line.text
    assert len(found.page) <= LINES_MAX + 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(VALUES)
@settings(max_examples=100)
def test_json_says_the_same(value: object) -> None:
    """Read again, what is shown is the value, but for what was escaped."""
    data = json.dumps(value).encode()
    shown = text("a.json", data)

    if data and clean(json.dumps(value, ensure_ascii=False)) == json.dumps(value, ensure_ascii=False):
        assert json.loads(shown) == value
