"""The log: port, SQLite and memory implementations, records."""
