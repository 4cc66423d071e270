"""One daemon with both roles, and what a person types: modules, dry runs, wrong files, changed settings."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol.models.states import ComputeStateType

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "jobs"
MODULES = ROOT / "examples" / "wasm"


def noop_file(directory: Path, name: str, **params: object) -> str:
    path = directory / f"{name}.json"
    engine = {"Type": "noop", "Params": params}
    path.write_text(json.dumps({"Name": name, "Type": "batch", "Tasks": [{"Name": "main", "Engine": engine}]}))
    return str(path)


def test_a_module_in_the_job_file_runs(shared: DevStack) -> None:
    """`job run --wait` prints the end, node and exit code; `logs -f` prints what the module printed."""
    waited = shared.command("job", "run", str(EXAMPLES / "hello.yaml"), "--set", "Name=wasm-hello", "--wait")
    logs = shared.command("job", "logs", "wasm-hello", "-f")

    assert "State     = Completed" in waited.stdout
    assert "Exit code = 0" in waited.stdout
    assert "n-one" in waited.stdout
    assert "Bacalhau" in logs.stdout


def test_modules_and_data_of_the_node_give_the_tree(stack: DevStack, tmp_path: Path) -> None:
    """A module over a directory of the node: results hold outputs, streams and exit code; the right bytes."""
    data = tmp_path / "data"
    (data / "deep").mkdir(parents=True)
    for number in range(5):
        (data / "deep" / f"m{number}.py").write_text(f"x = {number}\n" * (number + 1))
    stack.hybrid("--name", "n-data", "--label", "zone=a", "--allow-path", f"{data}/**", "--allow-path", f"{MODULES}/**")
    variables = ["-V", "zone=a", "-V", f"data={data}", "-V", f"modules={MODULES}", "-V", "code=7"]

    waited = stack.command("job", "run", str(EXAMPLES / "sha256.yaml"), *variables, "--wait")
    stack.command("job", "results", "sha256-a", "-d", str(tmp_path / "r"))
    failed = stack.command("job", "run", str(EXAMPLES / "exitcode.yaml"), *variables, "--wait", check=False)
    followed = stack.command("job", "logs", "exitcode", "-f", check=False)

    lines = (tmp_path / "r/out/SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split() for line in lines)}
    assert "Completed" in waited.stdout
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["exitCode", "out", "stderr", "stdout"]
    assert sums == {
        str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in data.rglob("*.py")
    }
    assert (failed.returncode, followed.returncode) == (7, 7)
    assert "Exit code = 7" in failed.stdout


def test_phases_are_told(shared: DevStack, tmp_path: Path) -> None:
    """Preparing and Running are seen while they last, and summed up at the end, in JSON too."""
    spec = noop_file(tmp_path, "phases", PrepareMs=700, DelayMs=700, ExitCode=4)

    waited = shared.command("job", "run", spec, "--wait", "-o", "json", check=False)

    done = json.loads(waited.stdout)
    (phases,) = done["Phases"].values()
    assert waited.returncode == done["ExitCode"] == 4
    assert [phase["Name"] for phase in phases][:2] == ["Preparing", "Running"]
    assert "n-one: " in waited.stderr


def test_a_job_is_stopped(shared: DevStack, tmp_path: Path) -> None:
    """`job stop` ends it on its node; whoever waits or follows hears it with the exit code of a stop."""
    spec = noop_file(tmp_path, "stopped", DelayMs=600_000)
    shared.command("job", "run", spec)

    shared.command("job", "stop", "stopped")
    followed = shared.command("job", "logs", "stopped", "-f", check=False)
    again = shared.command("job", "stop", "stopped")
    job = json.loads(shared.command("job", "get", "stopped", "-o", "json").stdout)

    assert followed.returncode == 10
    assert again.returncode == 0
    assert job["State"]["StateType"] == "Stopped"


def test_machines_read_bacalhaus_names(shared: DevStack, tmp_path: Path) -> None:
    """JSON of list, get, executions, history and explain has the names of Bacalhau's models."""
    job_id = shared.command("job", "run", noop_file(tmp_path, "names"), "--wait").stdout.split()[2]

    def asked(*line: str) -> Any:
        return json.loads(shared.command("job", *line, "-o", "json").stdout)

    (listed,) = [row for row in asked("list") if row["Name"] == "names"]
    (execution,) = asked("executions", "names")
    history, explained, job = (asked(verb, "names") for verb in ("history", "explain", "get"))

    assert listed["ID"] == job_id
    assert job["ID"] == job_id
    assert job["State"]["StateType"] == "Completed"
    assert execution["JobID"] == job_id
    assert execution["NodeID"] == "n-one"
    assert execution["ComputeState"]["StateType"] == ComputeStateType.COMPLETED  # a number, as Bacalhau has it
    assert execution["RunOutput"]["ExitCode"] == 0
    assert {item["Type"] for item in history} == {"JobLevel", "ExecutionLevel"}
    assert "n-one" in json.dumps(explained)


def test_a_dry_run_changes_nothing(shared: DevStack, tmp_path: Path) -> None:
    """It prints the job as it would be stored, defaults filled in, and stores nothing."""
    dry = shared.command("job", "run", noop_file(tmp_path, "dry"), "--dry-run", "-o", "json")
    absent = shared.command("job", "get", "dry", check=False)

    job = json.loads(dry.stdout)
    assert job["Count"] == 1
    assert job["Tasks"][0]["ResourcesConfig" if "ResourcesConfig" in job["Tasks"][0] else "Resources"]
    assert absent.returncode == 4


def test_settings_change_the_file(shared: DevStack, tmp_path: Path) -> None:
    """`--set` reaches any field; the change is in what is stored."""
    spec = noop_file(tmp_path, "before")

    shared.command("job", "run", spec, "--set", "Name=after", "--set", "Tasks[0].Engine.Params.ExitCode=0", "--wait")
    job = json.loads(shared.command("job", "get", "after", "-o", "json").stdout)
    wrong = shared.command("job", "run", spec, "--set", "Tasks[0].Nmae=x", check=False)

    assert job["Tasks"][0]["Engine"]["Params"] == {"ExitCode": 0}
    assert wrong.returncode in (2, 3)
    assert "Name" in wrong.stderr


def test_a_file_with_errors_says_all_of_them(shared: DevStack, tmp_path: Path) -> None:
    """Every error at once, each with line and column; nothing reaches the cluster."""
    path = tmp_path / "wrong.yaml"
    path.write_text("Name: wrong\nType: batchh\nCount: -1\nTasks:\n  - Name: main\n    Engin: {Type: noop}\n")

    ran = shared.command("job", "run", str(path), check=False)
    absent = shared.command("job", "get", "wrong", check=False)

    assert ran.returncode == 3
    for place, words in ((":2:", "batch"), (":3:", "Count"), (":6:", "Engine")):
        assert any(place in line and words in line for line in ran.stderr.splitlines()), (place, ran.stderr)
    assert absent.returncode == 4


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_printed_job_runs_again(shared: DevStack, tmp_path: Path, form: str) -> None:
    """What `--dry-run` prints is a job file."""
    dry = shared.command("job", "run", noop_file(tmp_path, f"again-{form}"), "--dry-run", "-o", form)

    ran = shared.command("job", "run", "-", "--wait", stdin=dry.stdout)

    assert "Completed" in ran.stdout
