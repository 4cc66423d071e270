"""The one-shot commands against an orchestrator in memory: what they print where, and their exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.fake_nodes import FakeFile
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.models.states import JobStateType
from bacalhau_protocol.transport.memory import MemoryBroker
from bacalhau_tui.cli import context as context_module
from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.root import run

SPEC = """\
Name: hello
Type: batch
Count: 1
Tasks:
  - Name: main
    Engine: {Type: noop}
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


class Cli:
    """Runs command lines; `world` builds what the orchestrator knows, in the run's own event loop."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self.world: Callable[[FakeOrchestrator], None] = lambda fake: None
        self.fake: FakeOrchestrator | None = None
        self.read_only = False
        monkeypatch.setattr(context_module, "open_client", self._open)

    async def _open(self, context: Context) -> Client:
        self.fake = await FakeOrchestrator(MemoryBroker()).start()
        self.world(self.fake)
        return self.fake.client(read_only=self.read_only)

    def __call__(self, *arguments: str) -> Ended:
        code = run(list(arguments))
        captured = self._capsys.readouterr()
        return Ended(code, captured.out, captured.err)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    monkeypatch.setenv("BACALHAU_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("BACALHAU_NATS", "BACALHAU_CREDS", "BACALHAU_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return Cli(capsys, monkeypatch)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(SPEC)
    return str(path)


def finished(fake: FakeOrchestrator, *, exit_code: int = 0, stdout: bytes = b"hello\n", stderr: bytes = b"") -> None:
    job = fake.add_job("a")
    execution = fake.place(job)
    fake.nodes.write(execution, stdout=stdout, stderr=stderr)
    fake.finish(execution, exit_code)


async def settle() -> None:
    """Let everything that is ready to run on this loop run."""
    for _ in range(200):
        await asyncio.sleep(0)


def _ignore(_: object) -> None:
    """Make a statement of an expression."""


def runs_to_its_end(exit_code: int = 0, *, state: JobStateType | None = None) -> Callable[[FakeOrchestrator], None]:
    """Build a world where a submitted job is run soon after."""

    def world(fake: FakeOrchestrator) -> None:
        tasks = set()

        async def play(job: str) -> None:
            execution = fake.place(job)
            await settle()
            fake.set_phase(execution, "Preparing", "image", 1_000_000, 2_000_000)
            await settle()
            fake.run(execution)
            fake.set_phase(execution, "Running")
            fake.nodes.write(execution, stdout=b"out\n", stderr=b"err\n")
            await settle()
            if state is not None:
                fake.nodes.runs[execution].ended = True
                fake.nodes.wake()
                fake.set_job(job, state, "by hand")
            else:
                fake.finish(execution, exit_code)

        fake.on_submit = lambda job: tasks.add(asyncio.ensure_future(play(job)))

    return world


# ── run ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_run_prints_the_id_and_nothing_else_on_stdout(cli: Cli, spec: str) -> None:
    """So a script can keep it."""
    ended = cli("job", "run", spec)

    assert ended.code == 0
    assert cli.fake is not None
    assert ended.out.split() == list(cli.fake.jobs)
    assert "job logs -f" in ended.err


def test_run_reads_stdin_sets_and_variables(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`-`, `--set`, `-V` and `--namespace` end in the job that is submitted."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SPEC.replace("hello", "{{.who}}").encode())))

    ended = cli("job", "run", "-", "-V", "who=world", "--set", "Count=3", "--namespace", "lab")

    assert ended.code == 0
    assert cli.fake is not None
    (job,) = cli.fake.jobs.values()
    assert (job.name, job.count, job.namespace) == ("world", 3, "lab")


def test_run_waits_and_prints_state_node_phases_and_exit_code(cli: Cli, spec: str) -> None:
    """The story goes to stderr, the end to stdout, the program's exit code is ours."""
    cli.world = runs_to_its_end(exit_code=3)

    ended = cli("job", "run", spec, "--wait")

    assert ended.code == 3
    assert "on n-1: Preparing  image 1 MB of 2 MB" in ended.err
    assert "State     = Completed" in ended.out
    assert "Exit code = 3" in ended.out
    head, row = ended.out.rstrip().split("\n")[-2:]
    assert head.split() == ["EXECUTION", "NODE", "STATE", "EXIT", "TOOK", "PHASES"]
    assert row.split()[1:4] == ["n-1", "Completed", "3"]
    assert "Preparing" in row
    assert "Running" in row


@pytest.mark.parametrize(("state", "code"), [(JobStateType.FAILED, 1), (JobStateType.STOPPED, 10)])
def test_run_wait_ends_as_the_job_does(cli: Cli, spec: str, state: JobStateType, code: int) -> None:
    """Failed and stopped jobs have exit codes of their own."""
    cli.world = runs_to_its_end(state=state)

    ended = cli("job", "run", spec, "--wait")

    assert ended.code == code
    assert "Message   = by hand" in ended.out


def test_run_wait_as_json(cli: Cli, spec: str) -> None:
    """Bacalhau's names: Job with State.StateType, executions with their numbers."""
    cli.world = runs_to_its_end()

    value = cli("job", "run", spec, "--wait", "-o", "json").value

    assert value["Job"]["State"]["StateType"] == "Completed"
    assert value["Executions"][0]["ComputeState"]["StateType"] == 9
    assert value["ExitCode"] == 0
    assert [phase["Name"] for phase in value["Phases"][value["Executions"][0]["ID"]]] == ["Preparing", "Running"]


def test_run_follow_prints_logs_and_ends_with_the_job(cli: Cli, spec: str) -> None:
    """stdout to stdout, stderr to stderr, the exit status of the job."""
    cli.world = runs_to_its_end(exit_code=7)

    ended = cli("job", "run", spec, "--follow")

    assert (ended.code, ended.out) == (7, "out\n")
    assert "err\n" in ended.err
    assert "exit code 7" in ended.err


def test_run_with_a_time_limit(cli: Cli, spec: str) -> None:
    """A job that takes longer goes on; the command says so and ends with 6."""
    for way in ("--wait", "--follow"):
        ended = cli("job", "run", spec, way, "--timeout", "0.05")

        assert ended.code == 6
        assert "has not ended within 0.05 s" in ended.err


def test_dry_run_prints_the_job(cli: Cli, spec: str) -> None:
    """As YAML, like Bacalhau; nothing is submitted."""
    ended = cli("job", "run", spec, "--dry-run")

    assert ended.code == 0
    assert "Name: hello\n" in ended.out
    assert "warning: dry" in ended.err
    assert cli.fake is not None
    assert cli.fake.jobs == {}


def test_a_wrong_file_is_told_with_every_problem(cli: Cli, tmp_path: Path) -> None:
    """Each with line and column, on stderr; exit code 3; the cluster is not asked."""
    path = tmp_path / "bad.yaml"
    path.write_text(SPEC.replace("Count: 1", "Cuont: 1").replace("batch", "cron"))

    for ended in (cli("job", "run", str(path)), cli("job", "validate", str(path))):
        assert ended.code == 3
        assert f"{path}:3:1: Cuont" in ended.err
        assert f"{path}:2:" in ended.err
        assert ended.out == ""
    assert cli.fake is None


def test_validate(cli: Cli, spec: str) -> None:
    """Offline it says OK; with --remote the cluster's view is printed."""
    assert cli("job", "validate", spec) == Ended(0, "OK\n", "")
    assert cli("job", "validate", spec, "-o", "json").value["Name"] == "hello"
    assert cli.fake is None
    assert "Name: hello" in cli("job", "validate", spec, "--remote").out
    assert cli.fake is not None


# ── look ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_list_is_a_plain_table_of_80_columns(cli: Cli) -> None:
    """Newest first, short ids, no colour in a pipe."""

    def world(fake: FakeOrchestrator) -> None:
        finished(fake)
        fake.add_job("waits")

    cli.world = world
    ended = cli("job", "list")

    lines = ended.out.splitlines()
    assert lines[0].split() == ["ID", "NAME", "TYPE", "STATE", "DONE", "ENGINE", "AGE"]
    assert [line.split()[1] for line in lines[1:]] == ["waits", "a"]
    assert max(len(line) for line in lines) <= 80
    assert "\x1b" not in ended.out


def test_list_as_json_has_bacalhau_s_names(cli: Cli) -> None:
    """State.StateType, CreateTime, …"""
    cli.world = finished

    (job,) = cli("-o", "json", "job", "list").value

    assert job["State"] == {"StateType": "Completed"}
    assert job["ID"].startswith("j-")
    assert job["CreateTime"] > 0


def test_list_in_pages(cli: Cli) -> None:
    """How to go on stands on stderr."""

    def world(fake: FakeOrchestrator) -> None:
        for number in range(5):
            fake.add_job(f"job-{number}")

    cli.world = world
    first = cli("job", "list", "--limit", "2")
    second = cli("job", "list", "--limit", "2", "--next", "2")

    assert "5 in all; more: job list --next 2" in first.err
    assert [line.split()[1] for line in first.out.splitlines()[1:]] == ["job-4", "job-3"]
    assert [line.split()[1] for line in second.out.splitlines()[1:]] == ["job-2", "job-1"]


def test_get_prints_the_job_as_the_api_does(cli: Cli) -> None:
    """JSON and YAML are Bacalhau's Job; the table is key = value."""
    cli.world = finished

    value = cli("job", "get", "a", "-o", "json").value
    yaml = cli("job", "get", "a", "-o", "yaml").out
    table = cli("job", "get", "a").out

    assert cli.fake is not None
    (job,) = cli.fake.jobs.values()
    assert value == json.loads(msgspec.json.encode(job))
    assert "State:\n  StateType: Completed\n" in yaml
    assert "State     = Completed" in table


def test_executions_history_describe(cli: Cli) -> None:
    """Each shows nodes, states and what happened."""
    cli.world = lambda fake: finished(fake, exit_code=4)

    executions = cli("job", "executions", "a").out
    history = cli("job", "history", "a").out
    described = cli("job", "describe", "a").out

    assert executions.splitlines()[1].split()[2:5] == ["n-1", "Completed", "4"]
    assert "Requested execution on n-1" in history
    assert "Submission" in history
    for part in ("ID        = j-", "Summary\nCompleted = 1", "Job history", "Executions\n", "Execution e-"):
        assert part in described
    assert cli("job", "executions", "a", "-o", "json").value[0]["RunOutput"]["ExitCode"] == 4
    assert cli("job", "history", "a", "-o", "json").value[0]["Event"]["Topic"] == "Submission"
    assert set(cli("job", "describe", "a", "-o", "json").value) == {"Job", "Executions", "History", "Phases"}


def test_explain_has_a_line_per_obstacle(cli: Cli, spec: str) -> None:
    """Required, actual and what helps, for a job and for a file; nodes that fit come first."""

    def world(fake: FakeOrchestrator) -> None:
        fake.add_node("n-far", connection="DISCONNECTED")
        fake.add_node("n-near")
        fake.add_job("a")

    cli.world = world
    lines = cli("job", "explain", "a").out.splitlines()

    assert lines[0] == "1 of 2 nodes fit"
    assert lines[2].split()[:2] == ["n-near", "fits"]
    assert lines[3].split()[:4] == ["n-far", "connection", "connected", "disconnected"]
    assert "start the daemon" in lines[3]
    assert cli("job", "explain", "--file", spec).code == 0
    assert cli("job", "explain").code == 2


def test_stop(cli: Cli) -> None:
    """A running job is stopped with its reason; one that has ended cannot be."""
    cli.world = lambda fake: _ignore(fake.add_job("a"))
    assert cli("job", "stop", "a", "--reason", "enough").out.startswith("j-")
    assert cli.fake is not None
    (job,) = cli.fake.jobs.values()
    assert job.state.message == "enough"

    cli.world = finished
    ended = cli("job", "stop", "a")
    assert ended.code == 7
    assert "Completed already" in ended.err


# ── logs and results ──────────────────────────────────────────────────────────────────────────────────────────────


def test_logs_of_one_execution_are_bytes_as_they_were(cli: Cli) -> None:
    """In a pipe nothing is changed; without -f the exit code is 0, with -f it is the job's."""
    cli.world = lambda fake: finished(fake, exit_code=5, stdout=b"\x1b[31mred\x1b[0m\nno end", stderr=b"warn\n")

    plain = cli("job", "logs", "a")
    followed = cli("job", "logs", "a", "-f")

    assert (plain.code, plain.out, plain.err) == (0, "\x1b[31mred\x1b[0m\nno end", "warn\n")
    assert followed.code == 5


def test_logs_of_several_executions_say_whose_line_it_is(cli: Cli) -> None:
    """Merged by line."""

    def world(fake: FakeOrchestrator) -> None:
        job = fake.add_job("a", count=2)
        for number in range(2):
            execution = fake.place(job, f"n-{number}", partition=number)
            fake.nodes.write(execution, stdout=b"from %d\n" % number)
            fake.finish(execution)

    cli.world = world
    lines = cli("job", "logs", "a", "--timestamps").out.splitlines()

    assert sorted(line.split(" ", 2)[2] for line in lines) == ["n-0 | from 0", "n-1 | from 1"]


def test_results_are_downloaded_and_told(cli: Cli, tmp_path: Path) -> None:
    """The directory on stdout, figures on stderr; again, and nothing is received."""

    def world(fake: FakeOrchestrator) -> None:
        job = fake.add_job("a")
        execution = fake.place(job)
        fake.finish(execution, 2, files={"out/x": FakeFile(b"x" * 1000), "door": FakeFile(link="/etc")})

    cli.world = world
    place = tmp_path / "r"
    first = cli("job", "results", "a", "-d", str(place))
    again = cli("job", "results", "a", "-d", str(place), "-o", "json")

    assert (first.code, first.out) == (0, f"{place}\n")
    assert "exit code 2" in first.err
    assert "left out: door -> /etc" in first.err
    assert (place / "out/x").read_bytes() == b"x" * 1000
    assert again.value["Fetched"][0]["ReceivedBytes"] == 0
    assert again.value["Fetched"][0]["ExitCode"] == 2


# ── nodes, credentials, cluster ───────────────────────────────────────────────────────────────────────────────────


def test_nodes(cli: Cli) -> None:
    """List, one, and an invitation whose token is alone on stdout."""
    cli.world = lambda fake: fake.add_node("n-1", zone="a")

    listed = cli("node", "list").out.splitlines()
    assert listed[0].split() == ["ID", "STATE", "CPU", "MEMORY", "GPU", "RUN", "ENGINES"]
    assert listed[1].split()[:3] == ["n-1", "connected", "4/4"]
    assert "Labels         = zone=a" in cli("node", "get", "n-1").out
    assert cli("node", "list", "-o", "json").value[0]["Info"]["NodeID"] == "n-1"
    invited = cli("node", "invite", "--ttl", "2h")
    assert invited.out == "bacalhau-join-abc\n"
    assert "bacalhau-daemon --compute --join" in invited.err
    assert cli.fake is not None
    verb, request, _ = cli.fake.requests[-1]
    assert (verb, request) == ("node.invite", m.NodeInvite(ttl_s=7200))


def test_credentials(cli: Cli, tmp_path: Path) -> None:
    """Issuing prints a credential file, or writes it for the owner only; it can be listed and revoked."""
    directory = tmp_path / "config/credentials"
    directory.mkdir(parents=True)
    own = {"address": "nats://h:4222", "identity": "me", "role": "admin", "secret": "s", "cluster": "c", "ca": ""}
    (directory / "default.json").write_text(json.dumps(own))

    printed = cli("credential", "issue", "bob", "--role", "viewer", "-o", "json").value
    file = tmp_path / "bob.json"
    written = cli("credential", "issue", "bob", "--role", "viewer", "--file", str(file))

    assert printed == {**own, "identity": "bob", "role": "viewer", "secret": "bob.secret"}
    assert written.out == f"{file}\n"
    assert json.loads(file.read_text()) == printed
    assert file.stat().st_mode & 0o777 == 0o600
    assert cli("credential", "issue", "bob", "--role", "viewer", "--file", str(file)).code == 7
    assert cli("credential", "revoke", "bob").out == "bob\n"
    assert cli("credential", "list").out.split()[:3] == ["IDENTITY", "ROLE", "CREATED"]


def test_cluster_and_version(cli: Cli) -> None:
    """Leader, log, jobs, disk; both versions."""
    cli.world = finished

    info = cli("cluster", "info").out

    assert "Orchestrator = n-orchestrator, term 1" in info
    assert "Jobs         = 1 completed" in info
    assert "Server = 0.1.0" in cli("version").out
    assert cli("version", "--client", "-o", "json").value["ServerVersion"] == ""


# ── how a run ends ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("no such job"), 4),
        (errors.Forbidden("role"), 5),
        (errors.Unauthenticated("revoked"), 5),
        (errors.SpecError("bad"), 3),
        (errors.Conflict("ended"), 7),
        (errors.Internal("bug"), 8),
    ],
)
def test_errors_become_exit_codes_and_words(cli: Cli, error: errors.BacalhauError, code: int) -> None:
    """What happened and what to do next go to stderr, in clean text."""
    error.hint = "try \x1bthis"
    cli.world = lambda fake: fake.refuse.append(error)

    ended = cli("job", "get", "x")

    assert ended.code == code
    assert ended.out == ""
    assert f"error: {error.message}" in ended.err
    assert "hint: try \\ethis" in ended.err


def test_a_read_only_profile_sends_no_writes(cli: Cli, spec: str) -> None:
    """The guard is in the client."""
    cli.read_only = True

    assert cli("job", "run", spec).code == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["jobb"], "did you mean 'job'"),
        (["job", "lst"], "did you mean 'list'"),
        (["job", "list", "--bogus"], "--bogus"),
        (["job", "run", "/nope.yaml"], "cannot read the job file"),
        (["job", "run", "/dev/null", "-V", "x"], "not NAME=VALUE"),
        (["node", "invite", "--ttl", "soon"], "not a duration"),
        ([], "Usage"),
    ],
)
def test_wrong_command_lines_end_with_2(cli: Cli, line: list[str], words: str) -> None:
    """With what was meant, on stderr. Without a command and a terminal there is help."""
    ended = cli(*line)

    assert ended.code == 2
    assert words in ended.err
    assert ended.out == ""


def test_other_people_s_names_cannot_steer_the_terminal(cli: Cli) -> None:
    """Tables escape controls, also in a pipe; JSON escapes them by itself."""

    def world(fake: FakeOrchestrator) -> None:
        fake.add_job("\x1b]0;owned\x07\u202ename")

    cli.world = world
    table = cli("job", "list").out
    value = cli("job", "list", "-o", "json")

    assert "\\e]0;owned\\x07\\u{202e}name" in table
    assert "\x1b" not in value.out
    assert value.value[0]["Name"] == "\x1b]0;owned\x07\u202ename"


def test_help_documents_the_exit_codes(cli: Cli) -> None:
    """Every exit code of the error taxonomy is in --help."""
    text = cli("--help").out

    for kind in errors.BacalhauError.__subclasses__():
        assert f"  {kind.exit_code} " in text
