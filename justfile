# Recipes. The environment is .venv if it is there (README, first command), else whatever is on PATH.

export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

_default:
    @just --list

# everything that must hold: format, lint, types, imports, tests
check: lint test

# format, lint, types
lint:
    ruff format --check .
    ruff check .
    mypy

# format in place
fmt:
    ruff format .
    ruff check --fix .

# all tests; those that need docker, root or a toolchain skip aloud where it is absent
test *ARGS:
    pytest -n 3 --dist worksteal {{ARGS}}

# unit tests only: seconds
unit *ARGS:
    pytest -n 2 tests/unit tests/tidy {{ARGS}}

# the simulator over many seeds, for instance: just sim SEEDS=2000
sim SEEDS="200":
    SIM_SEEDS={{ trim_start_match(SEEDS, "SEEDS=") }} pytest -n 2 tests/sim

# long fault runs: kill -9 fifty times, and so on
soak:
    SOAK=1 pytest -n 0 -m soak --timeout 3600 tests/e2e

# benchmarks: ratios against floors measured in the same run
bench *ARGS:
    python -m tests.bench {{ARGS}}

# a real cluster on this machine, doing real work; leaves nothing running
demo *ARGS:
    python examples/demo.py {{ARGS}}

# build the WASM modules under examples/wasm from their C sources
wasm:
    examples/wasm/build.sh

# pictures for the README, made from a real cluster
screenshots:
    python -m screenshots.make
