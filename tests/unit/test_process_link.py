"""A compute node whose orchestrator is not there yet waits for it, and can be told to stop meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import structlog

from bacalhau_daemon import joining, process
from bacalhau_daemon.config import ComputeSettings, Settings
from bacalhau_daemon.log.lock import DataLock
from bacalhau_daemon.process import Process
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.transport.settings import NatsSettings

LINK = NatsSettings(address="nats://h:1", identity="n-1", token="t")


class Attempts:
    """Stands in for `joining.resolve`: fails so often, then finds the link."""

    def __init__(self, failures: int) -> None:
        self.failures, self.made = failures, 0

    async def resolve(self, _: Settings) -> NatsSettings:
        """Fail, or succeed."""
        self.made += 1
        if self.made <= self.failures:
            raise errors.Unavailable("cannot ask the server for its certificate", place="nats://h:1")
        return LINK


def a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: Attempts) -> Process:
    """Return a process whose attempts follow each other at once."""
    monkeypatch.setattr(process, "JOIN_AGAIN_S", 0.001)
    monkeypatch.setattr(joining, "resolve", attempts.resolve)
    settings = Settings(data_dir=str(tmp_path), compute=ComputeSettings(enabled=True))
    return Process(settings, DataLock.acquire(tmp_path))


async def test_it_tries_again_and_says_so_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many attempts, one line."""
    made = a_process(tmp_path, monkeypatch, Attempts(failures=20))
    with structlog.testing.capture_logs() as said:
        assert await made._link() == LINK

    assert [one["event"] for one in said] == ["link.trouble"]


async def test_it_stops_when_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while there is nobody to connect to."""
    attempts = Attempts(failures=10**9)
    made = a_process(tmp_path, monkeypatch, attempts)
    waiting = asyncio.create_task(made._link())
    await wait_until(lambda: attempts.made > 1)
    made._stop.set()

    assert await waiting is None
