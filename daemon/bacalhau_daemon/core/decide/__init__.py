"""Decisions: (context, state, input, now) → events and an answer. None of them changes the state."""
