"""Blocking work of a client, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bacalhau_protocol import errors

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Run in a thread. A cancelled caller still waits for the end: what it cleans up is not in use any more.

    Raises
    ------
    UsageError
        when the operating system refuses (no space, no permission), with the path.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue  # it is cancelled already
        raise
    except OSError as error:
        raise errors.UsageError(
            f"cannot write here: {error.strerror or error}", place=str(error.filename or ""), hint="is there space?"
        ) from error
