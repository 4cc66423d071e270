"""The compute node's machine: offers, runs, cancellations, reports; cut off, restarted, told things twice."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bacalhau_daemon.core import compute as compute_module
from bacalhau_daemon.core import compute_bid, compute_state
from bacalhau_daemon.core.compute_actions import Left, SayHello, StartRun, Trim
from bacalhau_daemon.core.compute_events import CODEC
from bacalhau_daemon.log.memory import Fault, MemoryLog, Plan
from bacalhau_protocol.api.messages import Welcome
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.models.nesting import DEPTH_MAX
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl import envelope
from bacalhau_protocol.ncl import messages as ncl
from tests.builders_compute import GPUS, OFFER, START, Pair, execution
from tests.builders_ncl import Message, seal


@pytest.fixture
def pair() -> Pair:
    return Pair()


def full_offer(**changes: Any) -> compute_bid.Offer:
    return msgspec.structs.replace(OFFER, **changes)


def test_an_execution_goes_its_way(pair: Pair) -> None:
    """Offer, bid, approval, run, result; then nothing of it is left but the memory that it is over."""
    pair.ask(execution())
    assert pair.heard() == [("bid", "e-1")]
    assert pair.taken() == []
    pair.accept(1)
    assert pair.taken() == [("start", "e-1")]
    pair.end(1)
    assert pair.heard() == [("result", "e-1")]
    pair.wait(1)
    state = pair.node.state
    assert (state.runs, state.reports, "e-1" in state.finished) == ({}, {}, True)


def test_that_a_report_has_arrived_is_written_with_what_comes_next(pair: Pair) -> None:
    """It is in no hurry: a crash before it is written costs one more message. And without anything next, soon."""
    for number in (1, 2):
        pair.ask(execution(number))
        pair.accept(number)
    pair.end(1)
    written = pair.log.last()
    assert pair.node.state.reports, "its acknowledgement alone is not worth a write"
    pair.end(2)
    assert pair.log.last() != written
    assert [report.execution_id for report in pair.node.state.reports.values()] == ["e-2"]
    pair.wait(1)
    assert not pair.node.state.reports


def test_a_direct_execution_runs_without_a_bid(pair: Pair) -> None:
    """Ops and daemon jobs of Bacalhau arrive approved: the first report is the result."""
    pair.ask(execution(direct=True, kind="ops"))
    assert (pair.heard(), pair.taken()) == ([], [("start", "e-1")])
    pair.end(1)
    assert pair.heard() == [("result", "e-1")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": "docker"}, 'support "docker"'),
        ({"publisher": "s3"}, 'support "s3"'),
        ({"cpu": 5}, "have enough resources - requested: CPU 5"),
        ({"env": {"A": "env:SECRET"}}, "'SECRET' is not in allowed patterns"),
    ],
)
def test_what_cannot_run_here_is_refused_in_words(pair: Pair, changes: dict[str, Any], words: str) -> None:
    """As Bacalhau words it, once, and with everything that is wrong."""
    pair.ask(execution(**changes))
    report = pair.last_report()
    assert not report.accepted
    assert report.events[0].message.startswith("rejected bid: this node does not ")
    assert words in report.events[0].message
    assert report.events[0].topic == "Exec Scanning"
    assert "e-1" in pair.node.state.finished


def test_all_reasons_are_given_together(pair: Pair) -> None:
    """Nobody learns them one by one."""
    pair.ask(execution(engine="docker", publisher="ipfs", cpu=100))
    message = pair.last_report().events[0].message
    assert [part in message for part in ("docker", "ipfs", "resources")] == [True] * 3


def test_plugins_have_their_say(pair: Pair) -> None:
    """What a check finds refuses the bid."""
    pair.problems = ["DelayMs must be a number"]
    pair.ask(execution())
    assert "DelayMs must be a number" in pair.last_report().events[0].message


def test_room_is_given_once(pair: Pair) -> None:
    """Offers hold their room from the bid on; what does not fit now is refused as passing."""
    pair.ask(execution(1, cpu=3), execution(2, cpu=2))
    assert pair.last_report().events[0].details == {"ErrorCode": "Capacity", "Retryable": "true"}
    assert pair.heard() == [("bid", "e-1"), ("refusal", "e-2")]
    info = pair.node.describe().compute_node_info
    assert (info.available_capacity.cpu, info.running_executions) == (1, 1)
    pair.accept(1)
    pair.end(1)
    pair.ask(execution(3, cpu=4))
    assert ("bid", "e-3") in pair.heard()


def test_gpus_are_given_by_identity() -> None:
    """No device twice; a free one comes back."""
    capacity = Resources(cpu=8, memory=10**9, disk=10**9, gpu=2, gpus=GPUS)
    pair = Pair(full_offer(capacity=capacity, largest=capacity))
    pair.ask(execution(1, gpu=1), execution(2, gpu=1), execution(3, gpu=1))
    assert pair.heard()[-1] == ("refusal", "e-3")
    runs = pair.node.state.runs
    assert [runs[f"e-{number}"].resources.gpus for number in (1, 2)] == [GPUS[:1], GPUS[1:]]
    pair.cancel(1)
    assert pair.node.describe().compute_node_info.available_capacity.gpus == GPUS[:1]
    pair.ask(execution(4, gpu=1))
    assert runs["e-4"].resources.gpus == GPUS[:1]


def test_inputs_are_looked_at_before_the_bid(pair: Pair) -> None:
    """What they need on disk counts; what cannot be prepared here refuses."""
    pair.ask(execution(1, inputs=("inline",)), execution(2, inputs=("urldownload",)))
    assert pair.taken() == [("measure", "e-1"), ("measure", "e-2")]
    assert pair.heard() == []
    pair.measured(2, problems=("prepare an input: 404",))
    assert "404" in pair.last_report().events[0].message
    pair.measured(1, disk_bytes=5000)
    assert pair.heard() == [("refusal", "e-2"), ("bid", "e-1")]
    assert pair.node.state.runs["e-1"].resources.disk == 5000


def test_a_cancel_overtakes_the_look_at_inputs(pair: Pair) -> None:
    """The execution is never offered afterwards."""
    pair.ask(execution(1, inputs=("inline",)))
    pair.cancel(1)
    pair.measured(1)
    assert (pair.heard(), pair.node.state.runs) == ([], {})


def test_everything_may_be_said_twice(pair: Pair) -> None:
    """Offers, approvals and cancellations that come again change nothing and start nothing."""
    one = execution(1)
    pair.ask(one, one)
    pair.accept(1, 1)
    pair.ask(one)
    pair.accept(1)
    assert pair.heard() == [("bid", "e-1")]
    assert pair.taken() == [("start", "e-1")]
    pair.end(1)
    pair.end(1)
    pair.ask(one)
    pair.accept(1)
    pair.cancel(1)
    assert pair.heard() == [("result", "e-1")]
    assert pair.taken() == []


@pytest.mark.parametrize("stage", ["offered", "started", "ended"])
def test_a_cancel_may_come_at_any_time(pair: Pair, stage: str) -> None:
    """It is stopped if it runs, forgotten if it does not, and nothing is reported."""
    pair.ask(execution(1))
    if stage != "offered":
        pair.accept(1)
    if stage == "ended":
        pair.end(1)
    pair.heard()
    pair.taken()
    pair.cancel(1)
    pair.cancel(1)
    assert pair.taken() == ([("cancel", "e-1")] if stage == "started" else [])
    pair.end(1, cancelled=True)
    assert (pair.heard(), pair.node.state.runs) == ([], {})


def test_a_cancel_in_the_same_breath_as_the_approval_is_not_lost(pair: Pair) -> None:
    """The run is never started, and its room is free again (Bacalhau loses this one every time)."""
    pair.ask(execution(1, cpu=4))
    pair.command(ncl.BidAccepted(execution_id="e-1"), ncl.CancelExecution(execution_id="e-1"))
    assert pair.taken() == []
    assert pair.node.state.runs == {}
    pair.ask(execution(2, cpu=4))
    assert pair.heard()[-1] == ("bid", "e-2")


def test_a_cancel_before_the_offer_is_remembered(pair: Pair) -> None:
    """Whatever order things come in, what is cancelled does not run."""
    pair.cancel(1)
    pair.ask(execution(1))
    pair.accept(1)
    assert (pair.heard(), pair.taken()) == ([], [])


def test_a_stopped_run_holds_its_room_until_it_has_stopped(pair: Pair) -> None:
    """What comes meanwhile waits for it and starts then."""
    pair.ask(execution(1, cpu=4))
    pair.accept(1)
    pair.cancel(1)
    pair.ask(execution(2, cpu=4))
    pair.accept(2)
    assert pair.taken() == [("start", "e-1"), ("cancel", "e-1")]
    pair.end(1, cancelled=True)
    assert pair.taken() == [("start", "e-2")]


def test_work_for_bacalhaus_orchestrator_may_wait_in_a_queue() -> None:
    """By priority, then by age; nobody overtakes, so large work is not starved."""
    pair = Pair(own=False)
    pair.ask(execution(1, cpu=3), execution(2, cpu=1.5), execution(3, cpu=0.5), execution(4, cpu=1))
    assert pair.heard() == [("bid", "e-1"), ("bid", "e-2"), ("bid", "e-3"), ("refusal", "e-4")]
    pair.accept(1, 2, 3)
    assert pair.taken() == [("start", "e-1")]
    assert pair.node.describe().compute_node_info.enqueued_executions == 2
    pair.end(1)
    assert pair.taken() == [("start", "e-2"), ("start", "e-3")]


def test_an_unknown_approval_is_answered(pair: Pair) -> None:
    """The orchestrator does not wait for ever."""
    pair.accept(7)
    assert pair.heard() == [("error", "e-7")]


def test_a_failure_says_why_and_keeps_its_hint(pair: Pair) -> None:
    """The first event is what Bacalhau shows."""
    pair.ask(execution(1))
    pair.accept(1)
    pair.fail(1, "no such entry point")
    report = pair.last_report()
    assert isinstance(report, ncl.ComputeError)
    assert report.events
    assert report.events[0].message == "no such entry point"
    assert report.events[0].details == {"IsError": "true"}
    assert (report.job_id, report.job_type) == ("j-1", "batch")


def test_reports_wait_for_the_link(pair: Pair) -> None:
    """Work goes on while cut off; all of it is told on return, oldest first, once."""
    pair.ask(execution(1), execution(2))
    pair.accept(1, 2)
    pair.heard()
    pair.cut()
    pair.end(2)
    pair.fail(1)
    pair.wait(30)
    assert pair.heard() == []
    pair.heal()
    pair.wait(5)
    assert pair.heard() == [("result", "e-2"), ("error", "e-1")]
    pair.cut()
    pair.heal()
    pair.wait(5)
    assert pair.heard() == []


def test_reports_are_repeated_until_they_are_stored(pair: Pair) -> None:
    """An orchestrator that does not acknowledge hears it again."""
    pair.ask(execution(1))
    pair.accept(1)
    pair.heard()
    pair.hears = False
    pair.end(1)
    assert pair.node.state.reports
    pair.hears = True
    pair.wait(60)
    assert pair.heard() == [("result", "e-1")]
    assert pair.node.state.reports == {}


def test_hello_says_what_is_held(pair: Pair) -> None:
    """After each handshake: what is not over, and what is over but not told."""
    pair.ask(execution(1), execution(2))
    pair.accept(1, 2)
    pair.cut()
    pair.end(2)
    pair.acts.clear()
    pair.heal()
    pair.wait(5)
    (hello,) = [act for act in pair.acts if isinstance(act, SayHello)]
    assert (hello.live, hello.unsent) == (("e-1",), ("e-2",))


def test_a_restart_hands_running_work_to_the_shell_again(pair: Pair) -> None:
    """To be found, or lost; offers stay offers."""
    pair.ask(execution(1), execution(2), execution(3))
    pair.accept(1, 2)
    pair.cancel(2)
    pair.taken()
    pair.crash()
    assert pair.taken() == [("resume", "e-1"), ("cancel", "e-2")]
    pair.accept(3)
    assert pair.taken() == [("start", "e-3")]


def test_batch_work_that_did_not_survive_fails_and_may_be_tried_elsewhere(pair: Pair) -> None:
    """With Bacalhau's words."""
    pair.ask(execution(1))
    pair.accept(1)
    pair.crash()
    pair.wait(5)
    pair.heard()
    pair.end(1, lost=True)
    event = pair.last_report().events[0]
    assert (event.message, event.details["FailsExecution"]) == ("Failing due to node restart", "true")


def test_a_service_that_did_not_survive_begins_anew(pair: Pair) -> None:
    """As a new attempt; a late word of the old one is not taken for it."""
    pair.ask(execution(1, kind="service"))
    pair.accept(1)
    pair.crash()
    pair.end(1, lost=True)
    starts = [act for act in pair.acts if isinstance(act, StartRun)]
    assert [(act.attempt, act.resumed) for act in starts] == [(1, False), (1, True), (2, False)]
    pair.end(1, attempt=1)
    assert "e-1" in pair.node.state.runs


def test_an_unsent_report_survives_a_crash(pair: Pair) -> None:
    """The orchestrator hears it after the restart."""
    pair.ask(execution(1))
    pair.accept(1)
    pair.heard()
    pair.cut()
    pair.end(1)
    pair.linked = True
    pair.crash()
    pair.wait(5)
    assert pair.heard() == [("result", "e-1")]


def test_what_is_not_in_the_journal_was_never_said() -> None:
    """With the disk full nothing is offered, and nothing acknowledged; with room again all goes on."""
    log = MemoryLog()
    pair = Pair(log=log)
    log.full = True
    pair.ask(execution(1))
    pair.wait(3)
    assert pair.heard() == []
    log.full = False
    pair.wait(40)
    assert pair.heard() == [("bid", "e-1")]


@pytest.mark.parametrize("seed", range(20))
def test_faults_of_the_journal_lose_and_double_nothing(seed: int) -> None:
    """Lost, late, doubled and unanswered appends, and crashes between: each execution is reported once per life."""
    rates: dict[Fault, float] = {fault: 0.1 for fault in Fault if fault is not Fault.NONE}
    pair = Pair(log=MemoryLog(Plan(seed, rates)))
    for number in range(1, 9):
        pair.ask(execution(number, cpu=0.1))
        pair.accept(number)
        pair.wait(5)
        if number % 3 == 0:
            pair.crash()
            pair.wait(5)
        for id_, run in list(pair.node.state.runs.items()):
            if run.stage == "started":
                pair.end(int(id_[2:]), attempt=run.attempt)
    pair.wait(120)
    heard = pair.heard()
    assert [heard.count(("result", f"e-{number}")) for number in range(1, 9)] == [1] * 8
    assert pair.node.state.reports == {}


def test_an_offer_that_nobody_takes_is_withdrawn(pair: Pair) -> None:
    """Its room would be lost for ever; not while cut off, since then nobody could have taken it."""
    pair.ask(execution(1))
    pair.heard()
    pair.cut()
    pair.wait(3000)
    pair.heal()
    pair.wait(500)
    assert pair.node.state.runs
    pair.wait(300)
    assert pair.node.state.runs == {}
    assert pair.heard() == [("bid", "e-1"), ("error", "e-1")]


def test_what_the_orchestrator_does_not_know_is_stopped(pair: Pair) -> None:
    """Its welcome says which."""
    pair.ask(execution(1), execution(2))
    pair.accept(1)
    pair.taken()
    welcome = msgspec.convert(
        {"Cluster": "c", "Term": 1, "TicketKeys": [], "Forget": ["e-1", "e-2", "e-9"]},
        type=Welcome,
    )
    pair.node.welcomed(welcome, pair.now)
    pair.settle()
    assert pair.taken() == [("cancel", "e-1")]
    assert list(pair.node.state.runs) == ["e-1"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "../../etc"}, "not one token"),
        ({"id": "x" * 100}, "not one token"),
        ({"job": None}, "no task"),
    ],
)
def test_an_impossible_execution_is_an_error(pair: Pair, changes: dict[str, Any], words: str) -> None:
    """Above all an id that would lead out of the directory of executions."""
    ask = ncl.AskForBid(execution=execution(1, **changes))
    pair.command(ask)
    assert words in pair.last_report().events[0].message


@pytest.mark.parametrize("id_", ["", "x" * 5000])
def test_ids_beyond_all_measure_are_ignored(pair: Pair, id_: str) -> None:
    """Nothing of them is kept or said."""
    pair.command(ncl.AskForBid(execution=execution(1, id=id_)), ncl.CancelExecution(execution_id=id_))
    pair.command(ncl.BidAccepted(execution_id=id_), ncl.AskForBid(execution=None))
    assert (pair.heard(), len(pair.node.state.finished)) == ([], 0)


def test_finished_executions_are_remembered_in_bounded_number(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oldest forgotten first."""
    monkeypatch.setattr(compute_state, "FINISHED_KEPT_MAX", 3)
    pair.cancel(1, 2, 3, 4)
    finished = pair.node.state.finished
    assert [f"e-{number}" in finished for number in (1, 2, 3, 4)] == [False, True, True, True]
    assert compute_state.Finished.decode(finished.encode()).encode() == finished.encode()


def test_the_journal_is_trimmed_behind_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restart on the rest gives the same state."""
    monkeypatch.setattr(compute_module, "SNAPSHOT_AFTER_BYTES", 5_000)
    pair = Pair()
    pair.ask(execution(100), execution(101, kind="service"))
    pair.accept(101)
    for number in range(1, 30):
        pair.ask(execution(number, cpu=0.1))
        pair.accept(number)
        pair.end(number)
    assert any(isinstance(act, Trim) for act in pair.acts)
    assert pair.log.origin.n > 10

    before = pair.node.state
    state, chain = pair.load()
    assert chain.event == pair.node.loop.chain.event
    assert (state.runs, state.reports) == (before.runs, before.reports)
    assert state.finished.encode() == before.finished.encode()
    assert state.room.as_resources() == before.room.as_resources()


def test_leaving_gives_notice(pair: Pair) -> None:
    """And is told when the orchestrator knows."""
    pair.node.leave(pair.now)
    pair.settle()
    assert any(isinstance(act, Left) for act in pair.acts)


def test_reports_are_bounded(pair: Pair) -> None:
    """Words, details and a publisher's result: whatever they are, the report fits."""
    pair.ask(execution(1), execution(2))
    pair.accept(1, 2)
    pair.heard()
    pair.end(1, result=SpecConfig(type="x", params={"k": "v" * 100_000}))
    pair.fail(2, "m" * 100_000)
    assert [len(report.events[0].message) <= 4096 for report in pair.reports] == [True, True]
    assert pair.heard() == [("error", "e-1"), ("error", "e-2")]


def test_an_unreadable_offer_is_answered_when_it_says_whose_it_is(pair: Pair) -> None:
    """And acknowledged, so that it is not repeated for ever."""
    metadata = b'{"Bacalhau-Type":"AskForBid","Bacalhau-PayloadEncoding":"json"}'
    payload = b'{"Execution":{"ID":"e-5","JobID":"j-5","Revision":"x"}}'
    data = seal(b'{"metadata":' + metadata + b',"payload":' + payload + b"}")
    pair.node.message(Message("bacalhau.global.compute.n-1.in.msgs", data, "_R.n-o.x.y"), pair.now)
    pair.settle()
    assert pair.heard() == [("error", "e-5")]


@pytest.mark.parametrize("levels", [DEPTH_MAX, *range(940, 1000)])
def test_an_offer_that_nests_too_deep_is_refused_and_harms_nothing(pair: Pair, levels: int) -> None:
    """Near the interpreter's own limit it could be read and not be written to the journal."""
    command = ncl.ask_for_bid(execution(1))
    data = envelope.encode(envelope.metadata(command, source="n-o", now=START, seq=9), command)
    nested = b'"Params":{"x":' + b"[" * levels + b"]" * levels + b"},"
    body = data[5:].replace(b'"Engine":{', b'"Engine":{' + nested)
    pair.node.message(Message("bacalhau.global.compute.n-1.in.msgs", seal(body), "_R.n-o.x.y"), pair.now)
    pair.settle()

    assert pair.heard() == [("error", "e-1")] or levels > DEPTH_MAX  # what cannot even be read says not whose it is
    assert pair.taken() == []
    pair.crash()
    assert not pair.node.state.runs


def test_the_journal_is_written_as_records_of_its_own_vocabulary(pair: Pair) -> None:
    """Readable again, event numbers without a gap."""
    pair.ask(execution(1))
    pair.accept(1)
    pair.end(1)
    pair.wait(1)
    records = [CODEC.decode(data) for _, data in pair.log.read(1)]
    kinds = [type(event).__name__ for record in records for event in record.events]
    assert kinds == [
        "NodeStarted", "BidPlaced", "BidApproved", "ExecutionFinished", "ReportSettled",
    ]  # fmt: skip
    assert records[0].cluster == "node n-1"
    assert records[-1].at >= START
