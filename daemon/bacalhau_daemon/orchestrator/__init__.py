"""The orchestrator's shell: NATS, time, disk."""
