"""NCL, the node protocol: codec and session machines, sans I/O."""
