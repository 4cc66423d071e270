"""Log streams with foreign peers (Bacalhau 1.9's own framing; our nodes are read over `bacalhau.x.v1` instead).

Bare JSON, no envelope. The orchestrator is the consumer, the node the producer::

    consumer ── publish ─► node.compute.<id>.ExecutionLogs/v1   request, reply = <stream inbox>.<stream>
    producer ── publish ─► <stream inbox>.<stream>              data frames, then exactly one close frame
    producer ── request ─► _HEARTBEAT.<stream inbox>            every 10 s: what I still feed; no answer ends it

Only `LogProducer` and `LogConsumer` need to be known from outside.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

import msgspec

from bacalhau_protocol.ncl import subjects
from bacalhau_protocol.ncl.events import Ignored, Incoming, Send
from bacalhau_protocol.ncl.sender import no_responders
from bacalhau_protocol.ncl.timings import SECOND

BEAT_NS: Final = 10 * SECOND
BEAT_TIMEOUT_NS: Final = 5 * SECOND
SILENCE_NS: Final = 35 * SECOND
"""A consumer gives a stream up when neither data nor a heartbeat came for so long: three heartbeats."""
CHUNK_MAX_CHARACTERS: Final = 48 * 1024
"""Of one data frame. The text is escaped, put in base64 and must stay below NATS' 1 MiB."""
STREAMS_MAX: Final = 64
"""Most streams that a producer feeds at a time."""
STREAM_INBOX_PREFIX: Final = "_SINBOX"
HEARTBEAT_PREFIX: Final = "_HEARTBEAT"


class CloseCode(enum.IntEnum):
    """Why a stream has ended."""

    NORMAL = 1000
    GOING_AWAY = 1001
    UNSUPPORTED = 1003  # a frame that cannot be read
    ABNORMAL = 1006  # the other side is gone
    BAD_REQUEST = 4000
    PRODUCER_ERROR = 5000


class LogType(enum.IntEnum):
    """Which of the task's streams a line is from."""

    STDOUT = 1
    STDERR = 2


class _Request(msgspec.Struct, frozen=True):
    consumer_id: str = msgspec.field(default="", name="consumerId")
    stream_id: str = msgspec.field(default="", name="streamId")
    heartbeat_subject: str = msgspec.field(default="", name="heartBeatRequestSub")
    body: bytes = msgspec.field(default=b"", name="body")  # base64 on the wire


class _LogsRequest(msgspec.Struct, frozen=True):
    execution_id: str = msgspec.field(default="", name="ExecutionID")
    node_id: str = msgspec.field(default="", name="NodeID")
    tail: bool = msgspec.field(default=False, name="Tail")
    follow: bool = msgspec.field(default=False, name="Follow")


class _Line(msgspec.Struct, frozen=True):
    type: int = msgspec.field(default=0, name="Type")
    line: str = msgspec.field(default="", name="Line")


class _Item(msgspec.Struct, frozen=True):
    error: str | msgspec.UnsetType = msgspec.UNSET
    value: _Line = msgspec.field(default_factory=_Line)


class _Close(msgspec.Struct, frozen=True):
    code: int = msgspec.field(default=0, name="Code")
    text: str = msgspec.field(default="", name="Text")


class _Frame(msgspec.Struct, frozen=True):
    type: int
    data: bytes | msgspec.UnsetType | None = msgspec.UNSET  # base64 on the wire
    close: _Close | msgspec.UnsetType | None = msgspec.field(default=msgspec.UNSET, name="closeError")


class _Beat(msgspec.Struct, frozen=True):
    active: dict[str, tuple[str, ...] | None] | None = msgspec.field(default=None, name="ActiveStreamIds")


class _BeatAnswer(msgspec.Struct, frozen=True):
    inactive: dict[str, tuple[str, ...] | None] | None = msgspec.field(default_factory=dict, name="NonActiveStreamIds")


_DATA, _CLOSE = 1, 2
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError)


# --- the node's end ------------------------------------------------------------------------------------------------


class Stream(NamedTuple):
    """A stream that a producer feeds: the subject of its frames, which is unique."""

    subject: str


class LogRequested(msgspec.Struct, frozen=True):
    """Someone wants logs. Feed `stream` with `lines`, then `close` it.

    `tail`: only what comes from now on. `follow`: until the execution ends, else until the end of the file.
    """

    stream: Stream
    execution_id: str
    tail: bool
    follow: bool


class LogCancelled(msgspec.Struct, frozen=True):
    """Nobody reads this stream any more: stop feeding it."""

    stream: Stream
    reason: str


ProducerOutput = Send | LogRequested | LogCancelled | Ignored


class _Fed:
    """What a producer knows of a stream."""

    __slots__ = ("heartbeat_subject", "stream_id")

    def __init__(self, stream_id: str, heartbeat_subject: str) -> None:
        self.stream_id = stream_id
        self.heartbeat_subject = heartbeat_subject


class LogProducer:
    """Serves log streams to orchestrators of Bacalhau 1.9.

    Parameters
    ----------
    node
        Our id.
    inbox
        A subject prefix of our own: answers to heartbeats come to `<inbox>.<number>`.
    """

    def __init__(self, node: str, inbox: str) -> None:
        self._node = node
        self._inbox = inbox
        self._requests = subjects.execution_logs(node)
        self._streams: dict[Stream, _Fed] = {}
        self._beat_at: int | None = None
        self._beats = 0
        self._asked: dict[str, tuple[str, int]] = {}  # our reply subject → whose heartbeat, until when

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Requests for logs and the answers to our heartbeats."""
        return self._requests, f"{self._inbox}.*"

    @property
    def streams(self) -> frozenset[Stream]:
        """What is being fed."""
        return frozenset(self._streams)

    def message(self, message: Incoming, now: int) -> list[ProducerOutput]:
        """Take a message from any of the subscriptions. Never raises for what a peer sent."""
        if message.subject == self._requests:
            return self._requested(message, now)
        asked = self._asked.pop(message.subject, None)
        return self._beat_answered(asked[0], message) if asked else []

    def lines(self, stream: Stream, kind: LogType, text: str) -> list[Send]:
        """Send output in as many frames as it needs; to a stream that has ended, nothing."""
        if stream not in self._streams:
            return []
        pieces = [text[at : at + CHUNK_MAX_CHARACTERS] for at in range(0, len(text), CHUNK_MAX_CHARACTERS)]
        return [_frame(stream.subject, _Frame(_DATA, _encode(_Item(value=_Line(kind, piece))))) for piece in pieces]

    def close(self, stream: Stream, code: CloseCode = CloseCode.NORMAL, text: str = "") -> list[Send]:
        """End a stream; nothing when it has ended already."""
        if self._streams.pop(stream, None) is None:
            return []
        return [_close(stream.subject, code, text)]

    def tick(self, now: int) -> list[ProducerOutput]:
        """Ask the consumers whether they are still there; give up those who did not answer."""
        out: list[ProducerOutput] = []
        for reply in [reply for reply, (_, deadline) in self._asked.items() if now >= deadline]:
            out += self._cancel_all(self._asked.pop(reply)[0], "its reader does not answer")
        if self._beat_at is not None and now >= self._beat_at:
            self._beat_at = now + BEAT_NS if self._streams else None
            out += self._beat(now)
        return out

    def next_tick(self) -> int | None:
        """Return when `tick` has something to do."""
        times = [deadline for _, deadline in self._asked.values()]
        if self._beat_at is not None:
            times.append(self._beat_at)
        return min(times, default=None)

    def _requested(self, message: Incoming, now: int) -> list[ProducerOutput]:
        if not message.reply.startswith(f"{STREAM_INBOX_PREFIX}."):  # never publish where a request likes
            return [Ignored(self._node, f"a request for logs wants them at {message.reply!r}")]
        try:
            request = msgspec.json.decode(message.data, type=_Request)
            logs = msgspec.json.decode(request.body, type=_LogsRequest)
        except _UNREADABLE as error:
            return [_close(message.reply, CloseCode.BAD_REQUEST, f"the request cannot be read: {error}")]
        stream = Stream(message.reply)
        if stream in self._streams:
            return [_close(message.reply, CloseCode.PRODUCER_ERROR, f"stream {request.stream_id} is being fed")]
        if len(self._streams) >= STREAMS_MAX:
            text = f"{STREAMS_MAX} log streams are open; close one and try again"
            return [_close(message.reply, CloseCode.PRODUCER_ERROR, text)]
        if not request.heartbeat_subject.startswith(f"{HEARTBEAT_PREFIX}."):
            text = f"heartbeats to {request.heartbeat_subject!r} are not possible"
            return [_close(message.reply, CloseCode.BAD_REQUEST, text)]
        self._streams[stream] = _Fed(request.stream_id, request.heartbeat_subject)
        self._beat_at = self._beat_at or now + BEAT_NS
        return [LogRequested(stream, logs.execution_id, logs.tail, logs.follow)]

    def _beat(self, now: int) -> list[ProducerOutput]:
        fed: dict[str, list[str]] = {}
        for stream in self._streams.values():
            fed.setdefault(stream.heartbeat_subject, []).append(stream.stream_id)
        out: list[ProducerOutput] = []
        for subject, stream_ids in fed.items():
            self._beats += 1
            reply = f"{self._inbox}.{self._beats}"
            self._asked[reply] = (subject, now + BEAT_TIMEOUT_NS)
            out.append(Send(subject, _encode(_Beat({self._requests: tuple(stream_ids)})), reply))
        return out

    def _beat_answered(self, subject: str, message: Incoming) -> list[ProducerOutput]:
        if no_responders(message):
            return self._cancel_all(subject, "its reader is gone")
        try:
            answer = msgspec.json.decode(message.data, type=_BeatAnswer)
        except _UNREADABLE as error:
            return [Ignored(self._node, f"a reader's heartbeat cannot be read: {error}")]
        unwanted = {stream_id for stream_ids in (answer.inactive or {}).values() for stream_id in stream_ids or ()}
        gone = [
            stream
            for stream, fed in self._streams.items()
            if fed.heartbeat_subject == subject and fed.stream_id in unwanted
        ]
        return [self._cancel(stream, "its reader wants no more") for stream in gone]

    def _cancel_all(self, subject: str, reason: str) -> list[ProducerOutput]:
        gone = [stream for stream, fed in self._streams.items() if fed.heartbeat_subject == subject]
        return [self._cancel(stream, reason) for stream in gone]

    def _cancel(self, stream: Stream, reason: str) -> LogCancelled:
        del self._streams[stream]
        return LogCancelled(stream, reason)


# --- the orchestrator's end ----------------------------------------------------------------------------------------


class LogLine(msgspec.Struct, frozen=True):
    """Output came: a chunk, often but not always one line. With `error`, the node's words instead."""

    stream_id: str
    type: LogType | None
    text: str
    error: str = ""


class LogClosed(msgspec.Struct, frozen=True):
    """A stream has ended; nothing more comes of it."""

    stream_id: str
    code: int
    text: str


ConsumerOutput = Send | LogLine | LogClosed | Ignored


class _Read:
    """What a consumer knows of a stream."""

    __slots__ = ("deadline", "subject")

    def __init__(self, subject: str, deadline: int) -> None:
        self.subject = subject  # of the request: names it in heartbeats
        self.deadline = deadline


class LogConsumer:
    """Reads log streams of Bacalhau 1.9 nodes.

    Parameters
    ----------
    unique
        A subject token that no other consumer has.
    """

    def __init__(self, unique: str) -> None:
        self._inbox = f"{STREAM_INBOX_PREFIX}.{unique}"
        self._heartbeats = f"{HEARTBEAT_PREFIX}.{self._inbox}"
        self._streams: dict[str, _Read] = {}

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Frames of all streams, and the producers' heartbeats."""
        return f"{self._inbox}.*", self._heartbeats

    def open(
        self, stream_id: str, node: str, execution_id: str, *, tail: bool = False, follow: bool = True, now: int
    ) -> list[ConsumerOutput]:
        """Ask a node for logs. `stream_id` is a token that was never used before."""
        subject = subjects.execution_logs(node)
        logs = _LogsRequest(execution_id=execution_id, node_id=node, tail=tail, follow=follow)
        request = _Request(f"{self._inbox}.", stream_id, self._heartbeats, _encode(logs))
        self._streams[stream_id] = _Read(subject, now + SILENCE_NS)
        return [Send(subject, _encode(request), f"{self._inbox}.{stream_id}")]

    def close(self, stream_id: str) -> None:
        """Read no more: the producer hears of it with its next heartbeat."""
        self._streams.pop(stream_id, None)

    def message(self, message: Incoming, now: int) -> list[ConsumerOutput]:
        """Take a message from any of the subscriptions. Never raises for what a peer sent."""
        if message.subject == self._heartbeats:
            return self._beat(message, now)
        stream_id = message.subject[len(self._inbox) + 1 :]
        read = self._streams.get(stream_id)
        if read is None:
            return []
        read.deadline = now + SILENCE_NS
        if no_responders(message):
            return [self._closed(stream_id, CloseCode.UNSUPPORTED, "the node serves no logs now")]
        try:
            frame = msgspec.json.decode(message.data, type=_Frame)
            if frame.type == _CLOSE:
                close = frame.close or _Close(CloseCode.NORMAL)
                return [self._closed(stream_id, close.code, close.text)]
            item = msgspec.json.decode(frame.data or b"", type=_Item)
        except _UNREADABLE as error:
            return [self._closed(stream_id, CloseCode.UNSUPPORTED, f"a frame cannot be read: {error}")]
        kind = LogType(item.value.type) if item.value.type in (LogType.STDOUT, LogType.STDERR) else None
        return [LogLine(stream_id, kind, item.value.line, item.error or "")]

    def tick(self, now: int) -> list[ConsumerOutput]:
        """Give up streams whose node is silent."""
        silent = [stream_id for stream_id, read in self._streams.items() if now >= read.deadline]
        return [self._closed(stream_id, CloseCode.ABNORMAL, "the node is silent") for stream_id in silent]

    def next_tick(self) -> int | None:
        """Return when `tick` has something to do."""
        return min((read.deadline for read in self._streams.values()), default=None)

    def _beat(self, message: Incoming, now: int) -> list[ConsumerOutput]:
        try:
            beat = msgspec.json.decode(message.data, type=_Beat)
        except _UNREADABLE as error:
            return [Ignored("", f"a heartbeat of a log stream cannot be read: {error}")]
        unwanted: dict[str, tuple[str, ...] | None] = {}
        for subject, stream_ids in (beat.active or {}).items():
            for stream_id in stream_ids or ():
                if stream_id in self._streams:
                    self._streams[stream_id].deadline = now + SILENCE_NS
            gone = tuple(stream_id for stream_id in stream_ids or () if stream_id not in self._streams)
            if gone:
                unwanted[subject] = gone
        if not message.reply.startswith(subjects.INBOXES):
            return [Ignored("", f"a heartbeat of a log stream wants its answer at {message.reply!r}")]
        return [Send(message.reply, _encode(_BeatAnswer(unwanted)))]

    def _closed(self, stream_id: str, code: int, text: str) -> LogClosed:
        del self._streams[stream_id]
        return LogClosed(stream_id, code, text)


def _frame(subject: str, frame: _Frame) -> Send:
    return Send(subject, _encode(frame))


def _close(subject: str, code: CloseCode, text: str) -> Send:
    return _frame(subject, _Frame(_CLOSE, close=_Close(code, text)))
