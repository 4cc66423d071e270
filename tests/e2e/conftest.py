"""Real daemons as processes, each test with a cluster of its own in a directory of its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from bacalhau_daemon.devstack import DevStack
from tests.e2e.faults import SmallDisk
from tests.e2e.network import Namespace

LOG_LINES_SHOWN = 60


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip aloud what this machine cannot do, or what takes too long for every day."""
    if item.get_closest_marker("needs_root") and os.geteuid() != 0:
        pytest.skip("needs root, so this was NOT tested")
    if item.get_closest_marker("soak") and not os.environ.get("SOAK"):
        pytest.skip("takes many minutes: just soak")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemons said when a test fails."""
    report = yield
    if report.failed:
        for stack in (value for value in getattr(item, "funcargs", {}).values() if isinstance(value, DevStack)):
            for daemon in stack.daemons:
                report.sections.append((f"log of {daemon.name}", daemon.log_tail(LOG_LINES_SHOWN)))
    return report


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[DevStack]:
    """Give a directory in which a test starts daemons; all of them are ended with the test."""
    with DevStack(tmp_path / "cluster") as made:
        yield made


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """Give a cluster of one daemon with both roles, node `n-one`, that the tests of a module share and do not harm."""
    with DevStack(tmp_path_factory.mktemp("shared") / "cluster") as made:
        made.hybrid("--name", "n-one", "--label", "zone=a", name="shared")
        yield made


@pytest.fixture
def port() -> int:
    """Give a port that was free a moment ago, for daemons that are started again on the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Give another network namespace, linked to ours."""
    made = Namespace.make()
    try:
        yield made
    finally:
        made.remove()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Give a disk of some megabytes."""
    made = SmallDisk.mount(tmp_path / "disk")
    try:
        yield made
    finally:
        made.unmount()
