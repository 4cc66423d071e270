"""What orchestrator, compute node, engines and TUI share: models, NCL, the client API, plug-in contracts."""
