"""What a job has and lacks: each partition in one bucket. No decisions about nodes here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bacalhau_daemon.core.policy import Policy
from bacalhau_daemon.core.scheduling.feasible import Past
from bacalhau_daemon.core.state import ExecutionState, JobState, State, Status, Tally


class Vacancy(msgspec.Struct, frozen=True):
    """A partition that wants an execution now."""

    partition: int
    attempt: int
    history: Mapping[str, Past]  # nodes that may not have it
    history_until: int = 0  # when some of that history is forgiven; 0: never


class Gap(msgspec.Struct, frozen=True):
    """What a job lacks."""

    wanted: Sequence[Vacancy] = ()  # place these now, in this order
    resting: int = 0  # partitions that wait for their next try
    rests_until: int = 0  # when the first of those is due
    exhausted: Vacancy | None = None  # a partition that has had all its tries
    last: ExecutionState | None = None  # its last one


def gap_of(state: State, job: JobState, now: int, policy: Policy, *, returning: Mapping[str, int], limit: int) -> Gap:
    """Return what the current version of a job lacks; at most `limit` partitions are wanted at once."""
    tally = state.tallies[job.j]
    wanted: list[Vacancy] = []
    resting, rests_until = 0, 0
    for partition in sorted(tally.vacant) if tally.tries else tally.vacant:
        tries = tally.tries.get(partition)
        if tries is None:
            wanted.append(Vacancy(partition, 1, {}))
        else:
            executions = [state.executions[x] for x in tries]
            counted = [each for each in executions if each.status is not Status.REFUSED]
            vacancy = _vacancy(state, partition, executions, now, policy)
            if len(counted) >= policy.attempts_max:
                return Gap(exhausted=vacancy, last=counted[-1])
            due = _due(executions[-1], len(counted), policy, returning)
            if due > now:
                resting += 1
                rests_until = min(rests_until or due, due)
                continue
            wanted.append(vacancy)
        if len(wanted) >= limit:
            break
    return Gap(wanted, resting, rests_until)


def _due(last: ExecutionState, failures: int, policy: Policy, returning: Mapping[str, int]) -> int:
    """Return when a partition may have its next try. A refusal or a lost node costs no wait, a failure does."""
    if last.status is Status.LOST:
        return returning.get(last.node, 0)  # it may still be there: its node is coming back
    if last.status is Status.FAILED:
        return last.ended + policy.retry_delay_ns(failures)
    return 0


def _vacancy(state: State, partition: int, executions: Sequence[ExecutionState], now: int, policy: Policy) -> Vacancy:
    history: dict[str, Past] = {}
    failures: dict[str, int] = {}
    until = 0
    for each in executions:
        if each.status is Status.REFUSED:
            again = each.ended + policy.refused_again_ns if each.details.get("Retryable") == "true" else 0
            if again and (again <= now or _came_back(state, each)):
                continue
            until = min(until or again, again) if again else until
            history[each.node] = Past(f"refused: {each.message}", permanent=not again)
            continue
        count = failures[each.node] = failures.get(each.node, 0) + 1
        if count >= policy.attempts_per_node_max:
            history[each.node] = Past(f"failed here {_times(count)}: {each.message}", permanent=True)
    return Vacancy(partition, max(each.attempt for each in executions) + 1, history, until)


def _came_back(state: State, refused: ExecutionState) -> bool:
    """Whether the node's connection has changed since: it may have refused because it was stopping."""
    node = state.nodes.get(refused.node)
    return node is not None and node.since > refused.ended


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def nodes_used(state: State, tally: Tally) -> set[str]:
    """Return the nodes that executions of this version are or were on."""
    if not (tally.live or tally.done or tally.tries):
        return set()
    xs = [*tally.live.values(), *tally.done.values(), *(x for tries in tally.tries.values() for x in tries)]
    return {state.executions[x].node for x in xs}
