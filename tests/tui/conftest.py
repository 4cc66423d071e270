"""Fixtures of the screens' tests: an orchestrator in memory, and a session that is quick to try again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_tui.data import session as session_module
from tests.tui.deck import a_fake


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeOrchestrator]:
    monkeypatch.setattr(session_module, "RELOAD_PAUSE_S", 0.005)
    monkeypatch.setattr(session_module, "REFUSED_RETRY_S", 0.005)
    monkeypatch.setattr(session_module, "RETRY_MIN_S", 0.001)
    fake = await a_fake()
    yield fake
    await fake.close()
