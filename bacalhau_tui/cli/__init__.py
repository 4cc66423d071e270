"""One-shot commands: data on stdout, talk on stderr, documented exit codes. Nothing heavy is imported early.

* `root`     the command tree (lazy), global options, errors to exit codes; without a command the TUI
* `context`  settings, output and the client of one run
* `output`   tables, JSON, YAML; colours only on a terminal; other people's text is escaped there
* `job_*`, `node`, `credential`, `cluster`, `profile`  the commands
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of `bacalhau-tui`."""
    from bacalhau_tui.cli.root import run  # noqa: PLC0415  so that the package itself stays light

    sys.exit(run(sys.argv[1:]))
