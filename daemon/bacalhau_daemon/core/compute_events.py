"""What a compute node's journal can say. These formats are on disk for ever: add, never change; see `log/records.py`.

The journal is the node's own memory of what it was asked, what it runs and what it still has to report. It is trimmed
behind `JournalSnapshot`, which holds the whole state. An event's number is NCL's sequence number of the report that it
leads to.
"""

from __future__ import annotations

import enum

import msgspec

from bacalhau_daemon.log.records import Codec, Event
from bacalhau_protocol.models.event import Event as Story
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.models.resources import Resources


class Stage(enum.StrEnum):
    """Where an execution is on its node; `compute_lifecycle` has the transitions."""

    BID = "bid"  # we offered to run it
    QUEUED = "queued"  # approved, waits for room
    STARTED = "started"  # handed to the runner: it prepares, runs, publishes
    CANCELLING = "cancelling"  # to be stopped; holds its room until it is
    FINISHED = "finished"  # over; kept until its report is confirmed, when there is one


class Run(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An execution that is not over. `execution` holds the job."""

    execution: Execution
    resources: Resources  # what it is given; GPUs by identity once it has room
    stage: Stage
    reserved: bool = True  # it has its room; False: only a place in the queue
    attempt: int = 1
    since: int = 0  # when the stage began
    direct: bool = False  # nobody waits for a bid

    @property
    def id(self) -> str:
        """The execution's id."""
        return self.execution.id


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the orchestrator must hear of an execution, in the terms of NCL."""

    execution_id: str
    job_id: str = ""
    job_type: str = ""
    kind: str  # `bid`, `refusal`, `result`, `error`
    events: tuple[Story, ...] = ()
    result: SpecConfig | None = None
    output: RunOutput | None = None


class NodeStarted(Event, frozen=True, kw_only=True):
    """A daemon took this journal up; what was started before is found, or lost."""

    version: str = ""


class BidPlaced(Event, frozen=True, kw_only=True):
    """We offered to run it. `direct`: it is approved already, as ops and daemon jobs of Bacalhau are."""

    execution: Execution
    resources: Resources
    reserved: bool = True
    direct: bool = False


class BidRefused(Event, frozen=True, kw_only=True):
    """We do not run it; or what was asked could not be read (`kind` `error`)."""

    report: Report


class BidApproved(Event, frozen=True, kw_only=True):
    """The orchestrator took our offer."""

    id: str


class RoomFound(Event, frozen=True, kw_only=True):
    """An execution left the queue."""

    id: str
    resources: Resources


class RunRepeated(Event, frozen=True, kw_only=True):
    """The run was lost with an earlier daemon and begins anew (service and daemon jobs)."""

    id: str
    attempt: int


class ExecutionCancelled(Event, frozen=True, kw_only=True):
    """The orchestrator wants it to stop, or not to begin. Remembered also when we do not know the execution."""

    id: str


class ExecutionFinished(Event, frozen=True, kw_only=True):
    """It is over. Without a report after a cancellation."""

    id: str
    report: Report | None = None


class ReportSettled(Event, frozen=True, kw_only=True):
    """The orchestrator has stored the report of event `seq`; or cannot read it (`refused`), and we give it up."""

    seq: int
    refused: str = ""


class JournalSnapshot(Event, frozen=True, kw_only=True):
    """The whole state before this event. `finished` is the concatenated fingerprints, hexadecimal, oldest first."""

    runs: tuple[Run, ...] = ()
    reports: tuple[tuple[int, Report], ...] = ()  # with the numbers of their events
    finished: str = ""


ComputeEvent = (
    NodeStarted
    | BidPlaced
    | BidRefused
    | BidApproved
    | RoomFound
    | RunRepeated
    | ExecutionCancelled
    | ExecutionFinished
    | ReportSettled
    | JournalSnapshot
)

CODEC: Codec[ComputeEvent] = Codec(ComputeEvent)
"""Records of a node's journal. Vocabulary 1."""
