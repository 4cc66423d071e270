"""The orchestrator, without I/O: messages, requests and time go in, actions come out.

::

    machine = Orchestrator(settings, restored, ids)      # `restored` has read the log
    machine.lead(now, …)                                 # a term begins; its record is the first action
    machine.message(message, now) · machine.request(request, now) · machine.tick(now)
    for action in machine.actions(now): …                # carry out, in order; call after every input
    machine.settled(outcome, now)                        # of each `Append`
    machine.applied(event)                               # how far the query side has got

Only a leader acts: before its first record is stored nothing else is decided, and once fenced it only says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bacalhau_daemon.core.actions import Action, Answer, Disconnect, LookUp
from bacalhau_daemon.core.context import Context, Disk, Ids
from bacalhau_daemon.core.decide.deadlines import Returned
from bacalhau_daemon.core.decide.nodes import Accepted, Rejected, Wanted
from bacalhau_daemon.core.decide.reports import Stray
from bacalhau_daemon.core.effects import Effects
from bacalhau_daemon.core.events import CODEC, AnyEvent
from bacalhau_daemon.core.feed import Feed
from bacalhau_daemon.core.inputs import CheckNode, Handshake, InfoChange, Inventory, Item, Lead, Reported
from bacalhau_daemon.core.link import NodeLink
from bacalhau_daemon.core.loop import Append, Decided, Halt, Loop, Refused, Released, Reload
from bacalhau_daemon.core.policy import POLICY, Policy
from bacalhau_daemon.core.projection import Restored, project
from bacalhau_daemon.core.queries import Queries
from bacalhau_daemon.core.requests import Request, lookup_of
from bacalhau_daemon.core.rules import OrchestratorRules
from bacalhau_daemon.core.state import State
from bacalhau_daemon.log.base import Outcome
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.ncl.bundles import gather
from bacalhau_protocol.ncl.events import Ignored, Incoming, OrchestratorOutput, Send
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.ncl.timings import FOREIGN, OWN, Timings


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Who the orchestrator is. `inbox` is a subject prefix that no earlier process has used."""

    node: str
    version: str
    inbox: str
    ticket_keys: tuple[str, ...] = ()
    policy: Policy = POLICY
    own: Timings = OWN
    foreign: Timings = FOREIGN


class Orchestrator:
    """The machine."""

    def __init__(self, settings: Settings, restored: Restored, ids: Ids) -> None:
        self.settings = settings
        self.context = Context(ids, settings.policy)
        self.rules = OrchestratorRules(self.context)
        state = restored.state
        self._loop: Loop[State, Item, AnyEvent] = Loop(
            self.rules,
            CODEC,
            state,
            restored.chain,
            cluster=state.cluster,
            by=settings.node,
            term=state.term,
        )
        sessions = OrchestratorSessions(settings.inbox, own=settings.own, foreign=settings.foreign)
        self.effects = Effects(sessions)
        self.feed = Feed()
        self.link = NodeLink(sessions, self.rules, self._loop, self.feed)
        self.queries = Queries(self.context, self._loop, settings.node, settings.version)
        self.leading = False
        self._out: list[Action] = []
        self.context.recall.forgotten = state.event

    @property
    def state(self) -> State:
        """The state; it runs ahead of the log by the batch in flight. To be read only."""
        return self._loop.state

    @property
    def loop(self) -> Loop[State, Item, AnyEvent]:
        """The batcher; to be read only."""
        return self._loop

    @property
    def position(self) -> int:
        """The number of the last event that is stored."""
        return self._loop.chain.event

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What to subscribe to before leading, beside the client API: `message` takes what comes."""
        return self.link.subscriptions

    # ── inputs ────────────────────────────────────────────────────────────────────────────────────────────────────

    def lead(self, now: int, *, cluster: str = "", admin: str = "", admin_sha256: str = "") -> None:
        """Begin a term. An empty log needs the cluster's name and its first credential: identity and hash."""
        state, loop = self.state, self._loop
        loop.cluster = state.cluster or cluster
        loop.term = state.term + 1
        loop.offer(
            Lead(
                term=loop.term,
                node=self.settings.node,
                version=self.settings.version,
                create=cluster,
                admin=admin,
                admin_sha256=admin_sha256,
            )
        )

    def message(self, message: Incoming, now: int) -> None:
        """Take a message on one of `subscriptions`."""
        if not self._loop.halted:
            self._out += self.link.message(message, now)

    def request(self, request: Request, now: int) -> None:
        """Take a client's request: a write, or a read that only the core can answer."""
        recall = self.context.recall
        lookup = lookup_of(request)
        if lookup is not None and recall.forgotten:
            found = request.found
            if found is None or found.as_of < recall.forgotten:
                self._out.append(LookUp(request, lookup))
                return
        if not api.VERBS[request.verb].write or _is_dry_run(request):
            self._read(request, now)
            return
        try:
            self._loop.offer(request)
        except errors.BacalhauError as refusal:
            self._answer(request, refusal)
            return
        recall.begin(_as_of(request))

    def tick(self, now: int) -> None:
        """Do what is due. Call at `next_tick`."""
        if self._loop.halted:
            return
        self._out += self.link.take(self.link.sessions.tick(now), now)
        for item in self.context.timers.due(now):
            self._loop.wake(item)
        self.rules.prune(self.state)

    def next_tick(self) -> int | None:
        """Return when `tick` and `actions` are next worth calling (ns since the epoch); None: not before an input."""
        soonest = self.feed.next() if self.leading else None
        for due in (self.link.sessions.next_tick(), self.context.timers.next(), self._loop.next_run() or None):
            if due is not None and (soonest is None or due < soonest):
                soonest = due
        return soonest

    def settled(self, outcome: Outcome, now: int) -> None:
        """Take the outcome of the append in flight."""
        self._loop.settled(outcome, now)

    def reloaded(self, restored: Restored) -> None:
        """Take the state as the log has it, after a `Reload`."""
        self.context.recall.rollback(restored.chain.event)
        for item in self.rules.rebuild(restored.state):
            self._loop.wake(item)
        self._loop.reloaded(restored.state, restored.chain)

    def applied(self, event: int) -> None:
        """Take note that the query side has everything up to an event."""
        self.context.recall.applied(event)

    def disk(self, disk: Disk) -> None:
        """Take note of what is free on the log's disk."""
        self.context.disk = disk

    def advertise(self, address: str, fingerprint: str = "") -> None:
        """Take note of where nodes reach the bus, for join tokens."""
        self.context.address, self.context.fingerprint = address, fingerprint

    # ── actions ───────────────────────────────────────────────────────────────────────────────────────────────────

    def actions(self, now: int) -> list[Action]:
        """Decide what waits and return what is to be done, in order."""
        loop = self._loop
        while loop.run(now):
            for step in loop.take():
                self._step(step, now)
        if self.leading and now >= self.feed.next():
            self._out += self._flush(now)
        out, self._out = self._out, []
        out += self.link.complaints.take(now)
        return gather(out)

    def _step(self, step: Append | Released[Item, AnyEvent] | Refused[Item] | Reload | Halt, now: int) -> None:
        match step:
            case Released():
                self._release(step, now)
            case Refused():
                for item in step.items:
                    self._refuse(item, step.error)
            case Halt():
                self.leading = False
                self._out.append(step)
            case Append() | Reload():
                self._out.append(step)

    def _release(self, released: Released[Item, AnyEvent], now: int) -> None:
        state, record = self.state, released.record
        outputs: list[OrchestratorOutput | Disconnect] = []
        if record is not None:
            self._note_rows(state, now)
            outputs += self.effects.of_record(state, record, now)
            changed = project(state, record, released.data)
            for j in changed.forgotten_jobs:
                self.context.recall.keep_job(record.last_event, changed.jobs[j])
            for execution in changed.executions.values():
                self.link.remember(execution)
            self._out.append(changed)
        for decided in released.decided:
            outputs += self._answered(decided, now)
        self._out += self.link.take(outputs, now)

    def _note_rows(self, state: State, now: int) -> None:
        dirty, feed = state.dirty, self.feed
        for j, seq in dirty.jobs.items():
            feed.job(seq, state.jobs[j], now)
        for x, seq in dirty.executions.items():
            execution = state.executions[x]
            feed.execution(seq, execution, now)
            feed.node(seq, execution.node)
        for node, seq in dirty.nodes.items():
            feed.node(seq, node)

    def _answered(self, decided: Decided[Item], now: int) -> Sequence[OrchestratorOutput]:
        """Pass on what an input led to, beside its events."""
        item, answer = decided.item, decided.answer
        match item:
            case Request():
                self.context.recall.end(_as_of(item))
                self._remember_secret(item, answer)
                self._answer(item, answer)
            case Reported():
                out = self.link.sessions.persisted(item.delivery)
                return [*self.effects.of_stray(self.state, answer, now), *out] if isinstance(answer, Stray) else out
            case Handshake() if isinstance(answer, Accepted | Rejected):
                return self.effects.of_handshake(self.state, item, answer, now)
            case InfoChange() if isinstance(answer, Ignored):
                return [answer]
            case Inventory() if isinstance(answer, Wanted):
                welcome = self.effects.welcome(self.state, self.settings.ticket_keys, answer)
                return [Send(item.reply, msgspec.json.encode(welcome))]
            case CheckNode() if isinstance(answer, Returned):
                return self.effects.tell_ends(self.state, answer.node, now, lost_too=True)
            case Lead():
                self.leading = True
            case _:
                pass
        return ()

    def _remember_secret(self, request: Request, answer: object) -> None:
        """Keep the whole answer for a while: the log does not have the secret, and the reply may get lost."""
        if isinstance(answer, api.CredentialIssued | api.NodeInvited) and request.id:
            self.context.recall.keep_answer(self.position, (request.user, request.id), answer)

    def _refuse(self, item: Item, error: errors.BacalhauError) -> None:
        assert isinstance(item, Request), "only requests are refused; the rest is offered again"
        self.context.recall.end(_as_of(item))
        self._answer(item, error)

    def _answer(self, request: Request, result: api.Body | errors.BacalhauError) -> None:
        self._out.append(Answer(request, result, self.position))

    def _read(self, request: Request, now: int) -> None:
        try:
            result: api.Body | errors.BacalhauError = self.queries.answer(request, now)
        except errors.BacalhauError as error:
            result = error
        self._answer(request, result)

    def _flush(self, now: int) -> list[Send]:
        feed = self.feed
        nodes = {node: self.queries.node_state(node) for node in feed.due_nodes(now) if node in self.state.nodes}
        phases = {key: heard.phase for key, heard in self.context.heard.items()} if self.context.heard else {}
        return feed.flush(now, phases, nodes) + feed.tick(now, self.state.term, self.position)


def _is_dry_run(request: Request) -> bool:
    return isinstance(request.body, api.JobSubmit) and request.body.dry_run


def _as_of(request: Request) -> int:
    """Return the event up to which the request's look-up has seen."""
    return request.found.as_of if request.found is not None else 0
