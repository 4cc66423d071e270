"""Prints `examples/jobs/hello.yaml`: a job file that carries its module, so that it runs on any node as it is.

python examples/wasm/inline.py examples/wasm/hello.wasm
"""

from __future__ import annotations

import base64
import sys
import textwrap
from pathlib import Path

JOB = """\
# A job that needs nothing of its node: the module is in this file. Made by examples/wasm/inline.py.
Name: hello
Type: batch
Tasks:
  - Name: main
    Engine:
      Type: wasm
      Params:
        EntryModule: /app/hello.wasm
        Entrypoint: _start
        Parameters: [Bacalhau]
    InputSources:
      - Target: /app/hello.wasm
        Source:
          Type: inline
          Params:
            URL: "data:application/wasm;base64,\\
{data}"
"""


def main() -> None:
    """Print the job file."""
    data = base64.b64encode(Path(sys.argv[1]).read_bytes()).decode()
    lines = [" " * 14 + line for line in textwrap.wrap(data, 100)]
    sys.stdout.write(JOB.format(data="\\\n".join(lines)))


if __name__ == "__main__":
    main()
