"""Feasibility, ranking, placing, explaining: values in, values out."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.core.events import Connection, Membership
from bacalhau_daemon.core.scheduling.explain import explain, is_hopeless, unplaced
from bacalhau_daemon.core.scheduling.feasible import CHECKS, FITS, Past, findings, first_static_miss, has_room
from bacalhau_daemon.core.scheduling.fleet import SHAPES_MAX, Fleet
from bacalhau_daemon.core.scheduling.need import Need, need_of
from bacalhau_daemon.core.scheduling.place import Given, place
from bacalhau_daemon.core.scheduling.rank import FRESH, scores, tie_breaks
from bacalhau_daemon.core.scheduling.slot import Slot, check_version
from bacalhau_daemon.core.scheduling.waiting import Waiting
from bacalhau_daemon.core.state import NodeRecord, NodeUse
from bacalhau_daemon.testing import a_job, a_node
from bacalhau_protocol.models.job import Constraint
from bacalhau_protocol.models.node import BuildVersion
from bacalhau_protocol.models.normalise import apply_defaults, normalise
from bacalhau_protocol.models.resources import Resources

GB = 1_000_000_000


def a_record(
    name: str = "n-1",
    *,
    connection: Connection = Connection.CONNECTED,
    membership: Membership = Membership.APPROVED,
    **what: Any,
) -> NodeRecord:
    """Return a node as the log knows it."""
    info = a_node(name, **what)
    return NodeRecord(id=name, info=info, connection=connection, membership=membership, joined=1, since=1, modified=1)


def a_slot(name: str = "n-1", **what: Any) -> Slot:
    """Return a node as the scheduler sees it, with nothing on it."""
    return Slot(0, a_record(name, **what), NodeUse())


def used(*, cpu: int = 0, memory: int = 0) -> NodeUse:
    """Return what a node has given."""
    use = NodeUse()
    use.cpu, use.memory = cpu, memory
    return use


def a_fleet(*records: NodeRecord) -> Fleet:
    """Return the index over nodes."""
    fleet = Fleet()
    for record in records:
        fleet.refresh(record, NodeUse())
    return fleet


def a_need(**what: Any) -> Need:
    """Return what a job asks for, as it would be stored."""
    return need_of(apply_defaults(normalise(a_job("j", **what))))


# ── needs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_need_is_in_whole_units_and_lower_case() -> None:
    """Millicores and bytes; engines and storages as registries know them."""
    need = a_need(cpu="1500m", memory="1Gi", engine="NoOp", inputs=("urlDownload", "inline", "urlDownload"))

    assert (need.cpu, need.memory, need.engine) == (1500, 1 << 30, "noop")
    assert need.storages == ("inline", "urldownload")


def test_equal_needs_are_the_same_key() -> None:
    """So that everything computed for one serves the other."""
    assert hash(a_need(priority=1)) == hash(a_need(priority=2))
    assert a_need(priority=1) == a_need(count=5)


def test_preferences_are_not_requirements() -> None:
    """A key with the prefix `favour_` only raises the score."""
    need = a_need(constraints=(Constraint("favour_zone", "=", ("eu",)), Constraint("disk", "exists")))

    assert [each.key for each in need.constraints] == ["disk"]
    assert [each.key for each in need.favours] == ["zone"]


# ── feasible ──────────────────────────────────────────────────────────────────────────────────────────────────────


MISSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "membership": ({"membership": Membership.REJECTED}, {}),
    "engine": ({"engines": ("docker",)}, {}),
    "publisher": ({"publishers": ()}, {"publisher": "local"}),
    "storage": ({"storages": ("inline",)}, {"inputs": ("urlDownload", "inline")}),
    "labels": ({"labels": {"zone": "us"}}, {"constraints": (Constraint("zone", "=", ("eu",)),)}),
    "version": ({"version": "v1.0.3"}, {}),
    "maximum": ({"cpu": 1.0}, {"cpu": "2"}),
}


@pytest.mark.parametrize("check", MISSES)
def test_a_node_that_will_never_do_fails_its_check(check: str) -> None:
    """The hot path and the full findings agree on what is missing, and that waiting will not help."""
    node, job = MISSES[check]
    slot, need = a_slot(**node), a_need(**job)
    missed = [found for found in findings(slot, need) if not found.passed]

    assert CHECKS[first_static_miss(slot, need)] == check
    assert check in [found.check for found in missed]
    assert all(found.permanent and found.hint for found in missed if found.check == check)


def test_a_node_that_does_passes_every_check() -> None:
    """In the order of the checks."""
    slot, need = a_slot(), a_need(inputs=("inline",), publisher="local")

    assert first_static_miss(slot, need) == FITS
    assert has_room(slot, need)
    assert [found.check for found in findings(slot, need)] == list(CHECKS[1:])
    assert all(found.passed for found in findings(slot, need))


def test_both_drivers_agree_on_any_node_and_need() -> None:
    """The first failing finding is the first static miss; room and connection agree as well."""
    rng = random.Random(7)
    for _ in range(300):
        slot = a_slot(
            cpu=rng.choice([0.5, 1.0, 4.0]),
            engines=rng.choice([("noop",), ("docker",), ()]),
            labels=rng.choice([{}, {"zone": "eu"}]),
            connection=rng.choice(list(Connection)),
            membership=rng.choice(list(Membership)),
            version=rng.choice(["v1.9.3", "v0.9.0", ""]),
        )
        slot.set_use(used(cpu=rng.choice([0, 500, 4000])))
        need = a_need(cpu=rng.choice(["500m", "1", "3"]), constraints=rng.choice([(), (Constraint("zone", "exists"),)]))
        static = [found for found in findings(slot, need)[:7] if not found.passed]
        dynamic = [found for found in findings(slot, need)[7:] if not found.passed]

        assert CHECKS[first_static_miss(slot, need)] == (static[0].check if static else "")
        assert has_room(slot, need) == (dynamic == [])


@pytest.mark.parametrize("free", [999, 1000, 1001])
def test_capacity_is_exact_to_the_millicore(free: int) -> None:
    """What is just enough is enough."""
    slot = a_slot(cpu=4.0)
    slot.set_use(used(cpu=4000 - free))

    assert has_room(slot, a_need(cpu="1")) == (free >= 1000)


def test_a_node_that_says_nothing_of_what_it_has_takes_nothing() -> None:
    """Not even a job that asks for nothing."""
    assert CHECKS[first_static_miss(a_slot(cpu=0.0, memory=0, disk=0), a_need(cpu="0", memory="0b"))] == "maximum"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v1.9.3", (True, True)),
        ("v1.10.0", (True, True)),
        ("v1.0.4", (True, True)),
        ("v1.0.3", (True, False)),
        ("v0.0.0-abcdef", (True, True)),
        ("0.1.0", (True, False)),
        ("", (False, True)),
        ("nightly", (False, True)),
    ],
)
def test_versions_are_compared_as_versions(version: str, expected: tuple[bool, bool]) -> None:
    """Not as text, where 1.10 is older than 1.9."""
    assert check_version(BuildVersion(git_version=version)) == expected


# ── rank ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_idle_node_scores_as_with_bacalhau() -> None:
    """10 each for engine, publisher, storage, resources and version, 30 for being fresh, 100 for being idle."""
    (score,) = scores([a_slot()], a_need(), (), seed=1)

    assert 180 <= score <= 184


def test_the_emptier_node_scores_higher() -> None:
    """By what the job asks for."""
    idle, busy = a_slot("n-1"), a_slot("n-2")
    busy.set_use(used(memory=12 * GB))
    first, second = scores([idle, busy], a_need(memory="1gb"), (), seed=0)

    assert first > second + 40


def test_a_node_that_has_been_used_scores_lower() -> None:
    """So that partitions and tries spread."""
    first, second = scores([a_slot("n-1"), a_slot("n-2")], a_need(), {"n-2"}, seed=0)

    assert FRESH - 4 <= first - second <= FRESH + 4


def test_a_favoured_node_scores_higher() -> None:
    """A preference never excludes."""
    need = a_need(constraints=(Constraint("favour_zone", "=", ("eu",)),))
    slots = [a_slot("n-1", labels={"zone": "eu"}), a_slot("n-2")]
    first, second = scores(slots, need, (), seed=0)

    assert first - second >= 6


def test_ties_are_broken_by_the_seed_alone() -> None:
    """Evenly, and always the same way for the same evaluation."""
    slots = [Slot(index, a_record(f"n-{index}"), NodeUse()) for index in range(50)]
    drawn = [tie for seed in range(50) for tie in tie_breaks(seed, slots)]
    spread = [drawn.count(n) for n in range(5)]

    assert all(400 <= count <= 600 for count in spread)
    assert tie_breaks(9, slots) == tie_breaks(9, slots)


# ── place ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_best_node_is_chosen_and_the_reason_kept() -> None:
    """How many were looked at, the scores, what dropped the others."""
    fleet = a_fleet(
        a_record("n-1", engines=("docker",)),
        a_record("n-2", cpu=2.0, memory=2 * GB),
        a_record("n-3", cpu=8.0, memory=64 * GB),
        a_record("n-4", connection=Connection.LOST),
    )
    placement = place(fleet, a_need(), seed=1, scored_max=64)

    assert placement is not None
    assert placement.node == "n-3"
    assert (placement.why.nodes, placement.why.fit) == (4, 2)
    assert [node for node, _ in placement.why.scores] == ["n-3", "n-2"]
    assert placement.why.dropped == {"engine": 1, "connection": 1}


def test_the_same_evaluation_places_the_same_way() -> None:
    """Whatever the order in which things became free."""
    fleet = a_fleet(*(a_record(f"n-{n}") for n in range(9)))
    first = [place(fleet, a_need(), seed=seed, scored_max=64) for seed in range(40)]
    for n in (3, 1, 7):
        fleet.touch(f"n-{n}", used(cpu=4000))
    for n in (7, 3, 1):
        fleet.touch(f"n-{n}", NodeUse())

    assert [place(fleet, a_need(), seed=seed, scored_max=64) for seed in range(40)] == first
    assert len({each.node for each in first if each is not None}) > 3


def test_a_node_that_is_excluded_is_not_chosen() -> None:
    """By history, or because this pass has filled it."""
    fleet = a_fleet(a_record("n-1"), a_record("n-2"))
    need = a_need(cpu="3")
    given = Given(need)
    given.add("n-1")

    assert place(fleet, need, seed=1, scored_max=64, history={"n-1": Past("failed", True)}).node == "n-2"  # type: ignore[union-attr]
    assert place(fleet, need, seed=1, scored_max=64, given=given).node == "n-2"  # type: ignore[union-attr]
    given.add("n-2")
    assert place(fleet, need, seed=1, scored_max=64, given=given) is None


def test_among_many_nodes_a_sample_is_scored() -> None:
    """And the explanation says so; an exclusion of the whole sample is no reason to give up."""
    fleet = a_fleet(*(a_record(f"n-{n}") for n in range(300)))
    sampled = place(fleet, a_need(), seed=5, scored_max=32)
    history = {f"n-{n}": Past("failed", True) for n in range(300) if n != 299}
    last = place(fleet, a_need(), seed=5, scored_max=32, history=history)

    assert sampled is not None
    assert (sampled.why.sampled, sampled.why.fit) == (True, 300)
    assert last is not None
    assert last.node == "n-299"


def test_the_index_says_what_a_full_look_would() -> None:
    """After any sequence of changes: who fits, who has room, why the others were dropped."""
    rng = random.Random(3)
    fleet = a_fleet(*(a_record(f"n-{n}") for n in range(20)))
    needs = [
        a_need(cpu=cpu, engine=engine, constraints=constraints)
        for cpu in ("500m", "2")
        for engine in ("noop", "wasm")
        for constraints in ((), (Constraint("zone", "in", ("eu", "us")),), (Constraint("zone", "!=", ("eu",)),))
    ]
    for _ in range(300):
        name = f"n-{rng.randrange(25)}"
        if rng.random() < 0.6 and name in fleet.by_id:
            fleet.touch(name, used(cpu=rng.choice([0, 1000, 3000, 4000])))
        else:
            record = a_record(
                name,
                engines=rng.choice([("noop",), ("wasm",), ("noop", "wasm")]),
                labels=rng.choice([{}, {"zone": "eu"}, {"zone": "us"}, {"zone": "asia"}]),
                connection=rng.choice(list(Connection)),
            )
            fleet.refresh(record, NodeUse())
        need = rng.choice(needs)
        shape = fleet.shape(need)
        fits = [slot for slot in fleet.slots if first_static_miss(slot, need) == FITS]

        assert {slot.id for slot in fleet.slots if shape.fits(slot)} == {slot.id for slot in fits}
        assert {slot.id for slot in shape.open} == {slot.id for slot in fits if has_room(slot, need)}
        assert shape.away == sum(not slot.connected for slot in fits)
        assert sum(shape.dropped().values()) == len(fleet.slots) - len(shape.open)


def test_shapes_are_bounded() -> None:
    """The least recently used one is forgotten; it is only a cache."""
    fleet = a_fleet(a_record("n-1", memory=10**12))
    for n in range(1, SHAPES_MAX + 20):
        assert place(fleet, a_need(memory=f"{n}mb"), seed=1, scored_max=8) is not None

    assert len(fleet._shapes) == SHAPES_MAX


def test_a_report_counts_only_where_two_in_a_row_say_less_than_we_know() -> None:
    """It never frees what was given."""
    slot = a_slot(cpu=4.0)
    slot.set_use(used(cpu=1000))
    most = Resources(cpu=4.0, memory=16 * GB, disk=100 * GB)
    little = Resources(cpu=1.0, memory=16 * GB, disk=100 * GB)

    slot.report(most, Resources(), used(cpu=1000))
    assert slot.free_cpu == 3000
    slot.report(little, Resources(), used(cpu=1000))
    assert slot.free_cpu == 3000
    slot.report(little, Resources(), used(cpu=1000))
    assert slot.free_cpu == 1000
    assert slot.report(most, Resources(), used(cpu=1000))
    assert slot.free_cpu == 3000


# ── explain ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_explanation_has_those_that_fit_first_then_the_nearest() -> None:
    """Nearest means: the fewest permanent misses, then the fewest at all."""
    busy = a_record("n-busy")
    fleet = a_fleet(
        a_record("n-far", engines=(), version="v0.1.0"), a_record("n-near", engines=()), busy, a_record("n-good")
    )
    fleet.touch("n-busy", used(cpu=4000))
    rows = explain(fleet, a_need())

    assert [(row.node_id, row.fits) for row in rows] == [
        ("n-good", True),
        ("n-busy", False),
        ("n-near", False),
        ("n-far", False),
    ]
    assert rows[0].score > 0


def test_what_could_not_be_placed_is_told_like_bacalhau_does() -> None:
    """One line per distinct reason, in a fixed order."""
    fleet = a_fleet(
        a_record("n-1", engines=("docker",)), a_record("n-2", engines=("docker",)), a_record("n-3", cpu=1.0)
    )
    why = unplaced(fleet, a_need(cpu="2"), 3)

    assert why.message == (
        "not enough nodes to run job. requested: 3, available: 3, suitable: 0.\n"
        "• 2 of 3 nodes: does not support noop, only docker\n"
        "• Node n-3: the job requires CPU 2, memory 512 MB, disk 0 B, more than the node's maximum of "
        "CPU 1, memory 16 GB, disk 100 GB"
    )
    assert why.details == {"NodesRequested": "3", "NodesAvailable": "3", "NodesSuitable": "0"}
    assert [near.node for near in why.why.near] == ["n-1", "n-2", "n-3"]


def test_a_node_that_lacks_what_it_has_installed_says_why() -> None:
    """In the words of its plug-in; what the job does not ask for is left out."""
    lacks = {"engine docker": "no daemon answers", "publisher s3": "no credentials"}
    why = unplaced(a_fleet(a_record("n-1", unavailable=lacks)), a_need(engine="docker"), 1)

    assert "does not support docker, only noop, wasm (docker: no daemon answers)" in why.message
    assert "credentials" not in why.message


def test_only_what_can_never_fit_is_hopeless() -> None:
    """Busy, silent and lost nodes may come round; a node that has refused for good will not."""
    need = a_need(cpu="2")
    assert is_hopeless(a_fleet(), need)
    assert is_hopeless(a_fleet(a_record("n-1", cpu=1.0)), need)
    fleet = a_fleet(a_record("n-1", connection=Connection.LOST), a_record("n-2"))
    fleet.touch("n-2", used(cpu=4000))
    assert not is_hopeless(fleet, need)
    assert not is_hopeless(fleet, need, {"n-2": Past("refused", True)})
    assert not is_hopeless(fleet, need, {"n-1": Past("busy", False), "n-2": Past("refused", True)})
    assert is_hopeless(fleet, need, {"n-1": Past("failed twice", True), "n-2": Past("refused", True)})


def test_an_explanation_that_the_log_keeps_is_bounded() -> None:
    """Twenty nearest misses at most, eight kilobytes in all, however many nodes there are."""
    fleet = a_fleet(*(a_record(f"n-{n:04d}", labels={"zone": "x" * 60}, engines=("docker",)) for n in range(1000)))
    zones = tuple("y" * 60 + str(n) for n in range(50))
    why = unplaced(fleet, a_need(constraints=(Constraint("zone", "in", zones),)), 1)

    assert len(why.why.near) <= 20
    assert len(msgspec.json.encode(why.why)) <= 8 * 1024
    assert why.why.dropped == {"engine": 1000} or sum(why.why.dropped.values()) == 1000


# ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_stands_by_priority_then_age() -> None:
    """Its head is whoever is first and not blocked."""
    waiting, need = Waiting(), a_need()
    for j, priority in ((1, 0), (2, 0), (3, 5)):
        waiting.add(j, need, (-priority, j, j), blocked=False)
    assert waiting.next(need) == 3
    assert waiting.before(need, (0, 1, 1)) == 3
    assert waiting.before(need, (-9, 9, 9)) is None

    waiting.add(3, need, (-5, 3, 3), blocked=True)
    assert waiting.next(need) == 1
    waiting.remove(1)
    waiting.remove(1)
    assert (waiting.next(need), len(waiting)) == (2, 2)


def test_a_change_of_a_node_wakes_the_heads_of_the_lines_that_can_use_it() -> None:
    """The most urgent first; blocked ones get another chance."""
    waiting = Waiting()
    small, large, other = a_need(cpu="1"), a_need(cpu="3"), a_need(engine="docker")
    waiting.add(1, small, (0, 5, 1), blocked=True)
    waiting.add(2, large, (-1, 9, 2), blocked=False)
    waiting.add(3, other, (-9, 1, 3), blocked=False)
    slot = a_slot(cpu=4.0)
    assert list(waiting.for_slot(slot)) == [2, 1]

    slot.set_use(used(cpu=2000))
    assert list(waiting.for_slot(slot)) == [1]
