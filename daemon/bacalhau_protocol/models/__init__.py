"""Bacalhau's nouns as frozen msgspec structs; wire names are Bacalhau's, attribute names are theirs in snake case.

Everything a file or a peer may say is here; nothing in here does I/O. `spec` reads job files.
"""
