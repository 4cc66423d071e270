"""Every limit, delay and time-out of the orchestrator's decisions, named. Times are nanoseconds."""

from __future__ import annotations

from typing import Final

import msgspec

from bacalhau_protocol.models.normalise import DEFAULTS, JobDefaults

SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

JOBS_ACTIVE_MAX: Final = 200_000  # above it submissions are told to try again
RECALLED_MAX: Final = 100_000  # finished jobs and answers that the query side does not have yet; above it the same
COUNT_MAX: Final = 10_000  # partitions of one job
PLANNED_PER_PASS_MAX: Final = 200  # executions planned or ended by one decision; the rest follows in the next
REASON_CHARACTERS_MAX: Final = 2_000
"""Words of users and nodes are cut to this before they enter the log."""
OUTPUT_CHARACTERS_MAX: Final = 2_048
"""Of each stream in a run's output."""
DETAILS_MAX: Final = 20
RESULT_BYTES_MAX: Final = 64 * 1024
"""Of what a node says of where its results are, encoded; a larger one is dropped, and the execution's end says so."""
INFO_BYTES_MAX: Final = 64 * 1024
"""Of what a node says of itself, encoded, without what is free just now."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator may change. The defaults are for clusters; tests and simulations shorten them."""

    defaults: JobDefaults = DEFAULTS
    attempts_max: int = 5  # of one partition in one version, refused bids apart
    attempts_per_node_max: int = 2  # of one partition on one node
    retry_first_ns: int = SECOND // 2  # before the second try; the wait is four times as long each time
    retry_factor: int = 4
    retry_max_ns: int = MINUTE
    refused_again_ns: int = 30 * SECOND  # a node whose refusal was retryable is asked again after this
    bid_timeout_ns: int = 30 * SECOND
    run_grace_ns: int = 2 * MINUTE  # beyond the execution time-out, which the node enforces first
    settle_ns: int = SECOND // 2  # a job that finds no node is called Queued after this
    return_grace_ns: int = 2 * SECOND  # after a node's return, for its reports, before its lost work is replaced
    own_lost_after_ns: int = 60 * SECOND  # of silence, or since the leader started
    foreign_lost_after_ns: int = 120 * SECOND
    owed_kept_ns: int = 24 * HOUR  # an end that its node has not confirmed is then given up
    request_kept_ns: int = 24 * HOUR  # a repeated Request-Id gets the first answer
    nodes_scored_max: int = 64  # of those that fit; more are sampled

    def retry_delay_ns(self, failures: int) -> int:
        """Return how long a partition waits after its n-th failure in a row."""
        if failures <= 0:
            return 0
        delay: int = self.retry_first_ns * self.retry_factor ** min(failures - 1, 20)
        return min(delay, self.retry_max_ns)


POLICY: Final = Policy()
