"""A whole node with the noop engine: from offer to report, its files, its phases, its end, its restart."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.compute import layout, runner
from bacalhau_daemon.testing import wait_until
from bacalhau_protocol.models.job import InputSource, Job, ResultPath, SpecConfig, Task, TimeoutConfig
from bacalhau_protocol.ncl import messages as ncl
from tests.builders_node import Orchestrator, Site, cluster, noop

Pair = tuple[Site, Orchestrator]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with cluster(tmp_path) as pair:
        yield pair


def inline(text: str, target: str = "/in") -> InputSource:
    url = "data:text/plain;base64," + base64.b64encode(text.encode()).decode()
    return InputSource(source=SpecConfig(type="inline", params={"URL": url}), target=target)


async def test_a_run_is_reported_with_its_phases(pair: Pair) -> None:
    """What Bacalhau reads comes first, then our phases with their times; results stay on the node."""
    site, orchestrator = pair
    result = await orchestrator.run(noop(ExitCode=3))
    assert isinstance(result, ncl.RunResult)
    assert result.events
    assert [event.message for event in result.events] == [
        "Completed successfully", "Preparing", "Running", "Publishing",
    ]  # fmt: skip
    assert result.run_output
    assert result.run_output.exit_code == 3
    assert result.publish_result == SpecConfig(type="nats", params={"NodeID": "n-1", "ExecutionID": "e-1"})
    assert list(site.root.iterdir()) == [], "a bare run touches no disk"


async def test_output_is_laid_out_as_bacalhau_does(pair: Pair) -> None:
    """Streams, exit code and one directory per output, private; the first 2 KiB in the report; the end to the log."""
    site, orchestrator = pair
    outputs = (ResultPath(name="outputs", path="/outputs"), ResultPath(name="empty", path="/e"))
    run = noop(
        task={"result_paths": outputs}, Stdout="ä" * 2000, Stderr="oops", ExitCode=7, Files={"outputs/a/b.txt": "x"}
    )
    result = await orchestrator.run(run)

    results = site.root / "e-1" / "results"
    assert (results / "exitCode").read_text() == "7"
    assert (results / "stdout").read_text() == "ä" * 2000
    assert (results / "outputs/a/b.txt").read_text() == "x"
    assert list((results / "empty").iterdir()) == []
    assert (site.root / "e-1").stat().st_mode & 0o777 == 0o700
    output = result.run_output
    assert (output.stdout, output.stdout_truncated, output.stderr) == ("ä" * 1024, True, "oops")
    tail = await wait_until(lambda: orchestrator.tails)
    assert tail[0].log.stderr == b"oops"
    assert layout.read_outcome(site.root / "e-1", 1) is not None


@pytest.mark.parametrize(
    ("params", "sent"),
    [
        ({"Stdout": "short", "Stderr": "and sweet"}, False),
        ({"Stdout": "x" * 3000}, True),
        ({"Stdout": "short", "Fail": "on purpose"}, True),
    ],
    ids=["all of it is in the report", "too long for the report", "the report of a failure has none"],
)
async def test_the_end_of_a_log_travels_once(pair: Pair, params: dict[str, Any], sent: bool) -> None:
    """With the report, if that holds all of it; else beside it."""
    _, orchestrator = pair
    await orchestrator.run(noop(**params))
    await orchestrator.run(noop(2, Stdout="y" * 3000))
    await wait_until(
        lambda: [tail for tail in orchestrator.tails if tail.execution_id == "e-2"], what="the second came"
    )
    assert [tail.execution_id for tail in orchestrator.tails] == (["e-1", "e-2"] if sent else ["e-2"])


async def test_a_publisher_of_the_job_is_used(pair: Pair) -> None:
    """`local` gives a URL."""
    _, orchestrator = pair
    result = await orchestrator.run(noop(task={"publisher": SpecConfig(type="Local")}, Stdout="x"))
    assert result.publish_result.type == "urlDownload"
    assert result.publish_result.params["URL"].endswith("/e-1.tar.gz")


async def test_inputs_are_prepared_and_removed(pair: Pair) -> None:
    """Two at once, in directories of their own."""
    site, orchestrator = pair
    result = await orchestrator.run(noop(task={"input_sources": (inline("a", "/a"), inline("b", "/b"))}))
    assert isinstance(result, ncl.RunResult)
    assert not (site.root / "e-1" / "inputs").exists()


async def test_an_input_that_cannot_be_had_refuses_the_offer(pair: Pair) -> None:
    """Not after it was approved."""
    _, orchestrator = pair
    source = SpecConfig(type="inline", params={"URL": "data:;base64,!!!"})
    bid = await orchestrator.run(noop(task={"input_sources": (InputSource(source=source, target="/a"),)}))
    assert not bid.accepted
    assert "base64" in bid.events[0].message


async def test_a_failing_input_releases_its_siblings(pair: Pair) -> None:
    """Nothing of a failed preparation stays, and the report names the topic and keeps the code."""
    site, orchestrator = pair
    broken = base64.b64encode(b"\x1f\x8b not an archive, but long enough").decode()
    source = SpecConfig(type="inline", params={"URL": f"data:application/gzip;base64,{broken}"})
    inputs = (inline("a", "/a"), InputSource(source=source, target="/b"))
    report = await orchestrator.run(noop(task={"input_sources": inputs}))
    assert isinstance(report, ncl.ComputeError)
    assert report.events
    assert report.events[0].topic == "Downloading Inputs"
    assert isinstance(report.events[0].details, dict)
    assert report.events[0].details["ErrorCode"] == "InputFailed"
    assert not (site.root / "e-1" / "inputs").exists()


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"Fail": "no such image", "FailAt": "prepare"}, "no such image"),
        ({"Fail": "no entry point"}, "no entry point"),
        ({"Outcome": "out-of-memory", "Fail": "memory limit exceeded"}, "memory limit exceeded"),
    ],
)
async def test_failures_are_told_in_words(pair: Pair, params: dict[str, Any], words: str) -> None:
    """As the first event of a ComputeError."""
    _, orchestrator = pair
    report = await orchestrator.run(noop(**params))
    assert isinstance(report, ncl.ComputeError)
    assert report.events
    assert report.events[0].message == words


async def test_the_time_out_counts_running_only(pair: Pair) -> None:
    """Preparing longer than it is no failure; running longer is, in Bacalhau's words."""
    _, orchestrator = pair
    timeouts = {"timeouts": TimeoutConfig(execution=1)}
    prepared = await orchestrator.run(noop(1, timeouts, PrepareMs=1200))
    assert isinstance(prepared, ncl.RunResult)
    ran = await orchestrator.run(noop(2, timeouts, DelayMs=60_000))
    assert isinstance(ran, ncl.ComputeError)
    assert ran.events
    assert ran.events[0].message == "Execution timed out after 1s"


@pytest.mark.parametrize("params", [{"DelayMs": 60_000}, {"PrepareMs": 60_000}])
async def test_a_cancelled_run_stops_and_says_nothing(pair: Pair, params: dict[str, Any]) -> None:
    """In whatever phase; its room is free afterwards."""
    site, orchestrator = pair
    await orchestrator.say(ncl.ask_for_bid(noop(**params)))
    await orchestrator.report("e-1")
    await orchestrator.say(ncl.BidAccepted(execution_id="e-1"))
    await wait_until(lambda: site.node.runner and len(site.node.runner))
    await orchestrator.say(ncl.CancelExecution(execution_id="e-1"))
    await wait_until(lambda: not site.node.machine.state.runs)
    assert len(orchestrator.reports) == 1
    assert (await orchestrator.run(noop(2))).execution_id == "e-2"


async def test_a_cancel_on_the_heels_of_the_approval_holds(pair: Pair) -> None:
    """Whether the run has just begun or not yet."""
    site, orchestrator = pair
    for number in range(1, 21):
        await orchestrator.say(ncl.ask_for_bid(noop(number, DelayMs=60_000, Stdout="x")))
        await orchestrator.report(f"e-{number}")
        accept, cancel = ncl.BidAccepted(execution_id=f"e-{number}"), ncl.CancelExecution(execution_id=f"e-{number}")
        await orchestrator.say(accept, cancel)
    await wait_until(lambda: not site.node.machine.state.runs)
    assert site.node.runner is not None
    assert len(site.node.runner) == 0


async def test_phases_that_last_are_told(pair: Pair) -> None:
    """Softly, at most four a second; what ends at once tells none."""
    _, orchestrator = pair
    await orchestrator.run(noop(1))
    await orchestrator.run(noop(2, PrepareMs=400, DelayMs=400))
    told = [(report.execution_id, report.phase.name) for report in orchestrator.phases]
    assert ("e-2", "Preparing") in told
    assert ("e-2", "Running") in told
    assert not [one for one in told if one[0] == "e-1"]


async def test_variables_of_the_node_are_forwarded_when_allowed(tmp_path: Path) -> None:
    """Anchored: `AWS_*` is not `MY_AWSOME`."""
    async with cluster(tmp_path) as (site, orchestrator):
        site.environ, site.env_allowed = {"AWS_KEY": "k", "MY_AWSOME": "no"}, ("AWS_*",)
        await site.stop()
        await site.start()
        refused = await orchestrator.run(noop(1, {"env": {"A": "env:MY_AWSOME"}}))
        missing = await orchestrator.run(noop(2, {"env": {"A": "env:AWS_ABSENT"}}))
        assert [refused.accepted, missing.accepted] == [False, False]
        assert isinstance(await orchestrator.run(noop(3, {"env": {"A": "env:AWS_KEY"}})), ncl.RunResult)


async def test_work_goes_on_while_cut_off(pair: Pair) -> None:
    """And is told on return."""
    site, orchestrator = pair
    await orchestrator.say(ncl.ask_for_bid(noop(1, DelayMs=50, Stdout="x")))
    await orchestrator.report("e-1")
    await orchestrator.say(ncl.BidAccepted(execution_id="e-1"))
    await wait_until(lambda: site.node.runner and len(site.node.runner))
    site.bus.cut()
    site.node.link_down()
    await wait_until(lambda: not site.node.machine.state.runs)
    assert len(orchestrator.reports) == 1
    site.bus.heal()
    site.node.link_up()
    assert isinstance(await orchestrator.report("e-1", 2), ncl.RunResult)


async def test_a_run_that_ended_before_the_crash_is_reported_after_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its outcome file speaks for it: it is published and told, not run again."""
    site, orchestrator = pair

    async def never(*_: object) -> SpecConfig:
        await wait_until(lambda: False, timeout_s=3600)
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(runner.Runner, "_publish", never)
        await orchestrator.say(ncl.ask_for_bid(noop(1, Stdout="once\n", ExitCode=4)))
        await orchestrator.report("e-1")
        await orchestrator.say(ncl.BidAccepted(execution_id="e-1"))
        await wait_until((site.root / "e-1" / "outcome.json").exists)
        await site.crash()
    await site.start()
    result = await orchestrator.report("e-1", 2)
    assert isinstance(result, ncl.RunResult)
    assert result.run_output
    assert (result.run_output.stdout, result.run_output.exit_code) == ("once\n", 4)
    assert result.events
    assert result.events[1].message == "Preparing"


async def test_a_run_that_the_crash_took_along_is_reported_as_lost(pair: Pair) -> None:
    """In Bacalhau's words, so that it is tried again."""
    site, orchestrator = pair
    await orchestrator.say(ncl.ask_for_bid(noop(1, DelayMs=60_000)))
    await orchestrator.report("e-1")
    await orchestrator.say(ncl.BidAccepted(execution_id="e-1"))
    await wait_until(lambda: site.node.runner and len(site.node.runner))
    await site.crash()
    await site.start()
    report = await orchestrator.report("e-1", 2)
    assert report.events[0].message == "Failing due to node restart"


async def test_stopping_lets_runs_end_and_says_good_bye(tmp_path: Path) -> None:
    """What does not end within the grace is stopped and reported, so that it is tried elsewhere at once."""
    async with cluster(tmp_path) as (site, orchestrator):
        for number, delay_ms in ((1, 200), (2, 60_000)):
            await orchestrator.say(ncl.ask_for_bid(noop(number, DelayMs=delay_ms)))
            await orchestrator.report(f"e-{number}")
            await orchestrator.say(ncl.BidAccepted(execution_id=f"e-{number}"))
        await wait_until(lambda: site.node.runner and len(site.node.runner) == 2)
        await site.stop(grace_s=1.0)
        assert isinstance(await orchestrator.report("e-1", 2), ncl.RunResult)
        assert (await orchestrator.report("e-2", 2)).events[0].message == "Failing due to node restart"
        await wait_until(lambda: orchestrator.left)
        await site.start()


async def test_hostile_names_of_outputs_are_refused(pair: Pair) -> None:
    """They would become directories of the node."""
    site, orchestrator = pair
    for number, name in enumerate(["../../evil", "a/b", ".", "..", "", "stdout", "exitCode", "-rf"], start=1):
        outputs = (ResultPath(name=name, path="/o"),)
        bid = await orchestrator.run(noop(number, {"result_paths": outputs}))
        assert not bid.accepted, name
    assert list(site.root.iterdir()) == []


async def test_a_bug_of_an_engine_takes_nothing_along(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The execution fails with words, the next one runs."""
    site, orchestrator = pair

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patched:
        patched.setattr(site.plugins.engines.members["noop"], "prepare", broken)
        report = await orchestrator.run(noop(1))
    assert "internal error: ZeroDivisionError: oh" in report.events[0].message
    assert isinstance(await orchestrator.run(noop(2)), ncl.RunResult)


async def test_a_plugin_that_cannot_work_says_why(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that raises; nothing is said of those that can."""
    site, _ = pair

    async def broken() -> None:
        raise OSError("no such device")

    with monkeypatch.context() as patched:
        patched.setattr(site.plugins.engines.members["noop"], "ability", broken)
        assert await site.plugins.poll(), "something was lost"
    assert site.plugins.unavailable["engine noop"] == "OSError: no such device"
    assert await site.plugins.poll(), "and came back"
    assert "engine noop" not in site.plugins.unavailable


async def test_bacalhaus_orchestrator_gets_no_result_that_it_does_not_know(tmp_path: Path) -> None:
    """Without a publisher there is none; and nothing of our extension is said."""
    async with cluster(tmp_path, own=False) as (site, orchestrator):
        result = await orchestrator.run(noop(1, Stdout="x"))
        assert result.publish_result == SpecConfig(type="")
        assert site.clusters == [""]
        assert orchestrator.tails == []


async def test_a_task_without_a_task_list_does_not_hurt(pair: Pair) -> None:
    """Null where Go has nil."""
    _, orchestrator = pair
    made = noop(1)
    assert isinstance(made.job, Job)
    bare = Task(name="main", engine=SpecConfig(type="noop"), env=None, input_sources=None, result_paths=None)
    job = msgspec.structs.replace(made.job, tasks=(bare,), meta=None, labels=None, constraints=None)
    assert isinstance(await orchestrator.run(msgspec.structs.replace(made, job=job)), ncl.RunResult)
