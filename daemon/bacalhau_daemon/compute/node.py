"""The compute node's shell: feeds the machine (`core/compute.py`) and carries out what it asks, in order.

One function pumps: it takes the machine's actions and carries them out, without waiting for anything. Messages, the
ends of runs and the outcomes of appends are inputs; they only touch the machine and have the pump called in the next
turn of the loop, so that what comes together is decided and journalled together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, assert_never

import msgspec
import structlog

from bacalhau_daemon.compute.abilities import Plugins
from bacalhau_daemon.compute.journal import Journal
from bacalhau_daemon.compute.layout import Ending
from bacalhau_daemon.compute.runner import Listener, Progressed, Runner
from bacalhau_daemon.compute.serving import Serving
from bacalhau_daemon.core.compute import Compute
from bacalhau_daemon.core.compute_actions import (
    Action,
    CancelRun,
    Left,
    MeasureInputs,
    Note,
    SayHello,
    StartRun,
    Trim,
)
from bacalhau_daemon.core.compute_rules import RunEnded
from bacalhau_daemon.core.loop import Append, Halt, Reload
from bacalhau_daemon.log.base import Outcome
from bacalhau_daemon.pump import Pump
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.api import subjects
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.transport.base import Bus, Message

HELLO_TIMEOUT_S, HELLO_ATTEMPTS_MAX = 5.0, 12
PHASES_EVERY_S = 0.25
PHASES_AT_ONCE_MAX = 256
REPORTS_WAIT_S, LEAVE_WAIT_S = 2.0, 3.0
QUIET_NOTES = frozenset({"message.ignored"})

log = structlog.get_logger(__name__)


class Node:
    """One node at work. `welcomed` gets the cluster's name at each session; blank: the orchestrator is Bacalhau's."""

    def __init__(
        self,
        machine: Compute,
        *,
        bus: Bus,
        bulk: Bus,
        journal: Journal,
        plugins: Plugins,
        version: str,
        welcomed: Callable[[str], None],
    ) -> None:
        self.machine = machine
        self.runner: Runner | None = None
        self.serving: Serving | None = None
        self._bus, self._bulk = bus, bulk
        self._journal, self._plugins = journal, plugins
        self._version, self._welcomed = version, welcomed
        self._loop = asyncio.get_running_loop()
        self.pump = Pump(machine, self._carry_out, self._fail)
        self._wake = self.pump.wake
        self._tasks: set[asyncio.Task[None]] = set()
        self._phases: dict[str, Progressed] = {}
        self._phases_timer: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()
        self._failure: asyncio.Future[None] = self._loop.create_future()
        journal.listen(self._settled, self._fail)

    @property
    def listener(self) -> Listener:
        """What the runner tells."""
        return Listener(progressed=self._progressed, tail=self._tail, ended=self._ended)

    def live(self, execution_id: str) -> bool:
        """Whether an execution is not over."""
        return execution_id in self.machine.state.runs

    def known(self, execution_id: str) -> bool:
        """Whether an execution is, or was, one of ours."""
        return self.live(execution_id) or execution_id in self.machine.state.finished

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, runner: Runner, serving: Serving) -> None:
        """Listen, take the journal up, and begin to pump."""
        self.runner, self.serving = runner, serving
        for subject in self.machine.subscriptions:
            await self._bus.subscribe(subject, self._message)
        await serving.start()
        self.changed(lambda machine, now: machine.begin(self._version, now))

    async def failed(self) -> None:
        """Return never; raise when the node cannot go on."""
        await asyncio.shield(self._failure)

    def link_up(self) -> None:
        """The connection stands, and its subscriptions are back."""
        self.machine.link_up(time.time_ns())
        self._wake()

    def link_down(self) -> None:
        """The connection is gone."""
        self.machine.link_down(time.time_ns())
        self._wake()

    def changed(self, change: Callable[[Compute, int], None]) -> None:
        """Tell the machine something."""
        change(self.machine, time.time_ns())
        self._wake()

    async def stop(self, grace_s: float) -> None:
        """End in good order: runs come to an end or are stopped, reports are delivered, the orchestrator is told.

        The node must have said before that it takes nothing new.
        """
        assert self.runner is not None, "started"
        await self.runner.stop(grace_s)
        await self._until(lambda: not self.machine.state.runs and not self.machine.state.reports, REPORTS_WAIT_S)
        self.changed(lambda machine, now: machine.leave(now))
        await self._until(self._left.is_set, LEAVE_WAIT_S)
        self.pump.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._phases_timer is not None:
            self._phases_timer.cancel()

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition() and self._bus.connected and time.monotonic() < deadline:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.01)

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Send():
                self._send(self._bus, action.subject, action.data, action.reply)
            case Append():
                self._journal.append(action.expected, action.data)
            case StartRun():
                assert self.runner is not None, "started"
                self.runner.start(action)
            case CancelRun():
                assert self.runner is not None, "started"
                self.runner.cancel(action.id, action.attempt)
            case MeasureInputs():
                self._spawn(self._measure(action.execution))
            case SayHello():
                self._spawn(self._hello(action))
            case Trim():
                self._spawn(self._journal.trim(action.before))
            case Note():
                write = log.warning if action.warning else log.debug if action.event in QUIET_NOTES else log.info
                write(action.event, reason=action.words)
            case Left():
                self._left.set()
            case Reload():
                self._spawn(self._reload(action))
            case Halt():
                raise errors.Conflict(f"another process writes this node's journal: {action.reason}")
            case _:
                assert_never(action)

    def _send(self, bus: Bus, subject: str, data: bytes, reply: str = "") -> None:
        try:
            bus.send(subject, data, reply=reply)
        except errors.BacalhauError as error:  # what matters is repeated
            log.debug("message.not_sent", subject=subject, reason=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.pump.stop()
        if not self._failure.done():
            self._failure.set_exception(error)

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _message(self, message: Message) -> None:
        self.machine.message(message, time.time_ns())
        self._wake()

    def _settled(self, outcome: Outcome) -> None:
        self.machine.settled(outcome, time.time_ns())
        self._wake()

    async def _reload(self, action: Reload) -> None:
        log.warning("journal.reloaded", reason=action.reason)
        loaded = await self._journal.load()
        self.machine.reloaded(loaded.state, loaded.chain)
        self._wake()

    async def _measure(self, execution: Execution) -> None:
        measured = await self._plugins.measure(execution)
        self.machine.measured(measured, time.time_ns())
        self._wake()

    async def _hello(self, action: SayHello) -> None:
        """Say what we hold. Nobody listens there: the orchestrator is Bacalhau's."""
        node = self.machine.node
        hello = m.Hello(node_id=node, version=self._version, live=list(action.live), unsent=list(action.unsent))
        welcome: m.Welcome | None = None
        for _ in range(HELLO_ATTEMPTS_MAX):
            try:
                answer = await self._bus.request(
                    subjects.from_node(node, "hello"), msgspec.json.encode(hello), timeout_s=HELLO_TIMEOUT_S
                )
                welcome = msgspec.json.decode(answer.data, type=m.Welcome)
                break
            except errors.TimedOut:
                continue
            except errors.Unavailable:
                if not self._bus.connected:
                    return  # the next session says it again
                break
            except (errors.BacalhauError, msgspec.MsgspecError) as error:
                log.warning("hello.failed", reason=str(error))
                return
        if welcome is not None and self.serving is not None:
            self.serving.keys = tuple(welcome.ticket_keys)
        self.machine.welcomed(welcome, time.time_ns())
        self._welcomed(welcome.cluster if welcome else "")
        self._wake()

    # ── what the runner tells ─────────────────────────────────────────────────────────────────────────────────────

    def _ended(self, ended: RunEnded) -> None:
        self._phases.pop(ended.id, None)
        self.machine.run_ended(ended, time.time_ns())
        self._wake()

    def _tail(self, execution_id: str, ending: Ending) -> None:
        if ending.bare and self.serving is not None:
            self.serving.ended_bare(execution_id, ending.record)
        if self.machine.own and (ending.stdout.data or ending.stderr.data) and not ending.told_whole:
            kept = m.KeptLog(
                stdout=ending.stdout.data,
                stderr=ending.stderr.data,
                stdout_offset=ending.stdout.offset,
                stderr_offset=ending.stderr.offset,
            )
            data = msgspec.json.encode(m.LogTail(execution_id=execution_id, log=kept))
            self._send(self._bulk, subjects.from_node(self.machine.node, "logtail"), data)

    def _progressed(self, progressed: Progressed) -> None:
        """Keep the newest; what has ended before it would have been told is not told at all."""
        self._phases[progressed.execution_id] = progressed
        if self._phases_timer is None and self.machine.own:
            self._phases_timer = self._loop.call_later(PHASES_EVERY_S, self._tell_phases)

    def _tell_phases(self) -> None:
        self._phases_timer = None
        for execution_id in list(self._phases)[:PHASES_AT_ONCE_MAX]:
            told = self._phases.pop(execution_id)
            phase = m.Phase(
                name=told.phase,
                since=told.since,
                what=told.what,
                done_bytes=told.done_bytes,
                total_bytes=told.total_bytes,
            )
            report = m.PhaseReport(execution_id=told.execution_id, job_id=told.job_id, phase=phase)
            subject = subjects.from_node(self.machine.node, "phase")
            self._send(self._bus, subject, msgspec.json.encode(report))
