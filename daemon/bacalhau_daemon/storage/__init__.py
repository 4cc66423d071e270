"""Built-in input storages."""
