"""What lies on disk of an execution, and when it is written.

::

    executions/<execution id>/          0700
        results/                        what people fetch: stdout, stderr, exitCode, <output name>/…
        inputs/<n>/                     copies of inputs, removed when the run is over
        outcome.json                    how the run ended: written whole before anything of it is removed
        manifest.json                   the list of results with their hashes, made when they are large or asked for

`outcome.json` is synchronised to the disk when the run outlives the daemon, so that what stands for it is never less
durable than the run itself. A run that is part of this process, or of a child, is gone with a power cut anyway: its
file has to survive the process only, and an execution without one is reported as lost.

All functions block: call them in a thread, but for `is_absent`, which is one quick question.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bacalhau_daemon.core.compute_reports import Phase
from bacalhau_daemon.files import sync_directory
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import Outcome, run_output

OUTPUT_TEXT_BYTES = 2048  # of each stream, in the report
TAIL_BYTES = 64 * 1024  # of each stream, for the orchestrator to keep
STREAM_BYTES_MAX = 1024**3  # of stdout and of stderr; more is cut off, visibly
OUTCOME = "outcome.json"
RESULTS, INPUTS, STDOUT, STDERR, EXIT_CODE = "results", "inputs", "stdout", "stderr", "exitCode"


class OutcomeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`outcome.json`."""

    attempt: int
    outcome: Outcome
    phases: tuple[Phase, ...] = ()


class Tail(msgspec.Struct, frozen=True):
    """The end of a stream."""

    data: bytes = b""
    offset: int = 0


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What is taken from the streams when a run is over. `bare`: it left nothing on disk."""

    record: OutcomeRecord
    output: RunOutput
    bare: bool = False
    stdout: Tail = Tail()
    stderr: Tail = Tail()


def is_absent(execution_dir: Path) -> bool:
    """Whether nothing of an execution is on disk."""
    return not os.path.isdir(execution_dir)  # noqa: PTH112 (every run comes by here, and this is thrice as fast)


def create(execution_dir: Path, outputs: Iterable[ResultPath]) -> None:
    """Make the directories of an execution, private: an empty one per output. Who copies an input makes its own.

    May be called again; what earlier inputs left is removed, what outputs left is not.
    """
    execution_dir.mkdir(mode=0o700, exist_ok=True)
    results = execution_dir / RESULTS
    results.mkdir(mode=0o700, exist_ok=True)
    for output in outputs:
        (results / output.name).mkdir(mode=0o755, exist_ok=True)
    remove_inputs(execution_dir)


def input_dir(execution_dir: Path, number: int) -> Path:
    """Return where the copy of one input goes."""
    return execution_dir / INPUTS / str(number)


def remove_inputs(execution_dir: Path) -> None:
    """Remove the copies of inputs; mostly there are none."""
    inputs = execution_dir / INPUTS
    if inputs.exists():
        shutil.rmtree(inputs, ignore_errors=True)


def bare_ending(record: OutcomeRecord) -> Ending:
    """Return the ending of a run that left nothing on disk."""
    return Ending(record=record, output=run_output("", False, "", False, record.outcome), bare=True)


def finish(execution_dir: Path, record: OutcomeRecord, *, durable: bool) -> Ending:
    """Complete the result tree and write the outcome."""
    streams = execution_dir / RESULTS
    if not os.path.isdir(streams):  # noqa: PTH112 (see is_absent)
        create(execution_dir, ())
    for name in (STDOUT, STDERR):
        _cap(streams / name)
    _clear(streams / EXIT_CODE)
    _write(streams / EXIT_CODE, str(record.outcome.exit_code).encode(), durable=False)
    half = execution_dir / f".{OUTCOME}"
    _write(half, msgspec.json.encode(record), durable=durable)
    half.replace(execution_dir / OUTCOME)
    if durable:
        with contextlib.suppress(OSError):  # not every file system lets directories be synchronised
            sync_directory(execution_dir)
    return ending(execution_dir, record)


def ending(execution_dir: Path, record: OutcomeRecord) -> Ending:
    """Read what is reported of the streams."""
    streams = execution_dir / RESULTS
    stdout, stdout_cut = _head(streams / STDOUT)
    stderr, stderr_cut = _head(streams / STDERR)
    return Ending(
        record=record,
        output=run_output(stdout, stdout_cut, stderr, stderr_cut, record.outcome),
        stdout=_tail(streams / STDOUT),
        stderr=_tail(streams / STDERR),
    )


def read_outcome(execution_dir: Path, attempt: int) -> OutcomeRecord | None:
    """Return how an earlier daemon's run of this attempt ended; None when it had not, or that cannot be read."""
    record = read_any_outcome(execution_dir)
    return record if record is not None and record.attempt == attempt else None


def read_any_outcome(execution_dir: Path) -> OutcomeRecord | None:
    """Return how the last attempt ended; None when it has not."""
    try:
        return msgspec.json.decode((execution_dir / OUTCOME).read_bytes(), type=OutcomeRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def start_over(execution_dir: Path) -> None:
    """Remove what an earlier attempt left."""
    for name in (RESULTS, INPUTS):
        shutil.rmtree(execution_dir / name, ignore_errors=True)
    (execution_dir / OUTCOME).unlink(missing_ok=True)


def stream_sizes(execution_dir: Path) -> tuple[int, int]:
    """Return the sizes of stdout and stderr."""
    return _size(execution_dir / RESULTS / STDOUT), _size(execution_dir / RESULTS / STDERR)


def pread(path: Path, offset: int, limit: int) -> bytes:
    """Return bytes of a stream; nothing when it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, limit, max(offset, 0))
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _cap(path: Path) -> None:
    """Make sure that a stream's file is there, is a file, and is not too long."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        _clear(path)
        _write(path, b"", durable=False)
    elif status.st_size > STREAM_BYTES_MAX:
        note = f"\n[bacalhau: output cut off here after {STREAM_BYTES_MAX} of {status.st_size} bytes]\n".encode()
        with path.open("r+b") as file:
            file.truncate(STREAM_BYTES_MAX - len(note))
            file.seek(0, os.SEEK_END)
            file.write(note)


def _clear(path: Path) -> None:
    """Remove a link or a directory that a job may have put in place of a file of ours."""
    if path.is_symlink():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)


def _head(path: Path) -> tuple[str, bool]:
    try:
        with path.open("rb") as file:
            data = file.read(OUTPUT_TEXT_BYTES + 1)
    except FileNotFoundError:
        return "", False
    cut = len(data) > OUTPUT_TEXT_BYTES
    return _text(data[:OUTPUT_TEXT_BYTES], cut=cut), cut


def _text(data: bytes, *, cut: bool) -> str:
    """Decode; a character that the cut has halved is left out, what is not UTF-8 shows as such."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        halved = cut and error.reason == "unexpected end of data"
        return (data[: error.start] if halved else data).decode(errors="replace")


def _tail(path: Path) -> Tail:
    try:
        with path.open("rb") as file:
            offset = max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0)
            file.seek(offset)
            return Tail(file.read(TAIL_BYTES), offset)
    except FileNotFoundError:
        return Tail()


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(descriptor, data)
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
