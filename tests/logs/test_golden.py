"""Logs of every release fold to what they folded to then."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bacalhau_daemon.core.events import AnyEvent
from bacalhau_daemon.log.backup import BackupFile
from bacalhau_daemon.log.records import head
from tests.logs.make import HERE, fold_digest

LOGS = sorted(HERE.glob("*.jsonl"))


@pytest.mark.parametrize("path", LOGS, ids=lambda path: path.stem)
def test_a_log_of_this_release_folds_to_the_same_state(path: Path) -> None:
    """If this fails, an event's meaning has changed: add a version and an upgrade function, never change the digest."""
    assert fold_digest(path) == path.with_suffix(".sha256").read_text().strip()


def test_every_event_type_stands_in_a_golden_log_with_every_field() -> None:
    """So that nothing on disk changes unnoticed. A new field or type needs a place in `make.scenario`."""
    found: dict[str, set[str]] = {}
    for path in LOGS:
        file = BackupFile(path)
        for data in file.records():
            for raw in head(data).events:
                event = msgspec.json.decode(raw)
                found.setdefault(event["t"], set()).update(event)
        file.close()
    expected = {
        kind.__name__: {"t", *(field.encode_name for field in msgspec.structs.fields(kind))}
        for kind in AnyEvent.__args__
    }
    missing = {name: sorted(fields - found.get(name, set())) for name, fields in expected.items()}
    assert {name: fields for name, fields in missing.items() if fields} == {}
