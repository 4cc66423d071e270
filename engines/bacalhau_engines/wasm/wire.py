"""Messages between the daemon and its fork server, and their framing.

A frame is a big-endian u32 length and a msgpack map with the tag `t`. Both ends are ours and of one release, so there
is no version. Kept free of other imports: the fork server loads this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

FRAME_LIMIT = 16 * 1024 * 1024
MODULES_PER_RUN_MAX = 32
KILLED_EXIT_CODE = 128 + 9  # as shells say SIGKILL
NEVER_RAN_EXIT_CODE = -1  # as Bacalhau says it
_LENGTH = struct.Struct(">I")


Kind: TypeAlias = Literal[
    "exited", "signalled", "out-of-memory", "over-limit", "cancelled", "timed-out", "could-not-run"
]
"""The values of `OutcomeKind`, which the fork server does not import: it brings all models along."""


class Message(msgspec.Struct, frozen=True, tag_field="t"):
    """Base of all messages."""


class ModuleFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A module's bytes: where they lie and what they hash to. `names` are the import names that it answers to."""

    digest: str  # sha256 in hex
    path: str
    names: tuple[str, ...] = ()


class ModuleInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the daemon must know of a compiled module to link it and to explain errors."""

    imports: tuple[str, ...] = ()  # names of the modules that it imports from, each once, in order
    functions: dict[str, tuple[int, int]] = {}  # exported ones: how many values each takes and returns
    compiled_digest: str = ""  # sha256 of the compiled form
    compiled_bytes: int = 0


class Preopen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A directory of the host that the guest sees."""

    host: str
    guest: str
    writable: bool = False


# ── to the fork server ──


class Load(Message, frozen=True, kw_only=True, omit_defaults=True, tag="load"):
    """Compile this module, or find it compiled; answered by `Loaded` or `NotLoaded`."""

    module: ModuleFile


class Run(Message, frozen=True, kw_only=True, omit_defaults=True, tag="run"):
    """Run the last of `modules`; answered by `Started` (at most once) and `Ended` (exactly once)."""

    id: int
    modules: tuple[ModuleFile, ...]  # in the order of instantiation
    entry_point: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    preopens: tuple[Preopen, ...]
    stdout: str
    stderr: str
    owner: str = ""  # whose it is: a process never plays the guests of two owners
    outputs: tuple[str, ...] = ()  # directories of the host that count against `output_limit`
    memory_limit: int  # bytes of linear memory, of each memory and of all of them together
    output_limit: int  # bytes in `outputs`; 0: none
    stream_limit: int  # bytes of each of the two streams
    timeout_s: float = 0.0  # 0: none


class Kill(Message, frozen=True, kw_only=True, omit_defaults=True, tag="kill"):
    """End a run now; an unknown id is ignored."""

    id: int


# ── from the fork server ──


class Ready(Message, frozen=True, kw_only=True, omit_defaults=True, tag="ready"):
    """The first message."""

    pid: int
    confinement: str  # "seccomp", or why there is none


class Loaded(Message, frozen=True, kw_only=True, omit_defaults=True, tag="loaded"):
    """A module is compiled and lies in the cache."""

    digest: str
    info: ModuleInfo


class NotLoaded(Message, frozen=True, kw_only=True, omit_defaults=True, tag="not-loaded"):
    """A module could not be compiled. `bad`: the module's own fault, so that trying again is useless."""

    digest: str
    message: str
    hint: str = ""
    bad: bool = True


class Started(Message, frozen=True, kw_only=True, omit_defaults=True, tag="started"):
    """The guest's code begins."""

    id: int
    at: int  # ns since the epoch


class Ended(Message, frozen=True, kw_only=True, omit_defaults=True, tag="ended"):
    """A run is over."""

    id: int
    kind: Kind
    exit_code: int = 0
    message: str = ""
    hint: str = ""
    started_at: int = 0
    ended_at: int = 0
    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0


# ── from a worker to the fork server, over a socket of its own: one short message, written and read whole ──


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of the run that is over."""

    kind: Kind
    again: bool = False  # it waits for another run, else it exits
    exit_code: int = 0
    message: str = ""
    hint: str = ""
    cpu_seconds: float = 0.0
    memory_peak_bytes: int = 0


ToServer: TypeAlias = Load | Run | Kill
FromServer: TypeAlias = Ready | Loaded | NotLoaded | Started | Ended

to_server = msgspec.msgpack.Decoder(ToServer)
from_server = msgspec.msgpack.Decoder(FromServer)
_encoder = msgspec.msgpack.Encoder()


def frame(message: Message) -> bytes:
    """Encode one message with its length."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Cuts a stream of bytes into bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what arrived and yield every complete body. Raises `ValueError` on a frame above the limit."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if length > FRAME_LIMIT:
                raise ValueError(f"a frame of {length} bytes is above the limit of {FRAME_LIMIT}")
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            yield bytes(buffer[start + _LENGTH.size : end])
            start = end
        del buffer[:start]
