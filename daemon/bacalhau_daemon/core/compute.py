"""The compute node: a machine without I/O. Offers are answered, runs are started and stopped, reports are delivered.

::

    message ─► session (NCL) ─► CommandReceived ─► loop ─► events ══ journal ══► Released ─► report, StartRun, CancelRun
                                    run_ended ─►                                     └─► acknowledgement

Nothing leaves before what it rests on is in the journal: no offer, no start, no report, no acknowledgement. A report
stays in the state until the orchestrator has stored it, and is sent again at each new session; so work that ends while
the node is cut off is told on return. `StartRun` is given once per execution, attempt and process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import structs

from bacalhau_daemon.core import compute_actions as act
from bacalhau_daemon.core import compute_bid, compute_reports
from bacalhau_daemon.core.compute_actions import Action
from bacalhau_daemon.core.compute_bid import Measured, Offer
from bacalhau_daemon.core.compute_events import (
    CODEC,
    BidApproved,
    BidPlaced,
    BidRefused,
    ComputeEvent,
    ExecutionCancelled,
    ExecutionFinished,
    JournalSnapshot,
    NodeStarted,
    RoomFound,
    RunRepeated,
    Stage,
)
from bacalhau_daemon.core.compute_rules import (
    BID_LIFE_NS,
    Began,
    ComputeRules,
    FindRoom,
    Input,
    Misread,
    Ordered,
    RunEnded,
    Settled,
    TakeSnapshot,
    Unwanted,
    WithdrawBids,
)
from bacalhau_daemon.core.compute_state import ComputeState
from bacalhau_daemon.core.loop import Append, Halt, Loop, Refused, Released, Reload
from bacalhau_daemon.log.base import Outcome
from bacalhau_daemon.log.records import Chain
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import Welcome
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.ncl import messages as ncl
from bacalhau_protocol.ncl.bundles import Outbox
from bacalhau_protocol.ncl.compute import ComputeSession
from bacalhau_protocol.ncl.events import (
    CommandReceived,
    ComputeOutput,
    DeliveryConfirmed,
    DeliveryRefused,
    Ignored,
    Incoming,
    Malformed,
    Send,
    SessionClosed,
    SessionLost,
    SessionOpened,
)
from bacalhau_protocol.ncl.timings import NEVER, OWN, Timings

SNAPSHOT_AFTER_BYTES = 4 * 1024 * 1024  # of journal since the last snapshot, beyond the snapshot's own size
WITHDRAW_EVERY_NS = 60 * 1_000_000_000
SETTLE_WITHIN_NS, SETTLE_AT_ONCE_MAX = 200_000_000, 256


class Compute:
    """One node.

    Parameters
    ----------
    state, chain, journal_bytes
        What the journal held when it was read, and how long it was.
    info
        What the node says of itself; free capacity and counts are filled in here.
    inbox
        A subject prefix of this process alone, for answers (see `ComputeSession`).
    """

    def __init__(
        self,
        node: str,
        state: ComputeState,
        chain: Chain,
        *,
        info: NodeInfo,
        offer: Offer,
        check: compute_bid.Check,
        inbox: str,
        started_at: int,
        jitter: Callable[[], float],
        journal_bytes: int = 0,
        timings: Timings = OWN,
    ) -> None:
        self.node = node
        self.rules = ComputeRules(offer, check)
        self.loop: Loop[ComputeState, Input, ComputeEvent] = Loop(
            self.rules, CODEC, state, chain, cluster=f"node {node}", by=node
        )
        self.own = True  # the orchestrator is one of ours; known once it has welcomed us, or nobody has
        self._info = self._described = info
        self._described_for: object = None
        self.session = ComputeSession(
            node, inbox, self.describe(), started_at=started_at, jitter=jitter, timings=timings
        )
        self._begun: dict[str, int] = {}  # execution → attempt that the shell was given
        self._measuring: dict[str, Ordered] = {}
        self._journal_bytes = journal_bytes  # since the last snapshot
        self._snapshot_bytes = 0
        self._open_since: int | None = None
        self._confirmed_seqs: list[int] = []  # of reports that the orchestrator has stored
        self._settle_at = NEVER
        self._outbox = Outbox()
        self._withdraw_at = started_at + WITHDRAW_EVERY_NS
        self._now = started_at
        self._out: list[Action] = []

    @property
    def state(self) -> ComputeState:
        """The fold of the journal, ahead of it by the batch in flight."""
        return self.loop.state

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to subscribe to before `link_up`."""
        return self.session.subscriptions

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, version: str, now: int) -> None:
        """Take the journal up: what was started before is handed to the shell again, to be found or lost."""
        self._put(Began(version), now)

    def link_up(self, now: int) -> None:
        """The connection stands (again), and everything is subscribed."""
        self.session.describe(self.describe(), now)
        self._heard(self.session.link_up(now), now)

    def link_down(self, now: int) -> None:
        """The connection is gone."""
        self._heard(self.session.link_down(now), now)

    def message(self, message: Incoming, now: int) -> bool:
        """Take a message from any of the subscriptions; False: nothing came of it, `actions` need not be asked."""
        heard = self.session.message(message, now)
        if not heard:
            return False
        self._heard(heard, now)
        return True

    def measured(self, measured: Measured, now: int) -> None:
        """Take the answer to `MeasureInputs`."""
        ordered = self._measuring.pop(measured.id, None)
        if ordered is not None:
            self._put(structs.replace(ordered, measured=measured), now)

    def run_ended(self, ended: RunEnded, now: int) -> None:
        """Take the end of a run."""
        self._put(ended, now)

    def welcomed(self, welcome: Welcome | None, now: int) -> None:
        """Take the answer to `SayHello`; None: nobody listens there."""
        self.own = welcome is not None
        self.rules.queueing = not self.own
        if self.own:
            self.session.bundle()
        for id_ in welcome.forget if welcome else ():
            self._put(Unwanted(id_), now)

    def offer_changed(self, offer: Offer, info: NodeInfo, now: int) -> None:
        """Take what the node can do now."""
        self.rules.offer = offer
        self._info = info
        if self.state.queue:
            self.loop.wake(FindRoom())
        self._heard(self.session.describe(self.describe(), now), now)

    def leave(self, now: int, reason: str = "") -> None:
        """Give notice of our shutdown; `Left` follows."""
        self._settle()
        self._heard(self.session.leave(now, reason), now)

    def tick(self, now: int) -> None:
        """Do what is due."""
        self._heard(self.session.describe(self.describe(), now) + self.session.tick(now), now)
        if now >= self._settle_at:
            self._settle()
        if now >= self._withdraw_at:
            self._withdraw_at = now + WITHDRAW_EVERY_NS
            if self._open_since is not None and now - self._open_since > BID_LIFE_NS:
                self.loop.wake(WithdrawBids(now - BID_LIFE_NS))

    def settled(self, outcome: Outcome, now: int) -> None:
        """Take the outcome of an `Append`."""
        self._now = now
        self.loop.settled(outcome, now)
        self._drain()

    def reloaded(self, state: ComputeState, chain: Chain) -> None:
        """Take the state as the journal has it, after `Reload`."""
        self.loop.reloaded(state, chain)

    # ── outputs ───────────────────────────────────────────────────────────────────────────────────────────────────

    def actions(self, now: int) -> list[Action]:
        """Return what is to be done now, in order."""
        self._now = now
        while self.loop.run(now):
            self._drain()
        out, self._out = self._out, []
        return self._outbox.gather(out, now)

    def next_tick(self) -> int | None:
        """Return when `tick` and `actions` have something to do, if nothing else comes; 0: now."""
        session, run = self.session.next_tick(), self.loop.next_run()
        soonest = min(self._withdraw_at, self._settle_at, self._outbox.due)
        if session is not None and session < soonest:
            soonest = session
        return soonest if run is None else min(run, soonest)

    def describe(self) -> NodeInfo:
        """Return what the node says of itself now; the same object for as long as it is the same."""
        state = self.loop.state
        basis = (state, state.event, self.rules.offer, self._info)
        if basis != self._described_for:
            self._described_for, self._described = basis, compute_bid.describe(self._info, self.rules.offer, state)
        return self._described

    # ── the session ───────────────────────────────────────────────────────────────────────────────────────────────

    def _heard(self, outputs: Iterable[ComputeOutput], now: int) -> None:
        self._now = now
        for output in outputs:
            match output:
                case Send():
                    self._out.append(output)
                case CommandReceived():
                    self._command(output, now)
                case DeliveryConfirmed(tag=int(seq)):
                    self._confirmed(seq, now)
                case DeliveryRefused(tag=int(seq), reason=reason):
                    self._note("report.refused", reason, warning=True)
                    self._put(Settled(seq, reason), now)
                case SessionOpened():
                    self._opened(output, now)
                case SessionLost():
                    self._open_since = None
                    self._note("session.lost", output.reason, warning=True)
                case SessionClosed():
                    self._open_since = None
                    self._out.append(act.Left())
                case Malformed():
                    self._note("command.malformed", f"{output.type or 'message'}: {output.words}", warning=True)
                    self._put(Misread(output.execution_id, output.job_id, output.job_type, output.words), now)
                case Ignored():
                    self._note("message.ignored", output.words)
                case _:
                    raise AssertionError(f"{output} is not for a compute node")

    def _confirmed(self, seq: int, now: int) -> None:
        """Forget a report that is stored, with the next record: until then it would be told once more, no harm done.

        A bid needs no record of that: what is done with it will say so.
        """
        report = self.state.reports.get(seq)
        if report is not None and report.kind != "bid":
            if not self._confirmed_seqs:
                self._settle_at = now + SETTLE_WITHIN_NS
            self._confirmed_seqs.append(seq)
            if len(self._confirmed_seqs) >= SETTLE_AT_ONCE_MAX:
                self._settle()

    def _settle(self) -> None:
        seqs, self._confirmed_seqs, self._settle_at = self._confirmed_seqs, [], NEVER
        for seq in seqs:
            self._offer(Settled(seq))

    def _opened(self, opened: SessionOpened, now: int) -> None:
        self._open_since = now
        self._note("session.opened", opened.reason)
        runs = self.state.runs
        self._out.append(act.SayHello(tuple(runs), tuple(id_ for id_ in self.state.report_of if id_ not in runs)))
        for n in list(self.state.reports):
            self._tell(n)

    def _command(self, received: CommandReceived, now: int) -> None:
        ordered = Ordered(received.command, received.delivery)
        if isinstance(received.command, ncl.AskForBid):
            execution = received.command.execution
            if execution is not None and execution.id in self._measuring:
                self._heard(self.session.persisted(received.delivery), now)
                return
            if execution is not None and compute_bid.worth_measuring(execution, self.state):
                self._measuring[execution.id] = ordered
                self._out.append(act.MeasureInputs(execution))
                return
        self._put(ordered, now)

    def _tell(self, n: int) -> None:
        """Send the report of event `n` if it is stored, still owed, and there is a session."""
        report = self.state.reports.get(n)
        if report is not None and n <= self.loop.chain.event:
            self._heard(self.session.report(compute_reports.to_ncl(report), seq=n, tag=n, now=self._now), self._now)

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, item: Input, now: int) -> None:
        self._now = now
        self._settle()
        self._offer(item)

    def _offer(self, item: Input) -> None:
        try:
            self.loop.offer(item)
        except errors.BacalhauError as error:  # a command is not acknowledged then, and comes again
            self._note("input.dropped", str(error), warning=True)

    def _drain(self) -> None:
        for item in self.loop.take():
            match item:
                case Released():
                    self._released(item)
                case Append() | Reload() | Halt():
                    self._out.append(item)
                case Refused():
                    pass  # nothing of ours is answerable

    def _released(self, released: Released[Input, ComputeEvent]) -> None:
        if released.record is not None:
            self._journal_bytes += len(released.data)
            for n, event in enumerate(released.record.events, released.record.first_event):
                self._effect(event, n, released.record.n, len(released.data))
            if self._journal_bytes > SNAPSHOT_AFTER_BYTES + self._snapshot_bytes:
                self.loop.wake(TakeSnapshot())
        for decided in released.decided:
            if isinstance(decided.answer, errors.BacalhauError):
                self._note("input.failed", str(decided.answer), warning=True)
            if isinstance(decided.item, Ordered) and decided.item.delivery is not None:
                self._heard(self.session.persisted(decided.item.delivery), self._now)

    def _effect(self, event: ComputeEvent, n: int, record: int, size_bytes: int) -> None:
        match event:
            case BidPlaced() if event.direct:
                self._start(event.execution.id)
            case BidApproved() | RoomFound() | RunRepeated():
                self._start(event.id)
            case BidPlaced() | BidRefused():
                self._tell(n)
            case ExecutionFinished():
                self._begun.pop(event.id, None)
                self._tell(n)
            case ExecutionCancelled():
                self._cancel(event.id)
            case NodeStarted():
                for run in self.state.stages(Stage.STARTED):
                    self._start(run.id, resumed=True)
                for run in self.state.stages(Stage.CANCELLING):
                    self._begun[run.id] = run.attempt
                    self._out.append(act.CancelRun(run.id, run.attempt))
            case JournalSnapshot():
                self._journal_bytes, self._snapshot_bytes = 0, size_bytes
                self._out.append(act.Trim(record))

    def _start(self, id_: str, *, resumed: bool = False) -> None:
        run = self.state.runs.get(id_)
        if run is None or run.stage is not Stage.STARTED or self._begun.get(id_) == run.attempt:
            return
        self._begun[id_] = run.attempt
        self._out.append(act.StartRun.of(run, keep_results=self.own, resumed=resumed))

    def _cancel(self, id_: str) -> None:
        run = self.state.runs.get(id_)
        if run is None or run.stage is not Stage.CANCELLING:
            return
        if id_ in self._begun:
            self._out.append(act.CancelRun(id_, run.attempt))
        else:  # approved and cancelled in one breath: the shell never heard of it
            self._put(RunEnded(id=id_, attempt=run.attempt, cancelled=True), self._now)

    def _note(self, event: str, words: str, *, warning: bool = False) -> None:
        self._out.append(act.Note(event, words, warning))
