"""Helpers of tests, shipped so that plug-ins outside of this repository can use them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

WAIT_S = 20.0  # a limit against hanging on a busy machine, not an expectation


async def wait_until(condition: Callable[[], Any], *, timeout_s: float = WAIT_S, what: str = "") -> Any:
    """Wait until a condition (may be async) gives something true; return that. Else `AssertionError` names `what`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(0.005)
