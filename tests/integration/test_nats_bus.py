"""The bus over a real server: round trips, truth about lost links, nothing sent twice, healing for ever."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from bacalhau_daemon.core.events import Role
from bacalhau_daemon.orchestrator.nats_server import MAX_PAYLOAD_BYTES
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol import errors
from bacalhau_protocol.transport.base import Bus, Message
from bacalhau_protocol.transport.memory import MemoryBroker
from bacalhau_protocol.transport.nats import NatsBus, connect
from bacalhau_protocol.transport.settings import NatsSettings

from .conftest import ORCHESTRATOR, Wire

SUBJECT = "test.echo"


async def serve_echo(bus: Bus) -> None:
    """Answer requests on SUBJECT with their own body and headers."""

    async def echo(message: Message) -> None:
        await bus.publish(message.reply, message.data, headers=message.headers)

    await bus.subscribe(SUBJECT, echo)


async def both(wire: Wire, kind: str) -> Bus:
    """Return a bus of this kind that answers on SUBJECT."""
    bus: Bus = wire.orchestrator if kind == "nats" else MemoryBroker().connect("a")
    await serve_echo(bus)
    return bus


@pytest.mark.parametrize("kind", ["nats", "memory"])
async def test_a_request_is_answered(wire: Wire, kind: str) -> None:
    """Body and headers arrive, and so does the answer; the inbox is the connection's own."""
    bus = await both(wire, kind)

    answer = await bus.request(SUBJECT, b"x", timeout_s=20, headers={"Request-Id": "ä 1"})

    assert answer.data == b"x"
    assert answer.headers == {"Request-Id": "ä 1"}
    assert bus.inbox().startswith("_R.")
    assert bus.inbox() != bus.inbox()


@pytest.mark.parametrize("kind", ["nats", "memory"])
async def test_a_request_that_nobody_hears_fails_at_once(wire: Wire, kind: str) -> None:
    """No responders is `Unavailable`, not a time-out."""
    bus = await both(wire, kind)

    with pytest.raises(errors.Unavailable, match="nobody answers"):
        await bus.request("test.nobody", b"", timeout_s=600)


@pytest.mark.parametrize("kind", ["nats", "memory"])
async def test_a_silent_peer_is_a_time_out(wire: Wire, kind: str) -> None:
    """Somebody who hears and does not answer leads to `TimedOut`."""
    bus = await both(wire, kind)

    async def ignore(_: Message) -> None:
        pass

    await bus.subscribe("test.silent", ignore)

    with pytest.raises(errors.TimedOut):
        await bus.request("test.silent", b"", timeout_s=0.05)


@pytest.mark.parametrize("kind", ["nats", "memory"])
async def test_messages_come_in_order_and_one_at_a_time(wire: Wire, kind: str) -> None:
    """A callback is awaited before the next message, so order is kept."""
    bus = await both(wire, kind)
    seen: list[bytes] = []

    async def slow(message: Message) -> None:
        await asyncio.sleep(0)
        seen.append(message.data)

    await bus.subscribe("test.*.many", slow)
    for number in range(50):
        await bus.publish("test.a.many", b"%d" % number)

    await wait_until(lambda: len(seen) == 50)
    assert seen == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("kind", ["nats", "memory"])
async def test_a_subscription_ends_without_harming_the_message_in_hand(wire: Wire, kind: str) -> None:
    """After `unsubscribe` nothing more is handed over; a callback that runs goes on to its end."""
    bus = await both(wire, kind)
    begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_: Message) -> None:
        begun.set()
        await go_on.wait()
        ended.set()

    subscription = await bus.subscribe("test.wait", wait)
    await bus.publish("test.wait", b"")
    await begun.wait()
    await subscription.unsubscribe()
    go_on.set()
    await asyncio.wait_for(ended.wait(), 20)

    ended.clear()
    await bus.publish("test.wait", b"")
    await bus.request(SUBJECT, b"", timeout_s=20)
    assert not ended.is_set()


async def test_a_callback_that_raises_is_reported(wire: Wire) -> None:
    """An error in a callback goes to `on_error` with the subject; the next message is handled."""
    seen: list[bytes] = []

    async def fail_first(message: Message) -> None:
        seen.append(message.data)
        if len(seen) == 1:
            raise ValueError("no")

    await wire.orchestrator.subscribe("test.fail", fail_first)
    await wire.orchestrator.publish("test.fail", b"1")
    await wire.orchestrator.publish("test.fail", b"2")

    await wait_until(lambda: len(seen) == 2)
    assert [(error.place, "no" in str(error)) for error in wire.reports] == [("test.fail", True)]


async def test_too_large_is_refused_before_it_is_sent(wire: Wire) -> None:
    """Payload and headers together over the limit are a usage error, and the connection lives."""
    await serve_echo(wire.orchestrator)

    for size, headers in [(MAX_PAYLOAD_BYTES + 1, None), (MAX_PAYLOAD_BYTES, {"A": "b"})]:
        with pytest.raises(errors.UsageError, match="over the limit"):
            await wire.orchestrator.publish(SUBJECT, b"x" * size, headers=headers)
    assert (await wire.orchestrator.request(SUBJECT, b"x", timeout_s=20)).data == b"x"


async def test_a_killed_server_fails_requests_at_once_and_the_bus_heals(wire: Wire) -> None:
    """A request in flight when the server dies is `Unavailable`; subscriptions are back by themselves."""
    ended: list[errors.BacalhauError] = []
    node = await wire.connect("n-1", wire.issue("n-1", Role.COMPUTE), on_disconnect=ended.append)

    async def never(_: Message) -> None:
        os.kill(wire.server.pid, signal.SIGKILL)

    await wire.orchestrator.subscribe("bacalhau.x.v1.n-1.out.hello", never)
    await wire.orchestrator.flush()
    with pytest.raises(errors.Unavailable, match="the connection ended"):
        await node.request("bacalhau.x.v1.n-1.out.hello", b"", timeout_s=600)

    await wait_until(lambda: node.connected and wire.orchestrator.connected and wire.server.restarts == 1)
    await wire.orchestrator.publish("bacalhau.x.v1.n-1.in.test", b"")
    assert isinstance(ended[0], errors.Unavailable)


async def test_nothing_is_sent_later(wire: Wire) -> None:
    """A publish while the link is down raises, and never arrives after the link is back."""
    seen: list[bytes] = []

    async def collect(message: Message) -> None:
        seen.append(message.data)

    await wire.orchestrator.subscribe("test.later", collect)
    os.kill(wire.server.pid, signal.SIGKILL)
    refused = 0

    async def refused_once() -> bool:
        nonlocal refused
        try:
            await wire.orchestrator.publish("test.later", b"lost")
        except errors.Unavailable:
            refused += 1
        return refused > 0

    await wait_until(refused_once)
    seen.clear()
    with pytest.raises(errors.Unavailable):
        await wire.orchestrator.request("test.later", b"lost", timeout_s=600)

    await wait_until(lambda: wire.orchestrator.connected)
    await wire.orchestrator.publish("test.later", b"new")
    await wait_until(lambda: b"new" in seen)
    assert seen == [b"new"]


async def test_hooks_are_called_in_each_life(wire: Wire) -> None:
    """`on_connect` runs at the first connection and at each later one, when requests work."""
    lives: list[bytes] = []
    await serve_echo(wire.orchestrator)
    await wire.orchestrator.flush()

    async def greet(bus: NatsBus) -> None:
        async def ask() -> bool:
            try:
                lives.append((await bus.request(SUBJECT, b"hi", timeout_s=20)).data)
            except errors.Unavailable:  # the one who echoes is not back yet
                return False
            return True

        await wait_until(ask)

    bus = await connect(
        NatsSettings(
            address=wire.server.address, identity=ORCHESTRATOR, user="orchestrator", token=wire.server.password
        ),
        on_connect=greet,
    )
    wire.buses.append(bus)
    await wait_until(lambda: len(lives) == 1)
    os.kill(wire.server.pid, signal.SIGKILL)

    await wait_until(lambda: len(lives) == 2)


async def test_an_unreachable_server_is_said_at_the_end_of_the_time(wire: Wire) -> None:
    """Nobody listening is `Unavailable` with the address and a hint."""
    await wire.close()

    with pytest.raises(errors.Unavailable, match=r"cannot connect: .*refused") as caught:
        await connect(NatsSettings(address=wire.server.address, identity="a", token="b"), timeout_s=0.3)
    assert "orchestrator" in caught.value.hint
    assert caught.value.place == wire.server.address


@pytest.mark.parametrize("kind", ["nats", "memory"])
async def test_queue_groups_share(wire: Wire, kind: str) -> None:
    """Of one queue group exactly one member hears a message."""
    bus = await both(wire, kind)
    shared: list[Message] = []
    alone: list[Message] = []

    async def one(message: Message) -> None:
        shared.append(message)

    async def other(message: Message) -> None:
        shared.append(message)

    async def everything(message: Message) -> None:
        alone.append(message)

    await bus.subscribe("test.q", one, queue="q")
    await bus.subscribe("test.q", other, queue="q")
    await bus.subscribe("test.q", everything)
    for _ in range(10):
        await bus.publish("test.q", b"")

    await wait_until(lambda: len(alone) == 10 and len(shared) >= 10)
    await bus.request(SUBJECT, b"", timeout_s=20)
    assert len(shared) == 10
