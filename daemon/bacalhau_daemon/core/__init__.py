"""Everything that decides. Pure: no await, clock, randomness, environment or I/O."""
