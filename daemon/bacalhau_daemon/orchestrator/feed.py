"""The feed: after each stored record, one small message per row that changed; once a second a tick.

Rows are numbered with the event that changed them last, and carry the number of the row before them of the same kind
and namespace, so that who follows all of them sees a hole. A tick names the newest numbers, so that a hole at the end
is seen too. Rows are built from what the machine hands over for the query side, so both say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bacalhau_daemon.core.actions import Project
from bacalhau_daemon.core.state import ExecutionState
from bacalhau_daemon.query import views
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.messages import ExecutionRow, FeedTick, Phase
from bacalhau_protocol.models.node import NodeState

TICK_EVERY_S = 1.0
NO_NAMESPACE = "-"
CHAINS_MAX = 10_000  # namespaces and kinds that numbers are kept for; the oldest are forgotten, which reads as a hole


class Row(msgspec.Struct, frozen=True):
    """A message of the feed."""

    subject: str
    data: bytes


class _Change(msgspec.Struct, frozen=True):
    seq: int
    namespace: str
    kind: str
    key: tuple[str, ...]
    row: Any


class _FeedRow(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """`FeedRow` with its row already built: encodes to the same bytes."""

    kind: str
    seq: int
    prev: int
    deleted: bool = False
    row: Any = None


class Feed:
    """Numbers rows; says them as messages."""

    def __init__(
        self, node_state: Callable[[str], NodeState | None], phase: Callable[[str], Phase | None], position: int
    ) -> None:
        """`position` is the event number at the start: a reader that asked before it may have missed rows."""
        self._node_state, self._phase = node_state, phase
        self._start = position
        self._newest: dict[str, int] = {}

    def rows(self, project: Project) -> list[Row]:
        """Return the messages for one record."""
        encode = msgspec.json.encode
        found: list[Row] = []
        for change in sorted(self._changes(project), key=lambda one: one.seq):
            chain = f"{change.namespace}/{change.kind}"
            prev = self._newest.pop(chain, self._start)
            self._newest[chain] = change.seq
            if len(self._newest) > CHAINS_MAX:
                del self._newest[next(iter(self._newest))]
            row = _FeedRow(kind=change.kind, seq=change.seq, prev=prev, row=change.row)
            found.append(Row(subjects.feed(change.namespace, change.kind, *change.key), encode(row)))
        return found

    def tick(self, term: int, position: int) -> Row:
        """Return the message that comes once a second."""
        tick = FeedTick(term=term, seq=position, newest=self._newest)
        return Row(subjects.feed_tick(), msgspec.json.encode(tick))

    def phase_row(self, execution: ExecutionState, position: int) -> Row:
        """Return a message about what a live execution does now. It is soft: no number of its own, no hole if lost."""
        newest = self._newest.get(f"{subjects.encode_token(execution.namespace)}/execution", self._start)
        row = _FeedRow(kind="execution", seq=newest, prev=newest, row=self._execution_row(execution))
        return Row(
            subjects.feed(execution.namespace, "execution", execution.job_id, execution.id), msgspec.json.encode(row)
        )

    def _changes(self, project: Project) -> Iterator[_Change]:
        numbers = _numbers(project)
        last = project.record.last_event
        for j, job in project.jobs.items():
            yield _Change(
                numbers.get(("j", j), last),
                subjects.encode_token(job.namespace),
                "job",
                (job.id,),
                views.job_row(job),
            )
        for x, execution in project.executions.items():
            yield _Change(
                numbers.get(("x", x), last),
                subjects.encode_token(execution.namespace),
                "execution",
                (execution.job_id, execution.id),
                self._execution_row(execution),
            )
        for node in project.nodes:
            state = self._node_state(node)
            if state is not None:
                yield _Change(numbers.get(("node", node), last), NO_NAMESPACE, "node", (node,), state)

    def _execution_row(self, execution: ExecutionState) -> ExecutionRow:
        return ExecutionRow(
            id=execution.id,
            job_id=execution.job_id,
            node_id=execution.node,
            namespace=execution.namespace,
            state=execution.status.compute.label,
            desired=execution.status.desired.name.capitalize(),
            message=execution.message,
            partition=execution.partition,
            job_version=execution.job_version,
            created=execution.created,
            modified=execution.modified,
            exit_code=execution.output.exit_code if execution.output is not None else 0,
            phase=self._phase(execution.id) if execution.status.live else None,
        )


def _numbers(project: Project) -> dict[tuple[str, int | str], int]:
    """Return for each entity that the record's events name the number of the last one that does."""
    found: dict[tuple[str, int | str], int] = {}
    for n, event in enumerate(project.record.events, project.record.first_event):
        x, j = getattr(event, "x", 0), getattr(event, "j", 0)
        if x:
            found["x", x] = n
            execution = project.executions.get(x)
            j = execution.j if execution is not None else j
        if j:
            found["j", j] = n
        if not x and not j and (node := getattr(event, "node", "")):
            found["node", node] = n
    return found
