"""What the engine knows of a run in hand."""

from __future__ import annotations

import asyncio

from bacalhau_engines.docker import watch
from bacalhau_engines.docker.life import Life
from bacalhau_protocol.plugins import Outcome, RunRequest


class Active:
    """A run in hand."""

    def __init__(self, run: RunRequest, name: str) -> None:
        self.run = run
        self.name = name  # of its container
        self.life: Life | None = None
        self.reason: Outcome | None = None  # why we end it
        self.stopper: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.digest = ""
        self.ports: tuple[int, ...] = ()
        self.stop_signal = ""
        self.disk_bytes = 0
        self.began = False
        self.places: watch.Places | None = None
        self.usage = watch.Usage()
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
