"""Message buses: the port (`base`), NATS (`nats`) and in memory (`memory`)."""
