"""The one loop: inputs wait, a batch is decided and folded, leaves as one record, and acts only when that is stored.

Used by the orchestrator, by the compute node and, through them, by the simulator. It has no I/O: `run` makes the next
batch, `settled` takes the append's outcome, `take` hands out what is to be done, in order::

    offer ─► queue ─► decide ─► fold ─► Append ══ in flight ══► settled(Stored) ─► Released (answers, effects)
                                                              ├ settled(Unknown) ─► the same bytes again, after a pause
                                                              ├ settled(Unavailable) ─► Refused, Reload
                                                              └ settled(Fenced) ─► Halt

One append is in flight at most, and nothing is decided meanwhile: the state runs ahead of the log by that batch only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from bacalhau_daemon.log.base import Fenced, Outcome, Stored, Unavailable, Unknown
from bacalhau_daemon.log.records import RECORD_BYTES_MAX, Chain, Codec, Record
from bacalhau_protocol import errors

BATCH_INPUTS_MAX = 256
REQUESTS_WAITING_MAX = 4096  # above it a client is told to try again
INPUTS_WAITING_MAX = 2 * REQUESTS_WAITING_MAX  # reports of nodes still pass where requests do not
PARKED_KEPT_MAX = 100
RETRY_FIRST_NS, RETRY_MAX_NS = 10_000_000, 500_000_000  # between appends of unknown outcome
REFUSED_FIRST_NS, REFUSED_MAX_NS = 100_000_000, 5_000_000_000  # before appending again after a refusal

S = TypeVar("S")
I = TypeVar("I")  # noqa: E741 - the input
E = TypeVar("E")
S_contra = TypeVar("S_contra", contravariant=True)


class Decision(msgspec.Struct, Generic[E], frozen=True):
    """What one input leads to: events, and what whoever asked gets once they are stored."""

    events: Sequence[E] = ()
    answer: Any = None


class Rules(Protocol[S_contra, I, E]):
    """The vocabulary that a loop runs on. All four are pure, but for `fold`, which changes the state it is given."""

    def decide(self, state: S_contra, item: I, now: int) -> Decision[E]:
        """Decide one input; never mutates. A `BacalhauError` is a refusal and becomes the answer."""
        ...

    def fold(self, state: S_contra, event: E, n: int, at: int) -> None:
        """Change the state by event number `n` of a record made at `at`. Total; uses only its arguments."""
        ...

    def follow(self, state: S_contra, events: Sequence[E]) -> Iterable[I]:
        """Return inputs that a decision calls for, whose events (perhaps none) have just been folded.

        Hashable: equal ones are decided once, at the end of the batch.
        """
        ...

    def answerable(self, item: I) -> bool:
        """Whether somebody waits for an answer, so that it is refused, not offered again, when the log is closed."""
        ...


class Decided(msgspec.Struct, Generic[I], frozen=True):
    """One input of a batch and what whoever asked gets: a value, a `BacalhauError`, or None."""

    item: I
    answer: Any


class Append(msgspec.Struct, frozen=True):
    """Append these bytes as record `expected` + 1 and report the outcome to `settled`."""

    expected: int
    data: bytes


class Released(msgspec.Struct, Generic[I, E], frozen=True):
    """A batch that may act now. `record` is None when its inputs led to no event."""

    record: Record[E] | None
    data: bytes
    decided: Sequence[Decided[I]]


class Refused(msgspec.Struct, Generic[I], frozen=True):
    """Inputs that will not be decided: each gets this error. Only those that are answerable."""

    items: Sequence[I]
    error: errors.BacalhauError


class Reload(msgspec.Struct, frozen=True):
    """The state ran ahead of the log: build it again from the log, then call `reloaded`."""

    reason: str


class Halt(msgspec.Struct, frozen=True):
    """Another writer leads: stop the process with these words."""

    reason: str


class Parked(msgspec.Struct, frozen=True):
    """An input whose decision raised: a bug of ours, kept to be shown."""

    at: int
    what: str
    error: str


class _Flight(msgspec.Struct, Generic[I, E]):
    record: Record[E]
    data: bytes
    after: Chain
    decided: list[Decided[I]]
    retry_at: int = 0  # 0: an append is with the log now
    pause_ns: int = RETRY_FIRST_NS


class Loop(Generic[S, I, E]):
    """The batcher. `state` is the fold of the log up to `chain`, ahead of it by the batch in flight."""

    def __init__(
        self, rules: Rules[S, I, E], codec: Codec[E], state: S, chain: Chain, *, cluster: str, by: str, term: int = 0
    ) -> None:
        self.rules, self.codec = rules, codec
        self.state, self.chain = state, chain
        self.cluster, self.by, self.term = cluster, by, term
        self.parked: deque[Parked] = deque(maxlen=PARKED_KEPT_MAX)
        self.parked_count = 0
        self.halted = False
        self._queue: deque[I] = deque()
        self._woken: dict[I, None] = {}
        self._offered_only = False  # in the next batch: what woke an input that cannot be folded must get past it
        self._flight: _Flight[I, E] | None = None
        self._reloading = False
        self._hold_until = 0
        self._refused_pause_ns = REFUSED_FIRST_NS
        self._refusal = errors.Unavailable("the log takes nothing")
        self._at = 0
        self._out: list[Append | Released[I, E] | Refused[I] | Reload | Halt] = []

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def offer(self, item: I) -> None:
        """Queue an input. Raises `Busy` when too many wait."""
        limit = REQUESTS_WAITING_MAX if self.rules.answerable(item) else INPUTS_WAITING_MAX
        if self.halted:
            raise errors.Unavailable("this orchestrator does not lead any more", hint="try again in a moment")
        if len(self._queue) >= limit:
            raise errors.Busy(f"{limit} inputs wait already", hint="try again in a moment")
        self._queue.append(item)

    def wake(self, item: I) -> None:
        """Have an input of our own decided at the end of the next batch; equal ones are decided once."""
        self._woken[item] = None

    @property
    def waiting(self) -> int:
        """How many inputs are queued."""
        return len(self._queue)

    @property
    def busy(self) -> bool:
        """Whether an append is in flight, so that nothing is decided now."""
        return self._flight is not None

    def next_run(self) -> int | None:
        """Return when `run` has something to do (ns since the epoch; 0: now), None when only `settled` can tell."""
        if self.halted or self._reloading:
            return None
        if self._flight is not None:
            return self._flight.retry_at or None
        return self._hold_until if self._queue or self._woken else None

    def take(self) -> list[Append | Released[I, E] | Refused[I] | Reload | Halt]:
        """Return what is to be done now, in order, and forget it."""
        out, self._out = self._out, []
        return out

    # ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────

    def run(self, now: int) -> bool:
        """Make a batch, unless one is in flight, nothing waits, or something is to be taken first: call it again then.

        Return whether there is something to take.

        What was released acts on the state as it was stored, so nothing is decided before it has been taken.
        """
        if self._flight is not None:
            self._repeat(self._flight, now)
        elif now < self._hold_until:
            self._refuse_waiting()
        elif (self._queue or self._woken) and self._may_run():
            self._batch(now)
        return bool(self._out)

    def _may_run(self) -> bool:
        return not (self._out or self.halted or self._reloading)

    def _refuse_waiting(self) -> None:
        """Say at once to whoever asks between two tries to append that the log takes nothing."""
        items = [item for item in self._queue if self.rules.answerable(item)]
        if items:
            self._queue = deque(item for item in self._queue if not self.rules.answerable(item))
            self._out.append(Refused(items, self._refusal))

    def _repeat(self, flight: _Flight[I, E], now: int) -> None:
        if flight.retry_at and now >= flight.retry_at:
            flight.retry_at = 0
            self._out.append(Append(flight.record.n - 1, flight.data))

    def _batch(self, now: int) -> None:
        now = self._at = max(now, self._at)  # a clock that jumps back never shows in the log
        decided: list[Decided[I]] = []
        events: list[E] = []
        encoded: list[bytes] = []
        size, count = 0, 0
        woken_too, self._offered_only = not (self._offered_only and self._queue), False
        while count < BATCH_INPUTS_MAX and size < RECORD_BYTES_MAX and (self._queue or (woken_too and self._woken)):
            item = self._queue.popleft() if self._queue else self._pop_woken()
            count += 1
            decision = self._decide(item, now)
            decided.append(Decided(item, decision.answer))
            try:
                for event in decision.events:
                    self.rules.fold(self.state, event, self.chain.event + len(events) + 1, now)
                    events.append(event)
                for woken in self.rules.follow(self.state, decision.events):
                    self._woken[woken] = None
            except Exception as error:  # the state is half changed: only the log knows the truth now
                self._abandon(decided, self._park(item, error, now))
                return
            for event in decision.events:
                encoded.append(self.codec.encode_event(event))
                size += len(encoded[-1]) + 1
        self._send(events, encoded, decided, now)

    def _pop_woken(self) -> I:
        item = next(iter(self._woken))
        del self._woken[item]
        return item

    def _decide(self, item: I, now: int) -> Decision[E]:
        try:
            return self.rules.decide(self.state, item, now)
        except errors.BacalhauError as refusal:
            return Decision((), refusal)
        except Exception as error:
            return Decision((), self._park(item, error, now))

    def _park(self, item: I, error: Exception, now: int) -> errors.Internal:
        what, why = describe(item), f"{type(error).__name__}: {error} ({_place(error)})"
        self.parked.append(Parked(now, what, why))
        self.parked_count += 1
        return errors.Internal(f"this could not be decided: {why}", place=what, hint="please report this bug")

    def _send(self, events: list[E], encoded: list[bytes], decided: list[Decided[I]], now: int) -> None:
        if not events:
            self._out.append(Released(None, b"", decided))
            return
        record, data, after = self.codec.seal(
            self.chain,
            events,
            cluster=self.cluster,
            term=self.term,
            at=now,
            cause=_cause(decided),
            by=self.by,
            encoded=encoded,
        )
        self._flight = _Flight(record, data, after, decided)
        self._out.append(Append(record.n - 1, data))

    def _abandon(self, decided: list[Decided[I]], error: errors.Internal) -> None:
        """Give up a batch in which a fold raised: its last input is parked, the others are decided again."""
        bad = decided.pop()
        self._out.append(Released(None, b"", [Decided(bad.item, error)]))
        self._queue.extendleft(one.item for one in reversed(decided))
        self._offered_only = True
        self._reload(f"{describe(bad.item)} could not be folded: {error.message}")

    # ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def settled(self, outcome: Outcome, now: int) -> None:
        """Take the outcome of the append in flight."""
        flight = self._flight
        assert flight is not None, "an outcome belongs to an append"
        match outcome:
            case Stored():
                self._flight = None
                self.chain = flight.after
                self._refused_pause_ns = REFUSED_FIRST_NS
                self._out.append(Released(flight.record, flight.data, flight.decided))
            case Unknown():
                flight.retry_at = now + flight.pause_ns
                flight.pause_ns = min(flight.pause_ns * 2, RETRY_MAX_NS)
            case Unavailable():
                self._flight = None
                self._refuse(flight.decided, outcome.reason, now)
            case Fenced():
                self._flight = None
                self._halt([one.item for one in flight.decided], outcome.reason)

    def _refuse(self, decided: list[Decided[I]], reason: str, now: int) -> None:
        answerable = self.rules.answerable
        items = [one.item for one in decided]
        self._refusal = errors.Unavailable(
            f"the log could not store this: {reason}", hint="free some space, then try again"
        )
        self._out.append(Refused([item for item in items if answerable(item)], self._refusal))
        self._queue.extendleft(item for item in reversed(items) if not answerable(item))
        self._hold_until = now + self._refused_pause_ns
        self._refused_pause_ns = min(self._refused_pause_ns * 2, REFUSED_MAX_NS)
        self._reload(reason)

    def _halt(self, items: list[I], reason: str) -> None:
        self.halted = True
        error = errors.Unavailable("another orchestrator leads now", hint="try again in a moment")
        waiting = [item for item in [*items, *self._queue] if self.rules.answerable(item)]
        self._queue.clear()
        self._woken.clear()
        self._out += [Refused(waiting, error), Halt(reason)]

    def _reload(self, reason: str) -> None:
        self._reloading = True
        self._out.append(Reload(reason))

    def reloaded(self, state: S, chain: Chain) -> None:
        """Take the state as the log has it, and go on."""
        assert self._reloading, "nobody asked for the state"
        self.state, self.chain = state, chain
        self._reloading = False


def describe(item: object) -> str:
    """Return an input in one short line, for people: its `what` if it has one, else its type's name."""
    what = getattr(item, "what", None)
    return what if isinstance(what, str) else type(item).__name__


def _cause(decided: list[Decided[Any]]) -> str:
    return describe(decided[0].item) if len(decided) == 1 else f"{len(decided)} inputs"


def _place(error: Exception) -> str:
    trace = error.__traceback__
    if trace is None:
        return "nowhere"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
