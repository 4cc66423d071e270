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
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import structs

from bacalhau_daemon.core.compute_reports import Phase
from bacalhau_daemon.files import sync_directory
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import Outcome, run_output

OUTPUT_TEXT_BYTES = 2048  # of each stream, in the report
TAIL_BYTES = 64 * 1024  # of each stream, for the orchestrator to keep
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
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

    @property
    def told_whole(self) -> bool:
        """Whether the report of the run holds all that it wrote, to the byte. That of a failed run holds nothing."""
        output, whole = self.output, not (self.output.stdout_truncated or self.output.stderr_truncated)
        said = output.stdout.encode(), output.stderr.encode()
        return whole and not self.record.outcome.failed and said == (self.stdout.data, self.stderr.data)


def is_absent(execution_dir: Path) -> bool:
    """Whether nothing of an execution is on disk."""
    return not os.path.isdir(execution_dir)  # noqa: PTH112 (every run comes by here, and this is thrice as fast)


def create(execution_dir: Path, outputs: Iterable[ResultPath]) -> None:
    """Make the directories of an execution, private: an empty one per output. Who copies an input makes its own.

    May be called again; what earlier inputs left is removed, what outputs left is not.
    """
    try:
        execution_dir.mkdir(mode=0o700)
    except FileExistsError:
        remove_inputs(execution_dir)
    results = execution_dir / RESULTS
    results.mkdir(mode=0o700, exist_ok=True)
    for output in outputs:
        (results / output.name).mkdir(mode=0o755, exist_ok=True)


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
    with _opened(streams) as results:
        for name in (STDOUT, STDERR):
            _cap(results, name)
        _clear(results, EXIT_CODE)
        _write(EXIT_CODE, str(record.outcome.exit_code).encode(), durable=False, directory=results)
        ending = _ending(results, record)
    half = execution_dir / f".{OUTCOME}"
    _write(half, msgspec.json.encode(record), durable=durable)
    half.replace(execution_dir / OUTCOME)
    if durable:
        with contextlib.suppress(OSError):  # not every file system lets directories be synchronised
            sync_directory(execution_dir)
    return ending


def ending(execution_dir: Path, record: OutcomeRecord) -> Ending:
    """Read what is reported of the streams."""
    try:
        with _opened(execution_dir / RESULTS) as results:
            return _ending(results, record)
    except FileNotFoundError:
        return structs.replace(bare_ending(record), bare=False)


def _ending(results: int, record: OutcomeRecord) -> Ending:
    stdout, stdout_cut, stdout_tail = _stream(results, STDOUT)
    stderr, stderr_cut, stderr_tail = _stream(results, STDERR)
    return Ending(
        record=record,
        output=run_output(stdout, stdout_cut, stderr, stderr_cut, record.outcome),
        stdout=stdout_tail,
        stderr=stderr_tail,
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
        with _opened(path, _FILE) as stream:
            return os.pread(stream, limit, max(offset, 0))
    except OSError:
        return b""


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _opened(path: Path | str, flags: int = _DIRECTORY, directory: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o600, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _cap(results: int, name: str) -> None:
    """Make sure that a stream's file is there, is a file, and is not too long."""
    try:
        status = os.lstat(name, dir_fd=results)
    except FileNotFoundError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        _clear(results, name)
        _write(name, b"", durable=False, directory=results)
    elif status.st_size > STREAM_BYTES_MAX:
        note = f"\n[bacalhau: output cut off here after {STREAM_BYTES_MAX} of {status.st_size} bytes]\n".encode()
        with _opened(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, results) as stream:
            os.ftruncate(stream, STREAM_BYTES_MAX - len(note))
            os.pwrite(stream, note, STREAM_BYTES_MAX - len(note))


def _clear(results: int, name: str) -> None:
    """Remove a link or a directory that a job may have put in place of a file of ours."""
    try:
        mode = os.lstat(name, dir_fd=results).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        shutil.rmtree(name, ignore_errors=True, dir_fd=results)
    elif not stat.S_ISREG(mode):
        os.unlink(name, dir_fd=results)


def _stream(results: int, name: str) -> tuple[str, bool, Tail]:
    """Return the beginning of a stream as text, whether it goes on, and its end."""
    try:
        with _opened(name, _FILE, results) as stream:
            offset = max(os.fstat(stream).st_size - TAIL_BYTES, 0)
            tail = os.pread(stream, TAIL_BYTES, offset)
            head = os.pread(stream, OUTPUT_TEXT_BYTES + 1, 0) if offset else tail[: OUTPUT_TEXT_BYTES + 1]
    except FileNotFoundError:
        return "", False, Tail()
    cut = len(head) > OUTPUT_TEXT_BYTES
    return _text(head[:OUTPUT_TEXT_BYTES], cut=cut), cut, Tail(tail, offset)


def _text(data: bytes, *, cut: bool) -> str:
    """Decode; a character that the cut has halved is left out, what is not UTF-8 shows as such."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        halved = cut and error.reason == "unexpected end of data"
        return (data[: error.start] if halved else data).decode(errors="replace")


def _write(path: Path | str, data: bytes, *, durable: bool, directory: int | None = None) -> None:
    with _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, directory) as file:
        os.write(file, data)
        if durable:
            os.fsync(file)
