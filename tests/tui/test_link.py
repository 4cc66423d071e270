"""A link that breaks: the screen stays, says since when it is old, refuses to write, and goes on by itself."""

from __future__ import annotations

from pathlib import Path

from bacalhau_protocol import errors
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.transport.memory import MemoryBus
from bacalhau_tui.data.session import LinkState, Session
from tests.tui.deck import Deck, a_day, running


def bus_of(deck: Deck) -> MemoryBus:
    client = deck.app.session.client
    assert client is not None
    assert isinstance(client.bus, MemoryBus)
    return client.bus


def cut(deck: Deck) -> None:
    """Cut the link as the NATS client would tell of it."""
    assert deck.app.session.client is not None
    bus_of(deck).cut()
    deck.app.session.client.interruptions += 1
    deck.app.session.on_link(False, errors.Unavailable("nobody answers at 10.0.0.5:4222", hint="is it running?"))


async def test_a_lost_link_keeps_the_screen(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """A banner says since when and why; rows stay and can be walked; with the link the screen is true again."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        cut(deck)
        await deck.shows("link lost since", "nobody answers at 10.0.0.5:4222")
        assert "running" in deck.text
        await deck.press("j")
        job = fake.add_job("meanwhile")

        bus_of(deck).heal()
        deck.app.session.on_link(True, None)
        await deck.shows("meanwhile", "live")

        assert "link lost" not in deck.text
        assert job in deck.app.store.jobs


async def test_nothing_is_sent_while_the_link_is_lost(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Actions that change the cluster are dim and do nothing; none is queued for later."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        cut(deck)
        await deck.shows("link lost")
        await deck.press("j", "S")
        assert deck.screen == "JobsScreen"
        bus_of(deck).heal()
        deck.app.session.on_link(True, None)
        await deck.until(lambda: deck.app.session.link.state is LinkState.LIVE)
        await deck.press("S")
        await deck.shows("Stop this job?")


async def test_silence_is_told_too(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """Connected, but no tick comes: the rows may be old, and the banner says so."""
    a_day(fake)
    async with running(fake, tmp_path) as deck:
        fake.silent_feed = True  # type: ignore[attr-defined]
        await deck.shows("no word from the orchestrator since")
        fake.silent_feed = False  # type: ignore[attr-defined]
        await deck.until(lambda: deck.app.session.link.state is LinkState.LIVE)


async def test_a_refused_credential_says_what_to_do(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """The first screen comes without a cluster; why there is none stands in the banner; later it connects."""
    refusals = 3

    async def connect(session: Session) -> Client:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise errors.Unauthenticated("the credential was revoked", hint="ask the admin")
        return fake.client()

    async with running(fake, tmp_path, connect=connect, live=False) as deck:
        await deck.until(lambda: deck.app.session.link.state is LinkState.LIVE)
        await deck.shows("no jobs yet")


async def test_a_detail_screen_outlives_the_link(fake: FakeOrchestrator, tmp_path: Path) -> None:
    """An open job keeps its executions and takes up what it missed."""
    jobs = a_day(fake)
    async with running(fake, tmp_path) as deck:
        await deck.press("j", "enter", "2")
        await deck.shows("Preparing", "12 MB of 80 MB")
        cut(deck)
        await deck.shows("link lost")
        assert "12 MB of 80 MB" in deck.text
        for execution, each in fake.executions.items():
            if each.job_id == jobs["running"]:
                fake.run(execution)
                fake.finish(execution)
        bus_of(deck).heal()
        deck.app.session.on_link(True, None)
        await deck.shows("live", "Completed")
        await deck.until(lambda: "Preparing" not in deck.text)
