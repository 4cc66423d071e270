"""A gap filled: placements as events, and what could not be placed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bacalhau_daemon.core.context import Context
from bacalhau_daemon.core.events import ExecutionPlanned, Why
from bacalhau_daemon.core.scheduling.need import Need
from bacalhau_daemon.core.scheduling.place import Given, place
from bacalhau_daemon.core.scheduling.reconcile import Vacancy, nodes_used
from bacalhau_daemon.core.state import JobState, State
from bacalhau_protocol.models import ids


class Plan(msgspec.Struct, frozen=True):
    """What one pass over a job came to."""

    events: Sequence[ExecutionPlanned]
    unplaced: Sequence[Vacancy]


def plan(context: Context, state: State, job: JobState, need: Need, wanted: Sequence[Vacancy]) -> Plan:
    """Place as many as there is room for. Integers follow on the state's, in the order of the events."""
    used = nodes_used(state, state.tallies[job.j])
    given = Given(need) if len(wanted) > 1 else None
    resources = need.resources
    events: list[ExecutionPlanned] = []
    unplaced: list[Vacancy] = []
    kept: Why | None = None
    full = False
    for vacancy in wanted:
        found = None
        if not (full and not vacancy.history):
            found = place(
                context.fleet,
                need,
                seed=seed_of(job, vacancy),
                scored_max=context.policy.nodes_scored_max,
                used=used,
                history=vacancy.history,
                given=given,
            )
        if found is None:
            full = full or not vacancy.history
            unplaced.append(vacancy)
            continue
        if given is not None:
            given.add(found.node)
        events.append(
            ExecutionPlanned(
                x=state.next_x + len(events),
                id=context.new_id(ids.EXECUTION),
                j=job.j,
                version=job.version,
                node=found.node,
                partition=vacancy.partition,
                attempt=vacancy.attempt,
                resources=resources,
                why=None if found.why == kept else found.why,
            )
        )
        kept = found.why
    return Plan(events, unplaced)


def seed_of(job: JobState, vacancy: Vacancy) -> int:
    """Return the seed of one placement: the same for the same try of the same partition, whoever decides it."""
    return ((job.j * 8191 + job.version) * 8191 + vacancy.partition) * 131 + vacancy.attempt
