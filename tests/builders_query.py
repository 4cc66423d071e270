"""A cluster in miniature for tests of the query side: events go in, sealed records and `Project`s come out."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.events import CODEC, AnyEvent
from bacalhau_daemon.core.fold import apply_record
from bacalhau_daemon.core.indexes import forget_job
from bacalhau_daemon.core.state import Dirty, State
from bacalhau_daemon.log.base import Log, Stored
from bacalhau_daemon.log.memory import MemoryLog
from bacalhau_daemon.log.records import Chain
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.states import JobStateType

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def job_spec(j: int, name: str = "", namespace: str = "default", **changes: object) -> Job:
    """Return a small batch job; `changes` are fields of `Job`."""
    fields: dict[str, object] = {
        "id": f"j-{j:08x}-0000-4000-8000-000000000000",
        "namespace": namespace,
        "type": "batch",
        "count": 1,
        "tasks": (Task(name="main", engine=SpecConfig("noop", {"Delay": "1s"})),),
    }
    fields["name"] = name or fields["id"]
    return Job(**{**fields, **changes})  # type: ignore[arg-type]


class Cluster:
    """Seals events into a log, folds them, and keeps what the machine would hand to the query side."""

    def __init__(self, log: Log | None = None) -> None:
        self.log = log or MemoryLog()
        self.state = State()
        self.chain = Chain()
        self.projects: list[Project] = []
        self.now = START
        self.put(ev.ClusterCreated(cluster="c-1"), ev.LeaderStarted(term=1, node="n-0"))

    def put(self, *events: AnyEvent, term: int = 1) -> Project:
        """Append one record, a second after the one before."""
        self.now += SECOND
        record, data, after = CODEC.seal(
            self.chain, events, cluster="c-1", term=term, at=self.now, cause="test", by="n-0"
        )
        assert self.log.append(self.chain.n, data) == Stored(record.n)
        self.chain = after
        apply_record(self.state, record)
        dirty, self.state.dirty = self.state.dirty, Dirty()
        state = self.state
        project = Project(
            record=record,
            data=data,
            cluster=state.cluster_state(),
            jobs={j: state.jobs[j] for j in dirty.jobs},
            executions={x: state.executions[x] for x in dirty.executions},
            nodes={key: state.nodes[key] for key in dirty.nodes},
            credentials={key: state.credentials[key] for key in dirty.credentials},
        )
        over = [j for j in dirty.jobs if self._is_over(j)]
        gone = [x for j in over for x in forget_job(state, j)]
        project = replace(project, forgotten_jobs=tuple(over), forgotten_executions=tuple(gone))
        self.projects.append(project)
        return project

    def _is_over(self, j: int) -> bool:
        tally = self.state.tallies[j]
        return self.state.jobs[j].state.terminal and not tally.live and not tally.old

    def take(self) -> Sequence[Project]:
        """Return what was not yet taken."""
        taken, self.projects = self.projects, []
        return taken


def life(j: int, x: int, spec: Job, *, request: str = "", by: str = "alice") -> list[list[AnyEvent]]:
    """Return the events of a job that completes, in the four records that they arrive in."""
    return [
        [
            ev.JobSubmitted(j=j, spec=spec, by=by, request=request, eval=f"v-{j}"),
            ev.ExecutionPlanned(x=x, id=f"e-{x:08x}-0000-4000-8000-000000000000", j=j, node="n-1"),
        ],
        [
            ev.BidApproved(x=x),
            ev.JobStateChanged(j=j, to=JobStateType.RUNNING, cause=ev.Cause.STARTED),
        ],
        [
            ev.ExecutionEnded(x=x, to=ev.End.COMPLETED),
            ev.JobStateChanged(j=j, to=JobStateType.COMPLETED, cause=ev.Cause.DONE),
        ],
    ]
