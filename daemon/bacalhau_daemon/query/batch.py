"""Gathers what several records changed, so that an entity that changed ten times is written once."""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.state import ClusterState, CredentialState, ExecutionState, JobState, NodeRecord
from bacalhau_daemon.log.records import Chain, digest
from bacalhau_daemon.query import rows

ABOUT_JOB = frozenset({ev.JobSubmitted, ev.JobStopped, ev.JobStateChanged, ev.JobUnplaced, ev.ExecutionPlanned})
ABOUT_EXECUTION = frozenset({ev.BidApproved, ev.ExecutionEnded})
"""What stands in a job's history: events with a `j`, and events with the `x` of one of its executions."""
ASKED_FOR = frozenset({ev.JobSubmitted, ev.JobStopped, ev.CredentialIssued, ev.CredentialRevoked})
"""Events with a Request-Id."""


class NewSpec(msgspec.Struct, frozen=True):
    """A version of a job that a batch adds; `last`: how the version before it ended, when this batch knows."""

    seq: int
    j: int
    version: int
    spec: bytes
    last: bytes | None


class Batch:
    """The changes of the records added so far."""

    def __init__(self) -> None:
        self.newest: Project | None = None
        self.specs: list[NewSpec] = []
        self.history: list[tuple[int, int]] = []  # (j, seq)
        self.requests: list[tuple[int, int, str, str]] = []  # (seq, at, user, request)
        self.jobs: dict[int, JobState] = {}
        self.executions: dict[int, ExecutionState] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.credentials: dict[str, CredentialState] = {}
        self.gone_jobs: set[int] = set()
        self.gone_executions: set[int] = set()
        self.gone_credentials: set[str] = set()

    @property
    def cluster(self) -> ClusterState:
        """What there is one of, after the newest record."""
        assert self.newest is not None
        return self.newest.cluster

    @property
    def chain(self) -> Chain:
        """Where the log stands after the newest record."""
        assert self.newest is not None
        record = self.newest.record
        return Chain(record.cluster, record.n, digest(self.newest.data), record.last_event)

    def add(self, project: Project) -> None:
        """Add the changes of the next record."""
        self.newest = project
        if project.record.term >= project.cluster.term:  # else fold ignored it
            self._add_events(project)
        self.jobs.update(project.jobs)
        self.executions.update(project.executions)
        self.nodes.update(project.nodes)
        self.credentials.update(project.credentials)
        self.gone_jobs -= project.jobs.keys()
        self.gone_executions -= project.executions.keys()
        self.gone_jobs.update(project.forgotten_jobs)
        self.gone_executions.update(project.forgotten_executions)
        for sha256 in project.forgotten_credentials:
            self.credentials.pop(sha256, None)
            self.gone_credentials.add(sha256)

    def _add_events(self, project: Project) -> None:
        record, executions, seen = project.record, project.executions, set[int]()
        for seq, event in enumerate(record.events, record.first_event):
            kind = type(event)
            if kind in ABOUT_EXECUTION:
                j = executions[event.x].j  # type: ignore[union-attr]
            elif kind in ABOUT_JOB:
                j = event.j  # type: ignore[union-attr]
                if kind is ev.JobSubmitted:
                    self._add_version(seq, event)  # type: ignore[arg-type]
            else:
                j = 0
            if kind in ASKED_FOR and event.request:  # type: ignore[union-attr]
                self.requests.append((seq, record.at, event.by, event.request))  # type: ignore[union-attr]
            if j and j not in seen:
                seen.add(j)
                self.history.append((j, seq))

    def _add_version(self, seq: int, event: ev.JobSubmitted) -> None:
        before = self.jobs.get(event.j)
        last = rows.job_body(before) if before is not None else None
        self.specs.append(NewSpec(seq, event.j, event.version, rows.spec_body(event.spec), last))
