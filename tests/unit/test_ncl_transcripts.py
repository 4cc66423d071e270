"""Whole sessions between real programs: put in either one's place, our machines say the same."""

from __future__ import annotations

from typing import Any

import pytest

from bacalhau_protocol.ncl import envelope, events, messages, subjects
from bacalhau_protocol.ncl.compute import ComputeSession
from bacalhau_protocol.ncl.events import Send
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from bacalhau_protocol.ncl.subjects import Plane
from tests.builders_ncl import SECOND, START, Message, message, node_info, sent, transcript

NODE = "n-comp"
SESSIONS = [
    "transcript",
    "transcript-compute-kill9",
    "transcript-job-update",
    "transcript-node-rejected",
    "transcript-orchestrator-restart",
]


def kind(line: dict[str, Any]) -> str:
    """A message's type; `ack`, `nack` and `503` for those that have none."""
    if line["body"] is None:
        return str(line["headers"]["Status"])
    if line["wire"]["version"] is None:
        return "nack" if line["body"].get("error") else "ack"
    return str(line["body"]["metadata"]["Bacalhau-Type"])


def answers(lines: list[dict[str, Any]], to: str) -> dict[str, dict[str, Any]]:
    """What was recorded as answer to each request of that side, by reply subject."""
    asked = {line["reply"] for line in lines if line["from"] == to and line["reply"]}
    return {line["subject"]: line for line in lines if line["from"] != to and line["subject"] in asked}


def said(sends: list[Send]) -> dict[str, str]:
    """What we answered, by reply subject."""
    found = {}
    for send in sends:
        plain = send.data == b"{}"
        found[send.subject] = "ack" if plain else messages.NAMES[type(envelope.decode(send.data).payload)]
    return found


class Orchestrator:
    """Ours, whose owner decides as the recorded one did."""

    def __init__(self, recorded: dict[str, dict[str, Any]]) -> None:
        self.sessions = OrchestratorSessions("_R.n-o.x")
        self.recorded = recorded
        self.sends: list[Send] = []
        self.reports: list[str] = []

    def take(self, received: Message, now: int) -> None:
        for output in self.sessions.message(received, now):
            match output:
                case Send():
                    self.sends.append(output)
                case events.NodeHandshook():
                    self.decide(output, now)
                case events.ReportReceived():
                    self.reports.append(type(output.report).__name__)
                    self.sends += sent(self.sessions.persisted(output.delivery))
                case _:
                    pass

    def decide(self, handshake: events.NodeHandshook, now: int) -> None:
        real = envelope.decode(message(self.recorded[handshake.reply]).data).payload
        assert isinstance(real, messages.HandshakeResponse)
        if not real.accepted:
            self.sends += sent(self.sessions.refuse(handshake, now, str(real.reason)))
            return
        accepted = self.sessions.accept(
            handshake,
            now,
            starting_seq=real.starting_orchestrator_seq,
            last_compute_seq=real.last_compute_seq,
            reason=str(real.reason),
        )
        assert envelope.decode(sent(accepted)[0].data).payload == real
        self.sends += sent(accepted)


@pytest.mark.parametrize("name", SESSIONS)
def test_our_orchestrator_answers_a_real_node_as_the_real_one_did(name: str) -> None:
    """Every request and report of the recorded node; where a real one was not there (503), we say nothing yet.

    A recording that begins inside of a session begins here as after a restart: what comes before the handshake is
    told to shake hands, or left to be repeated.
    """
    lines = transcript(name)
    recorded = answers(lines, "compute")
    ours = Orchestrator(recorded)

    began = False
    expected: dict[str, str] = {}
    for line in lines:
        if line["from"] != "compute" or line["subject"].startswith(("_INBOX", "node.", "_SINBOX", "_HEART")):
            continue
        began = began or kind(line) == "transport.HandshakeRequest"
        ours.take(message(line), START + int(line["t"] * SECOND))
        if line["reply"] in recorded and (began or kind(line) == "transport.HeartbeatRequest"):
            expected[line["reply"]] = kind(recorded[line["reply"]]) if began else "BacError"

    wanted = {reply: answer for reply, answer in expected.items() if answer != "503"}
    assert said(ours.sends) == wanted
    assert wanted or name == "transcript-job-update"


@pytest.mark.parametrize("name", SESSIONS)
def test_our_node_acknowledges_a_real_orchestrators_commands_as_the_real_one_did(name: str) -> None:
    """Each command is read, handed over with its number, and acknowledged to its own reply subject."""
    lines = transcript(name)
    recorded = answers(lines, "nats-server")
    session = ComputeSession(NODE, "_R.n-comp.x", node_info(NODE), started_at=START, jitter=lambda: 0.5)

    sends: list[Send] = []
    numbers = []
    for line in lines:
        if line["subject"] == subjects.subject(NODE, Plane.IN_MSGS):
            (received,) = session.message(message(line), START)
            assert isinstance(received, events.CommandReceived)
            numbers.append(received.seq)
            sends += sent(session.persisted(received.delivery))

    commands = {reply: kind(line) for reply, line in recorded.items()}
    assert {reply: answer for reply, answer in said(sends).items() if reply in commands} == commands
    assert numbers == [int(line["headers"]["Bacalhau-SeqNum"]) for line in lines if line["subject"].endswith("in.msgs")]
    assert session.last_orchestrator_seq == (numbers[-1] if numbers else 0)
