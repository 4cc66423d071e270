"""A compute node's state: the fold of its journal. `compute_fold` is the only module that changes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from bacalhau_daemon.core.compute_events import Report, Run, Stage
from bacalhau_protocol.models.resources import Gpu, Resources

FINISHED_KEPT_MAX = 100_000
"""Ids of finished executions that are remembered, oldest forgotten first: a late or repeated message about one of
them must never start it again. A real orchestrator repeats what is up to five minutes old; ours what is not confirmed.
"""
FINGERPRINT_BYTES = 8


class Room:
    """What executions hold, in whole numbers: CPU in thousandths, the rest as in `Resources`."""

    __slots__ = ("count", "cpu", "disk", "gpu", "gpus", "memory")

    def __init__(self) -> None:
        self.count = self.cpu = self.memory = self.disk = self.gpu = 0
        self.gpus: set[Gpu] = set()

    def take(self, amount: Resources) -> None:
        """Add what an execution holds."""
        self._add(amount, 1)
        self.gpus.update(amount.gpus or ())

    def give_back(self, amount: Resources) -> None:
        """Subtract it again."""
        self._add(amount, -1)
        self.gpus.difference_update(amount.gpus or ())

    def _add(self, amount: Resources, sign: int) -> None:
        self.count += sign
        self.cpu += sign * round(amount.cpu * 1000)
        self.memory += sign * amount.memory
        self.disk += sign * amount.disk
        self.gpu += sign * amount.gpu

    def as_resources(self) -> Resources:
        """Return it as amounts, without the list of GPUs."""
        return Resources(self.cpu / 1000, self.memory, self.disk, self.gpu)


class Finished:
    """Fingerprints of finished executions: 8 bytes of a hash each, a bounded number, oldest out first."""

    __slots__ = ("_seen",)

    def __init__(self, fingerprints: Iterable[int] = ()) -> None:
        self._seen: dict[int, None] = dict.fromkeys(fingerprints)

    def __contains__(self, execution_id: str) -> bool:
        return _fingerprint(execution_id) in self._seen

    def __len__(self) -> int:
        return len(self._seen)

    def add(self, execution_id: str) -> None:
        """Remember an id."""
        self._seen[_fingerprint(execution_id)] = None
        if len(self._seen) > FINISHED_KEPT_MAX:
            del self._seen[next(iter(self._seen))]

    def encode(self) -> str:
        """Return all of it as text, oldest first."""
        return b"".join(one.to_bytes(FINGERPRINT_BYTES, "big") for one in self._seen).hex()

    @classmethod
    def decode(cls, text: str) -> Finished:
        """Read `encode`."""
        data = bytes.fromhex(text)
        steps = range(0, len(data), FINGERPRINT_BYTES)
        return cls(int.from_bytes(data[at : at + FINGERPRINT_BYTES], "big") for at in steps)


def _fingerprint(execution_id: str) -> int:
    digest = hashlib.blake2b(execution_id.encode(), digest_size=FINGERPRINT_BYTES).digest()
    return int.from_bytes(digest, "big")


class ComputeState:
    """All of it. `runs` are not over; `reports` are not confirmed, by the number of their event, oldest first."""

    def __init__(self) -> None:
        self.event = 0  # number of the last event folded
        self.runs: dict[str, Run] = {}
        self.reports: dict[int, Report] = {}
        self.finished = Finished()
        # indexes
        self.room = Room()  # of those that have their room
        self.wanted = Room()  # of those that do not
        self.stopping = Room()  # the part of `room` that is being cancelled
        self.report_of: dict[str, int] = {}  # execution → number of its newest report in `reports`
        self.queue: dict[str, None] = {}  # in order of approval

    def in_queue(self) -> Iterator[Run]:
        """Yield what waits for room, highest priority first, then oldest first."""
        runs = [self.runs[id_] for id_ in self.queue]
        return iter(sorted(runs, key=lambda run: -_priority(run)))

    def stages(self, *wanted: Stage) -> Iterator[Run]:
        """Yield the executions in these stages, oldest first."""
        return (run for run in self.runs.values() if run.stage in wanted)


def _priority(run: Run) -> int:
    job = run.execution.job
    return job.priority if job else 0
