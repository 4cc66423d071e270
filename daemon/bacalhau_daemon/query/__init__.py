"""The query side: rows in SQLite, folded from the log."""
