"""The compute node's shell: NATS, engines, disk."""
