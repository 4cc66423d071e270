"""How every view looks, at the smallest size and at a comfortable one.

What a view does is asserted elsewhere. After `pytest tests/tui/test_snapshots.py --snapshot-update` a person looks at
the pictures that changed before they are committed.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_textual_snapshot import SVGImageExtension  # type: ignore[import-untyped]
from syrupy.assertion import SnapshotAssertion

from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_tui.widgets.lines import Painted
from tests.tui.deck import Deck, a_day, running
from tests.tui.test_link import cut

SIZES = [(80, 24), (160, 45)]
SIZE_NAMES = ["80x24", "160x45"]


class Album:
    """Compares views with their pictures; `check` says at the end which ones look different."""

    def __init__(self, deck: Deck, snapshot: SnapshotAssertion) -> None:
        self.deck = deck
        self.snapshot = snapshot.use_extension(SVGImageExtension)
        self.different: list[str] = []

    async def look(self, name: str, *words: str) -> None:
        """Compare what is on the screen, once these words are there and nothing is about to change."""
        await self.deck.shows(*words)
        await self.deck.settle()
        if self.deck.app.export_screenshot(title=name) != self.snapshot(name=name):
            self.different.append(name)

    async def command(self, text: str) -> None:
        """Type a command."""
        await self.deck.type(text)
        await self.deck.press("enter")

    def check(self) -> None:
        """Fail if something looked different."""
        assert self.different == []


@pytest.mark.parametrize("size", SIZES, ids=SIZE_NAMES)
async def test_lists_and_what_lies_over_them(
    fake: FakeOrchestrator, tmp_path: Path, snapshot: SnapshotAssertion, size: tuple[int, int]
) -> None:
    """Jobs, nodes, one node; a filter being typed, marks, the question, the palette, help, the banner."""
    a_day(fake)
    async with running(fake, tmp_path, size=size) as deck:
        album = Album(deck, snapshot)
        await album.look("jobs", "waiting", "running")
        await deck.press("space", "/")
        await deck.type("statf:x")
        await album.look("jobs-filter", "did you mean")
        await deck.press("escape", "S")
        await album.look("stop", "Cancel")
        await deck.press("escape", "ctrl+p")
        await album.look("palette", "type a part")
        await deck.press("escape", "?")
        await album.look("help", "keys of this screen" if size[1] > SIZES[0][1] else "Help")
        await deck.press("escape", "2")
        await album.look("nodes", "n-gone")
        await deck.press("j", "enter")
        await album.look("node", "CAPACITY")
        await deck.press("2")
        await album.look("node-executions", "Running")
        cut(deck)
        await album.look("link-lost", "nobody answers")
        album.check()


@pytest.mark.parametrize("size", SIZES, ids=SIZE_NAMES)
async def test_one_job(
    fake: FakeOrchestrator, tmp_path: Path, snapshot: SnapshotAssertion, size: tuple[int, int]
) -> None:
    """Why, executions, one execution, history, logs, results, specification."""
    a_day(fake)
    async with running(fake, tmp_path, size=size) as deck:
        album = Album(deck, snapshot)
        await album.command(":why waiting")
        await album.look("why", "3 of 4 nodes fit")
        await deck.press("escape")
        await album.command(":job running")
        await deck.press("2")
        await album.look("executions", "12 MB of 80 MB")
        await deck.press("enter")
        await album.look("execution", "HISTORY")
        await deck.press("escape", "escape")
        await album.command(":logs done")
        await album.look("logs", "line 2 of 1", "ended")
        await deck.press("3")
        await album.look("history", "Job submitted")
        await deck.press("5")
        await album.look("results", "exitCode")
        await deck.press("6")
        await album.look("spec", "Count: 2")
        album.check()


@pytest.mark.parametrize("size", SIZES, ids=SIZE_NAMES)
async def test_a_new_job_and_its_files(
    fake: FakeOrchestrator, tmp_path: Path, snapshot: SnapshotAssertion, size: tuple[int, int]
) -> None:
    """Templates, a job being written, a mistake at its line; a preview, downloads."""
    a_day(fake)
    async with running(fake, tmp_path, size=size) as deck:
        album = Album(deck, snapshot)
        await deck.press("ctrl+n")
        await album.look("templates", "type a part")
        await deck.press("enter")
        await album.look("compose", "✓ valid", "of 4 nodes fit")
        await deck.press("down", "down", "home", *["delete"] * 4)
        await deck.type("Nmae")
        await album.look("compose-mistake", "did you mean Name?")
        await deck.press("escape")
        await deck.until(lambda: deck.screen == "JobsScreen")
        await album.command(":results done")
        await deck.shows("out/")
        await deck.press("j", "enter", "j", "j")
        await album.look("preview", "word", "count")
        await deck.press("escape")
        await album.command(":downloads")
        await album.look("downloads", "Downloads")
        album.check()


@pytest.mark.parametrize("size", SIZES, ids=SIZE_NAMES)
@pytest.mark.parametrize("theme", ["light", "ansi"])
async def test_other_themes(
    fake: FakeOrchestrator, tmp_path: Path, snapshot: SnapshotAssertion, size: tuple[int, int], theme: str
) -> None:
    """The jobs in dark letters, and in the terminal's own sixteen colours with ASCII alone."""
    a_day(fake)
    async with running(fake, tmp_path, size=size, theme=theme, ascii=theme == "ansi") as deck:
        album = Album(deck, snapshot)
        await deck.press("j")
        await album.look(f"jobs-{theme}", "waiting")
        album.check()


async def test_without_colours_nothing_is_lost(
    fake: FakeOrchestrator, tmp_path: Path, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`NO_COLOR`: the cursor is reverse, states have glyph and word, focus has brackets."""
    monkeypatch.setenv("NO_COLOR", "1")
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        album = Album(deck, snapshot)
        await deck.press("j")
        await album.look("jobs-no-color", "waiting")
        cursor = deck.app.look.style("lines--cursor")
        assert cursor.reverse
        await deck.press("S")
        await album.look("stop-no-color", "[ Cancel ]")
        album.check()


async def test_every_widget_paints_through_one_base(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """What fills a screen paints itself, so that what others wrote passes one place (`Painted.strip`)."""
    async with running(fake, tmp_path) as deck:
        assert all(isinstance(widget, Painted) for widget in deck.app.screen.children)
