"""The composer on a cluster in memory: problems at their lines, names, nodes, drafts, refusals; never a lost text."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.geometry import Region

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_tui.data.drafts import Drafts
from bacalhau_tui.screens.compose import ComposeScreen
from tests.tui.deck import Deck, a_job, running

NOOP = 3  # its place among the templates


@asynccontextmanager
async def composing(
    fake: FakeOrchestrator,
    directory: Path,
    *,
    template: int = NOOP,
    size: tuple[int, int] = (80, 24),
    read_only: bool = False,
) -> AsyncIterator[Deck]:
    """Run the app with a composer open at a template."""
    async with running(fake, directory, size=size, read_only=read_only) as deck:
        await deck.press("ctrl+n", *["down"] * template, "enter")
        await deck.until(lambda: deck.screen == "ComposeScreen" and screen(deck).composer.is_current)
        yield deck


def screen(deck: Deck) -> ComposeScreen:
    found = deck.app.screen
    assert isinstance(found, ComposeScreen)
    return found


def submissions(fake: FakeOrchestrator) -> list[m.JobSubmit]:
    return [request for verb, request, _ in fake.requests if verb == "job.submit" and isinstance(request, m.JobSubmit)]


def drafts(directory: Path) -> list[str]:
    return [kept.text for kept in Drafts(directory / "state").found()]


async def test_a_template_is_submitted_as_it_is(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Choose, submit: the job opens; no draft is left; the profile's namespace is the job's."""
    fake.add_node("n-1")
    async with composing(fake, tmp_path) as deck:
        await deck.shows("✓ valid", "1 of 1 node fits")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")
        await deck.shows("nothing", "submitted j-")

    assert [(request.job.name, request.job.namespace, request.dry_run) for request in submissions(fake)] == [
        ("nothing", "default", False)
    ]
    assert drafts(tmp_path) == []


async def test_a_typo_is_marked_at_its_line_with_the_name_that_was_meant(
    fake: FakeOrchestrator, tmp_path: Path
) -> None:
    """In the gutter, under the word, behind the line and beside the text; ^space offers the name; nothing is sent."""
    async with composing(fake, tmp_path) as deck:
        await deck.press("down", "home", *["delete"] * 4)
        await deck.type("Nmae")
        await deck.shows("2✗ Nmae: nothing", "◂ did you mean Name?", "✗ 1 problem", "✗ 2:1    Nmae: unknown key")
        await deck.press("down", "ctrl+g")
        await deck.shows("not submitted: 1 problem")
        assert screen(deck).editor.cursor_location == (1, 0), "at the problem"
        await deck.press("ctrl+@")
        await deck.shows("✓ valid", "Name: nothing")

    assert submissions(fake) == []


async def test_problems_are_there_soon_after_the_last_key(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The words about a text come within 200 ms of a key: the pauses leave 50 ms and more for the check itself."""
    from bacalhau_tui.data import compose  # noqa: PLC0415

    assert compose.CHECK_PAUSE_S + compose.CHECK_WAIT_MAX_S <= 0.2
    async with composing(fake, tmp_path) as deck:
        for key in ("down", "end", *"xxxxxxxx", "enter", "y"):
            await deck.press(key)
        await deck.shows("✗ 1 problem")


async def test_names_are_offered_and_taken(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Tab indents, completes and offers; what is typed narrows; what is taken is followed by what YAML needs."""
    async with composing(fake, tmp_path, template=4) as deck:
        editor = screen(deck).editor
        editor.go_to(3, 0)
        await deck.press("tab")
        assert editor.cursor_location == (3, 4), "under the task"
        await deck.press("tab")
        await deck.shows("Engine", "InputSources", "list", "object")
        await deck.type("eng")
        assert [offer.name for offer in editor.offers.offers] == ["Engine"]
        await deck.press("enter")
        await deck.type("ty")
        await deck.press("tab")
        await deck.type("no")
        await deck.press("tab")
        assert editor.text == "Type: batch\nTasks:\n  - Name: main\n    Engine:\n      Type: noop"
        await deck.shows("✓ valid")


async def test_a_job_that_fits_nowhere_says_why(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """How many nodes, and each reason with what is required, what is there, and what helps; asked after a pause."""
    for number in range(3):
        fake.add_node(f"n-{number}", connection="DISCONNECTED")
    async with composing(fake, tmp_path) as deck:
        await deck.shows("0 of 3 nodes fit", "3 nodes: connection required connected, actual disconnected; start the")
        asked = len([1 for verb, _, _ in fake.requests if verb == "job.explain"])
        await deck.press("down", "end")
        await deck.type("-changed-many-times")
        await deck.until(lambda: len([1 for verb, _, _ in fake.requests if verb == "job.explain"]) > asked)
        await deck.settle()
        assert len([1 for verb, _, _ in fake.requests if verb == "job.explain"]) <= asked + 3


async def test_a_refusal_keeps_the_text_and_stands_beside_it(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """What the cluster says is shown with its hint, until the text is changed; then it can be sent again."""
    async with composing(fake, tmp_path) as deck:
        text = screen(deck).editor.text
        fake.refuse = [errors.Forbidden("namespace default takes no jobs", hint="ask its owner")]
        await deck.press("ctrl+g")
        await deck.shows("✗ not taken", "not taken: namespace default takes no jobs", "ask its owner")
        assert screen(deck).editor.text == text
        await deck.press("down", "end")
        await deck.type("2")
        await deck.shows("✓ valid")
        assert "ask its owner" not in deck.text
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")

    assert [request.job.name for request in submissions(fake)] == ["nothing2"]


async def test_problems_that_only_the_cluster_finds_are_shown_like_ours(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A refused specification comes with its problems."""
    from bacalhau_protocol.models.problems import Problem, spec_error  # noqa: PLC0415

    async with composing(fake, tmp_path) as deck:
        fake.refuse = [spec_error([Problem("Tasks[0].Engine", "no such engine here", nearest="noop")])]
        await deck.press("ctrl+g")
        await deck.shows("not taken by the cluster:", "Tasks[0].Engine: no such engine here; did you mean noop?")


async def test_what_has_not_changed_runs_when_it_is_submitted_again(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The refusal says so; the second submission of the same text insists."""
    async with composing(fake, tmp_path) as deck:
        fake.refuse = [errors.Conflict("no changes detected", hint="Use the --force flag")]
        await deck.press("ctrl+g")
        await deck.shows("not taken: no changes detected", "submit it again to run it all the same")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")

    assert [request.force for request in submissions(fake)] == [True]


async def test_a_dry_run_submits_nothing(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The cluster checks it; its warnings are shown."""
    async with composing(fake, tmp_path) as deck:
        await deck.press("ctrl+r")
        await deck.shows("✓ the cluster would take it as a new job; nothing was submitted", "! dry")

    assert [request.dry_run for request in submissions(fake)] == [True]


async def test_an_answer_that_is_lost_makes_one_job(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """What was sent and not answered is sent again under the same id, also by a second key."""
    async with composing(fake, tmp_path) as deck:
        fake.ignore = 1
        await deck.press("ctrl+g", "ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")

    assert len(fake.jobs) == 1


async def test_leaving_keeps_a_draft_that_a_new_job_offers(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Changed texts are kept, untouched templates are not; taken up, changed and submitted, the draft is gone."""
    async with composing(fake, tmp_path) as deck:
        await deck.press("escape")
        assert drafts(tmp_path) == []
        await deck.press("ctrl+n", *["down"] * NOOP, "enter", "down", "end")
        await deck.type("-ness")
        await deck.press("escape")
        await deck.shows("kept as a draft")
        assert [text.splitlines()[1] for text in drafts(tmp_path)] == ["Name: nothing-ness"]
        await deck.press("ctrl+n")
        await deck.shows("draft  nothing-ness: 14 lines")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "ComposeScreen")
        assert "Name: nothing-ness" in deck.text
        await deck.shows("✓ valid")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")

    assert drafts(tmp_path) == []


async def test_a_draft_is_written_while_it_is_typed(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Without leaving; what was typed is on the disk soon, whatever ends the program then."""
    async with composing(fake, tmp_path) as deck:
        await deck.press("down", "end")
        await deck.type("-typed")
        await deck.until(lambda: any("nothing-typed" in text for text in drafts(tmp_path)))
        await deck.shows("draft kept")
        await deck.press("ctrl+l")
        await deck.shows("Throw this text away?", "[ Cancel ]")
        await deck.press("tab", "enter")
        await deck.until(lambda: deck.screen == "JobsScreen")

    assert drafts(tmp_path) == []


async def test_a_draft_that_cannot_be_written_is_said(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The text goes on, the words tell."""
    (tmp_path / "state").write_text("in the way")
    async with composing(fake, tmp_path) as deck:
        await deck.press("down", "end", "x")
        await deck.shows("the draft cannot be written")


async def test_a_rerun_begins_as_the_job(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """From the list and from the job; without what the cluster sets; submitted, it is a new version of that name."""
    fake.add_job(job=a_job("done", engine="noop"))
    async with running(fake, tmp_path) as deck:
        await deck.press("r")
        await deck.until(lambda: deck.screen == "ComposeScreen")
        await deck.shows("Name: done", "again j-")
        assert "CreateTime" not in deck.text
        await deck.press("escape", "enter", "r")
        await deck.until(lambda: deck.screen == "ComposeScreen")
        await deck.press("ctrl+g")
        await deck.until(lambda: deck.screen == "JobScreen")

    assert [(request.job.name, request.force) for request in submissions(fake)] == [("done", True)]


async def test_nothing_is_lost_while_the_link_is_down(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Writing and checking go on; submitting says why not; the nodes are asked again when the link is back."""
    fake.add_node("n-1")
    async with composing(fake, tmp_path) as deck:
        await deck.shows("1 of 1 node fits")
        deck.app.session.on_link(False, errors.Unavailable("cut"))
        await deck.settle()
        await deck.press("down", "end", "x", "ctrl+g")
        await deck.settle()
        assert deck.screen == "ComposeScreen"
        assert submissions(fake) == []
        asked = len([1 for verb, _, _ in fake.requests if verb == "job.explain"])
        deck.app.session.on_link(True, None)
        await deck.until(lambda: len([1 for verb, _, _ in fake.requests if verb == "job.explain"]) > asked)


async def test_a_read_only_profile_may_write_but_not_submit(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The key is not offered and does nothing."""
    async with composing(fake, tmp_path, read_only=True) as deck:
        await deck.press("ctrl+g")
        await deck.settle()
        assert deck.screen == "ComposeScreen"
        assert "submit" not in deck.text.splitlines()[-1]

    assert submissions(fake) == []


async def test_a_template_can_be_chosen_by_command_and_undone(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """`:new docker`; ^t puts another text there, undo brings the one from before back; a wrong name is told."""
    async with running(fake, tmp_path) as deck:
        await deck.type(":new dokcer")
        await deck.press("enter")
        await deck.shows("no template 'dokcer'", "docker")
        await deck.press("escape")
        await deck.type(":new docker")
        await deck.press("enter")
        await deck.until(lambda: deck.screen == "ComposeScreen")
        await deck.press("ctrl+t")
        await deck.type("noop")
        await deck.press("enter")
        await deck.shows("Name: nothing")
        await deck.press("ctrl+z")
        await deck.shows("Name: hello-docker")


async def test_the_text_can_be_saved(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Under a name that is asked for."""
    async with composing(fake, tmp_path) as deck:
        await deck.press("ctrl+s")
        await deck.press("ctrl+u")
        await deck.type(str(tmp_path / "mine.yaml"))
        await deck.press("enter")
        await deck.shows("written to")
        text = screen(deck).editor.text

    assert (tmp_path / "mine.yaml").read_text() == text


async def test_a_key_costs_only_the_cells_that_change(
    fake: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Textual's area would repaint all lines at every key; ours marks only what differs."""
    async with composing(fake, tmp_path) as deck:
        await deck.press("down", "end")
        await deck.settle()
        editor, areas = screen(deck).editor, list[int]()
        original = editor._set_dirty

        def noted(*regions: Region) -> None:
            areas.append(sum(region.area for region in regions) if regions else editor.size.area)
            original(*regions)

        monkeypatch.setattr(editor, "_set_dirty", noted)
        await deck.press("x")
        await deck.settle()

        assert 0 < sum(areas) <= 3 * editor.size.width


@pytest.mark.parametrize(
    "text", ["\x1b[2J\x9b31m", "日本語の名前" * 30, "[red]x[/] [@click=quit]", "a\u202eb\u200bc\ufeff", "\t# tab"]
)
async def test_no_text_breaks_the_editor(fake: FakeOrchestrator, tmp_path: Path, text: str) -> None:
    """Controls, wide characters and markup in the text and in what is said of it."""
    from tests.tui.test_text import lines_are_sound  # noqa: PLC0415

    async with composing(fake, tmp_path) as deck:
        screen(deck).editor.put(f"Name: {text}\n{text}: 1\nTasks:\n  - Engine: {{Type: noop}}\n    Name: {text}\n")
        await deck.until(lambda: screen(deck).composer.is_current)
        await deck.settle()
        lines_are_sound(deck)
        for key in ("end", "down", "end", "ctrl+n", "ctrl+@", "ctrl+f"):
            await deck.press(key)
            await deck.settle()
            lines_are_sound(deck)


async def test_drafts_of_other_programs_come_last(tmp_path: Path) -> None:
    """A draft whose process lives is offered after the others and said to be open; the limit drops the oldest."""
    mine, other = Drafts(tmp_path), Drafts(tmp_path, alive=lambda pid: True)
    mine.new().keep("Name: dead\n")
    begun = next((tmp_path / "drafts").glob("*.yaml"))
    begun.rename(begun.with_name(begun.name.replace(f"-{os.getpid()}", f"-{os.getpid() + 1}")))
    mine.new().keep("Name: own\n")

    assert [(kept.name, kept.in_use) for kept in other.found()] == [("own", False), ("dead", True)]
    taken = mine.take(other.found()[1])
    assert taken.path.read_text() == "Name: dead\n"
    taken.keep(" \n")
    assert [kept.name for kept in mine.found()] == ["own"]
