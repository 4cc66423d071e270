"""The documentation is of this code: what a page names is there, and every command, verb and type is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from bacalhau_daemon.cli import cli as daemon_cli
from bacalhau_daemon.compute.serving import _KINDS as NODE_VERBS
from bacalhau_daemon.core.link import EXTENSIONS
from bacalhau_daemon.orchestrator.roles import LEAST
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_tui.cli.root import root

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RECORDS = DOCS / "decisions"

COMMON = {"--nats", "--creds", "--profile", "-o", "--output", "--help", "-h"}
"""Options of every command, which the page says once."""


def page(name: str) -> str:
    """Return a page of the documentation."""
    return (DOCS / name).read_text()


def rows(text: str, cells: int) -> Iterator[list[str]]:
    """Return the rows of all tables that have so many cells and begin with code."""
    for line in text.splitlines():
        found = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(found) == cells and found[0].startswith("`"):
            yield found


def code(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def bodies() -> dict[str, type[m.Body]]:
    """Return all requests and answers by name."""
    kinds = (one for one in vars(m).values() if isinstance(one, type) and issubclass(one, m.Body))
    return {kind.__name__: kind for kind in kinds if kind is not m.Body}


# ── the client API ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_verb_of_the_api_is_documented() -> None:
    """With its request, its answer, the least role, and whether it writes; no other is."""
    documented = {code(one[0])[0]: one[1:] for one in rows(page("api.md"), 5)}

    assert documented == {
        name: [
            f"`{verb.request.__name__}`",
            f"`{verb.answer.__name__}`",
            LEAST[name].value,
            "yes" if verb.write else "no",
        ]
        for name, verb in m.VERBS.items()
    }


def test_every_verb_between_nodes_and_others_is_documented() -> None:
    """Those that our nodes answer, and those that they speak."""
    documented = {code(one[0])[0]: code(one[1])[0] for one in rows(page("api.md"), 4) if "." in one[0]}
    expected = {f"in.{verb}": kind.__name__ for verb, kind in NODE_VERBS.items()}

    assert {verb: kind for verb, kind in documented.items() if verb.startswith("in.")} == expected
    assert {verb for verb in documented if verb.startswith("out.")} == {f"out.{verb}" for verb in EXTENSIONS}


def test_every_type_of_the_api_is_documented() -> None:
    """With the names of its fields on the wire, and which may be left out."""
    documented = {code(one[0])[0]: one[1] for one in rows(page("api.md"), 2) if code(one[0])[0] in bodies()}
    types = page("api.md").partition("## Types")[2]

    assert {code(one[0])[0] for one in rows(types, 2)} == bodies().keys()
    for name, kind in bodies().items():
        fields = [f"`{one.encode_name}`{'' if one.required else '?'}" for one in msgspec.structs.fields(kind)]
        assert documented[name] == (", ".join(fields) or "none"), name


def test_every_error_of_the_api_is_documented() -> None:
    """With its header and whose fault it is."""
    documented = {code(one[0])[0]: one[1:3] for one in rows(page("api.md"), 4) if one[1].isdecimal()}
    kinds = [kind for kind in errors.BacalhauError.__subclasses__() if kind.__module__ == errors.__name__]

    assert documented == {kind.code: [str(kind.http_status), kind.fault.value] for kind in kinds}


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


def commands(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[tuple[str, set[str]]]:
    """Return each command that does something, with its own options."""
    context = click.Context(command, info_name=path, parent=parent)
    found = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    options = {name for one in found for name in (*one.opts, *one.secondary_opts)}
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield path, options - COMMON
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, f"{path} {name}", context)


def test_every_command_and_option_is_documented() -> None:
    """Of both programs, each with exactly its options."""
    expected = {**dict(commands(root, "bacalhau-tui")), **dict(commands(daemon_cli, "bacalhau-daemon"))}
    documented = {
        re.sub(r" (FILE|JOB|NODE|IDENTITY)\b.*$", "", code(one[0])[0]): set(code(one[1]))
        for one in rows(page("commands.md").partition("## All options")[2], 2)
    }

    assert documented == expected


# ── paths ─────────────────────────────────────────────────────────────────────────────────────────────────────────

PACKAGES = {
    "bacalhau_protocol": "daemon/bacalhau_protocol",
    "bacalhau_daemon": "daemon/bacalhau_daemon",
    "bacalhau_engines": "engines/bacalhau_engines",
    "bacalhau_tui": "bacalhau_tui",
}


def paths(text: str) -> set[str]:
    """Return everything in backticks that looks like a path of this repository."""
    tops = "|".join([*PACKAGES, "docs", "tests", "examples", "daemon", "engines"])
    return {one for one in re.findall(rf"`((?:{tops})(?:/[\w.*-]+)*/?)`", text) if "/" in one}


@pytest.mark.parametrize("document", sorted(one.relative_to(ROOT).as_posix() for one in DOCS.rglob("*.md")))
def test_every_path_that_a_page_names_is_there(document: str) -> None:
    """A module that has moved moves in the pages too."""
    for name in paths((ROOT / document).read_text()):
        top, _, rest = name.partition("/")
        place = ROOT / PACKAGES.get(top, top) / rest
        assert place.exists() or list(ROOT.glob(str(place.relative_to(ROOT)))), f"{document} names {name}"


def test_every_package_is_on_the_map() -> None:
    """The architecture's table of packages names each directory with code, at the first level below the packages."""
    named = paths(page("ARCHITECTURE.md"))
    missing = [
        f"{package}/{child.name}"
        for package, place in PACKAGES.items()
        for child in sorted((ROOT / place).iterdir())
        if child.is_dir() and list(child.glob("*.py")) and f"{package}/{child.name}" not in named
    ]

    assert missing == []


def test_every_decision_is_in_the_index() -> None:
    """And the index names no other."""
    records = {one.name for one in RECORDS.glob("[0-9]*.md")}
    indexed = set(re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (RECORDS / "README.md").read_text()))

    assert indexed == records
