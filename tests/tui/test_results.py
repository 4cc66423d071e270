"""The results browser on a cluster in memory: the tree, previews of every kind, downloads that go on meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_tui.data.downloads import State
from bacalhau_tui.data.preview import FIRST_BYTES
from bacalhau_tui.screens.job import JobScreen
from bacalhau_tui.screens.results import ResultsPane
from tests.tui.deck import Deck, running
from tests.tui.test_text import NASTY, lines_are_sound

FILES = {
    "out/words.csv": FakeFile(b"word,count\nthe,12\nof,7\n"),
    "out/a.json": FakeFile(b'{"a":1,"b":[true,null]}'),
    "out/raw.bin": FakeFile(bytes(range(256))),
    "out/long.txt": FakeFile(b"".join(b"line %05d\n" % number for number in range(20_000))),
}


def a_job_with_results(fake: FakeOrchestrator, files: dict[str, FakeFile] = FILES, *, executions: int = 1) -> str:
    """Let a job have left files; return its id."""
    job = fake.add_job("work", count=executions)
    for partition in range(executions):
        execution = fake.place(job, f"n-{partition}", partition=partition)
        fake.nodes.write(execution, stdout=b"said by %d\n" % partition)
        fake.finish(execution, files=files)
    return job


async def open_results(deck: Deck) -> ResultsPane:
    await deck.press("o")
    await deck.until(lambda: deck.screen == "JobScreen")
    await deck.shows("execution   e-")
    await deck.settle()
    screen = deck.app.screen
    assert isinstance(screen, JobScreen)
    pane = screen.bodies["results"]
    assert isinstance(pane, ResultsPane)
    return pane


async def look_at(deck: Deck, pane: ResultsPane, name: str) -> None:
    """Put the cursor on a file and wait until its beginning is shown."""
    await deck.press("home")
    while pane.listing.row is not None and pane.listing.row.name != name:
        await deck.press("j")
    await deck.until(lambda: pane.preview.state not in ("", "loading"))
    await deck.settle()


async def test_files_are_shown_as_what_they_are(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Tables aligned under their head, JSON indented, text, bytes; the execution says how it ended."""
    a_job_with_results(fake)
    async with running(fake, tmp_path) as deck:
        pane = await open_results(deck)
        assert "exit code   0" in deck.text
        await look_at(deck, pane, "words.csv")
        await deck.shows(" word  count", " the      12", "table, 23 B")
        await look_at(deck, pane, "a.json")
        await deck.shows('  "b": [', "JSON, 23 B")
        await look_at(deck, pane, "raw.bin")
        await deck.shows("00000020  20 21 22", "bytes, 256 B")
        await look_at(deck, pane, "stdout")
        await deck.shows("said by 0", "text, 10 B")


async def test_a_large_file_is_fetched_little_by_little(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """At first 64 kB, more when it is wanted; who only moves past a file fetches nothing of it."""
    a_job_with_results(fake)
    async with running(fake, tmp_path) as deck:
        pane = await open_results(deck)
        fake.nodes.requests.clear()
        await look_at(deck, pane, "long.txt")
        await deck.shows("line 00000", "text, first 65.5 kB of 220 kB; + for more")
        reads = [request for _, request in fake.nodes.requests if isinstance(request, m.FileRead)]
        assert [(request.path, request.limit) for request in reads] == [("out/long.txt", FIRST_BYTES)]
        await deck.press("enter", "+")
        await deck.shows("text, 220 kB")
        await deck.press("G")
        await deck.shows("line 19999")
        await deck.press("+")
        await deck.shows("there is no more")


async def test_a_file_can_be_searched_and_have_the_screen(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Enter goes into it, `/` searches it, `f` gives it all the room, escape goes back step by step."""
    a_job_with_results(fake)
    async with running(fake, tmp_path) as deck:
        pane = await open_results(deck)
        await look_at(deck, pane, "long.txt")
        await deck.press("enter", "slash")
        await deck.type("00777")
        await deck.press("enter")
        await deck.shows("line 00777")
        await deck.press("f")
        await deck.until(lambda: not pane.listing.display or pane.listing.size.height == 0)
        assert pane.in_file
        await deck.press("escape", "escape")
        await deck.until(lambda: not pane.in_file)
        await deck.shows("words.csv")
        assert deck.screen == "JobScreen"
        await deck.press("escape")
        assert deck.screen == "JobsScreen"


async def test_a_file_is_written_where_the_user_says(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`w` asks for the directory; the words say how it went, on whatever screen; `:downloads` keeps it."""
    a_job_with_results(fake)
    async with running(fake, tmp_path) as deck:
        pane = await open_results(deck)
        await look_at(deck, pane, "words.csv")
        await deck.press("w")
        await deck.shows("write to: job-j-00000001")
        await deck.press("ctrl+u")
        await deck.type(str(tmp_path / "mine"))
        await deck.press("enter", "escape")
        await deck.until(lambda: deck.app.downloads.rows.rows()["1"].state is State.DONE)
        await deck.shows("written: 1 file, 23 B, hashes checked, into")
        await deck.type(":downloads")
        await deck.press("enter")
        await deck.shows("✓ done", "j-00000001", "words.csv")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "JobScreen")

    assert (tmp_path / "mine/out/words.csv").read_bytes() == FILES["out/words.csv"].data
    assert not (tmp_path / "mine/stdout").exists()


async def test_marked_files_and_all_executions(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Marks gather over the tree; `W` writes everything, each execution into a directory of its own."""
    a_job_with_results(fake, executions=2)
    async with running(fake, tmp_path) as deck:
        pane = await open_results(deck)
        await deck.press("j", "space", "j", "j", "space")
        await deck.shows("2 marked")
        await deck.press("w", "ctrl+u")
        await deck.type(str(tmp_path / "some"))
        await deck.press("enter")
        assert pane.listing.marked == set()
        await deck.press("W", "ctrl+u")
        await deck.type(str(tmp_path / "all"))
        await deck.press("enter")
        await deck.until(lambda: deck.app.downloads.rows.rows() and not deck.app.downloads.live)

    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == sorted(
        path.name for path in tmp_path.glob("all/e-*")
    )
    assert len(list((tmp_path / "all").iterdir())) == 2
    assert len(list(tmp_path.glob("some/*/out/words.csv"))) == 1


async def test_downloads_go_on_while_one_works(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The header of every screen says so; a download can be stopped and taken up again."""
    a_job_with_results(fake)
    async with running(fake, tmp_path) as deck:
        await open_results(deck)
        fake.nodes.silent = {"n-0"}
        await deck.press("W", "ctrl+u")
        await deck.type(str(tmp_path / "late"))
        await deck.press("enter", "escape", "2")
        await deck.until(lambda: deck.screen == "NodesScreen")
        await deck.shows("1 download")
        await deck.type(":downloads")
        await deck.press("enter")
        await deck.shows("▶ running")
        await deck.press("S")
        await deck.shows("stopped")
        fake.nodes.silent = set()
        await deck.press("r")
        await deck.shows("✓ done")

    assert (tmp_path / "late/stdout").read_bytes() == b"said by 0\n"


async def test_a_node_that_cannot_be_reached_is_said(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """In the tree, with what to do; the rest of the tree is there."""
    job = a_job_with_results(fake, executions=2)
    second = [one for one in fake.executions.values() if one.job_id == job][1]
    del fake.nodes.runs[second.id]
    async with running(fake, tmp_path) as deck:
        await open_results(deck)
        await deck.shows("cannot be listed: no such execution here", "▸ out/")


def nasty_files() -> dict[str, FakeFile]:
    """Return files whose names and contents are everything that others could write."""
    files = {}
    for number, text in enumerate(NASTY):
        name = text.encode(errors="replace").decode().replace("/", "").replace("\0", "")[:200]
        data = text.encode(errors="replace")
        files[f"{number}{name}/{name}.csv"] = FakeFile(data + b",1\n" + data + b",2\n")
        files[f"{number}{name}.json"] = FakeFile(b'{"a": "b"}')
        files[f"{number}.txt"] = FakeFile(data)
        files[f"{number}link"] = FakeFile(link=name)
    return files


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
async def test_no_file_breaks_the_screen(fake: FakeOrchestrator, tmp_path: Path, size: tuple[int, int]) -> None:
    """Names and contents of any kind, in the tree, the preview, the prompt and the list of downloads."""
    files = nasty_files()
    a_job_with_results(fake, files)
    async with running(fake, tmp_path, size=size) as deck:
        pane = await open_results(deck)
        for _ in range(len(files) + len(NASTY) + 4):
            await deck.press("j")
            row = pane.listing.row
            await deck.until(lambda: not pane.preview.state.startswith("loading"))
            lines_are_sound(deck)
            assert row is not None
        await deck.press("home", "W", "ctrl+u")
        await deck.type(str(tmp_path / "x"))
        await deck.press("enter")
        await deck.until(lambda: not deck.app.downloads.live)
        lines_are_sound(deck)
        await deck.type(":downloads")
        await deck.press("enter")
        lines_are_sound(deck)
