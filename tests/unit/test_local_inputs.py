"""An input whose path is swapped for a link between check and use is refused by both engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacalhau_engines.docker import create
from bacalhau_engines.testing import local_input
from bacalhau_engines.wasm import filesystem
from bacalhau_protocol.errors import InputFailed


def swap(path: Path, secret: Path) -> None:
    path.rename(path.with_name("old"))
    path.symlink_to(secret)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path.resolve()
    for name in ("scratch/sub", "secret"):
        (base / name).mkdir(parents=True)
        (base / name / "key").write_text(name)
    return base


def test_a_swapped_directory_is_not_mounted(base: Path) -> None:
    """A directory that became a link leads neither engine to where the link points."""
    item = local_input(base / "scratch/sub", "/in")
    layout = filesystem.plan([item], [], base)
    swap(base / "scratch/sub", base / "secret")
    with pytest.raises(InputFailed, match="/in changed"):
        create._input(item, ())
    with pytest.raises(InputFailed, match="/in changed"):
        filesystem.plan([item], [], base)
    with pytest.raises(InputFailed, match="/in changed"):
        filesystem.stage(layout, base / "own", base / "shared")


def test_a_swapped_file_is_not_staged(base: Path) -> None:
    """A single file below such a link is neither linked nor copied."""
    layout = filesystem.plan([local_input(base / "scratch/sub/key", "/key")], [], base)
    swap(base / "scratch/sub", base / "secret")
    with pytest.raises(InputFailed, match="/key changed"):
        filesystem.stage(layout, base / "own", base / "shared")
