"""What orchestrator, compute node, engines and TUI share: models, the NCL protocol, the client API, plug-in contracts."""
