"""For all tests: what needs docker is skipped aloud where there is none."""

from __future__ import annotations

import pytest

from tests.builders_docker import make_image, missing


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs docker, with the reason."""
    if item.get_closest_marker("needs_docker") and (why := missing()):
        pytest.skip(f"needs docker, so this was NOT tested: {why}")


@pytest.fixture(scope="session")
def busybox() -> str:
    """Give the name of an image with busybox in it."""
    return make_image()
