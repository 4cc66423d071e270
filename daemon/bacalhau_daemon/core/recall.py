"""What has left the state but is not in the query side yet: finished jobs, and the first answers to requests.

The query side is some milliseconds behind the log. A request is looked up there before it is decided; `Recall` knows
what that look-up cannot have seen. Soft, and small: the query side's progress (`applied`) empties it, but not beyond
the oldest look-up that still waits to be decided.
"""

from __future__ import annotations

from collections import Counter, deque

from bacalhau_daemon.core.state import JobState
from bacalhau_protocol.api.messages import Body

Key = tuple[str, str]
"""User and Request-Id."""


class Recall:
    """Entries with the number of the event that made them."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobState] = {}
        self.names: dict[tuple[str, str], int] = {}
        self.ids: dict[str, int] = {}
        self.forgotten = 0  # everything up to this event may have been forgotten
        self._ended: dict[int, int] = {}  # j → event
        self._answers: dict[Key, tuple[int, Body]] = {}
        self._order: deque[tuple[int, int | Key]] = deque()  # by event number
        self._waiting: Counter[int] = Counter()  # `as_of` of requests that are not decided yet
        self.position = 0  # the last event that the query side has

    def keep_job(self, n: int, job: JobState) -> None:
        """Keep a job that is leaving the state; event `n` was the last to change it."""
        self.jobs[job.j] = job
        self._ended[job.j] = n
        self.names[job.namespace, job.name] = job.j
        self.ids[job.id] = job.j
        self._order.append((n, job.j))

    def keep_answer(self, n: int, key: Key, answer: Body) -> None:
        """Keep the answer that event `n` was."""
        if key not in self._answers:
            self._order.append((n, key))
        self._answers[key] = (n, answer)

    def answer(self, key: Key) -> Body | None:
        """Return the first answer to a request."""
        entry = self._answers.get(key)
        return entry[1] if entry is not None else None

    def __len__(self) -> int:
        """How much is kept for the query side to catch up."""
        return len(self._order)

    def begin(self, as_of: int) -> None:
        """Note a request that was looked up at this event, until `end`."""
        self._waiting[as_of] += 1

    def end(self, as_of: int) -> None:
        """Note that a request has been decided."""
        self._waiting[as_of] -= 1
        if not self._waiting[as_of]:
            del self._waiting[as_of]
            self._forget()

    def applied(self, n: int) -> None:
        """Note that the query side has everything up to event `n`."""
        self.position = max(self.position, n)
        self._forget()

    def _forget(self) -> None:
        limit = min(self.position, *self._waiting) if self._waiting else self.position
        while self._order and self._order[0][0] <= limit:
            n, what = self._order.popleft()
            self.forgotten = max(self.forgotten, n)
            if not isinstance(what, int):
                self._answers.pop(what, None)
            elif self._ended.get(what) == n:
                self._drop(what)

    def _drop(self, j: int) -> None:
        del self._ended[j]
        job = self.jobs.pop(j)
        self.names.pop((job.namespace, job.name), None)
        self.ids.pop(job.id, None)

    def rollback(self, n: int) -> None:
        """Drop what events above `n` made: they were not stored."""
        while self._order and self._order[-1][0] > n:
            _, what = self._order.pop()
            if not isinstance(what, int):
                del self._answers[what]
