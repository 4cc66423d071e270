"""The first frame: what it does not wait for, and that any size of terminal does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_tui.look import choose_theme
from tests.tui.deck import a_day, running

LATER = ("nats", "ruamel", "httpx", "bacalhau_protocol.client", "bacalhau_protocol.api.messages")
SIZES = [(40, 10), (250, 70), (1, 1), (80, 24), (20, 3), (200, 8), (119, 45), (121, 45), (80, 4), (60, 20)]


def test_models_client_and_editor_are_loaded_after_the_first_frame() -> None:
    """What the first screen needs is imported, and nothing else: that is most of the time until it is there."""
    code = (
        "import sys, bacalhau_tui.cli.root, bacalhau_tui.launch, bacalhau_tui.app, bacalhau_tui.screens.jobs;"
        f"print([name for name in sys.modules if name.startswith({LATER!r})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_the_first_frame_needs_no_cluster(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Without a connection there is a list, empty, and the state of the link."""

    async def connect(_: object) -> object:
        raise errors.Unavailable("nobody answers", hint="start one")

    async with running(fake, tmp_path, connect=connect, live=False) as deck:
        await deck.shows("Jobs", "nobody answers", "start one")


async def test_any_size_will_do(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Lists, details and dialogs live through terminals of any size; at 80x24 everything is there again."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        for keys in (["j"], ["enter"], ["2"], ["4"], ["5"], ["6"], ["?"], ["escape", "S"], ["escape", "escape", "2"]):
            await deck.press(*keys)
            for size in SIZES:
                await deck.pilot.resize_terminal(*size)
            await deck.pilot.resize_terminal(80, 24)
        await deck.shows("n-gone", "● live")


def test_an_unknown_theme_is_refused_with_those_there_are() -> None:
    """In words, before anything is drawn."""
    with pytest.raises(errors.UsageError, match="no theme 'drak'") as refused:
        choose_theme("drak")
    assert "dark, light, ansi" in refused.value.hint
    assert choose_theme("", {"COLORTERM": "truecolor"}) == "bacalhau-dark"
    assert choose_theme("", {}) == "bacalhau-ansi"
