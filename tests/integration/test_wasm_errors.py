"""A task that cannot run is told so before it runs: what is wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_engines.testing import Program, local_input, run_request
from bacalhau_engines.wasm import WasmEngine
from bacalhau_engines.wasm.filesystem import plan
from bacalhau_engines.wasm.spec import check
from bacalhau_protocol.errors import BacalhauError, InputFailed, SpecError, UsageError
from bacalhau_protocol.models.job import NetworkConfig, NetworkType, ResultPath, SpecConfig, Task
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import OutcomeKind, PluginContext
from tests.builders_wasm import PUPPET, module, play, puppet, wasm_engine, wat


def task(network: NetworkConfig | None = None, **params: Any) -> Task:
    return Task(name="main", engine=SpecConfig(type="wasm", params=params), network=network)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, "EntryModule is missing"),
        ({"EntryModule": 5}, "EntryModule must be text, not 5"),
        ({"EntryModule": "m", "Parameters": ["a", 1]}, "Parameters[1] must be text, not 1; put it in quotes"),
        ({"EntryModule": "m", "Parameters": "a b"}, "Parameters must be a list"),
        ({"EntryModule": "m", "Parameters": ["a\0b"]}, "NUL"),
        ({"EntryModule": "m", "EntryPint": "f"}, "unknown parameter 'EntryPint'; did you mean 'Entrypoint'?"),
    ],
)
def test_parameters_are_checked(params: dict[str, Any], words: str) -> None:
    """`check` names the parameter and what is wrong with it."""
    (problem,) = check(task(**params), Resources())
    assert words in problem


def test_names_of_parameters_compare_without_case() -> None:
    """Files that were written for Go decode the same here."""
    assert check(task(entrymodule="m", ENTRYPOINT="f", importModules=None), Resources()) == []


def test_what_webassembly_cannot_have_is_refused() -> None:
    """More than 4 GiB, GPUs, a network: each is named."""
    asked = Resources(memory=5 * 1024**3, gpu=1)
    problems = check(task(NetworkConfig(type=NetworkType.HOST), EntryModule="m"), asked)
    assert [word for word in ("5.00 GiB > 4.00 GiB", "GPU", "Host") for text in problems if word in text] == [
        "5.00 GiB > 4.00 GiB",
        "GPU",
        "Host",
    ]
    assert check(task(NetworkConfig(type=NetworkType.NONE), EntryModule="m"), Resources(memory=4 * 1024**3)) == []


async def refusal(tmp_path: Path, program: Program, kind: type[BacalhauError] = SpecError) -> BacalhauError:
    async with wasm_engine(tmp_path) as engine:
        with pytest.raises(kind) as caught:
            await engine.prepare(run_request(tmp_path, program), lambda *_: None)
    return caught.value


async def test_a_missing_module_names_the_nearest_target(tmp_path: Path) -> None:
    """All targets are listed."""
    error = await refusal(tmp_path, module(PUPPET, EntryModule="/app/mian.wasm"))
    assert "targets are /app/main.wasm" in error.message
    assert error.hint == "did you mean '/app/main.wasm'?"


async def test_a_missing_entry_point_lists_what_is_exported(tmp_path: Path) -> None:
    """In Bacalhau's words, and with the nearest name."""
    path = wat(tmp_path, '(module (func (export "compute")) (func (export "_start")))')
    error = await refusal(tmp_path, module(path, Entrypoint="komputer"))
    assert "unable to find the entrypoint 'komputer' in the WASM module; it exports _start, compute" in error.message
    assert error.hint == "did you mean 'compute'?"


async def test_an_entry_point_with_parameters_is_refused(tmp_path: Path) -> None:
    """It says how many it takes."""
    path = wat(tmp_path, '(module (func (export "add") (param i32 i32) (result i32) (i32.const 0)))')
    error = await refusal(tmp_path, module(path, Entrypoint="add"))
    assert "takes 2 and returns 1 values" in error.message


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("env", "undefined symbols"),
        ("wasi_unstable", "wasi_snapshot_preview1"),
        ("wasi:http/requests", "not offered"),
        ("math.wasm", "InputSources"),
    ],
)
async def test_an_unknown_import_module_is_explained(tmp_path: Path, name: str, hint: str) -> None:
    """The importing module, the name, and what it usually means."""
    path = wat(tmp_path, f'(module (import "{name}" "f" (func)) (func (export "_start")))')
    error = await refusal(tmp_path, module(path))
    assert f"module /app/main.wasm imports from '{name}'" in error.message
    assert hint in error.hint


async def test_modules_in_a_circle_are_refused(tmp_path: Path) -> None:
    """Two that need each other cannot be instantiated."""
    a = wat(tmp_path, '(module (import "b" "f" (func)) (func (export "f")))', "a")
    b = wat(tmp_path, '(module (import "a" "f" (func)) (func (export "f")))', "b")
    main = wat(tmp_path, '(module (import "a" "f" (func)) (func (export "_start")))')
    error = await refusal(tmp_path, module(main, inputs=[local_input(a, "a"), local_input(b, "b")]))
    assert "circle" in error.message


async def test_a_missing_function_of_a_known_module_fails_the_run_in_words(tmp_path: Path) -> None:
    """Linking happens when the run starts."""
    library = wat(tmp_path, '(module (func (export "f")))', "lib")
    main = wat(tmp_path, '(module (import "lib" "g" (func)) (func (export "_start")))')
    nothing = wat(tmp_path, '(module (import "wasi_snapshot_preview1" "nope" (func)) (func (export "_start")))', "no")
    async with wasm_engine(tmp_path) as engine:
        for name, program, words in (
            ("lib", module(main, inputs=[local_input(library, "lib")]), "lib::g"),
            ("wasi", module(nothing), "wasi_snapshot_preview1::nope"),
        ):
            outcome, _ = await play(engine, tmp_path, program, execution_id=f"e-{name}")
            assert outcome.kind is OutcomeKind.COULD_NOT_RUN
            assert words in outcome.message


async def test_a_directory_of_several_modules_is_ambiguous(tmp_path: Path) -> None:
    """It lists them."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("a", "b"):
        wat(bundle, '(module (func (export "_start")))', name)
    error = await refusal(tmp_path, module(PUPPET, inputs=[local_input(bundle, "/m")], EntryModule="/m"))
    assert "must hold one *.wasm file; it holds a.wasm, b.wasm" in error.message


def test_places_in_the_guest_are_taken_once(tmp_path: Path) -> None:
    """Two inputs, an input and an output, the root, a file below a directory: each conflict names both."""
    (tmp_path / "f").write_text("x")
    directory, file = local_input(tmp_path, "/data"), local_input(tmp_path / "f", "/data/f")
    output = ResultPath(name="data", path="/elsewhere")
    for inputs, outputs, words in (
        ([directory, local_input(tmp_path, "data/")], [], "both want /data"),
        ([directory], [output], "output data and input /data both want /data"),
        ([local_input(tmp_path, "/")], [], "root"),
        ([directory, file], [], "input /data/f would be hidden below input /data"),
        ([local_input(tmp_path / "f", "/a"), local_input(tmp_path, "/a/b")], [], "input /a/b would lie below a file"),
        ([local_input(tmp_path, "/a\0b")], [], "NUL"),
        ([], [ResultPath(name="../up", path="/x")], "cannot be called"),
    ):
        with pytest.raises(SpecError) as caught:
            plan(inputs, outputs, tmp_path)
        assert words in caught.value.message
    writable = msgspec.structs.replace(local_input(tmp_path / "f", "/f"), read_only=False)
    with pytest.raises(SpecError, match="cannot be writable"):
        plan([writable], [], tmp_path)
    with pytest.raises(InputFailed):
        plan([local_input(tmp_path / "missing", "/x")], [], tmp_path)


async def test_run_without_prepare_says_the_same(tmp_path: Path) -> None:
    """`run` prepares for itself, and turns what is wrong into an outcome."""
    async with wasm_engine(tmp_path) as engine:
        good = await engine.run(run_request(tmp_path, puppet("exit", "3")), lambda: None)
        bad = await engine.run(run_request(tmp_path, module(PUPPET, EntryModule="x"), execution_id="e-2"), lambda: None)
    assert good.exit_code == 3
    assert (bad.kind, bad.exit_code) == (OutcomeKind.COULD_NOT_RUN, -1)
    assert "no input has that target" in bad.message


async def test_variables_that_cannot_be_passed_on_are_refused(tmp_path: Path) -> None:
    """A NUL would cut the value off silently."""
    async with wasm_engine(tmp_path) as engine:
        with pytest.raises(SpecError, match="'MODE'"):
            await play(engine, tmp_path, puppet(), env={"MODE": "a\0b"})


def test_settings_are_checked(tmp_path: Path) -> None:
    """An unknown setting is refused with the nearest name."""
    with pytest.raises(UsageError) as caught:
        WasmEngine(PluginContext(node_id="n", data_dir=tmp_path, settings={"stream_byte": 1}))
    assert "stream_bytes" in caught.value.hint
