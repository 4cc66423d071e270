"""Private files are whole, private and durable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bacalhau_daemon.files import write_private


def test_a_private_file_is_replaced_whole_and_its_name_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content and then the directory are synced, with nothing beside it in the end."""
    synced: list[bool] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").is_dir())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    path = tmp_path / "keys" / "admin.json"
    write_private(path, b"old")
    write_private(path, b"new")

    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["admin.json"]
    assert synced == [False, True, False, True]
