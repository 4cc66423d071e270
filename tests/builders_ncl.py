"""Captured NCL traffic as bytes, and small builders for what tests of NCL send around."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.node import NodeInfo
from bacalhau_protocol.ncl import envelope, messages, subjects
from bacalhau_protocol.ncl.compute import ComputeSession
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.messages import Payload
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.ncl.subjects import Plane

DATA = Path(__file__).parent / "data" / "ncl"
NODE = "n-1"
START = 1_750_000_000 * 10**9
SECOND = 10**9
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class Message(msgspec.Struct, frozen=True):
    """What a bus would hand over."""

    subject: str
    data: bytes = b""
    reply: str = ""
    headers: dict[str, str] | None = None


def go_json(value: object) -> bytes:
    """Write JSON as Go does: compact, non-ASCII kept, some characters escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return "".join(_ESCAPES.get(character, character) for character in text).encode()


def seal(body: bytes, version: int = 1, crc: int | None = None) -> bytes:
    """Put version and checksum in front of a body."""
    return bytes([version]) + (zlib.crc32(body) if crc is None else crc).to_bytes(4) + body


def captured(name: str) -> dict[str, Any]:
    """Return a captured message."""
    sample: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text())
    return sample


def wire(sample: dict[str, Any]) -> bytes:
    """Rebuild the payload that was on the wire, and check it against what was noted of it."""
    if sample["body"] is None:
        return b""
    body = go_json(sample["body"])
    version = sample["wire"]["version"]
    data = body if version is None else seal(body, version)
    assert len(data) == sample["wire"]["size"]
    assert version is None or data[1:5].hex() == sample["wire"]["crc32"]
    return data


def message(sample: dict[str, Any]) -> Message:
    """Return a captured message as the bus would hand it over."""
    return Message(sample["subject"], wire(sample), sample["reply"] or "", sample["headers"] or None)


def samples() -> list[str]:
    """Return the names of all captured messages."""
    return sorted(path.stem for path in DATA.glob("*.json"))


def transcript(name: str) -> list[dict[str, Any]]:
    """Return the protocol lines of a captured session that carry a message."""
    lines = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text().splitlines()]
    return [line for line in lines if "body" in line]


def packed(payload: Payload, *, source: str = NODE, seq: int | None = None) -> bytes:
    """Put a payload into its envelope."""
    return envelope.encode(envelope.metadata(payload, source=source, now=START, seq=seq), payload)


def unpacked(output: object) -> Payload:
    """Take the payload out of a message that a machine wants to send."""
    assert isinstance(output, Send)
    return envelope.decode(output.data).payload


def sent(outputs: list[Any]) -> list[Send]:
    """Keep what is to be sent."""
    return [output for output in outputs if isinstance(output, Send)]


def happened(outputs: list[Any]) -> list[Any]:
    """Keep what has happened."""
    return [output for output in outputs if not isinstance(output, Send)]


def node_info(node: str = NODE, *, own: bool = True) -> NodeInfo:
    """Describe a node."""
    protocols = (messages.NCL_PROTOCOL, messages.OWN_PROTOCOL) if own else ("bprotocol/v2", messages.NCL_PROTOCOL)
    return NodeInfo(node_id=node, supported_protocols=protocols)


def job(**changes: Any) -> Job:
    """Build a batch job."""
    plain = Job(
        id="j-1", name="hello", namespace="default", type="batch", count=1,
        tasks=(Task(name="main", engine=SpecConfig("noop")),),
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def execution(number: int = 1, **changes: Any) -> Execution:
    """Build an execution with its job."""
    plain = Execution(id=f"e-{number}", namespace="default", node_id=NODE, job_id="j-1", job=job())
    return msgspec.structs.replace(plain, **changes)


def shake(node: str = NODE, *, own: bool = True, reply: str = "") -> Message:
    """A node's handshake."""
    request = messages.HandshakeRequest(node_info(node, own=own), "2025-06-02T08:30:00.123456789Z")
    return Message(subjects.subject(node, Plane.OUT_CTRL), packed(request), reply or f"_R.{node}.x.control.1")


def heartbeat(node: str = NODE) -> Message:
    """A node's heartbeat."""
    return Message(
        subjects.subject(node, Plane.OUT_CTRL), packed(messages.HeartbeatRequest(node)), f"_R.{node}.x.control.2"
    )


def report(number: int = 1, node: str = NODE, seq: int | None = None) -> Message:
    """A node's bid."""
    return Message(
        subjects.subject(node, Plane.OUT_MSGS),
        packed(messages.BidResult(f"e-{number}", "j-1", "batch", None, True), seq=number if seq is None else seq),
        f"_R.{node}.x.1.0.{number}",
    )


def orchestrator(*nodes: str, own: bool = True, **settings: Any) -> OrchestratorSessions:
    """An orchestrator with these nodes connected at `START`."""
    sessions = OrchestratorSessions("_R.n-o.x", **settings)
    for node in nodes:
        (handshake,) = sessions.message(shake(node, own=own), START)
        sessions.accept(handshake, START, starting_seq=7)  # type: ignore[arg-type]
    return sessions


def compute(**settings: Any) -> ComputeSession:
    """A compute node's session before its link is up; its jitter is always one half."""
    return ComputeSession(NODE, "_R.n-1.x", node_info(), started_at=START, jitter=lambda: 0.5, **settings)


def answer_to(request: Send, payload: Payload) -> Message:
    """The orchestrator's answer to a request."""
    return Message(request.reply, packed(payload, source="orchestrator-control"))


def nobody(request: Send) -> Message:
    """The server's word that nobody listens."""
    return Message(request.reply, b"", "", {"Status": "503", "Nats-Subject": request.subject})


def connected(now: int = START, *, starting_seq: int = 7, **settings: Any) -> ComputeSession:
    """A compute node's session that has shaken hands."""
    session = compute(**settings)
    (request,) = session.link_up(now)
    assert isinstance(request, Send)
    session.message(answer_to(request, messages.HandshakeResponse(True, "node registered", 0, starting_seq)), now)
    return session
