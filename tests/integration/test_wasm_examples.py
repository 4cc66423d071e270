"""The examples do real work: their results are compared with what Python computes over the same files."""

from __future__ import annotations

import base64
import collections
import csv
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bacalhau_engines.testing import Program, local_input
from bacalhau_protocol.models.spec import read_spec
from bacalhau_protocol.models.template import render
from bacalhau_protocol.plugins import PreparedInput
from tests.builders_wasm import EXAMPLES, ROOT, module, play, wasm_engine

JOBS = ROOT / "examples" / "jobs"
VARIABLES = {"zone": "north", "data": "/srv/data", "modules": "/srv/wasm", "text": "class", "code": "3"}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A real tree: the standard library's json and collections packages, with something odd beside them."""
    tree = tmp_path / "sources"
    for package in (json, collections):
        assert package.__file__
        here = Path(package.__file__).parent
        shutil.copytree(here, tree / here.name, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "empty.py").write_text("")
    (tree / "no newline.py").write_text("last_line = 'no newline'")
    (tree / "ignored.txt").write_text("never_counted = 1\n")
    return tree


def example(name: str, *arguments: str, data: Path) -> Program:
    inputs: list[PreparedInput] = [local_input(data, "/data")]
    return module(EXAMPLES / f"{name}.wasm", inputs=inputs, Parameters=list(arguments))


def python_files(tree: Path) -> list[Path]:
    return sorted(tree.rglob("*.py"))


async def test_wordcount_counts_identifiers(tmp_path: Path, sources: Path) -> None:
    """Every identifier of three characters or more, with its count and the number of files."""
    async with wasm_engine(tmp_path) as engine:
        outcome, printed = await play(
            engine, tmp_path, example("wordcount", "/data", ".py", "/out/w.csv", data=sources)
        )
    assert outcome.exit_code == 0, outcome
    counts: collections.Counter[str] = collections.Counter()
    files: collections.Counter[str] = collections.Counter()
    for path in python_files(sources):
        words = re.findall(rb"[A-Za-z_][A-Za-z0-9_]*", path.read_bytes())
        found = collections.Counter(word.decode() for word in words if len(word) >= 3)
        counts += found
        files.update(found.keys())
    with (tmp_path / "e-1" / "results" / "out" / "w.csv").open() as file:
        rows = {row["identifier"]: (int(row["count"]), int(row["files"])) for row in csv.DictReader(file)}
    assert rows == {word: (count, files[word]) for word, count in counts.items()}
    assert printed.startswith(f"{len(python_files(sources))} files")


async def test_sha256_hashes_a_tree(tmp_path: Path, sources: Path) -> None:
    """In the format of sha256sum, byte for byte."""
    async with wasm_engine(tmp_path) as engine:
        outcome, _ = await play(engine, tmp_path, example("sha256", "/data", "", "/out/SHA256SUMS", data=sources))
    assert outcome.exit_code == 0, outcome
    lines = (tmp_path / "e-1" / "results" / "out" / "SHA256SUMS").read_text().splitlines()
    expected = {
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(sources)}"
        for path in sources.rglob("*")
        if path.is_file()
    }
    assert set(lines) == expected


async def test_lines_measures_files(tmp_path: Path, sources: Path) -> None:
    """Lines, bytes and the longest line per file; the histogram holds every line once."""
    async with wasm_engine(tmp_path) as engine:
        outcome, printed = await play(engine, tmp_path, example("lines", "/data", ".py", "/out/l.csv", data=sources))
    assert outcome.exit_code == 0, outcome
    with (tmp_path / "e-1" / "results" / "out" / "l.csv").open() as file:
        rows = {
            row["path"]: (int(row["lines"]), int(row["bytes"]), int(row["longest"])) for row in csv.DictReader(file)
        }
    expected = {}
    for path in python_files(sources):
        data = path.read_bytes()
        lines = data.removesuffix(b"\n").split(b"\n") if data else []
        expected[f"/data/{path.relative_to(sources)}"] = len(lines), len(data), max(map(len, lines), default=0)
    assert rows == expected
    histogram = [int(count) for count in re.findall(r"^ *\d+(?: -|\+) +(\d+) ", printed, re.MULTILINE)]
    assert sum(histogram) == sum(lines for lines, _, _ in expected.values())


async def test_grep_finds_lines_with_context(tmp_path: Path, sources: Path) -> None:
    """The lines that hold the text, the lines around them, and grep's exit codes."""
    async with wasm_engine(tmp_path) as engine:
        program = example("grep", "-i", "-e", ".py", "CLASS ", "/data", data=sources)
        outcome, printed = await play(engine, tmp_path, program)
        context, around = await play(
            engine, tmp_path, example("grep", "-C", "1", "def loads", "/data", data=sources), execution_id="e-2"
        )
        nothing, _ = await play(
            engine, tmp_path, example("grep", "no such text anywhere", "/data", data=sources), execution_id="e-3"
        )
    expected = {
        f"/data/{path.relative_to(sources)}:{number}:{line}"
        for path in python_files(sources)
        for number, line in enumerate(path.read_text().split("\n"), 1)
        if "class " in line.lower()
    }
    assert outcome.exit_code == 0
    assert set(printed.splitlines()) == expected
    assert context.exit_code == 0
    assert [line for line in around.splitlines() if re.match(r"/data/json/__init__\.py:\d+:def loads", line)]
    assert [line for line in around.splitlines() if re.match(r"/data/json/__init__\.py-\d+-", line)]
    assert nothing.exit_code == 1


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_job_files_are_valid(path: Path) -> None:
    """Each is read without an error or a warning, and its engine takes its parameters."""
    parsed = read_spec(render(path.read_text(), VARIABLES, path.name), path.name)
    assert not parsed.warnings
    assert parsed.job.tasks


def test_the_inline_job_carries_the_committed_module() -> None:
    """hello.yaml and hello.wasm are of the same build."""
    job = read_spec((JOBS / "hello.yaml").read_bytes(), "hello.yaml").job
    (source,) = job.task.input_sources or ()
    assert source.source
    data = str(source.source.values["URL"]).partition(",")[2]
    assert base64.b64decode(data) == (EXAMPLES / "hello.wasm").read_bytes()


def test_modules_are_small() -> None:
    """They are committed, so they stay below 100 kB."""
    for path in (*EXAMPLES.glob("*.wasm"), *(ROOT / "tests" / "data" / "wasm").glob("*.wasm")):
        assert path.stat().st_size < 100_000, path


@pytest.mark.needs_wasm_toolchain
@pytest.mark.skipif(shutil.which("clang-14") is None, reason="clang-14 is not installed")
def test_the_committed_modules_are_what_the_sources_give() -> None:
    """The build is reproducible."""
    built = subprocess.run([EXAMPLES / "build.sh", "--check"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
