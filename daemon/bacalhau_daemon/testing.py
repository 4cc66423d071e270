"""Helpers of tests, shipped so that plug-ins outside of this repository can use them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 20.0  # a limit against hanging on a busy machine, not an expectation


async def wait_until(condition: Callable[[], T | Awaitable[T]], *, timeout_s: float = WAIT_S, what: str = "") -> T:
    """Wait until a condition gives something true, and return that. Raises `AssertionError` naming `what` otherwise."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        value: T = await found if isinstance(found, Awaitable) else found
        if value:
            return value
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(0.005)
