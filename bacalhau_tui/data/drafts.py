"""Drafts: texts of the composer that were never submitted, as files that survive whatever ends the program.

They lie in the state directory (`$BACALHAU_STATE_DIR`, else the platform's), one file each, written under another name
and then renamed, so that a reader finds the text of before or the text of now. The name says when the draft was begun
and which process writes it; a draft of another process that lives is offered last.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.models.submission import JOB_BYTES_MAX

STATE_DIR = "BACALHAU_STATE_DIR"
DRAFTS_MAX = 20
"""The oldest go first."""
_SUFFIX = ".yaml"


def find_state_dir(environment: Mapping[str, str]) -> Path:
    """Return the directory for what should survive the program; it need not exist."""
    if environment.get(STATE_DIR):
        return Path(environment[STATE_DIR]).expanduser()
    from platformdirs import user_state_path  # noqa: PLC0415  not needed when the variable is set

    return user_state_path("bacalhau")


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A draft that was found: its text, when it was last written (ns), and whether another program has it open."""

    path: Path
    text: str
    written: int
    in_use: bool

    @property
    def name(self) -> str:
        """The job's name, as far as the text says one."""
        lines = (line.partition(":") for line in self.text.splitlines())
        return next((value.strip() for key, _, value in lines if key == "Name" and value.strip()), "no name")


class Draft:
    """One draft, owned by this process. Nothing is written before `keep`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / f"{time.time_ns()}-{secrets.token_hex(2)}-{os.getpid()}{_SUFFIX}"

    def keep(self, text: str) -> None:
        """Write the text; blank: remove the file. Raises `UsageError` when it cannot be written."""
        if not text.strip():
            self.drop()
            return
        part = self.path.with_suffix(".part")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            part.touch(mode=0o600)
            part.write_text(text, encoding="utf-8", errors="replace", newline="")
            part.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise errors.UsageError(
                f"the draft cannot be written: {error.strerror or error}", place=str(self.path), hint="is there space?"
            ) from error

    def drop(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Drafts:
    """All drafts of a user."""

    def __init__(self, state_dir: Path, alive: Callable[[int], bool] | None = None) -> None:
        """`alive` says whether a process lives."""
        self.directory = state_dir / "drafts"
        self._alive = alive or _is_alive

    def new(self) -> Draft:
        """Begin a draft."""
        return Draft(self.directory)

    def found(self) -> list[Kept]:
        """Return what is there, the newest first, those in use last; what is beyond the limit is removed."""
        drafts: list[Kept] = []
        paths = sorted(self.directory.glob(f"*{_SUFFIX}"), key=_written, reverse=True)
        for path in paths[:DRAFTS_MAX]:
            with contextlib.suppress(OSError):
                with path.open("rb") as file:
                    text = file.read(JOB_BYTES_MAX).decode(errors="replace")
                drafts.append(Kept(path=path, text=text, written=_written(path), in_use=self._in_use(path)))
        for path in paths[DRAFTS_MAX:]:
            with contextlib.suppress(OSError):
                path.unlink()
        return sorted(drafts, key=lambda draft: draft.in_use)

    def take(self, kept: Kept) -> Draft:
        """Go on with a draft: it is ours from now on."""
        draft = self.new()
        with contextlib.suppress(OSError):
            kept.path.rename(draft.path)
        return draft

    def _in_use(self, path: Path) -> bool:
        owner = path.stem.rpartition("-")[2]
        return owner.isdecimal() and int(owner) != os.getpid() and self._alive(int(owner))


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True
