"""The feed: what changed, as rows, a moment later. Many changes of one row within that moment are one.

Only stored changes get here. The first change after a quiet moment leaves at once, and so do the ends of jobs, with all
that waits, unless they are many. A row's `seq` is the number of the
event that changed it last; `prev` is the `seq` of the row before it of this kind and namespace.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from bacalhau_daemon.core.actions import Send
from bacalhau_daemon.core.state import ExecutionState, JobState
from bacalhau_daemon.core.views import execution_row
from bacalhau_daemon.query.views import job_row
from bacalhau_protocol.api import subjects
from bacalhau_protocol.api.messages import ExecutionRow, FeedTick, JobRow, Phase
from bacalhau_protocol.models.node import NodeState

GATHER_NS = 100_000_000
GATHER_ROW_NS = 5_000_000  # after each row that leaves, until `GATHER_NS`: few changes are told at once, many gathered
PROMPT_ROW_NS = 1_000_000  # the same for the end of a job, whom somebody awaits
CREDIT_NS = 50_000_000  # what a pause saves up for such ends
GATHER_NODES_NS = 500_000_000  # a busy node changes all the time
TICK_NS = 1_000_000_000
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


class Feed:
    """Gathers rows; `flush` makes messages of them."""

    def __init__(self) -> None:
        self._jobs: dict[int, tuple[int, JobState]] = {}
        self._executions: dict[int, tuple[int, ExecutionState]] = {}
        self._nodes: dict[str, int] = {}
        self._newest: dict[str, int] = {}  # `namespace/kind` → seq, the least recent first
        self._flush_at = self._prompt_at = 0  # the earliest; the same if the end of a job waits
        self._ended = False  # one does
        self._nodes_flushed_at = 0
        self._ticked_at = 0

    def job(self, seq: int, job: JobState) -> None:
        """Note that event `seq` has changed a job."""
        self._jobs[job.j] = (seq, job)
        self._ended = self._ended or job.state.terminal

    def execution(self, seq: int, execution: ExecutionState) -> None:
        """Note that event `seq` has changed an execution."""
        self._executions[execution.x] = (seq, execution)

    def node(self, seq: int, node: str) -> None:
        """Note that event `seq` has changed a node, or what is free on it."""
        self._nodes[node] = seq

    def newest(self, namespace: str, kind: str) -> int:
        """Return the `seq` of the newest row that has left."""
        return self._newest.get(f"{namespace}/{kind}", 0)

    def next(self) -> int:
        """Return when there is something to send: rows, nodes or the tick."""
        due = self._ticked_at + TICK_NS
        if self._jobs or self._executions:
            due = min(due, self._rows_due())
        if self._nodes:
            due = min(due, self._nodes_flushed_at + GATHER_NODES_NS)
        return due

    def _rows_due(self) -> int:
        return min(self._flush_at, self._prompt_at) if self._ended else self._flush_at

    def due_nodes(self, now: int) -> list[str]:
        """Return the nodes whose rows `flush` wants now."""
        return list(self._nodes) if now >= self._nodes_flushed_at + GATHER_NODES_NS else []

    def flush(self, now: int, phases: dict[str, Phase], nodes: dict[str, NodeState]) -> list[Send]:
        """Return what is due; `phases` by execution id, `nodes` for each of `due_nodes`."""
        out: list[Send] = []
        if (self._jobs or self._executions) and now >= self._rows_due():
            rows = len(self._jobs) + len(self._executions)
            self._flush_at = now + min(rows * GATHER_ROW_NS, GATHER_NS)
            self._prompt_at = max(self._prompt_at, now - CREDIT_NS) + min(rows * PROMPT_ROW_NS, GATHER_NS)
            self._ended = False
            for seq, job in sorted(self._jobs.values(), key=_by_seq):
                out.append(self._send(JOB, job.namespace, seq, job_row(job), job.id))
            for seq, execution in sorted(self._executions.values(), key=_by_seq):
                row = execution_row(execution, phases.get(execution.id))
                out.append(self._send(EXECUTION, execution.namespace, seq, row, execution.job_id, execution.id))
            self._jobs.clear()
            self._executions.clear()
        if nodes:
            self._nodes_flushed_at = now
            for node, seq in sorted(self._nodes.items(), key=lambda item: item[1]):
                if node in nodes:
                    out.append(self._send(NODE, NODES, seq, nodes[node], node))
            self._nodes.clear()
        return out

    def soft(self, execution: ExecutionState) -> None:
        """Note what an execution does now: its row goes out again, under the newest number there is."""
        if execution.x not in self._executions:
            self._executions[execution.x] = (self.newest(execution.namespace, EXECUTION), execution)

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
