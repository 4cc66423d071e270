"""The ends of logs are kept within their limits, the oldest go first, and a restart loses none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bacalhau_daemon.orchestrator.kept_logs import MESSAGE_BYTES_MAX, TAIL_BYTES_MAX, KeptLogs, cut
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import KeptLog, LogTail

LARGE = 1024 * 1024


def tail(execution: str, stdout: bytes = b"out", stderr: bytes = b"err") -> bytes:
    """Return a tail as a node sends it."""
    return msgspec.json.encode(LogTail(execution_id=execution, log=KeptLog(stdout=stdout, stderr=stderr)))


def test_a_tail_survives_a_restart(tmp_path: Path) -> None:
    """What was put is there again after the file is opened anew; what was not is None."""
    store = KeptLogs(tmp_path / "kept.db", LARGE)
    store.put(tail("e-1", b"first"))
    store.put(tail("e-1", b"second"))
    store.close()

    again = KeptLogs(tmp_path / "kept.db", LARGE)

    found = again.get("e-1")
    assert found is not None
    assert (found.stdout, found.stderr) == (b"second", b"err")
    assert again.get("e-2") is None
    again.close()


def test_the_oldest_go_first(tmp_path: Path) -> None:
    """Over the limit in all, the oldest are forgotten, also when the limit has become smaller at a start."""
    store = KeptLogs(tmp_path / "kept.db", 3000)
    for number in range(5):
        store.put(tail(f"e-{number}", b"x" * 900))
    assert [number for number in range(5) if store.get(f"e-{number}")] == [2, 3, 4]
    store.close()

    smaller = KeptLogs(tmp_path / "kept.db", 2000)
    smaller.put(tail("e-5", b"x" * 900))

    assert [number for number in range(6) if smaller.get(f"e-{number}")] == [4, 5]
    smaller.close()


@pytest.mark.parametrize(
    ("stdout", "stderr"), [(100, 0), (TAIL_BYTES_MAX * 2, 10), (TAIL_BYTES_MAX, TAIL_BYTES_MAX), (0, 0)]
)
def test_only_the_end_is_kept(stdout: int, stderr: int) -> None:
    """Both streams together stay within the limit, use it, and know where they begin."""
    kept = cut(KeptLog(stdout=b"o" * stdout, stderr=b"e" * stderr, stdout_offset=5))

    assert len(kept.stdout) + len(kept.stderr) == min(stdout + stderr, TAIL_BYTES_MAX)
    assert kept.stdout_offset - 5 + len(kept.stdout) == stdout
    assert kept.stderr_offset + len(kept.stderr) == stderr


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"null", b'{"ExecutionID": null}', b'{"x":' + b"[" * 9_999, b"x" * (MESSAGE_BYTES_MAX + 1)]
)
def test_what_is_not_a_tail_is_refused(tmp_path: Path, data: bytes) -> None:
    """Damaged or oversized messages are usage errors and change nothing."""
    store = KeptLogs(tmp_path / "kept.db", LARGE)
    with pytest.raises(errors.UsageError):
        store.put(data)
    store.close()
