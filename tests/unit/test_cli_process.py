"""The program as a process: what it imports, broken pipes, no terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bacalhau_tui.cli.root import EPILOG

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-c", "from bacalhau_tui.cli import main; main()"]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "BACALHAU_CONFIG_DIR": str(tmp_path)}


def loaded_by(tmp_path: Path, code: str) -> set[str]:
    """Return the top-level modules that code loads in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


COMMANDS = """
from bacalhau_tui.cli.root import *
for commands in (JOB_COMMANDS, NODE_COMMANDS, CREDENTIAL_COMMANDS):
    for place, _ in commands.values():
        importlib.import_module(place.partition(":")[0])
import bacalhau_tui.cli.cluster, bacalhau_tui.cli.profile
"""
DATA = """
import bacalhau_tui.data.detail, bacalhau_tui.data.session, bacalhau_tui.data.settings, bacalhau_tui.data.view
"""


@pytest.mark.parametrize("code", [COMMANDS, DATA], ids=["commands", "data"])
def test_no_screen_library_and_no_nats_is_loaded_early(tmp_path: Path, code: str) -> None:
    """All commands and the whole data layer come without Textual and rich; NATS and HTTP come when they are used."""
    assert not {"textual", "rich", "nats", "httpx", "boto3", "wasmtime"} & loaded_by(tmp_path, code)


def test_help_loads_next_to_nothing(tmp_path: Path) -> None:
    """`--help` needs the command tree and no more."""
    loaded = loaded_by(tmp_path, "from bacalhau_tui.cli.root import run; run(['--help'])")

    assert not {"asyncio", "msgspec", "ruamel", "tomli", "nats", "textual", "rich"} & loaded


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`bacalhau-tui … | head -1` ends quietly."""
    job = tmp_path / "job.yaml"
    job.write_text("Type: batch\nTasks:\n- Name: main\n  Engine: {Type: noop}\n  Meta: {k: '" + "x" * 200_000 + "'}\n")
    program = subprocess.Popen(
        [*PROGRAM, "job", "validate", str(job), "-o", "json"],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()

    complaint = program.stderr.read()
    code = program.wait(60)
    program.stderr.close()

    assert complaint == b""
    assert code == 141


def test_a_terminal_without_unicode_still_shows_something(tmp_path: Path) -> None:
    """In the C locale what cannot be shown is escaped, nothing dies."""
    job = tmp_path / "job.yaml"
    job.write_text("Name: größe\nType: batch\nTasks:\n- Name: main\n  Engine: {Type: noop}\n")
    done = subprocess.run(
        [*PROGRAM, "job", "validate", str(job), "-o", "yaml"],
        env={**environment(tmp_path), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0
    assert b"gr" in done.stdout


def test_the_documented_exit_codes_are_those_of_help() -> None:
    """`docs/commands.md` and `--help` list the same codes."""
    documented = re.findall(r"^\| (\d+) \|", (ROOT / "docs/commands.md").read_text(), re.MULTILINE)
    helped = re.findall(r"^  (\d+) +\w", EPILOG, re.MULTILINE)

    assert sorted(documented) == sorted(helped)
