"""Short work on the node's own directory: on the loop while the disk is quick, in a thread while it is not.

A few system calls on a local disk take less than a change of threads and back, and much less than two threads that take
the interpreter's lock from each other at each of them. A disk that is busy may take seconds: see `log/pace.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bacalhau_daemon.log.pace import Pace

P = ParamSpec("P")
T = TypeVar("T")


class Disk:
    """Knows whether the disk was quick the last time."""

    def __init__(self) -> None:
        self._pace = Pace()

    @property
    def quick(self) -> bool:
        """Whether it was."""
        return self._pace.quick

    async def do(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Do work of a bounded number of small steps."""
        if not self._pace.quick:
            return await asyncio.to_thread(work, *args, **kwargs)
        with self._pace:
            return work(*args, **kwargs)
