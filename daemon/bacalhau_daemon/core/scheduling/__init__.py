"""Deciding where work runs, in named stages with values between them.

::

    reconcile   what a job has and lacks                                   state → Gap
    feasible    one set of predicates: may this node run that?             Slot, Need → Finding
    rank        how well it would                                          Slot, Need → score
    place       the hot path: the best node, by index and sample           Fleet, Need → Placement
    explain     the full answer: every finding on every node, and words    Fleet, Need → Explanation, Why
    plan        a gap and its placements as events                         → [ExecutionPlanned, …]

`fleet` is the index over nodes that `place` uses; `waiting` is the index over jobs that wait for one.
"""
