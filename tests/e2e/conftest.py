"""Real daemons as processes, each test with a cluster of its own in a directory of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import DevStack

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[DevStack]:
    """A directory in which a test starts daemons; all of them are ended with the test."""
    with DevStack(tmp_path / "cluster") as made:
        yield made


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago, for daemons that are started again on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def soak() -> bool:
    """Whether this is the long run (`just soak`)."""
    return bool(os.environ.get("SOAK"))
