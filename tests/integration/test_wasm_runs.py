"""What a WebAssembly module gets: arguments, environment, files, other modules; and what comes of how it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from bacalhau_engines.testing import OUTPUT, local_input, run_request
from bacalhau_protocol.models.job import ResultPath
from bacalhau_protocol.plugins import OutcomeKind
from tests.builders_wasm import PUPPET, module, play, puppet, wasm_engine, wat


async def test_arguments_begin_with_an_empty_one(tmp_path: Path) -> None:
    """argv is the empty string and then `Parameters`, as in Bacalhau."""
    async with wasm_engine(tmp_path) as engine:
        _, printed = await play(engine, tmp_path, puppet("args", "out", "ü"))
    assert printed == "0 []\n1 [args]\n2 [out]\n3 [ü]\nü"


async def test_exit_codes_have_32_bits(tmp_path: Path) -> None:
    """`proc_exit` takes any code; returning from the entry point is 0, and none of it is a failure."""
    async with wasm_engine(tmp_path) as engine:
        for code in (0, 126, 2**31, 2**32 - 1):
            outcome, _ = await play(engine, tmp_path, puppet("exit", str(code)), execution_id=f"e-{code}")
            assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXITED, code)
        outcome, _ = await play(engine, tmp_path, puppet(), execution_id="e-return")
        assert (outcome.kind, outcome.exit_code) == (OutcomeKind.EXITED, 0)


async def test_a_trap_is_a_failure_with_its_place(tmp_path: Path) -> None:
    """Exit code 1, the trap's words and the function names, as peers of Bacalhau expect it."""
    async with wasm_engine(tmp_path) as engine:
        outcome, printed = await play(engine, tmp_path, puppet("out", "before", "trap"))
    assert (outcome.kind, outcome.exit_code) == (OutcomeKind.SIGNALLED, 1)
    assert "`unreachable` instruction executed" in outcome.message
    assert "main" in outcome.message
    assert printed == "before"


async def test_the_guest_sees_one_tree(tmp_path: Path) -> None:
    """Inputs stand at their targets, outputs at name and path, and `/` lists them all but the run's own module."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("A")
    (data / "b.txt").write_text("B")
    inputs = [local_input(data, "/in/dir"), local_input(data / "a.txt", "notes/a.txt")]
    program = puppet("ls", "/", "ls", "/in/dir", "cat", "notes/a.txt", "cat", "/in/dir/b.txt", inputs=inputs)
    async with wasm_engine(tmp_path) as engine:
        outputs = (ResultPath(name="results", path="/deep/down"),)
        outcome, printed = await play(engine, tmp_path, program, outputs=outputs)
    assert outcome.exit_code == 0, outcome
    assert printed == "deep\nin\nnotes\nresults\na.txt\nb.txt\nAB"


async def test_runs_without_single_files_see_their_directories_too(tmp_path: Path) -> None:
    """They share the root directory with others that have the same directories, and only with these."""
    data = tmp_path / "data"
    data.mkdir()
    async with wasm_engine(tmp_path) as engine:
        for name, inputs in (("a", []), ("b", [local_input(data, "/in/deep")]), ("c", [])):
            program = puppet("ls", "/", "try-write", "/new", inputs=inputs)
            _, printed = await play(engine, tmp_path, program, execution_id=f"e-{name}")
            assert printed.splitlines()[:-1] == (["in", "out"] if inputs else ["out"])
            assert not printed.endswith("yes\n")
    assert len(list((tmp_path / "plugin" / "roots").iterdir())) == 2


async def test_an_output_has_two_places(tmp_path: Path) -> None:
    """It can be written under its name and under its path, and files can be renamed, appended to and removed there."""
    async with wasm_engine(tmp_path) as engine:
        program = puppet(
            "write", "/out/a", "1", "mkdir", "/elsewhere/d", "write", "/elsewhere/d/b", "2", "cat", "out/d/b"
        )
        outputs = (ResultPath(name="out", path="/elsewhere"),)
        outcome, printed = await play(engine, tmp_path, program, outputs=outputs)
    assert (outcome.exit_code, printed) == (0, "2")
    results = tmp_path / "e-1" / "results" / "out"
    assert {str(path.relative_to(results)) for path in results.rglob("*")} == {"a", "d", "d/b"}


async def test_only_outputs_can_be_written(tmp_path: Path) -> None:
    """Inputs and the root are read-only; an input that is granted writing is not."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("A")
    granted = tmp_path / "granted"
    granted.mkdir()
    inputs = [
        local_input(data, "/in"),
        local_input(data / "a.txt", "/file.txt"),
        msgspec.structs.replace(local_input(granted, "/rw"), read_only=False),
    ]
    tries = ("/in/new", "/in/a.txt", "/file.txt", "/new", "/app/main.wasm", "/rw/new", "/out/new")
    program = puppet(*(word for path in tries for word in ("try-write", path)), inputs=inputs)
    async with wasm_engine(tmp_path) as engine:
        _, printed = await play(engine, tmp_path, program)
    allowed = [line.split()[1].rstrip(":") for line in printed.splitlines() if line.endswith("yes")]
    assert allowed == ["/rw/new", "/out/new"]
    assert (data / "a.txt").read_text() == "A"
    assert (granted / "new").read_text() == "x"


async def test_environment_is_sorted_and_nothing_else_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest's variables are the request's, none of the daemon's."""
    monkeypatch.setenv("SECRET", "of the daemon")
    async with wasm_engine(tmp_path) as engine:
        program = puppet("env", "SECRET", "env", "PATH", "env", "MINE")
        _, printed = await play(engine, tmp_path, program, env={"MINE": "1"})
    assert printed == "(none)\n(none)\n1\n"


async def test_random_bytes_are_random(tmp_path: Path) -> None:
    """Two runs draw different bytes."""
    async with wasm_engine(tmp_path) as engine:
        drawn = {(await play(engine, tmp_path, puppet("random"), execution_id=f"e-{n}"))[1] for n in range(3)}
    assert len(drawn) == 3


async def test_standard_input_is_empty(tmp_path: Path) -> None:
    """Reading it ends at once."""
    text = """(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 16))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $exit (i32.add (i32.const 10) (i32.load (i32.const 8))))))"""
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, module(wat(tmp_path, text)))
    assert outcome.exit_code == 10


async def test_a_directory_stands_for_its_one_module(tmp_path: Path) -> None:
    """`EntryModule` may name a directory input with one *.wasm in it, or a path below it."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "puppet.wasm").write_bytes(PUPPET.read_bytes())
    (bundle / "README").write_text("not a module")
    async with wasm_engine(tmp_path) as engine:
        for name, entry in (("a", "/m"), ("b", "m/puppet.wasm")):
            program = module(PUPPET, inputs=[local_input(bundle, "/m")], EntryModule=entry, Parameters=["out", "ok"])
            outcome, printed = await play(engine, tmp_path, program, execution_id=f"e-{name}")
            assert (outcome.exit_code, printed) == (0, "ok")


LIBRARY = """(module
  (global $n (mut i32) (i32.const 1))
  (func (export "_initialize") (global.set $n (i32.const 40)))
  (func (export "add") (param i32) (result i32) (i32.add (global.get $n) (local.get 0))))"""
MAIN = """(module
  (import "lib.wasm" "add" (func $add (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (call $add (i32.const 2)))))"""


@pytest.mark.parametrize("listed", [("lib.wasm",), ()], ids=["listed", "found-by-target"])
async def test_modules_are_linked_by_the_name_of_their_input(tmp_path: Path, listed: tuple[str, ...]) -> None:
    """An import module answers to its input's target, listed in ImportModules or not; reactors are initialised."""
    library, main = wat(tmp_path, LIBRARY, "lib"), wat(tmp_path, MAIN)
    async with wasm_engine(tmp_path) as engine:
        program = module(main, inputs=[local_input(library, "lib.wasm")], ImportModules=list(listed))
        outcome, _ = await play(engine, tmp_path, program)
    assert outcome.exit_code == 42, outcome


async def test_a_chosen_entry_point_runs(tmp_path: Path) -> None:
    """`Entrypoint` names another exported function; a reactor's `_initialize` runs before it."""
    text = """(module
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1) (global $n (mut i32) (i32.const 1))
      (func (export "_initialize") (global.set $n (i32.const 7)))
      (func (export "other") (call $exit (global.get $n))))"""
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, module(wat(tmp_path, text), Entrypoint="other"))
    assert outcome.exit_code == 7


async def test_runs_of_one_execution_are_told_apart_by_attempt(tmp_path: Path) -> None:
    """A second attempt is a run of its own."""
    async with wasm_engine(tmp_path) as engine:
        first = run_request(tmp_path, puppet("out", "x"), attempt=1)
        second = run_request(tmp_path, puppet("out", "y"), attempt=2)
        await asyncio.gather(engine.run(first, lambda: None), engine.run(second, lambda: None))
    assert sorted(first.stdout_path.read_text()) == ["x", "y"]


async def test_what_a_run_took_is_told(tmp_path: Path) -> None:
    """CPU seconds and the peak of its memory are in the outcome."""
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, puppet("eat", str(20 * 2**20)), outputs=(OUTPUT,))
    assert outcome.cpu_seconds > 0
    assert 20 * 2**20 <= outcome.memory_peak_bytes <= 30 * 2**20
