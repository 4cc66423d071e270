"""Keys: every action has an id and help, no two share a key where both work, and users can change them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual import events
from textual.binding import Binding
from textual.dom import DOMNode

import bacalhau_tui.screens
import bacalhau_tui.widgets
from bacalhau_protocol import errors
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_tui import keymap, typeahead
from bacalhau_tui.app import ClusterApp
from bacalhau_tui.widgets.table import Table
from tests.tui.deck import Deck, a_day, running

RESERVED = ["j", "k", "g g", "G", "ctrl+d", "ctrl+u", "ctrl+f", "ctrl+b", "home", "end", "up", "down"]
"""Keys that move, in every list and text."""


def our_classes() -> Iterator[type[DOMNode]]:
    """Yield every class of ours that may bind keys."""
    yield ClusterApp
    for package in (bacalhau_tui.screens, bacalhau_tui.widgets):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for thing in vars(importlib.import_module(found.name)).values():
                if isinstance(thing, type) and issubclass(thing, DOMNode) and thing.__module__ == found.name:
                    yield thing


def test_every_binding_is_in_the_keymap_with_words() -> None:
    """No class binds a key by itself; each action has an id and a help text."""
    for owner in our_classes():
        for binding in vars(owner).get("BINDINGS", ()):
            assert isinstance(binding, Binding)
            assert binding.id in keymap.ACTS, f"{owner.__name__} binds {binding.key}"
            assert binding.tooltip == keymap.ACTS[binding.id].help


def test_ids_are_unique_and_every_group_is_used() -> None:
    """An id means one action."""
    acts = [act for group in keymap.GROUPS.values() for act in group]
    used = {group for groups in keymap.CONTEXTS.values() for group in groups}

    assert len(keymap.ACTS) == len(acts)
    assert used == set(keymap.GROUPS)
    assert all(act.help for act in acts)


def test_no_two_actions_share_a_key() -> None:
    """In every context each key means one thing."""
    assert keymap.clashes({}) == []


@pytest.mark.parametrize("context", [name for name, groups in keymap.CONTEXTS.items() if "move" in groups])
def test_keys_that_move_are_free_for_moving(context: str) -> None:
    """No view takes j, k, g g, G and the like for anything else."""
    for group in keymap.CONTEXTS[context]:
        for act in keymap.GROUPS[group]:
            taken = {key.strip() for key in act.keys.split(",")} & set(RESERVED)
            assert group == "move" or not taken, f"{act.id} takes {taken}"


def test_no_action_depends_on_keys_that_do_not_arrive() -> None:
    """Terminals do not send ctrl+enter and the like, and tmux takes ctrl+b: each action has another key."""
    lost = {"ctrl+enter", "alt+enter", "shift+enter", "ctrl+h", "ctrl+i", "ctrl+m", "ctrl+b", "ctrl+a", "ctrl+j"}
    for act in keymap.ACTS.values():
        keys = {key.strip() for key in act.keys.split(",")}
        assert {key for key in keys - lost if not (key[0] == "f" and key[1:].isdigit())}, act.id


def test_a_user_s_keys_are_checked() -> None:
    """An unknown action offers the nearest; a key that is taken names both actions; a good one is taken over."""
    with pytest.raises(errors.UsageError, match="no action 'stpo'") as unknown:
        keymap.keymap({"stpo": "x"})
    assert "'stop'" in unknown.value.hint
    with pytest.raises(errors.UsageError, match="is both") as clash:
        keymap.keymap({"stop": "l"})
    assert "'logs'" in str(clash.value)

    assert keymap.keymap({"stop": "ctrl+k", "top": "g t"}) == {"stop": "ctrl+k", "top": "chord_g_t"}


async def test_a_changed_key_works_and_is_shown(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The new key does it, the old one does not, hints and help show the new one."""
    a_day(fake)
    async with running(fake, tmp_path, size=(160, 45), keys={"stop": "ctrl+k"}) as deck:
        assert "^k stop" in deck.text
        await deck.press("j", "S")
        assert deck.screen == "JobsScreen"
        await deck.press("ctrl+k")
        assert deck.screen == "ConfirmScreen"
        await deck.press("escape", "?")
        await deck.shows("^k")


async def every_screen(deck: Deck) -> list[str]:
    """Go everywhere; return the names of the screens and tabs, with the keys that clash there."""
    clashes = []
    for keys in ([], ["enter"], ["2"], ["3"], ["4"], ["5"], ["6"], ["escape", "2"], ["enter"], ["2"], ["?"]):
        await deck.press(*keys)
        await deck.settle()
        owners: dict[str, str] = {}
        for _, bindings in deck.app.screen._modal_binding_chain:
            for key, binding in bindings:
                before = owners.setdefault(key, binding.id or "")
                if before != binding.id:
                    clashes.append(f"{deck.screen}: {key} is {before} and {binding.id}")
    return clashes


async def test_nowhere_do_two_live_bindings_share_a_key(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The contexts of the keymap are those of the screens as they run."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        assert await every_screen(deck) == []


async def test_help_lists_every_live_key(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Whatever is bound where help is asked for is in the help page, with its words."""
    a_day(fake)
    async with running(fake, tmp_path, size=(120, 90)) as deck:
        live = {active.binding.id for active in deck.app.screen.active_bindings.values()}
        await deck.press("?")
        missing = [name for name in live if name and keymap.ACTS[name].help[:40] not in deck.text]
        assert missing == []
        await deck.shows("COMMANDS", "FILTER", "state:failed,stopped")


async def test_the_palette_runs_what_is_chosen(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A part of the words finds an action of the screen; enter runs it."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.press("ctrl+p")
        await deck.type("attention")
        await deck.press("enter")
        await deck.shows("problems only")


async def test_chords(fake: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`g g` goes to the top; `g` alone, or `g` and another key, does what the other key does."""
    for number in range(50):
        fake.add_job(f"job-{number}")
    async with running(fake, tmp_path) as deck:
        await deck.press("G")
        await deck.shows("job-0 ")
        await deck.press("g", "g")
        await deck.shows("job-49")
        top, table = deck.app.screen, deck.app.screen.focused
        assert isinstance(table, Table)
        await deck.press("g", "j")
        assert table.cursor == table.view.ids[1]
        monkeypatch.setattr(keymap, "CHORD_S", 0.01)
        await deck.press("g")
        await deck.until(lambda: not deck.app._chords.held)
        await deck.press("g")
        assert table.cursor == table.view.ids[1], "the first g was too long ago"
        assert deck.app.screen is top


async def test_what_comes_with_a_colon_in_one_read_is_the_command(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Over a slow line keys come together: those after `:` are no keys of the list, those after enter none of it."""
    async with running(fake, tmp_path) as deck:
        await deck.press_at_once(*":nodes", "enter")
        assert deck.screen == "NodesScreen"
        await deck.press_at_once(*":jobs", "enter", *":nodes", "enter", *":jobs", "enter", "?")
        assert deck.screen == "HelpScreen"
        await deck.press_at_once("escape", *":no", "escape", *":nodes", "backspace", "backspace", "s", "tab", "enter")
        assert deck.app.current_mode == "jobs", "`:nods` is nothing, and says so"
        await deck.shows("nods")


async def test_what_comes_with_a_slash_in_one_read_is_the_filter(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """In their order, however many; keys after enter are the list's again."""
    for number in range(30):
        fake.add_job(f"quick-job-{number}")
    async with running(fake, tmp_path) as deck:
        table = deck.app.screen.focused
        assert isinstance(table, Table)
        await deck.press_at_once("/", *"quick-job-2", "enter", "j", "j")
        assert table.view.filter.text == "quick-job-2"
        assert len(table.view.ids) == 11
        assert table.cursor == table.view.ids[2]

        await deck.press_at_once("/", "ctrl+u", *"job-7", "enter", "enter", "escape", "escape", *":nodes", "enter")
        assert deck.screen == "NodesScreen"


async def test_a_paste_after_a_colon_goes_into_the_prompt(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Also when it comes with it."""
    async with running(fake, tmp_path) as deck:
        deck.app.post_message(events.Key("colon", ":"))
        deck.app.post_message(events.Paste("nodes"))
        await deck.press_at_once("enter")
        assert deck.screen == "NodesScreen"


async def test_keys_go_on_when_what_follows_them_gets_lost(
    fake: FakeOrchestrator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a screen that goes while it passes: no key is lost, none waits for ever."""
    monkeypatch.setattr(typeahead, "STUCK_S", 0.01)
    async with running(fake, tmp_path) as deck:
        monkeypatch.setattr(ClusterApp, "on_through", lambda self, message: None)
        await deck.press_at_once(*":nodes", "enter")
        await deck.until(lambda: deck.screen == "NodesScreen")


@pytest.mark.parametrize(
    ("typed", "handled"),
    [
        (["g", "g"], ["chord_g_g"]),
        (["g", "x"], ["g", "x"]),
        (["x"], ["x"]),
        (["g", "d", "d"], ["g", "chord_d_d"]),
    ],
)
def test_how_chords_are_recognised(typed: list[str], handled: list[str]) -> None:
    """A key that begins a chord is held back until the next one comes."""
    chords = keymap.Chords()
    found = [key for each in typed for key in chords.feed(each, ["chord_g_g", "chord_d_d", "x"])]

    assert found == handled
    assert chords.expire() == []
