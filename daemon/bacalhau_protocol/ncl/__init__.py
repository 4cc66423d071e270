"""NCL, Bacalhau's protocol between orchestrator and compute nodes: codecs and session machines without I/O.

Read `events` (what can happen), `messages` (what is said), then `orchestrator` and `compute` (how it is used).
Time is an integer of nanoseconds since the epoch and comes in as `now`; nothing in here sends, waits or draws a number.
"""
