"""The composer's scanner: what each part of a line is, where a place lies, and that edits cost what they touch."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_protocol.models.nodes import Entries, Items, Node
from bacalhau_protocol.models.spec import read_document
from bacalhau_tui.data import yamlscan
from bacalhau_tui.data.yamlscan import Part, Scan, State, scan_line
from bacalhau_tui.data.yamlscan import Path as Steps

JOBS = sorted((Path(__file__).parents[1] / "data" / "jobs").rglob("*.yaml"))


def scanned(text: str) -> Scan:
    scan = Scan()
    scan.update(text.split("\n"))
    return scan


def keys_of(node: Node, path: Steps = ()) -> set[tuple[Steps, str]]:
    """Return every key of a parsed document with its path."""
    match node:
        case Entries():
            found = {(path, entry.key) for entry in node.entries}
            return found.union(*(keys_of(entry.node, (*path, entry.key)) for entry in node.entries))
        case Items():
            return set[tuple[Steps, str]]().union(*(keys_of(item, (*path, at)) for at, item in enumerate(node.items)))
        case _:
            return set()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_key_is_found_at_its_path(path: Path) -> None:
    """On real job files the scanner and the parser agree about every key; aliases and merges are the parser's."""
    text = path.read_text(errors="replace")
    try:
        parsed = keys_of(read_document(text))
    except Exception:
        pytest.skip("the parser refuses it")
    if "<<:" in text or "*" in text or "? " in text or text.lstrip().startswith("{"):
        pytest.skip("aliases, complex keys or JSON")

    assert {(entry.path, entry.key) for entry in scanned(text).entries()} == parsed


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("Name: hello # note", "key:Name mark:: comment:# note"),
        ('- "a b": 5', 'mark:- key:"a b" mark:: number:5'),
        (
            "Env: {A: 'x, y', B: true}",
            "key:Env mark:: mark:{ key:A mark:: text:'x, y' mark:, key:B mark:: word:true mark:}",
        ),
        ("URL: http://host/a#b", "key:URL mark::"),
        ("a: &x !t 1.5e3", "key:a mark:: mark:&x mark:!t number:1.5e3"),
        ("key: |-", "key:key mark:: mark:|-"),
        ("[1, [2], x]", "mark:[ number:1 mark:, mark:[ number:2 mark:] mark:, mark:]"),
        ("--- ", "mark:---"),
    ],
)
def test_parts_of_a_line(line: str, parts: str) -> None:
    """Keys, punctuation, quoted texts, numbers, words and comments are told apart."""
    tokens = scan_line(line, State()).tokens

    assert " ".join(f"{token.part.value}:{line[token.start : token.end]}" for token in tokens) == parts


def test_blocks_and_quotes_go_on_over_lines() -> None:
    """A block text ends where the indentation does; a quoted text at its quote; keys in them are no keys."""
    scan = scanned("a:\n  b: |\n    x: 1\n\n    y: 2\n  c: \"one\n    d: two\"\ne: 'it''s\n  f: g'\nh: 1")

    assert [(entry.path, entry.key) for entry in scan.entries()] == [
        ((), "a"), (("a",), "b"), (("a",), "c"), ((), "e"), ((), "h"),
    ]  # fmt: skip
    assert {token.part for line in (2, 4) for token in scan.lines[line].tokens} == {Part.TEXT}


@given(
    st.lists(st.sampled_from(["a: 1", "- b: 2", "  - c", "  d: {e: [", "]}", "    f: |", 'g: "x', 'y"', "", "#"])),
    st.integers(),
)
@settings(max_examples=200)
def test_an_edit_comes_to_what_scanning_anew_comes_to(lines: list[str], seed: int) -> None:
    """Whatever is inserted, changed or removed."""
    rng = random.Random(seed)
    scan = Scan()
    for _ in range(4):
        scan.update(lines)
        fresh = Scan()
        fresh.update(lines)
        assert scan.lines == fresh.lines
        at = rng.randint(0, len(lines))
        lines = (
            lines[:at] + rng.choices(["k: v", "  - z", "q: '"], k=rng.randint(0, 2)) + lines[at + rng.randint(0, 2) :]
        )


@given(st.text(max_size=80), st.text(max_size=80))
@settings(max_examples=300)
def test_no_text_is_refused(one: str, other: str) -> None:
    """Tokens lie in their line, in order, without overlap."""
    scan = scanned(f"{one}\n{other}")
    for text, line in zip(scan.texts, scan.lines, strict=True):
        ends = 0
        for token in line.tokens:
            assert ends <= token.start < token.end <= len(text)
            ends = token.end


def test_an_edit_scans_only_what_it_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word changed in the middle of 1,000 lines scans one line; a comment put in scans one more."""
    lines = ["Labels:", *(f"  key-{number}: {number}" for number in range(1000))]
    scan = Scan()
    scan.update(lines)
    count = 0

    def counted(text: str, state: State) -> yamlscan.Line:
        nonlocal count
        count += 1
        return scan_line(text, state)

    monkeypatch.setattr(yamlscan, "scan_line", counted)
    lines[500] = "  key-499: other"
    scan.update(lines)
    assert count == 1
    lines.insert(700, "  # note")
    scan.update(lines)
    assert count <= 3
