"""A day's work in the TUI, on a real cluster: write, submit, understand, look into results, fetch them.

Where the terminal itself matters (keys as bytes, signals, another editor) the program runs as a process on a pty;
elsewhere it runs in this process, on the same daemons.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol.client.client import Client
from bacalhau_tui.app import ClusterApp
from bacalhau_tui.data.downloads import State
from bacalhau_tui.data.drafts import STATE_DIR, Drafts
from bacalhau_tui.data.session import LinkState, Session
from bacalhau_tui.data.settings import NATS, Flags, find_credential, load_settings
from bacalhau_tui.screens.compose import ComposeScreen
from bacalhau_tui.screens.job import JobScreen
from bacalhau_tui.screens.results import ResultsPane
from tests.e2e.cluster import wait_until
from tests.e2e.network import proxy_to
from tests.e2e.terminal import Terminal
from tests.tui.deck import Deck

TUI = [sys.executable, "-m", "bacalhau_tui"]
OUTPUT_BYTES = 24 * 1024 * 1024
KEYS_MAX = 20


class Key(NamedTuple):
    """A key that a person types, what the terminal sends for it, and what they see then."""

    name: str
    sent: str
    sees: tuple[str, ...]


FROM_NOTHING_TO_A_RESULT = (
    Key("ctrl+n", "\x0e", ("wasm", "docker")),
    Key("enter", "\r", ("EntryModule", "valid", "1 node fits")),
    Key("ctrl+g", "\x07", ("submitted j-", "Completed")),
    Key("o", "o", ("out/", "words.csv")),
    Key("w", "w", ("write to: job-j-",)),
    Key("enter", "\r", ("written: 4 files", "hashes checked")),
)
"""From an empty cluster to results on this machine: what the README says."""


@asynccontextmanager
async def deck_on(stack: DevStack, **environment: str) -> AsyncIterator[Deck]:
    """Run the screens in this process, with the settings and the credential that a user of this cluster has."""
    variables = {
        **stack.environment,
        "COLORTERM": "truecolor",
        STATE_DIR: str(stack.directory / "state"),
        **environment,
    }
    settings = load_settings(Flags(), variables)

    async def connect(session: Session) -> Client:
        return await Client.connect(find_credential(settings), on_link=session.on_link)

    app = ClusterApp(settings, connect, clock=time.time_ns, environment=variables)
    async with app.run_test(size=(100, 30)) as pilot:
        deck = Deck(app, None, pilot)  # type: ignore[arg-type]  # the cluster is no fake
        await deck.until(lambda: app.session.link.state is LinkState.LIVE)
        yield deck


def composer(deck: Deck) -> ComposeScreen:
    screen = deck.app.screen
    assert isinstance(screen, ComposeScreen)
    return screen


def pane(deck: Deck) -> ResultsPane:
    screen = deck.app.screen
    assert isinstance(screen, JobScreen)
    found = screen.bodies["results"]
    assert isinstance(found, ResultsPane)
    return found


async def new_job(terminal: Terminal, template: str) -> None:
    """Begin a job from a template, each key when what it is for is there."""
    seen = len(terminal.written)
    terminal.type("\x0e")
    await terminal.shows("type a part", since=seen)
    terminal.type(f"{template}\r")


async def compose(deck: Deck, template: str) -> None:
    await deck.type(f":new {template}")
    await deck.press("enter")
    await deck.until(lambda: deck.screen == "ComposeScreen")


async def test_from_nothing_to_a_fetched_result_in_few_keys(
    shared: DevStack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first job, from a template, by keys alone; its result lies in a directory, every byte checked."""
    environment = {**shared.environment, STATE_DIR: str(tmp_path / "state")}
    async with Terminal(TUI, environment, (100, 30), str(tmp_path)) as terminal:
        await terminal.shows("live")
        for key in FROM_NOTHING_TO_A_RESULT:
            seen = len(terminal.written)
            terminal.type(key.sent)
            await terminal.shows(*key.sees, since=seen)
        terminal.type("\x11")
    with capsys.disabled():
        names = " ".join(key.name for key in FROM_NOTHING_TO_A_RESULT)
        print(f"\nfrom nothing to a fetched result: {len(FROM_NOTHING_TO_A_RESULT)} keys: {names}")

    assert len(FROM_NOTHING_TO_A_RESULT) <= KEYS_MAX
    assert [path.read_text() for path in tmp_path.glob("job-j-*/out/words.csv")] == ["word,count\nhello,2\nworld,1\n"]
    assert [path.read_text() for path in tmp_path.glob("job-j-*/stdout")] == ["Hello from WebAssembly\n"]


async def test_a_typo_is_marked_and_mended(shared: DevStack) -> None:
    """At its line, with the right name; taken from what is offered, the job runs."""
    async with deck_on(shared) as deck:
        await compose(deck, "noop")
        await deck.press("down", "end", "enter")
        await deck.type("Priorty: 3")
        await deck.shows("3✗ Priorty: 3  ◂ did you mean Priority?", "✗ 3:1    Priorty: unknown key")
        await deck.press("ctrl+g")
        await deck.shows("not submitted: 1 problem")
        await deck.press("ctrl+@")
        await deck.shows("Priority: 3", "✓ valid", "1 of 1 node fits")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.shows("Completed")

    assert json.loads(shared.command("job", "get", "nothing", "-o", "json").stdout)["Priority"] == 3


async def test_a_job_that_fits_nowhere_says_why(shared: DevStack) -> None:
    """While it is written: how many nodes fit, and what the others lack; and so does the job that waits."""
    async with deck_on(shared) as deck:
        await compose(deck, "noop")
        await deck.press("down", "end", "enter")
        await deck.type('Constraints: [{Key: zone, Operator: "=", Values: [atlantis]}]')
        await deck.shows("0 of 1 node fits", "✗ n-one: labels", "zone", "atlantis", "zone=a")
        await deck.press("up", "end", "2", "ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.shows("0 of 1 nodes fit", "labels")


async def test_a_refusal_of_the_cluster_keeps_the_text(shared: DevStack) -> None:
    """What only the orchestrator refuses stands beside the text; the text can be changed and sent."""
    async with deck_on(shared) as deck:
        await compose(deck, "noop")
        await deck.press("down", "down", "end", *["backspace"] * 5)
        await deck.type("daemon")
        await deck.press("ctrl+g")
        await deck.shows("✗ not taken")
        assert "Type: daemon" in composer(deck).editor.text
        await deck.press(*["backspace"] * 6)
        await deck.type("batch")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")


async def test_a_job_is_run_again(shared: DevStack) -> None:
    """`r` opens it as it is; submitted unchanged, it runs once more, as a new version."""
    async with deck_on(shared) as deck:
        await compose(deck, "noop")
        await deck.press("down", "end")
        await deck.type("-twice")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.shows("Completed")
        await deck.press("r")
        await deck.until(lambda: deck.screen == "ComposeScreen")
        await deck.shows("Name: nothing-twice", "✓ valid")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.shows("Completed")

    assert json.loads(shared.command("job", "get", "nothing-twice", "-o", "json").stdout)["Version"] == 2


async def test_results_are_seen_and_fetched_over_a_line_that_is_cut(stack: DevStack, port: int, tmp_path: Path) -> None:
    """Files are shown; the download goes on by itself when the line is back; each byte comes over it once."""
    stack.hybrid("--name", "n-one", listen=f"127.0.0.1:{port}")
    spec = tmp_path / "big.json"
    params = {"OutputBytes": OUTPUT_BYTES, "Files": {"out/a.csv": "word,count\nthe,12\n", "out/b.json": '{"a":[1]}'}}
    task = {"Name": "main", "Engine": {"Type": "noop", "Params": params}}
    spec.write_text(json.dumps({"Name": "big", "Type": "batch", "Tasks": [task]}))
    stack.command("job", "run", str(spec), "--wait")
    with proxy_to(port) as proxy:
        async with deck_on(stack, **{NATS: f"nats://127.0.0.1:{proxy.port}"}) as deck:
            await deck.type(":results big")
            await deck.press("enter")
            await deck.until(lambda: deck.screen == "JobScreen")
            await deck.shows("a.csv", "b.json", "25.2 MB")
            await deck.press("j", "j")
            await deck.shows(" word  count", " the      12")
            proxy.cut_after(OUTPUT_BYTES // 2)
            await deck.press("W", "ctrl+u")
            await deck.type(str(tmp_path / "fetched"))
            await deck.press("enter")
            await deck.until(lambda: proxy.is_cut)
            await deck.shows("link lost")
            done = deck.app.downloads.rows.rows()["1"]
            assert 0 < done.done_bytes < done.total_bytes
            assert " word  count" in deck.text, "what was seen is still there"
            proxy.mend()
            await deck.until(lambda: deck.app.downloads.rows.rows()["1"].state is State.DONE)
            await deck.shows("hashes checked", "live")

    assert (tmp_path / "fetched/stdout").stat().st_size == OUTPUT_BYTES
    assert (tmp_path / "fetched/out/a.csv").read_text() == "word,count\nthe,12\n"
    assert not list((tmp_path / "fetched").rglob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
async def test_a_draft_survives_a_killed_session(shared: DevStack, tmp_path: Path, number: signal.Signals) -> None:
    """Whatever ends the program: the next one offers what was typed, and it can be submitted."""
    environment = {**shared.environment, STATE_DIR: str(tmp_path / "state")}
    async with Terminal(TUI, environment) as terminal:
        await terminal.shows("live")
        await new_job(terminal, "noop")
        await terminal.shows("Name", "DelayMs")
        terminal.type(f"\x1b[B\x1b[F-after-{number.name}")
        await terminal.shows("draft kept")
        if number is signal.SIGKILL:
            drafts = Drafts(tmp_path / "state")
            await wait_until(
                lambda: any(kept.name.endswith(number.name) for kept in drafts.found()), "the draft is on the disk"
            )
        assert await terminal.ended(number) == (-9 if number is signal.SIGKILL else 128 + number)
    async with Terminal(TUI, environment) as terminal:
        await terminal.shows("live")
        terminal.type("\x0e")
        await terminal.shows(f"nothing-after-{number.name}")
        seen = len(terminal.written)
        terminal.type("\r")
        await terminal.shows("valid", since=seen)
        terminal.type("\x07")
        await terminal.shows("submitted j-", since=seen)

    assert list((tmp_path / "state" / "drafts").iterdir()) == []


async def test_another_editor_and_back_at_the_error(shared: DevStack, tmp_path: Path) -> None:
    """`$EDITOR` has the text at the line of the cursor; back, the cursor is at what is wrong; the link has lived on."""
    editor = tmp_path / "vi"
    editor.write_text(
        '#!/bin/sh\necho "called with $1"\nsed -i "s/^Count:/Cuont:/; s/^Name: nothing/Name: edited/" "$2"\n'
    )
    editor.chmod(0o700)
    environment = {**shared.environment, STATE_DIR: str(tmp_path / "state"), "EDITOR": str(editor), "VISUAL": ""}
    async with Terminal(TUI, environment, (100, 30)) as terminal:
        await terminal.shows("live")
        await new_job(terminal, "noop")
        await terminal.shows("DelayMs", "valid")
        terminal.type("\x1b[B\x0f")
        await terminal.shows("called with +2", "did you mean Count?", "1 problem")
        await terminal.quiet(0.5)  # the mark may be painted before the cursor goes to it
        seen = len(terminal.written)
        terminal.type("\x1b[3~\x1b[3~\x1b[3~\x1b[3~\x1b[3~Count")
        await terminal.shows("valid", since=seen)
        terminal.type("\x07")
        await terminal.shows("submitted j-", since=seen)


def test_the_state_directory_is_the_users(tmp_path: Path) -> None:
    """Drafts are readable by their owner alone."""
    draft = Drafts(tmp_path).new()
    draft.keep("Name: secret\n")

    assert draft.path.stat().st_mode & 0o077 == 0
    assert draft.directory.stat().st_mode & 0o077 == 0
