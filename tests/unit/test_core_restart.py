"""The log is the truth: restarts, refused and doubtful appends, older terms, and what must hold of the state."""

from __future__ import annotations

import random

import msgspec
import pytest
from msgspec.structs import replace

from bacalhau_daemon.core import actions as act
from bacalhau_daemon.core import fold
from bacalhau_daemon.core.events import CODEC, ClusterCreated, Connection, JobStopped, JobSubmitted, LeaderStarted
from bacalhau_daemon.core.fold import apply_record
from bacalhau_daemon.core.indexes import put_execution, put_job
from bacalhau_daemon.core.invariants import Broken, check
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.core.state import State, Status
from bacalhau_daemon.log.base import Fenced, Unavailable, Unknown
from bacalhau_daemon.log.memory import Fault, MemoryLog, Plan
from bacalhau_daemon.testing import SECOND, World, a_job
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.models.states import JobStateType


def digest(state: State) -> dict[str, object]:
    """Return everything of a state that a restart must bring back."""
    return {
        "cluster": state.cluster_state(),
        "jobs": state.jobs,
        "executions": state.executions,
        "nodes": state.nodes,
        "credentials": state.credentials,
    }


def busy_world(log: MemoryLog | None = None) -> World:
    """Return a world in which something of everything is going on."""
    world = World(log=log)
    for name in ("n-1", "n-2"):
        world.join(name, cpu=2.0)
    world.ask("node.invite", api.NodeInvite(name="n-9"))
    world.submit(a_job("done"))
    world.run_to_end(world.executions(world.rows.jobs[1].id)[0].node)
    world.submit(a_job("running", count=2))
    for each in world.executions(world.rows.jobs[2].id):
        world.bid(world.offered(each.node))
    world.acknowledging = False
    world.stop(world.submit(a_job("stopped")))
    world.acknowledging = True
    world.submit(a_job("waiting", cpu="2", count=3))
    world.advance(1)
    return world


def test_a_restart_from_the_log_finds_the_state_as_it_was() -> None:
    """But for the term, and for nodes, which have to come back."""
    world = busy_world()
    restored = Restored()
    for _, data in world.log.read(1):
        restored.add(data)

    assert digest(restored.state) == digest(world.machine.state)
    check(restored.state)


def test_a_restart_from_what_the_query_side_has_and_the_logs_tail_is_the_same() -> None:
    """Wherever the query side has got to."""
    world = busy_world()
    records = [data for _, data in world.log.read(1)]
    for cut in range(len(records) + 1):
        first = Restored()
        for data in records[:cut]:
            first.add(data)
        state = first.state
        second = Restored(
            chain=first.chain,
            cluster=state.cluster_state(),
            jobs=state.jobs.values(),
            executions=[state.executions[x] for x in sorted(state.executions)],
            nodes=state.nodes.values(),
            credentials=state.credentials.values(),
        )
        for data in records[cut:]:
            second.add(data)
            check(second.state)

        assert digest(second.state) == digest(world.machine.state)


def test_entities_survive_their_encoding() -> None:
    """As blobs for a restart."""
    state = busy_world().machine.state
    for entity in [
        state.cluster_state(),
        *state.jobs.values(),
        *state.executions.values(),
        *state.nodes.values(),
        *state.credentials.values(),
    ]:
        assert msgspec.json.decode(msgspec.json.encode(entity), type=type(entity)) == entity


def test_a_new_leader_begins_a_new_term_before_it_does_anything() -> None:
    """Its record is the first; the cluster is created once."""
    world = World()
    world.start()
    records = [CODEC.decode(data) for _, data in world.log.read(1)]

    assert [record.term for record in records] == [1, 2]
    assert isinstance(records[0].events[0], ClusterCreated)
    assert [type(event) for event in records[1].events] == [LeaderStarted]


def test_records_of_an_older_term_are_ignored_by_fold() -> None:
    """A deposed leader that went on writing changes nothing; the events keep their numbers."""
    world = busy_world()
    state, last = world.machine.state, CODEC.decode(list(world.log.read(1))[-1][1])
    before = digest(state)
    apply_record(state, replace(last, term=0, first_event=state.event + 1))

    after = digest(state)
    assert after.pop("cluster") != before.pop("cluster")
    assert after == before


# ── appends ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_refused_append_is_as_if_it_had_never_been() -> None:
    """Clients are told; reports of nodes are decided again; nothing was sent to anybody."""
    world = World()
    world.join("n-1")
    running = world.submit(a_job())
    execution = world.offered("n-1")
    world.bid(execution)
    world.log.full = True
    with pytest.raises(errors.Unavailable, match="the disk is full"):
        world.submit(a_job())
    world.complete(execution)
    assert len(world.offers("n-1")) == 1
    assert world.job(running).state is JobStateType.RUNNING

    world.log.full = False
    world.advance(10)
    assert world.job(running).state is JobStateType.COMPLETED
    assert world.job(world.submit(a_job())).state is JobStateType.PENDING


def test_a_doubtful_append_is_repeated_until_it_is_known() -> None:
    """Whether it had arrived or not; nothing happens twice."""
    for fault in (Fault.LOST, Fault.LATE, Fault.UNANSWERED):
        world = World()
        world.join("n-1")
        world.log.plan = Plan(1, {fault: 0.999})
        world.send("job.submit", api.JobSubmit(job=a_job()))
        world.run()
        assert world.answers == []

        world.log.plan = Plan()
        world.advance(1)
        assert len(world.answers) == 1
        assert len(world.rows.jobs) == 1
        assert len(world.offers("n-1")) == 1


def test_a_fenced_leader_halts_and_says_so() -> None:
    """It answers nobody with success, and sends nothing more."""
    world = World()
    world.join("n-1")
    world.outcomes = [Fenced("record 3 is another's")]
    with pytest.raises(errors.Unavailable, match="another orchestrator leads now"):
        world.submit(a_job())
    assert [type(action) for action in world.actions] == [act.Halt]
    assert not world.machine.leading

    world.published.clear()
    with pytest.raises(errors.Unavailable):
        world.submit(a_job())
    world.join("n-1")
    world.machine.tick(world.now + SECOND)
    world.run()
    assert (world.offers("n-1"), world.published) == ([], [])


def test_two_leaders_on_one_log_never_both_write() -> None:
    """The older one is fenced at its next append."""
    old = World()
    old.join("n-1")
    new = World(log=old.log)
    new.join("n-1")
    with pytest.raises(errors.Unavailable):
        old.submit(a_job())

    assert [type(action) for action in old.actions] == [act.Halt]
    assert new.machine.state.term == 2


def test_the_first_record_is_repeated_when_the_disk_is_full_at_the_start() -> None:
    """Nothing is served before it is stored."""
    log = MemoryLog()
    log.full = True
    world = World(log=log)
    assert not world.machine.leading

    log.full = False
    world.advance(1)
    assert world.machine.leading
    assert world.machine.state.term == 1


def test_a_bug_in_a_decision_parks_the_input_and_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the batch goes on; a bug in a fold leaves nothing half changed."""
    world = World()
    world.join("n-1")
    monkeypatch.setattr("bacalhau_daemon.core.scheduling.plan.seed_of", lambda *_: 1 / 0)
    job = world.submit(a_job())

    info = world.ask("cluster.info", api.Empty())
    assert [parked.what for parked in info.parked] == ["job 1"]
    assert "ZeroDivisionError" in info.parked[0].error
    assert world.job(job).state is JobStateType.PENDING


def test_a_bug_in_a_fold_parks_its_input_and_restores_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """By reading the log again; others of the batch are decided anew."""
    world = World()
    world.join("n-1")
    seen = []

    def broken(state: State, event: object, n: int, at: int) -> None:
        seen.append(n)
        put_job(state, replace(next(iter(state.jobs.values())), message="half done"))
        raise KeyError("oops")

    job = world.submit(a_job())
    monkeypatch.setitem(fold._HANDLERS, JobStopped, broken)
    with pytest.raises(errors.Internal, match="KeyError"):
        world.stop(job)

    assert seen
    assert world.machine.state.jobs[1].message == ""
    assert world.machine.loop.parked_count == 1


# ── invariants ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_planted_bugs_break_an_invariant() -> None:
    """Duplicate, over-commitment, a second end, an index that lies."""

    def plant(words: str, change: object) -> None:
        state = busy_world().machine.state
        check(state)
        change(state)  # type: ignore[operator]
        with pytest.raises(Broken, match=words):
            check(state)

    def live(state: State) -> int:
        return next(x for x, each in state.executions.items() if each.status is Status.RUNNING)

    def twice(state: State) -> None:
        state.next_x += 1
        put_execution(state, replace(state.executions[live(state)], x=state.next_x - 1, id="e-twin"))

    def too_much(state: State) -> None:
        x = live(state)
        state.executions[x] = replace(state.executions[x], resources=replace(state.executions[x].resources, cpu=100.0))

    def both(state: State) -> None:
        x = live(state)
        state.executions[x] = replace(state.executions[x], ended=5)

    def gone(state: State) -> None:
        del state.job_ids[next(iter(state.job_ids))]

    plant("runs partition", twice)
    plant("was given", too_much)
    plant("has ended", both)
    plant("index job_ids differs", gone)


# ── at random ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Chaos:
    """Does what comes to its mind, from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(seed=str(seed))
        for name in ("n-1", "n-2", "n-3"):
            self.world.join(name, cpu=2.0)

    def step(self) -> None:
        """Do one thing."""
        often = [self.submit] * 2 + [self.report] * 3
        self.rng.choice([*often, self.stop, self.node, self.time, self.trouble])()

    def submit(self) -> None:
        job = a_job(count=self.rng.randint(1, 3), cpu=self.rng.choice(["500m", "1", "2"]))
        self.world.send("job.submit", api.JobSubmit(job=job), request=f"q-{self.rng.randrange(40)}")
        self.world.run()

    def report(self) -> None:
        name = self.rng.choice(["n-1", "n-2", "n-3"])
        offers = self.world.offers(name)
        if not offers:
            return
        execution = self.rng.choice(offers[-6:])
        what = self.rng.randrange(6)
        if what < 2:
            self.world.bid(execution)
        elif what < 4:
            self.world.complete(execution)
        elif what == 4:
            self.world.fail(execution)
        else:
            self.world.bid(execution, accepted=False, retryable=True)

    def stop(self) -> None:
        if self.world.rows.jobs and self.rng.random() < 0.3:
            job = self.rng.choice(list(self.world.rows.jobs.values()))
            self.world.send("job.stop", api.JobRef(job=job.id))
            self.world.run()

    def node(self) -> None:
        name = self.rng.choice(["n-1", "n-2", "n-3"])
        self.rng.choice([self.world.join, self.world.join, self.world.beat, self.world.leave])(name)

    def time(self) -> None:
        there = tuple(name for name in ("n-1", "n-2", "n-3") if self.rng.random() < 0.6)
        self.world.advance(self.rng.choice([0.1, 1, 10, 40]), beating=there)

    def trouble(self) -> None:
        world = self.world
        roll = self.rng.random()
        if roll < 0.1:
            world.start()
        elif roll < 0.4:
            world.outcomes = [Unavailable("planned")]
        elif roll < 0.6:
            world.outcomes = [Unknown("planned")] * self.rng.randint(1, 3)
        world.acknowledging = self.rng.random() < 0.8


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_invariants_hold_and_every_job_ends(seed: int) -> None:
    """A random walk through submissions, reports, losses, restarts and refused appends; then peace, and all ends."""
    chaos = Chaos(seed)
    world = chaos.world
    for _ in range(120):
        chaos.step()
    world.outcomes, world.acknowledging = [], True
    world.advance(1)
    for _ in range(400):
        for name in ("n-1", "n-2", "n-3"):
            if world.machine.state.nodes[name].connection is not Connection.CONNECTED:
                world.join(name)
            for execution in world.offers(name):
                live = world.machine.state.execution(execution.id)
                if live is not None and live.status is Status.PLANNED:
                    world.bid(execution)
                elif live is not None and live.status is Status.RUNNING:
                    world.complete(execution)
        if not world.machine.state.jobs:
            break
        world.advance(5)

    assert world.machine.loop.parked_count == 0, list(world.machine.loop.parked)
    assert {job.state.terminal for job in world.rows.jobs.values()} == {True}
    made = [event.request for event in world.rows.events if isinstance(event, JobSubmitted)]
    assert len(made) == len(set(made))
    told = {
        (answer.request.id, answer.result.job_id)
        for answer in world.answers
        if isinstance(answer.result, api.JobSubmitted)
    }
    assert len({request for request, _ in told}) == len(told)
    assert {job for _, job in told} <= {job.id for job in world.rows.jobs.values()}
    assert world.machine.state.executions == {}
    restored = Restored()
    for _, data in world.log.read(1):
        restored.add(data)
    assert digest(restored.state) == digest(world.machine.state)
