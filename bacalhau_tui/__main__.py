"""`python -m bacalhau_tui`."""

from __future__ import annotations

from bacalhau_tui.cli import main

main()
