"""One job: every tab shows what the cluster says of it, and follows."""

from __future__ import annotations

from pathlib import Path

from bacalhau_protocol import errors
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.states import ComputeStateType
from bacalhau_tui.widgets.log import LogView
from bacalhau_tui.widgets.page import PageView
from tests.tui.deck import Deck, a_day, running


async def open_job(deck: Deck, name: str, tab: str = "job") -> None:
    await deck.type(f":{tab} {name}")
    await deck.press("enter")
    await deck.until(lambda: deck.screen == "JobScreen")
    await deck.settle()


def log(deck: Deck) -> LogView:
    widget = deck.app.screen.focused
    assert isinstance(widget, LogView)
    return widget


async def test_why_gives_every_nodes_reasons(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The state with its reason, each node with required, actual and hint, and when this was so."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "waiting")
        await deck.shows("Queued", "none has a GPU", "3 of 4 nodes fit", "n-gone")
        assert "required connected, actual disconnected start the daemon on that machine" in deck.words


async def test_executions_follow_phases_and_ends(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Progress in bytes, then running, then the exit code; enter opens one, `l` its log."""
    jobs = a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "running")
        await deck.press("2")
        await deck.shows("Preparing", "image 12 MB of 80 MB")
        for execution, each in list(fake.executions.items()):
            if each.job_id == jobs["running"]:
                fake.nodes.write(execution, stdout=b"only of %d\n" % int(each.partition_index or 0))
                fake.run(execution)
                fake.finish(execution, exit_code=3)
        await deck.shows("Completed", " 3 ")
        await deck.press("enter")
        await deck.shows("exit code   3", "HISTORY", "Requested execution on")
        await deck.press("escape", "l")
        await deck.shows("only of 0")
        assert "only of 1" not in deck.text
        await deck.press("4")
        await deck.shows("only of 0", "only of 1")


async def test_history_grows_and_can_be_filtered(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Every event in order; new ones come by themselves; `/` filters."""
    jobs = a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "waiting", "job")
        await deck.press("e")
        await deck.shows("Job submitted", "not enough nodes")
        execution = fake.place(jobs["waiting"], "n-00000000-0000-4000-8000-000000000000")
        fake.set_execution(execution, ComputeStateType.RUNNING, "it goes on")
        await deck.shows("it goes on")
        await deck.press("slash")
        await deck.type("goes")
        await deck.press("enter")
        assert "Job submitted" not in deck.text


async def test_logs_of_all_executions_are_merged_and_followed(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Lines carry their execution; following is a state; stderr is marked and can be shown alone; `&` keeps matches."""
    jobs = a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "done", "logs")
        await deck.shows("line 2 of 0", "line 2 of 1", "!careful", "6 lines", "ended")
        await deck.press("i", "i")
        await deck.shows("2 lines of 6")
        assert "line 2" not in deck.text
        await deck.press("i", "&")
        await deck.type("LINE 1")
        await deck.press("enter")
        await deck.until(lambda: "line 2" not in deck.text)
        assert "&line 1" in deck.text
        await deck.press("escape")
        await deck.shows("line 2 of 0")

        await deck.press("escape")
        await open_job(deck, "running", "logs")
        busy = next(key for key, each in fake.executions.items() if each.job_id == jobs["running"])
        fake.nodes.write(busy, stdout=b"".join(b"row %d\n" % number for number in range(100)))
        await deck.shows("row 99", "following")
        await deck.press("ctrl+u")
        assert not log(deck).following
        fake.nodes.write(busy, stdout=b"row 100\n")
        await deck.shows("1 new below")
        assert "row 100" not in deck.text
        await deck.press("G")
        await deck.shows("row 100", "following")


async def test_a_log_is_searched_from_the_end(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`/` finds the newest place, `N` the one before; what is not there is said."""
    jobs = a_day(fake)
    busy = next(key for key, each in fake.executions.items() if each.job_id == jobs["running"])
    fake.nodes.write(busy, stdout=b"".join(b"row %d %s\n" % (n, b"x" * 200) for n in range(300)))
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "running", "logs")
        await deck.shows("row 299")
        await deck.press("slash")
        await deck.type("row 10")
        await deck.press("enter")
        assert "row 109 " in deck.text.splitlines()[3]
        await deck.press("N")
        assert "row 108 " in deck.text.splitlines()[3]
        await deck.press("w", "G")
        assert set(deck.text.splitlines()[21].rstrip("│┃").strip()) == {"x"}
        await deck.press("slash", *["backspace"] * 6)
        await deck.type("nowhere")
        await deck.press("enter")
        await deck.shows("'nowhere' is not in here")


async def test_results_are_a_tree_over_all_executions(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Executions with state and size; directories open and close; what cannot be listed says why."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "done", "results")
        await deck.shows("Completed", "out/", "exitCode", "stdout")
        await deck.press("j", "enter")
        await deck.shows("words.csv", "a.json")
        await deck.press("h")
        await deck.until(lambda: "words.csv" not in deck.text)
        await deck.press("h", "h")
        await deck.until(lambda: deck.text.count("exitCode") == 1)


async def test_the_specification_is_yaml_that_could_be_submitted(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """What the cluster sets is left out; it can be searched."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "done")
        await deck.press("6")
        await deck.shows("Name: done", "Count: 2", "Type: wasm")
        assert "State" not in deck.text
        page = deck.app.screen.focused
        assert isinstance(page, PageView)
        await deck.press("slash")
        await deck.type("wasm")
        await deck.shows("1 of 1 lines")
        await deck.press("enter", "escape")
        assert page.wanted == ""


async def test_stop_and_what_cannot_be_stopped(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The job's own screen asks too; a job that has ended says so; a refusal is shown with its hint."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await open_job(deck, "done")
        await deck.press("S")
        await deck.shows("the job has ended")
        await deck.press("escape")
        await open_job(deck, "running")
        fake.refuse = [errors.Forbidden("role viewer may not stop jobs", hint="ask an operator")]
        await deck.press("S", "y")
        await deck.shows("role viewer may not stop jobs; ask an operator")
        await deck.press("S", "left", "enter")
        await deck.shows("Stopped")


async def test_a_job_that_is_not_there(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The screen says so, in every tab."""
    async with running(fake, tmp_path) as deck:
        await deck.type(":job nope")
        await deck.press("enter")
        await deck.shows("no job 'nope'")
        await deck.press("6")
        await deck.shows("no job 'nope'")
        await deck.press("escape")
        await deck.until(lambda: deck.screen == "JobsScreen")
