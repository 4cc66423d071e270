"""The shape of the sources is tested, so that it cannot slip unseen. Limits are a ratchet: they only go down."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("bacalhau_tui", "daemon", "engines")
FUNCTION_LINES_MAX = 50
FILE_LINES_MAX = 400

# Files that may be longer, each with its reason. Nothing else may join without one.
LONG_FILES: dict[str, str] = {
    "daemon/bacalhau_protocol/api/messages.py": "a table: one struct per request and answer",
}
LONG_FUNCTIONS: dict[str, str] = {}

MACHINE_PATHS = re.compile(r"/work/(main|shared)|/tmp/venv|/root/")
REGISTRIES = re.compile(r"pypi\.org|registry\.npmjs|proxy\.golang|deb\.debian|ghcr\.io/v2|files\.pythonhosted")


def python_files(*tops: str) -> list[Path]:
    """Return every Python file under these top-level directories."""
    return sorted(path for top in tops for path in (ROOT / top).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    """Return a file's name relative to the checkout."""
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[tuple[str, int]]:
    """Return each function's qualified place and its length in lines, docstring left out."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                doc = node.body[0]
                assert doc.end_lineno is not None
                lines -= doc.end_lineno - doc.lineno + 1
            found.append((f"{name_of(path)}:{node.name}", lines))
    return found


def test_no_function_is_longer_than_a_screen() -> None:
    """A function has at most 50 lines without its docstring."""
    long = {
        place: lines
        for path in python_files(*SOURCES, "tests")
        for place, lines in functions(path)
        if lines > FUNCTION_LINES_MAX and place not in LONG_FUNCTIONS
    }

    assert long == {}


def test_no_file_is_longer_than_a_sitting() -> None:
    """A source file has at most 400 lines; the exceptions are named with a reason."""
    long = {
        name_of(path): lines
        for path in python_files(*SOURCES)
        if (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX and name_of(path) not in LONG_FILES
    }

    assert long == {}


def test_exceptions_are_still_needed() -> None:
    """An exception whose file has become short, or is gone, is taken off the list."""
    needless = [
        name
        for name in LONG_FILES
        if not (ROOT / name).exists() or len((ROOT / name).read_text().splitlines()) <= FILE_LINES_MAX
    ]

    assert needless == []


def test_holding_directories_are_not_packages() -> None:
    """`daemon/` and `engines/` hold packages; an `__init__.py` in them would make those generic names importable."""
    present = [name for name in ("daemon/__init__.py", "engines/__init__.py") if (ROOT / name).exists()]

    assert present == []


def test_every_package_is_in_the_wheel() -> None:
    """Each top package under the holding directories is listed for the wheel."""
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    )
    existing = {
        name_of(path.parent)
        for path in [
            *ROOT.glob("daemon/*/__init__.py"),
            *ROOT.glob("engines/*/__init__.py"),
            ROOT / "bacalhau_tui/__init__.py",
        ]
    }

    assert existing == listed


def text_files() -> list[Path]:
    """Return every text file that is committed, as far as suffixes tell."""
    suffixes = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".sh", ".txt", ".tcss", ".c", ""}
    tops = [ROOT / top for top in (*SOURCES, "tests", "docs", "examples", "screenshots", ".ci")]
    files = [path for top in tops if top.exists() for path in top.rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.name != "LICENSE"]
    return [p for p in files if p.suffix in suffixes and "__pycache__" not in p.parts and p != Path(__file__)]


@pytest.mark.parametrize(
    ("what", "pattern"), [("a path of somebody's machine", MACHINE_PATHS), ("a registry's host name", REGISTRIES)]
)
def test_no_file_names(what: str, pattern: re.Pattern[str]) -> None:
    """No committed file names a path of one machine or the host of a registry."""
    found = [
        f"{name_of(path)}:{number}: {what}"
        for path in text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]

    assert found == []


def test_every_test_says_what_is_true() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{name_of(path)}:{node.name}"
        for path in python_files("tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and ast.get_docstring(node) is None
    ]

    assert silent == []


def test_tests_wait_for_conditions_and_never_just_sleep() -> None:
    """No test sleeps for a time and hopes; waiting has a condition and a deadline."""
    sleepy = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files("tests")
        if "bench" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]

    assert sleepy == []


def test_nothing_is_left_for_later() -> None:
    """No marker of unfinished work stands in the sources."""
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    found = [
        f"{name_of(path)}:{number}"
        for path in python_files(*SOURCES)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marker.search(line)
    ]

    assert found == []
