"""The client API over NATS: subjects, requests and answers. `docs/api.md` is the reference."""
