"""The NATS server alone is frozen or killed while jobs are submitted: all go on, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol import errors
from tests.e2e.cluster import client_of, noop, nothing_is_lost, submit_many, wait_until
from tests.e2e.faults import frozen, is_alive, nats_of

JOBS = 200
FROZEN_NOTICED_S = 30.0  # three greetings that fail, a second apart, each awaited 2.5 s

pytestmark = pytest.mark.timeout(180)


def once(count: int, act: Callable[[], None]) -> Callable[[int], None]:
    """Return a listener that acts when so many submissions have been acknowledged."""

    def acknowledged(so_far: int) -> None:
        if so_far == count:
            act()

    return acknowledged


async def test_a_killed_server_is_started_again(stack: DevStack, port: int) -> None:
    """Killed three times while 200 jobs are submitted; the orchestrator goes on without a restart."""
    orchestrator = stack.orchestrator(listen=f"127.0.0.1:{port}")
    stack.compute("node-1")
    killed: list[int] = []

    def kill(so_far: int) -> None:
        if so_far in (50, 100, 150) and (server := nats_of(orchestrator)):
            os.kill(server, signal.SIGKILL)
            killed.append(server)

    async with client_of(orchestrator) as client:
        acknowledged = await submit_many(client, JOBS, noop(delay_ms=5), kill)

        await nothing_is_lost(client, acknowledged)
        assert (await client.cluster_info()).term == 1, "it has led all the time"
    assert killed
    assert nats_of(orchestrator) not in (0, *killed)


async def test_a_frozen_server_is_replaced(stack: DevStack, port: int) -> None:
    """A server that stays frozen is found out, killed and replaced within seconds; clients and nodes come back."""
    orchestrator = stack.orchestrator(listen=f"127.0.0.1:{port}")
    stack.compute("node-1")
    server = nats_of(orchestrator)

    async with client_of(orchestrator) as client:
        freeze = once(50, lambda: os.kill(server, signal.SIGSTOP))
        acknowledged = await submit_many(client, JOBS, noop(delay_ms=5), freeze)
        await wait_until(lambda: not is_alive(server), "the frozen server has been killed", FROZEN_NOTICED_S)

        await nothing_is_lost(client, acknowledged)
        assert (await client.cluster_info()).term == 1, "it has led all the time"
    assert nats_of(orchestrator) not in (0, server)


async def test_a_server_that_was_only_slow_goes_on(stack: DevStack) -> None:
    """Frozen until requests time out and let go before it is given up: the same server serves on."""
    orchestrator = stack.orchestrator()
    stack.compute("node-1")
    server = nats_of(orchestrator)
    late: list[errors.BacalhauError] = []

    async with client_of(orchestrator, on_retry=lambda error, _: late.append(error)) as client:
        before = await submit_many(client, 20, noop(delay_ms=5), lambda _: None)
        with frozen(server):
            submitting = asyncio.create_task(client.submit_job(noop(delay_ms=5), request_id="frozen"))
            await wait_until(lambda: late, "a request times out")
        answer = await submitting

        await nothing_is_lost(client, {**before, "frozen": answer.job_id})
    assert nats_of(orchestrator) == server
