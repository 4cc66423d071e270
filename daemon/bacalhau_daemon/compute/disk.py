"""Short work on the node's own directory: on the loop while the disk is quick, in a thread while it is not.

A few system calls on a local disk take less than a change of threads and back; one that is busy may take seconds. As
with appends (`log/appender.py`), at most one piece of work holds the loop up before the others go to threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bacalhau_daemon.log.appender import QUICK_S

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Knows whether the disk was quick the last time."""

    def __init__(self) -> None:
        self._quick = True

    async def do(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work of a bounded number of small steps."""
        if self._quick:
            return self._timed(work, *args, **kwargs)
        return await asyncio.to_thread(self._timed, work, *args, **kwargs)

    def _timed(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        started = time.perf_counter()
        try:
            return work(*args, **kwargs)
        finally:
            self._quick = time.perf_counter() - started < QUICK_S
