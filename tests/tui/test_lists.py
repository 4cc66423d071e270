"""The two lists show what the feed said, keep the cursor on its row, filter, sort, mark, and act on what is marked."""

from __future__ import annotations

from pathlib import Path

from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.states import JobStateType
from bacalhau_tui.screens.jobs import JobsScreen
from bacalhau_tui.widgets.table import Table
from tests.tui.deck import Deck, a_day, running


def table(deck: Deck) -> Table:
    widget = deck.app.screen.focused
    assert isinstance(widget, Table)
    return widget


def names(deck: Deck) -> list[str]:
    shown = table(deck)
    return [row.name for key in shown.view.ids if (row := shown.view.table.get(key)) is not None]


async def test_what_others_do_appears_by_itself(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A job submitted elsewhere, its states, and its removal are shown without a key."""
    async with running(fake, tmp_path) as deck:
        await deck.shows("no jobs yet")
        job = fake.add_job("from-elsewhere")
        await deck.shows("from-elsewhere", "Pending")
        fake.set_job(job, JobStateType.FAILED)
        await deck.shows("Failed")

        assert "Pending" not in deck.text


async def test_the_cursor_stays_on_its_row(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Rows that come above move the cursor's row; the cursor goes with it, at its screen line once scrolled."""
    jobs = [fake.add_job(f"job-{number}") for number in range(60)]
    async with running(fake, tmp_path) as deck:
        await deck.press(*["ctrl+d"] * 3)
        chosen, line = table(deck).cursor, table(deck).view.place_of(table(deck).cursor)
        assert line is not None
        line -= table(deck).top
        for number in range(5):
            fake.add_job(f"new-{number}")
        await deck.until(lambda: table(deck).view.total == 65)

        assert table(deck).cursor == chosen
        place = table(deck).view.place_of(chosen)
        assert place is not None
        assert place - table(deck).top == line

        await deck.press("g", "g")
        assert table(deck).cursor == table(deck).view.ids[0]
        await deck.press("G")
        assert table(deck).cursor == jobs[0]


async def test_a_filter_is_applied_while_it_is_typed(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Each letter filters; a mistake is said beside it; escape undoes; the filter outlives other screens."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.press("slash")
        await deck.type("fail")
        await deck.until(lambda: names(deck) == ["failed"] if isinstance(deck.app.screen.focused, Table) else True)
        await deck.press("enter")
        assert names(deck) == ["failed"]
        assert "1 of 5" in deck.text

        await deck.press("slash", *["backspace"] * 4)
        await deck.type("statf:x")
        await deck.shows("no field 'statf'", "did you mean 'state'?")
        await deck.press("escape")
        assert names(deck) == ["failed"]

        await deck.press("enter")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.press("escape")
        assert names(deck) == ["failed"]
        await deck.press("escape")
        assert len(names(deck)) == 5


async def test_completion_offers_fields_and_states(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Tab takes what stands dimly behind the cursor."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.press("slash")
        await deck.type("sta")
        await deck.press("tab")
        await deck.type("fa")
        await deck.press("tab", "enter")

        assert table(deck).view.filter.text == "state:failed"
        assert names(deck) == ["failed"]


async def test_problems_only(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`!` shows what needs attention: what failed, and what waits for a reason."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.press("!")
        assert sorted(names(deck)) == ["failed", "waiting"]
        assert "problems only" in deck.text
        await deck.press("2")
        await deck.until(lambda: deck.screen == "NodesScreen")
        await deck.press("!")
        assert table(deck).view.ids == ["n-gone"]


async def test_sorting_by_any_column(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`<` and `>` choose the column, `s` turns the order; the head shows it."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        assert names(deck)[0] == "waiting"
        await deck.press(">")
        assert table(deck).view.order == "id"
        await deck.press(">", "s")
        assert names(deck) == sorted(names(deck))
        assert "NAME▲" in deck.text


async def test_marked_jobs_are_stopped_after_a_question(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The question names them; it begins on Cancel, so that enter is harmless; then all of them are stopped."""
    jobs = a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.press("space", "space")
        assert "2 marked" in deck.text
        await deck.press("S")
        await deck.shows("Stop these 2 jobs?", "running", "waiting", "[ Cancel ]")
        await deck.press("enter")
        await deck.until(lambda: isinstance(deck.app.screen, JobsScreen))
        assert not any(verb == "job.stop" for verb, _, _ in fake.requests)

        await deck.press("S", "tab", "enter")
        await deck.shows("stopping 2 jobs")
        stopped = {request.job for verb, request, _ in fake.requests if verb == "job.stop"}  # type: ignore[attr-defined]
        assert stopped == {jobs["running"], jobs["waiting"]}
        await deck.until(lambda: table(deck).marked == set())


async def test_a_read_only_profile_cannot_stop(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The key does nothing and is not offered; the client would refuse too."""
    a_day(fake)
    async with running(fake, tmp_path, read_only=True, size=(160, 45)) as deck:
        assert "read-only" in deck.text
        assert "stop" not in deck.text.splitlines()[-1]
        await deck.press("S")
        assert isinstance(deck.app.screen, JobsScreen)
        assert "this profile is read-only" in deck.text


async def test_the_cursor_of_a_list_that_nobody_touches_stays_on_the_newest(
    fake: FakeOrchestrator, tmp_path: Path
) -> None:
    """A list that is only watched shows what comes; the first key takes hold of the row that it is on."""
    for number in range(30):
        fake.add_job(f"job-{number}")
    async with running(fake, tmp_path) as deck:
        newest = [fake.add_job(f"new-{number}") for number in range(30)][-1]
        await deck.until(lambda: table(deck).view.total == 60)
        assert (table(deck).cursor, table(deck).top) == (newest, 0)
        await deck.press("W", "W")
        fake.add_job("later")
        await deck.until(lambda: table(deck).view.total == 61)
        assert table(deck).cursor == newest
        await deck.press("g", "g")
        assert table(deck).cursor == table(deck).view.ids[0] != newest


async def test_wide_columns_and_scrolling_sideways(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """At 80 columns `W` brings the others, reached by the arrow keys; at 160 they are there at once."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        assert "REASON" not in deck.text
        await deck.press("W", *["right"] * 8)
        assert "REASON" in deck.text
        assert deck.text.splitlines()[2].startswith(" ID")
        await deck.press("W")
        assert "REASON" not in deck.text


async def test_commands_can_be_shortened_and_say_what_is_wrong(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`:nodes`, `:jobs FILTER`, `:wh NAME`; an unknown one offers the nearest."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.type(":nodes")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "NodesScreen")
        await deck.type(":jobs state:fa")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "JobsScreen" and names(deck) == ["failed"])
        await deck.type(":quti")
        await deck.press("enter")
        await deck.shows("no command 'quti'", "did you mean 'quit'?")
        await deck.press("escape")
        await deck.type(":wh waiting")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.shows("none has a GPU")


async def test_nodes_show_capacity_and_are_fresh_while_seen(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The list asks for what is not in the feed when it is shown; a node opens with what it is and runs."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        asked = len([1 for verb, _, _ in fake.requests if verb == "node.list"])
        await deck.press("2")
        await deck.until(lambda: len([1 for verb, _, _ in fake.requests if verb == "node.list"]) > asked)
        await deck.shows("n-00000000", "connected", "disconnected")
        await deck.press("enter")
        await deck.shows("CAPACITY", "zone", "eu")
        await deck.press("2")
        await deck.shows("e-", "Completed", "Failed")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "JobScreen")


async def test_leaving_asks_first(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`q` at the top asks; enter on the fresh question stays; ctrl+q leaves at once."""
    async with running(fake, tmp_path) as deck:
        await deck.press("q")
        await deck.shows("Leave bacalhau-tui?")
        await deck.press("enter")
        assert isinstance(deck.app.screen, JobsScreen)
        await deck.pilot.press("ctrl+q")
        await deck.until(lambda: deck.app.return_value == 0)
