"""The feed: what changed, as rows, a moment later. Many changes of one row within that moment are one.

Only stored changes get here. The first change after a quiet moment leaves after 25 ms, so that of a job which is over
by then nothing but its end is told; the more changes there are, the longer the next ones gather. Ends, which somebody
may await, gather apart and not for long; the first leaves at once. A row's `seq` is the number of the event that
changed it last; `prev` is the `seq` of the row before it of this kind and namespace.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from bacalhau_daemon.core.actions import Send
from bacalhau_daemon.core.state import ExecutionState, JobState
from bacalhau_daemon.core.views import execution_row
from bacalhau_daemon.query.views import job_row
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.messages import ExecutionRow, FeedTick, JobRow, Phase
from bacalhau_protocol.models.node import NodeState

GATHER_NODES_NS = 500_000_000  # a busy node changes all the time
TICK_NS = 1_000_000_000
MILLI = 1_000_000
CHAINS_MAX = 600  # namespaces times kinds that the tick names; the least recently changed are left out
NODES = "-"
"""What stands for a namespace in the subjects of nodes."""

JOB, EXECUTION, NODE = "job", "execution", "node"


class _Row(msgspec.Struct, frozen=True, rename="pascal"):
    """`api.messages.FeedRow` with a typed row; encodes to the same."""

    kind: str
    seq: int
    prev: int
    row: JobRow | ExecutionRow | NodeState


_ENCODE = msgspec.json.Encoder().encode


class _Rows:
    """Rows that gather, the first for `least_ns`. After each that leaves the next wait `row_ns` more, up to `most_ns`.

    What a pause has saved up of that, up to `credit_ns`, they need not wait.
    """

    def __init__(self, *, least_ns: int = 0, row_ns: int, most_ns: int, credit_ns: int = 0) -> None:
        self.jobs: dict[int, tuple[int, JobState]] = {}
        self.executions: dict[int, tuple[int, ExecutionState]] = {}
        self._least_ns, self._row_ns, self._most_ns, self._credit_ns = least_ns, row_ns, most_ns, credit_ns
        self._at = 0

    def begin(self, now: int) -> None:
        """Note that a row is about to come."""
        if not self.jobs and not self.executions:
            self._at = max(self._at, now + self._least_ns)

    def due(self) -> int | None:
        """Return when they leave; None: there are none."""
        return self._at if self.jobs or self.executions else None

    def leave(self, now: int) -> None:
        """Forget them: they have left."""
        rows = len(self.jobs) + len(self.executions)
        self._at = max(self._at, now - self._credit_ns) + min(rows * self._row_ns, self._most_ns)
        self.jobs.clear()
        self.executions.clear()


class Feed:
    """Gathers rows; `flush` makes messages of them."""

    def __init__(self) -> None:
        self._live = _Rows(least_ns=25 * MILLI, row_ns=5 * MILLI, most_ns=250 * MILLI)
        self._ended = _Rows(row_ns=MILLI, most_ns=50 * MILLI, credit_ns=50 * MILLI)
        self._nodes: dict[str, int] = {}
        self._newest: dict[str, int] = {}  # `namespace/kind` → seq, the least recent first
        self._nodes_flushed_at = 0
        self._ticked_at = 0

    def job(self, seq: int, job: JobState, now: int) -> None:
        """Note that event `seq` has changed a job."""
        if job.state.terminal:
            self._live.jobs.pop(job.j, None)
            self._ended.jobs[job.j] = (seq, job)
        else:
            self._ended.jobs.pop(job.j, None)
            self._live.begin(now)
            self._live.jobs[job.j] = (seq, job)

    def execution(self, seq: int, execution: ExecutionState, now: int) -> None:
        """Note that event `seq` has changed an execution."""
        if execution.status.live:
            self._ended.executions.pop(execution.x, None)
            self._live.begin(now)
            self._live.executions[execution.x] = (seq, execution)
        else:
            self._live.executions.pop(execution.x, None)
            self._ended.executions[execution.x] = (seq, execution)

    def node(self, seq: int, node: str) -> None:
        """Note that event `seq` has changed a node, or what is free on it."""
        self._nodes[node] = seq

    def newest(self, namespace: str, kind: str) -> int:
        """Return the `seq` of the newest row that has left."""
        return self._newest.get(f"{namespace}/{kind}", 0)

    def next(self) -> int:
        """Return when there is something to send: rows, nodes or the tick."""
        due = self._ticked_at + TICK_NS
        if self._nodes:
            due = min(due, self._nodes_flushed_at + GATHER_NODES_NS)
        for rows in (self._live, self._ended):
            at = rows.due()
            if at is not None and at < due:
                due = at
        return due

    def due_nodes(self, now: int) -> list[str]:
        """Return the nodes whose rows `flush` wants now."""
        return list(self._nodes) if now >= self._nodes_flushed_at + GATHER_NODES_NS else []

    def flush(self, now: int, phases: dict[str, Phase], nodes: dict[str, NodeState]) -> list[Send]:
        """Return what is due; `phases` by execution id, `nodes` for each of `due_nodes`."""
        out: list[Send] = []
        for rows in (self._live, self._ended):
            at = rows.due()
            if at is not None and at <= now:
                out += self._send_rows(rows, phases)
                rows.leave(now)
        if nodes:
            self._nodes_flushed_at = now
            for node, seq in sorted(self._nodes.items(), key=lambda item: item[1]):
                if node in nodes:
                    out.append(self._send(NODE, NODES, seq, nodes[node], node))
            self._nodes.clear()
        return out

    def soft(self, execution: ExecutionState) -> None:
        """Note what a live execution does now: its row goes out again, under the newest number there is."""
        if execution.x not in self._live.executions:
            self._live.executions[execution.x] = (self.newest(execution.namespace, EXECUTION), execution)

    def _send_rows(self, rows: _Rows, phases: dict[str, Phase]) -> Iterator[Send]:
        for seq, job in sorted(rows.jobs.values(), key=_by_seq):
            yield self._send(JOB, job.namespace, seq, job_row(job), job.id)
        for seq, execution in sorted(rows.executions.values(), key=_by_seq):
            row = execution_row(execution, phases.get(execution.id))
            yield self._send(EXECUTION, execution.namespace, seq, row, execution.job_id, execution.id)

    def _send(self, kind: str, namespace: str, seq: int, row: JobRow | ExecutionRow | NodeState, *key: str) -> Send:
        chain = f"{namespace}/{kind}"
        prev = self._newest.pop(chain, 0)
        self._newest[chain] = seq = max(seq, prev)
        if len(self._newest) > CHAINS_MAX:
            del self._newest[next(iter(self._newest))]
        return Send(_subject(namespace, kind) + ".".join(key), _ENCODE(_Row(kind, seq, prev, row)))

    def tick(self, now: int, term: int, seq: int) -> list[Send]:
        """Return the tick when it is due."""
        if now < self._ticked_at + TICK_NS:
            return []
        self._ticked_at = now
        return [Send(subjects.feed_tick(), _ENCODE(FeedTick(term=term, seq=seq, newest=dict(self._newest))))]


@lru_cache(maxsize=CHAINS_MAX)
def _subject(namespace: str, kind: str) -> str:
    """Return what comes before the ids in a row's subject; ids are tokens."""
    return subjects.feed(namespace, kind, "*").removesuffix("*")


def _by_seq(entry: tuple[int, JobState] | tuple[int, ExecutionState]) -> int:
    return entry[0]
