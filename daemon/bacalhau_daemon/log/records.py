"""Records: what the log holds, byte for byte. Pure: no clock, no I/O; the core imports this.

A record is one line of JSON. Its bytes are made once, by `Codec.seal`, and never change: they are stored, compared,
copied and hashed as they are. Records are numbered 1, 2, 3 …; so are the events inside them, across records. `prev`
holds the hash of the record before, so that a flipped bit, a gap, a lost tail and a foreign log all show.

An event type is a frozen struct with the tag field `t` and a version `v`, most easily a subclass of `Event`. When its
meaning changes, its version goes up and an upgrade function is added; old records are never rewritten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar, get_args

import msgspec

from bacalhau_protocol.errors import BacalhauError

RECORD_BYTES_MAX = 256 * 1024  # a batch stops growing here; one input may exceed it alone
GENESIS = ""  # `prev` of record 1

E = TypeVar("E")
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes an event as plain JSON of one version and returns it as the next version, `t` and `v` included."""


class LogDamaged(BacalhauError):
    """The log is not what was written: the process must stop, never repair by guessing."""

    code: ClassVar[str] = "LogDamaged"


class LogTooNew(BacalhauError):
    """The log was written by a newer release: the process must stop, never skip."""

    code: ClassVar[str] = "LogTooNew"


def version(number: int) -> Any:
    """Return the field for an event's `v`: always written, also where `omit_defaults` leaves other defaults out."""
    return msgspec.field(default_factory=lambda: number)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t", tag=True):
    """Base of events: past tense, everything that fold needs.

    One of version 2 is declared with `kw_only=True` and says `v: int = version(2)`.
    """

    v: int = version(1)


class Record(msgspec.Struct, Generic[E], frozen=True, kw_only=True):
    """One append: the events of one batch of inputs. `at` is nanoseconds since the epoch."""

    v: int  # the vocabulary of the writer
    min_reader: int  # the oldest vocabulary that understands it
    cluster: str
    term: int  # of the leader that wrote it
    n: int
    prev: str  # hash of record n - 1
    first_event: int  # the number of events[0]
    at: int
    cause: str  # what was asked for or happened, for people who read the log
    by: str  # the identity of the process that wrote it
    events: tuple[E, ...]

    @property
    def last_event(self) -> int:
        """The number of the last event."""
        return self.first_event + len(self.events) - 1


class Head(msgspec.Struct, frozen=True):
    """A record without the meaning of its events: enough for chain, numbers and versions."""

    v: int
    min_reader: int
    cluster: str
    term: int
    n: int
    prev: str
    first_event: int
    at: int
    events: tuple[msgspec.Raw, ...]

    @property
    def last_event(self) -> int:
        """The number of the last event."""
        return self.first_event + len(self.events) - 1


def digest(data: bytes) -> str:
    """Return a record's hash: hexadecimal SHA-256 of its bytes."""
    return hashlib.sha256(data).hexdigest()


def head(data: bytes, *, place: str = "record") -> Head:
    """Read a record without decoding its events.

    Raises
    ------
    LogDamaged
        when the bytes are not a record.
    """
    try:
        return _HEAD.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LogDamaged(f"these bytes are not a record: {error}", place=place, hint=RESTORE) from error


_HEAD = msgspec.json.Decoder(Head)
RESTORE = "stop here and restore from a backup with `bacalhau-daemon restore FILE`; nothing was changed"


class Chain(msgspec.Struct, frozen=True):
    """Where a log stands: after record `n` with this hash, and after event number `event`. Starts at nothing."""

    cluster: str = ""  # blank: the first record says which
    n: int = 0
    hash: str = GENESIS
    event: int = 0

    def verify(self, data: bytes) -> Chain:
        """Check that `data` is the next record and return where the log stands after it.

        Raises
        ------
        LogDamaged
            with the record's number, what was expected and what was found.
        """
        place = f"record {self.n + 1}"
        found = head(data, place=place)
        self._expect(place, "its number", self.n + 1, found.n)
        self._expect(place, f"the hash of record {self.n}", self.hash or "none", found.prev or "none")
        self._expect(place, "the number of its first event", self.event + 1, found.first_event)
        self._expect(place, "the cluster", self.cluster or found.cluster, found.cluster)
        if not found.events:
            raise LogDamaged("expected at least one event, found none", place=place, hint=RESTORE)
        return Chain(found.cluster, found.n, digest(data), found.last_event)

    @staticmethod
    def _expect(place: str, what: str, expected: object, found: object) -> None:
        if expected != found:
            raise LogDamaged(f"expected {what} to be {expected}, found {found}", place=place, hint=RESTORE)


class Codec(Generic[E]):
    """Records with one vocabulary of events.

    `events` is a tagged union (tag field `t`) of structs that each have a field `v` (see `version`). `upgrades` maps
    (type, version) to the function that makes the next version of it. `vocabulary` goes up when an event type or a
    meaning is added; `min_reader` says since when a reader understands what is written now.
    """

    def __init__(
        self,
        events: Any,
        *,
        upgrades: Mapping[tuple[str, int], Upgrade] | None = None,
        vocabulary: int = 1,
        min_reader: int = 1,
    ) -> None:
        self.vocabulary = vocabulary
        self.min_reader = min_reader
        self._union = events
        self._upgrades = dict(upgrades or {})
        self._current: dict[str, int] = {}
        for kind in get_args(events) or (events,):
            tag = kind.__struct_config__.tag
            field = next(field for field in msgspec.structs.fields(kind) if field.name == "v")
            assert callable(field.default_factory), f"{kind.__name__}.v must be `version(…)`"
            self._current[tag] = field.default_factory()
        self._decoder: msgspec.json.Decoder[Record[E]] = msgspec.json.Decoder(Record[events])
        self._encoder = msgspec.json.Encoder()

    def seal(
        self,
        chain: Chain,
        events: Iterable[E],
        *,
        cluster: str,
        term: int,
        at: int,
        cause: str,
        by: str,
        encoded: Iterable[bytes] | None = None,
    ) -> tuple[Record[E], bytes, Chain]:
        """Make the record that follows `chain`: the record, its bytes, and where the log will stand after it.

        `encoded` are the bytes of each event, if there are any yet (`encode_event`).
        """
        record: Record[E] = Record(
            v=self.vocabulary,
            min_reader=self.min_reader,
            cluster=cluster,
            term=term,
            n=chain.n + 1,
            prev=chain.hash,
            first_event=chain.event + 1,
            at=at,
            cause=cause,
            by=by,
            events=tuple(events),
        )
        assert record.events, "a record has at least one event"
        assert chain.cluster in {"", cluster}, "a log belongs to one cluster"
        data = self._encoder.encode(record if encoded is None else _with_bytes(record, encoded))
        return record, data, Chain(cluster, record.n, digest(data), record.last_event)

    def encode(self, record: Record[E]) -> bytes:
        """Return a record's bytes."""
        return self._encoder.encode(record)

    def encode_event(self, event: E) -> bytes:
        """Return an event's bytes in a record; it grows by them and a comma."""
        return self._encoder.encode(event)

    def decode(self, data: bytes) -> Record[E]:
        """Read a record; events of older versions come out upgraded.

        Raises
        ------
        LogDamaged
            when the bytes are not a record.
        LogTooNew
            when it needs a newer reader, or holds an event type or version that this release does not know.
        """
        try:
            record = self._decoder.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return self._decode_old(data, error)
        current = self._current
        if record.min_reader <= self.vocabulary and all(
            event.v == current[event.__struct_config__.tag]  # type: ignore[attr-defined]
            for event in record.events
        ):
            return record
        return self._decode_old(data, None)

    def _decode_old(self, data: bytes, error: Exception | None) -> Record[E]:
        found = head(data)
        place = f"record {found.n}"
        if found.min_reader > self.vocabulary:
            raise LogTooNew(
                f"it needs a reader of vocabulary {found.min_reader}, this release reads up to {self.vocabulary}",
                place=place,
                hint=NEWER,
            )
        raw = msgspec.json.decode(data)
        raw["events"] = [
            self._upgrade(event, f"{place}, event {found.first_event + offset}")
            for offset, event in enumerate(raw["events"])
        ]
        try:
            return msgspec.convert(raw, Record[self._union])  # type: ignore[name-defined]
        except msgspec.ValidationError as wrong:
            raise LogDamaged(f"it cannot be read: {error or wrong}", place=place, hint=RESTORE) from wrong

    def _upgrade(self, event: dict[str, Any], place: str) -> dict[str, Any]:
        while True:
            kind, number = event.get("t"), event.get("v")
            if self._current.get(kind) == number:  # type: ignore[arg-type]
                return event
            upgrade = self._upgrades.get((kind, number))  # type: ignore[arg-type]
            if upgrade is None:
                raise LogTooNew(f"event type {kind!r} version {number} is not known", place=place, hint=NEWER)
            event = upgrade(event)


def _with_bytes(record: Record[Any], encoded: Iterable[bytes]) -> Record[Any]:
    return msgspec.structs.replace(record, events=tuple(map(msgspec.Raw, encoded)))


NEWER = "run the release that wrote this log, or a newer one; nothing was changed"
