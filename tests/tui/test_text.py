"""Text that others wrote never steers the terminal, never is markup, and never breaks a line: in any view."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.states import JobStateType
from bacalhau_tui import clipboard
from bacalhau_tui.data.format import clean, cut
from bacalhau_tui.data.history import HISTORY
from bacalhau_tui.data.node_table import NODES
from bacalhau_tui.data.tables import EXECUTIONS, JOBS
from bacalhau_tui.widgets.page import wrapped, yaml_page
from tests.tui.deck import Deck, a_job, running

NASTY = [
    "[/foo] [red]x[/] [@click=app.quit]click[/]",
    "\x1b[2J\x1b]0;title\x07\x1b[31m",
    "a\u202eb\u2066c\u200bd\ufeff",
    "日本語の名前" * 20,
    "e\u0301\u0301\u0301 👩\u200d👩\u200d👧 \U0001f1e9\U0001f1ea",
    "x" * 5_000,
    "\x00\x01\x7f\x9b31m\n\r\t",
    "\ud800 lone",
    "%s {0} ${x} \\e[31m",
]


def lines_are_sound(deck: Deck) -> None:
    """Each line of the screen is exactly as wide as the screen, and holds nothing that steers a terminal."""
    for strip in deck.app.screen._compositor.render_strips():
        text = "".join(segment.text for segment in strip)
        assert cell_len(text) == deck.app.size.width, repr(text)
        bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
        assert bad == [], repr(text)
    assert all(not segment.style or not segment.style.meta.get("@click") for strip in [strip] for segment in strip)


def a_nasty_cluster(fake: FakeOrchestrator, text: str) -> None:
    """Put a text everywhere that a person or a program could have put it."""
    text_ok = text.encode(errors="replace").decode()  # JSON carries no lone surrogates
    labels: dict[str, Any] = {"name": text_ok, text_ok[:20]: text_ok}
    fake.add_node("n-1", **labels)
    job = fake.add_job(job=a_job(text_ok, engine=text_ok))
    spec = fake.jobs[job]
    fake.jobs[job] = msgspec.structs.replace(spec, labels={text_ok: text_ok}, meta={text_ok: text_ok})
    execution = fake.place(job, "n-1")
    fake.run(execution)
    fake.set_phase(execution, "Preparing", text_ok, 1, 2)
    fake.nodes.write(execution, stdout=f"{text_ok}\n".encode(), stderr=text_ok.encode())
    fake.finish(execution, files={"a/" + text_ok.replace("/", "").replace("\0", "")[:200]: FakeFile(b"x")})
    fake.set_job(job, JobStateType.FAILED, text_ok)
    fake.history.append(
        msgspec.structs.replace(
            fake.history[-1], event=msgspec.structs.replace(fake.history[-1].event, message=text_ok, topic=text_ok)
        )
    )


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
async def test_no_view_is_broken_by_what_others_wrote(fake: FakeOrchestrator, tmp_path: Path, text: str) -> None:
    """Names, labels, messages, phases, logs, files and history with anything in them, on every screen."""
    a_nasty_cluster(fake, text)
    async with running(fake, tmp_path, size=(80, 24)) as deck:
        for keys in (
            ["W"],
            ["enter"],
            ["2"],
            ["enter"],
            ["escape", "3"],
            ["4"],
            ["w"],
            ["5"],
            ["j", "enter"],
            ["6"],
            ["S"],
            ["escape", "escape", "2"],
            ["enter"],
        ):
            await deck.press(*keys)
            await deck.settle()
            lines_are_sound(deck)


remote = st.text(max_size=60)


@given(remote, st.integers(1, 40), st.booleans())
@settings(max_examples=300, deadline=None)
def test_clean_text_fits_where_it_is_cut_to(text: str, width: int, middle: bool) -> None:
    """Cleaned and cut, a text has no control character and is no wider than asked, by Textual's count too."""
    shown = cut(clean(text), width, middle=middle)

    assert cell_len(shown) <= width + sum(unicodedata.category(c) in ("Cn", "Co", "So", "Mn", "Me") for c in shown)
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)


@given(remote)
@settings(max_examples=200, deadline=None)
def test_cells_of_every_list_are_clean(text: str) -> None:
    """Whatever stands in a row, each cell of it is one clean line."""
    from bacalhau_protocol.api.messages import ExecutionRow, JobRow  # noqa: PLC0415
    from bacalhau_protocol.models.event import Event, JobHistory  # noqa: PLC0415
    from bacalhau_protocol.models.node import BuildVersion, NodeInfo, NodeState  # noqa: PLC0415

    names: dict[str, Any] = {
        "id": text,
        "name": text,
        "namespace": text,
        "type": text,
        "engine": text,
        "state": text,
        "message": text,
        "by": text,
    }
    job = JobRow(**names, priority=0, count=1, version=1, created=1, modified=1)
    execution = ExecutionRow(
        id=text, job_id=text, node_id=text, namespace=text, state=text, message=text, created=1, modified=1
    )
    node = NodeState(
        info=NodeInfo(node_id=text, labels={text: text}, version=BuildVersion(git_version=text)),
        connection=text,
        membership=text,
    )
    event = JobHistory(
        seq=1, type=text, job_id=text, job_version=1, event=Event(text, text), time=text, execution_id=text
    )
    for layout, row in ((JOBS, job), (EXECUTIONS, execution), (NODES, node), (HISTORY, event)):
        for column in layout.columns:
            for cell in (column.cell(row, 10), (column.calm or column.cell)(row, 10)):  # type: ignore[arg-type]
                assert clean(cell.text) == cell.text, column.key


@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Cs", "Mn", "Me"]), max_size=200),
    st.integers(8, 40),
    st.integers(0, 10),
)
@settings(max_examples=200, deadline=None)
def test_wrapping_loses_only_blanks(text: str, width: int, hang: int) -> None:
    """Rows of a wrapped line have all its words, in order, and none is too wide."""
    from bacalhau_tui.data.format import Tone, cell_width  # noqa: PLC0415

    rows = wrapped([(clean(text), Tone.PLAIN)], width, hang)
    plain = ["".join(piece for piece, _ in row) for row in rows]

    assert "".join("".join(plain).split()) == "".join(clean(text).split()) or "".join(plain).replace(" ", "") == clean(
        text
    ).replace(" ", "")
    assert all(cell_width(row) <= width or len(row.strip()) == 1 for row in plain)


def test_yaml_keeps_every_character() -> None:
    """Colouring a specification changes no letter of it."""
    text = "Name: a\nTasks:\n- Name: 'x: y'\n  # note\n  Params: {a: b}\n  - - nested: 1\n\"quoted: key\": v\n"

    assert "\n".join(line.text for line in yaml_page(text)) == text.rstrip("\n")


def test_copying_goes_to_the_terminal_s_clipboard() -> None:
    """OSC 52 with base64; wrapped for tmux; too long is refused."""
    assert clipboard.sequence("id", {}) == "\x1b]52;c;aWQ=\x07"
    assert clipboard.sequence("id", {"TMUX": "/tmp/x"}) == "\x1bPtmux;\x1b\x1b]52;c;aWQ=\x07\x1b\\"
    with pytest.raises(Exception, match="more than terminals take"):
        clipboard.sequence("x" * 60_000, {})
