"""The structs are Bacalhau's wire format: what a real orchestrator sent is encoded again byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job, NetworkConfig, NetworkType
from bacalhau_protocol.models.states import JobState, JobStateType

SAMPLES = sorted((Path(__file__).parents[1] / "data/ncl").glob("ask-for-bid-*.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_real_execution_is_encoded_as_it_came(path: Path) -> None:
    """Keys, their order, what is left out and what is null are Go's."""
    sent = json.loads(path.read_text())["body"]["payload"]["Execution"]
    wire = json.dumps(sent, separators=(",", ":"), ensure_ascii=False).encode()

    assert msgspec.json.encode(msgspec.json.decode(wire, type=Execution)) == wire


def test_there_are_samples() -> None:
    """The samples are where this test looks for them."""
    assert len(SAMPLES) == 11


def test_enumerations_are_read_as_go_reads_them() -> None:
    """Network types without letter case and blanks, but not blank; unknown job states as Undefined."""
    assert msgspec.json.decode(b'{"Type":" full "}', type=NetworkConfig).type is NetworkType.FULL
    assert msgspec.json.decode(b'{"StateType":"RUNNING"}', type=JobState).state_type is JobStateType.RUNNING
    assert msgspec.json.decode(b'{"StateType":"Sleeping"}', type=JobState).state_type is JobStateType.UNDEFINED
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"Type":""}', type=NetworkConfig)


def test_null_elements_from_a_peer_are_refused_with_their_place() -> None:
    """A null in a list of tasks is a decoding error that names it, not a job with a hole."""
    with pytest.raises(msgspec.ValidationError, match=r"\$\.Tasks\[0\]"):
        msgspec.json.decode(b'{"Type":"batch","Tasks":[null]}', type=Job)
