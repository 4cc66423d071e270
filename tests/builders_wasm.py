"""Builders for tests of the wasm engine: the puppet, modules from text, an engine with a directory of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import wasmtime

from bacalhau_engines.testing import Program, local_input, perform, run_request
from bacalhau_engines.wasm import WasmEngine
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.plugins import Outcome, PluginContext, PreparedInput

ROOT = Path(__file__).parents[1]
PUPPET = ROOT / "tests" / "data" / "wasm" / "puppet.wasm"
EXAMPLES = ROOT / "examples" / "wasm"


@contextlib.asynccontextmanager
async def wasm_engine(directory: Path, **settings: Any) -> AsyncIterator[WasmEngine]:
    """An engine that is closed at the end."""
    data_dir = directory / "plugin"
    data_dir.mkdir(mode=0o700, exist_ok=True)
    engine = WasmEngine(PluginContext(node_id="n-test", data_dir=data_dir, settings=settings))
    try:
        yield engine
    finally:
        await engine.close()


def module(path: Path, *, inputs: Sequence[PreparedInput] = (), **params: Any) -> Program:
    """A task that runs this module, which the guest sees as /app/main.wasm."""
    values = {"EntryModule": "/app/main.wasm", **params}
    return Program(SpecConfig(type="wasm", params=values), (local_input(path, "/app/main.wasm"), *inputs))


def puppet(*verbs: str, inputs: Sequence[PreparedInput] = ()) -> Program:
    """A task that does what its arguments say; see puppet.c."""
    return module(PUPPET, inputs=inputs, Parameters=list(verbs))


def wat(directory: Path, text: str, name: str = "main") -> Path:
    """Assemble a module from its text."""
    path = directory / f"{name}.wasm"
    path.write_bytes(wasmtime.wat2wasm(text))
    return path


def many_functions(directory: Path, count: int) -> Path:
    """A module of so many empty functions: small to send, long to compile."""

    def number(value: int) -> bytes:
        head = value & 0x7F
        return bytes([head]) if value < 0x80 else bytes([head | 0x80]) + number(value >> 7)

    def section(id: int, body: bytes) -> bytes:
        return bytes([id]) + number(len(body)) + body

    path = directory / f"functions-{count}.wasm"
    path.write_bytes(
        b"\0asm\1\0\0\0"
        + section(1, b"\1\x60\0\0")
        + section(3, number(count) + b"\0" * count)
        + section(7, b"\1\6_start\0\0")
        + section(10, number(count) + b"\2\0\x0b" * count)
    )
    return path


async def play(engine: WasmEngine, directory: Path, program: Program, **request: Any) -> tuple[Outcome, str]:
    """Run to the end; return the outcome and what it wrote to stdout."""
    run = run_request(directory, program, **request)
    outcome = await perform(engine, run)
    return outcome, run.stdout_path.read_text(errors="replace") if run.stdout_path.exists() else ""


async def fork_server(engine: WasmEngine) -> psutil.Process:
    """The engine's fork server, started if need be."""
    return psutil.Process(int((await engine.ability()).details["fork_server_pid"]))
