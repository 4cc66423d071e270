"""Who may import whom, and what must not be loaded on a fast path; checked in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def modules_after(statement: str) -> set[str]:
    """Return the top-level names in `sys.modules` after a statement ran in a fresh process."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["bacalhau_tui.cli", "bacalhau_tui.data.store", "bacalhau_protocol.client"])
def test_commands_start_without_the_screen_libraries(module: str) -> None:
    """One-shot commands and the data layer load neither Textual nor rich."""
    assert not {"textual", "rich"} & modules_after(f"import {module}")


@pytest.mark.parametrize("module", ["bacalhau_tui.cli", "bacalhau_daemon.cli"])
def test_help_loads_nothing_heavy(module: str) -> None:
    """The command lines come up without the libraries of engines, storages and NATS."""
    heavy = {"boto3", "docker", "wasmtime", "nats", "httpx", "textual"}

    assert not heavy & modules_after(f"import {module}")


def test_the_import_contracts_hold() -> None:
    """import-linter finds no import against the direction of the architecture."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed: pip install -e '.[dev]'")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stdout
