"""Every engine that is installed here keeps the contract of engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

from bacalhau_engines.noop import NoopEngine
from bacalhau_engines.testing import Behaviour, EngineContract, EngineKit, Program, local_input
from bacalhau_engines.wasm import WasmEngine
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.plugins import ENGINES, Engine, PluginContext, names

PUPPET = Path(__file__).parents[1] / "data" / "wasm" / "puppet.wasm"


class NoopKit(EngineKit):
    exit_code_max = 2**32 - 1
    has_world = False
    limits_memory = False
    joins = False

    def create(self, context: PluginContext) -> Engine:
        return NoopEngine(context)

    def program(self, behaviour: Behaviour) -> Program:
        params = {
            "Stdout": behaviour.stdout,
            "Stderr": behaviour.stderr,
            "Files": {f"out/{path}": text for path, text in behaviour.files.items()},
            "ExitCode": behaviour.exit_code,
            "DelayMs": 3_600_000 if behaviour.endless else 0,
        }
        return Program(SpecConfig(type="noop", params=params))

    def broken(self) -> Program:
        return Program(SpecConfig(type="noop", params={"Fail": "as told"}))


class WasmKit(EngineKit):
    exit_code_max = 2**32 - 1

    def create(self, context: PluginContext) -> Engine:
        return WasmEngine(context)

    def program(self, behaviour: Behaviour) -> Program:
        verbs = [
            *(("out", behaviour.stdout) if behaviour.stdout else ()),
            *(("err", behaviour.stderr) if behaviour.stderr else ()),
            *(("env", behaviour.print_env) if behaviour.print_env else ()),
            *(("cat", behaviour.print_input) if behaviour.print_input else ()),
        ]
        for path, text in behaviour.files.items():
            verbs += [*(verb for parent in _parents(path) for verb in ("mkdir", f"/out/{parent}"))]
            verbs += ["write", f"/out/{path}", text]
        verbs += ["eat", "0"] if behaviour.eat_memory else []
        verbs += ["spin"] if behaviour.endless else []
        verbs += ["exit", str(behaviour.exit_code)] if behaviour.exit_code else []
        params = {"EntryModule": "/app/puppet.wasm", "Parameters": verbs}
        return Program(SpecConfig(type="wasm", params=params), (local_input(PUPPET, "/app/puppet.wasm"),))

    def broken(self) -> Program:
        return Program(SpecConfig(type="wasm", params={"EntryModule": "/app/missing.wasm"}))

    def processes(self, engine: Engine) -> Sequence[int]:
        assert isinstance(engine, WasmEngine)
        return [child.pid for child in psutil.Process().children(recursive=True) if _runs_guest(child)]


class TestNoop(EngineContract):
    kit = NoopKit()


class TestWasm(EngineContract):
    kit = WasmKit()


def test_both_are_installed_as_plug_ins() -> None:
    """The entry points name them."""
    assert {"noop", "wasm"} <= set(names(ENGINES))


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in reversed(Path(path).parents) if str(parent) != "."]


def _runs_guest(process: psutil.Process) -> bool:
    try:
        parent = process.parent()
        return parent is not None and "bacalhau_engines.wasm.server" in parent.cmdline()
    except psutil.NoSuchProcess:
        return False
