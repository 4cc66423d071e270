"""The query side of a simulated cluster: what `Project` hands over, kept in dicts, some milliseconds late."""

from __future__ import annotations

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.answers import encode_first_answer
from bacalhau_daemon.core.requests import Found, Lookup
from bacalhau_daemon.core.state import ExecutionState, JobState


class Rows:
    """Finished jobs and first answers, as the real query side keeps them."""

    def __init__(self) -> None:
        self.record = self.event = 0
        self.jobs: dict[int, JobState] = {}
        self.executions: dict[int, ExecutionState] = {}
        self.answers: dict[tuple[str, str], bytes] = {}

    def apply(self, project: Project) -> None:
        """Take in a record; one that is known already is left out."""
        if project.record.n <= self.record:
            return
        assert project.record.n == self.record + 1, "records come in order"
        self.record, self.event = project.record.n, project.record.last_event
        assert project.cluster.event == self.event, "rows show what is stored, and nothing beyond it"
        self.jobs.update(project.jobs)
        self.executions.update(project.executions)
        for event in project.record.events:
            assert getattr(event, "x", 0) in (0, *project.executions), f"{event} comes with its execution"
            if isinstance(event, ev.JobSubmitted | ev.JobStopped) and event.request:
                self.answers.setdefault((event.by, event.request), encode_first_answer(event))

    def lookup(self, question: Lookup) -> Found:
        """Answer what the machine must know before it decides."""
        namespace = question.namespace or "default"
        wanted = question.name or question.ref
        found = (
            [job for job in self.jobs.values() if (job.namespace, job.name) == (namespace, wanted)] if wanted else []
        )
        if not found and question.ref:
            found = [job for job in self.jobs.values() if job.id == question.ref]
        return Found(
            as_of=self.event,
            answer=self.answers.get((question.user, question.request), b"") if question.request else b"",
            job=found[0] if found else None,
        )
