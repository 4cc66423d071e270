"""Scheduling in named stages: reconcile, feasible, rank, plan."""
