"""Run benchmarks: `python -m tests.bench [NAME…]`; without a name all of them, one after another.

Each prints figures beside the floors or baselines that it measured in the same run, so that ratios can be compared
between machines; absolute figures of a shared machine cannot.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main() -> int:
    """Run the named benchmarks; an unknown name lists what there is."""
    there = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
    wanted = sys.argv[1:] or there
    for name in wanted:
        if name not in there:
            print(f"no benchmark {name!r}; there are: {', '.join(there)}", file=sys.stderr)
            return 2
    for name in wanted:
        print(f"\n══ {name} " + "═" * (70 - len(name)), flush=True)
        importlib.import_module(f"tests.bench.bench_{name}").main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
