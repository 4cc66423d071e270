"""Both ends joined by a link that loses, repeats and reorders, with crashes of either: nothing is lost, nothing lies.

Whatever happens on the way, once the faults end every report and every command has been stored by the other side,
was confirmed only after that, and the pair comes to rest.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_protocol.ncl import events, messages
from bacalhau_protocol.ncl.compute import ComputeSession
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.lifecycle import ComputeState
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.ncl.subjects import parse
from tests.builders_ncl import NODE, SECOND, START, Message, node_info

SETTLE_STEPS_MAX = 3000


class Side:
    """What survives a crash of one end: what it has stored, and what the other end has not confirmed."""

    def __init__(self) -> None:
        self.made = 0
        self.unconfirmed: list[int] = []
        self.stored: list[int] = []  # numbers of the other side's messages, in the order in which they were stored
        self.arrived: list[tuple[int, events.Delivery]] = []  # not stored yet; lost in a crash


class World:
    """An orchestrator, a compute node and what is on its way between them."""

    def __init__(self) -> None:
        self.now = START
        self.to_orchestrator: list[Message] = []
        self.to_compute: list[Message] = []
        self.orchestrator, self.compute = Side(), Side()
        self.lives = 0
        self.linked = False
        self.start_orchestrator()
        self.start_compute()

    # --- lives ---

    def start_orchestrator(self) -> None:
        self.lives += 1
        self.orchestrator.arrived.clear()
        self.sessions = OrchestratorSessions(f"_R.n-o.{self.lives}")

    def start_compute(self) -> None:
        self.lives += 1
        self.compute.arrived.clear()
        self.to_compute.clear()
        self.session = ComputeSession(
            NODE, f"_R.{NODE}.{self.lives}", node_info(), started_at=self.now, jitter=lambda: 0.5
        )
        self.from_compute(self.session.link_up(self.now))

    def cut(self) -> None:
        self.to_compute.clear()
        self.from_compute(self.session.link_down(self.now))
        self.from_compute(self.session.link_up(self.now))

    # --- what the machines say ---

    def from_orchestrator(self, outputs: list[Any]) -> None:
        side, other = self.orchestrator, self.compute
        for output in outputs:
            match output:
                case Send():
                    self.to_compute.append(Message(output.subject, output.data, output.reply))
                case events.NodeHandshook():
                    self.from_orchestrator(self.sessions.accept(output, self.now, starting_seq=side.made))
                    for number in side.unconfirmed:
                        self.command(number)
                case events.ReportReceived():
                    side.arrived.append((int(output.report.execution_id), output.delivery))
                case events.DeliveryConfirmed():
                    assert output.tag in other.stored, "confirmed but not stored"
                    if output.tag in side.unconfirmed:
                        side.unconfirmed.remove(output.tag)
                case events.DeliveryRefused() | events.Malformed():
                    raise AssertionError(output)

    def from_compute(self, outputs: list[Any]) -> None:
        side, other = self.compute, self.orchestrator
        for output in outputs:
            match output:
                case Send():
                    self.to_orchestrator.append(Message(output.subject, output.data, output.reply))
                case events.SessionOpened():
                    for number in side.unconfirmed:
                        self.report(number)
                case events.CommandReceived():
                    assert isinstance(output.command, messages.CancelExecution)
                    side.arrived.append((int(output.command.execution_id), output.delivery))
                case events.DeliveryConfirmed():
                    assert output.tag in other.stored, "confirmed but not stored"
                    if output.tag in side.unconfirmed:
                        side.unconfirmed.remove(output.tag)
                case events.DeliveryRefused() | events.Malformed():
                    raise AssertionError(output)

    def report(self, number: int) -> None:
        report = messages.ComputeError(str(number))
        self.from_compute(self.session.report(report, seq=number, tag=number, now=self.now))

    def command(self, number: int) -> None:
        command = messages.CancelExecution(None, str(number))
        self.from_orchestrator(self.sessions.send(NODE, command, seq=number, tag=number, now=self.now))

    # --- what may happen ---

    def make(self, who: str) -> None:
        side = self.orchestrator if who == "orchestrator" else self.compute
        side.made += 1
        side.unconfirmed.append(side.made)
        if who == "orchestrator":
            self.command(side.made)
        else:
            self.report(side.made)

    def store(self, who: str, index: int = 0) -> None:
        side = self.orchestrator if who == "orchestrator" else self.compute
        if index < len(side.arrived):
            number, delivery = side.arrived.pop(index)
            side.stored.append(number)
            if who == "orchestrator":
                self.from_orchestrator(self.sessions.persisted(delivery))
            else:
                self.from_compute(self.session.persisted(delivery))

    def deliver(self, who: str, index: int = 0) -> None:
        queue = self.to_orchestrator if who == "orchestrator" else self.to_compute
        if index >= len(queue):
            return
        message = queue.pop(index)
        if who == "orchestrator":
            self.from_orchestrator(self.sessions.message(message, self.now))
        else:
            self.from_compute(self.session.message(message, self.now))

    def lose(self, who: str, index: int) -> None:
        queue = self.to_orchestrator if who == "orchestrator" else self.to_compute
        if index < len(queue):
            del queue[index]

    def repeat(self, who: str, index: int) -> None:
        queue = self.to_orchestrator if who == "orchestrator" else self.to_compute
        if index < len(queue):
            queue.append(queue[index])

    def nobody(self) -> None:
        """The server finds no orchestrator for the oldest message."""
        if self.to_orchestrator:
            message = self.to_orchestrator.pop(0)
            if parse(message.subject) and message.reply:
                self.to_compute.append(Message(message.reply, b"", "", {"Status": "503"}))

    def pass_time(self, duration_ns: int) -> None:
        self.now += duration_ns
        self.from_orchestrator(self.sessions.tick(self.now))
        self.from_compute(self.session.tick(self.now))

    # --- the end of all faults ---

    def settle(self) -> None:
        """Deliver everything in order, store everything, let time pass, until nothing is unconfirmed."""
        for _ in range(SETTLE_STEPS_MAX):
            while self.to_orchestrator or self.to_compute or self.orchestrator.arrived or self.compute.arrived:
                for who in ("orchestrator", "compute"):
                    self.deliver(who)
                    self.store(who)
            rest = self.orchestrator.unconfirmed or self.compute.unconfirmed
            if self.session.state is ComputeState.CONNECTED and NODE in self.sessions.connected and not rest:
                return
            due = [at for at in (self.sessions.next_tick(), self.session.next_tick()) if at is not None]
            assert due, "someone still has something to do"
            self.pass_time(max(0, min(due) - self.now))
        raise AssertionError("the pair does not come to rest")


ENDS = ("orchestrator", "compute")
STEPS = 250


class Weather(NamedTuple):
    """How often things happen, relative to each other."""

    make: float = 2.0
    store: float = 5.0
    deliver: float = 8.0
    lose: float = 0.5
    repeat: float = 0.3
    wait: float = 0.5
    nobody: float = 0.1
    cut: float = 0.1
    crash_orchestrator: float = 0.05
    crash_compute: float = 0.05


def step(world: World, act: str, rng: random.Random, reach: int) -> None:
    """Let one thing happen; `reach` is how far from the front of a queue things may happen."""
    who, index = rng.choice(ENDS), rng.randint(0, reach)
    match act:
        case "make":
            world.make(who)
        case "store":
            world.store(who, index)
        case "deliver":
            world.deliver(who, index)
        case "lose":
            world.lose(who, rng.randint(0, 3))
        case "repeat":
            world.repeat(who, rng.randint(0, 3))
        case "wait":
            world.pass_time(int(SECOND * rng.choice([0.1, 1, 5, 30])))
        case "nobody":
            world.nobody()
        case "cut":
            world.cut()
        case "crash_orchestrator":
            world.start_orchestrator()
        case "crash_compute":
            world.start_compute()


def lived(seed: int, *, reach: int, weather: Weather | None = None) -> World:
    """Connect, let much happen in bad weather, then end all faults."""
    rng = random.Random(seed)
    weather = weather or Weather(*(usual * rng.choice([0, 0.5, 1, 2, 4]) for usual in Weather()))
    world = World()
    world.settle()
    if sum(weather):
        for act in rng.choices(Weather._fields, weather, k=STEPS):
            step(world, act, rng, reach)
    world.settle()
    return world


def in_order_within(numbers: list[int], stored: list[int]) -> bool:
    """Whether `numbers` is a subsequence of what was stored."""
    rest = iter(stored)
    return all(number in rest for number in numbers)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_over_a_link_that_loses_and_repeats_all_arrive_in_order(seed: int) -> None:
    """Such is NATS with cut links and crashing ends. What came too early comes again in its turn."""
    world = lived(seed, reach=0)

    assert in_order_within(list(range(1, world.compute.made + 1)), world.orchestrator.stored)
    assert in_order_within(list(range(1, world.orchestrator.made + 1)), world.compute.stored)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_over_a_link_that_reorders_all_arrive(seed: int) -> None:
    """Worse than NATS; and owners that store out of order."""
    world = lived(seed, reach=3)

    assert set(world.orchestrator.stored) == set(range(1, world.compute.made + 1))
    assert set(world.compute.stored) == set(range(1, world.orchestrator.made + 1))


def test_without_faults_everything_arrives_once_and_in_order() -> None:
    """A hundred each way, more than fit in flight."""
    world = World()
    for _ in range(100):
        world.make("compute")
        world.make("orchestrator")
    world.settle()
    for _ in range(100):
        world.make("compute")
        world.make("orchestrator")
    world.settle()

    assert world.orchestrator.stored == world.compute.stored == list(range(1, 201))


def test_a_pair_at_rest_only_beats() -> None:
    """One heartbeat in five seconds, and nothing is ever lost or silent."""
    world = World()
    world.settle()
    beats = 0
    for _ in range(600):
        world.pass_time(SECOND)
        beats += len(world.to_orchestrator)
        world.settle()

    assert beats == 120
    assert world.lives == 2


def test_a_restarted_orchestrator_has_its_node_back_with_the_next_heartbeat() -> None:
    """And everything that the node did meanwhile."""
    world = World()
    world.settle()
    world.start_orchestrator()
    world.make("compute")
    began = world.now
    world.settle()

    assert world.orchestrator.stored == [1]
    assert world.now - began < 8 * SECOND
