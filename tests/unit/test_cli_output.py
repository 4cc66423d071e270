"""Tables, JSON and YAML on a terminal and in a pipe."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from bacalhau_tui.cli.output import Head, Output
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Tone

HEADS = [Head("ID"), Head("NAME", flexible=True, middle=True), Head("SIZE", right=True), Head("STATE")]
ROWS: list[list[Cell | str]] = [
    ["j-1", "short", "7", Cell("Completed", Tone.GOOD)],
    ["j-2", "a-very-long-name-that-goes-on-and-on-and-on.txt", "1,000", Cell("Failed", Tone.BAD)],
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal of 44 columns in the place of stdout; call it in the test itself, pytest has stdout before."""
    made = Terminal()
    monkeypatch.setattr(sys, "stdout", made)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((44, 24)))
    return made


def test_in_a_pipe_nothing_is_cut_and_nothing_coloured(capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get all of it."""
    Output("table", {}).table(HEADS, ROWS)

    assert capsys.readouterr().out == (
        "ID   NAME                                              SIZE  STATE\n"
        "j-1  short                                                7  Completed\n"
        "j-2  a-very-long-name-that-goes-on-and-on-and-on.txt  1,000  Failed\n"
    )


def test_on_a_terminal_it_fits_and_states_have_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The flexible column gives way; a colour never stands for the word."""
    terminal = a_terminal(monkeypatch)

    Output("table", {"TERM": "xterm"}).table(HEADS, ROWS)

    assert terminal.getvalue() == (
        "ID   NAME                    SIZE  STATE\n"
        "j-1  short                      7  \x1b[32mCompleted\x1b[0m\n"
        "j-2  a-very-long-na…on.txt  1,000  \x1b[31mFailed   \x1b[0m\n"
    )


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_can_be_refused(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """NO_COLOR and dumb terminals are plain."""
    terminal = a_terminal(monkeypatch)

    Output("table", environment).table(HEADS, ROWS)

    assert "\x1b" not in terminal.getvalue()


def test_json_on_a_terminal_cannot_steer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What JSON leaves as it is, but a terminal obeys, is written as an escape; the value is the same."""
    terminal = a_terminal(monkeypatch)
    value = {"Name": "a\u202eb\x9bc\x1bd"}

    Output("json", {}).value(value)

    assert not {"\u202e", "\x9b", "\x1b"} & set(terminal.getvalue())
    assert json.loads(terminal.getvalue()) == value


def test_pairs_leave_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines of one value stand below each other."""
    Output("table", {}).pairs([("ID", "j-1"), ("Message", "one\ntwo"), ("Empty", "")])

    assert capsys.readouterr().out == "ID      = j-1\nMessage = one\n          two\n"


def test_yaml_keeps_the_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Keys are not sorted: what matters comes first, as in the models."""
    Output("yaml", {}).value({"Name": "x", "Count": 1, "Empty": [], "List": ("a",)})

    assert capsys.readouterr().out == "Name: x\nCount: 1\nEmpty: []\nList:\n- a\n"
