"""The daemon: orchestrator, compute node, or both."""
