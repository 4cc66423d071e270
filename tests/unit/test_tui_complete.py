"""Names that are offered in a job file: those that its structs have, at every place, and nothing else."""

from __future__ import annotations

import msgspec
import pytest

from bacalhau_protocol.models import params
from bacalhau_protocol.models.binding import fields_of
from bacalhau_protocol.models.job import Job, NetworkType, Task
from bacalhau_protocol.models.spec import NOT_SETTABLE, read_spec
from bacalhau_protocol.models.states import JobType
from bacalhau_tui.data.complete import Offers, offers_at
from bacalhau_tui.data.indent import indent_of, new_line, outdent, tail_text
from bacalhau_tui.data.templates import TEMPLATES, Template, find_template
from bacalhau_tui.data.yamlscan import Scan

TASK = "Tasks:\n  - Name: main\n    "


def offers(marked: str) -> Offers:
    """Return what is offered at the `|`."""
    at = marked.index("|")
    text = marked.replace("|", "", 1)
    scan = Scan()
    scan.update(text.split("\n"))
    return offers_at(scan, text.count("\n", 0, at), at - text.rfind("\n", 0, at) - 1)


def names(marked: str) -> list[str]:
    return [offer.name for offer in offers(marked).offers]


def test_the_root_offers_what_a_file_may_set() -> None:
    """All fields of `Job` but those that only the orchestrator sets, and those that are there."""
    assert names("|") == [name for name in fields_of(Job) if name not in NOT_SETTABLE]
    assert "Name" not in names("Name: a\n|")


@pytest.mark.parametrize(
    "text",
    [
        f"{TASK}|",
        "Tasks:\n- Name: main\n  |",
        "Tasks:\n  - Name: main\n    Engine: {Type: wasm}\n    |",
        "Tasks: [{Name: a, |",
    ],
)
def test_a_task_offers_its_fields_however_it_is_written(text: str) -> None:
    """Block or flow style, indented or not."""
    given = {"Name", *(["Engine"] if "Engine" in text else [])}

    assert names(text) == [name for name in fields_of(Task) if name not in given]


@pytest.mark.parametrize("engine", params.ENGINES)
def test_parameters_are_those_of_the_type(engine: str) -> None:
    """Of the engine, the source, the publisher that the file names, before or after."""
    table = list(params.ENGINES[engine])

    assert names(f"{TASK}Engine:\n      Type: {engine}\n      Params:\n        |") == table
    assert names(f"{TASK}Engine:\n      Params:\n        |\n      Type: {engine.upper()}") == table
    assert names(f"{TASK}engine: {{type: {engine}, params: {{|") == table
    assert names(f"{TASK}InputSources:\n      - Source: {{Type: s3, Params: {{|") == list(params.STORAGES["s3"])
    assert names(f"{TASK}Publisher: {{Type: s3, Params: {{Bucket: a, |") == [
        n for n in params.PUBLISHERS["s3"] if n != "Bucket"
    ]
    assert names(f"{TASK}InputSources:\n      - Source: {{Type: s3, Params: {{Partition: {{|")[0] == "Type"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("Type: |", list(JobType)),
        (f"{TASK}Engine: {{Type: |", list(params.ENGINE_NAMES)),
        (f"{TASK}Publisher:\n      Type: |", list(params.PUBLISHER_NAMES)),
        (f"{TASK}Network: {{Type: |", [kind.value for kind in NetworkType]),
        (f"{TASK}InputSources:\n    - Source: {{Type: local, Params: {{ReadWrite: |", ["true", "false"]),
        ("Count: |", []),
        ("Name: |", []),
    ],
)
def test_values_are_those_that_validation_knows(text: str, values: list[str]) -> None:
    """Where a value is one of a few, they are offered."""
    assert names(text) == values


@pytest.mark.parametrize("text", ["# Na|", 'Name: "Na|', "Labels:\n  |", f"{TASK}Env:\n      |", "a: |\n"])
def test_nothing_is_offered_where_anything_may_stand(text: str) -> None:
    """In comments and texts, and for keys that people invent."""
    assert names(text) == []


def test_what_is_typed_narrows_and_typos_are_understood() -> None:
    """Beginnings first, then parts, then what was probably meant; the whole word is replaced."""
    assert names("Na|") == ["Name", "Namespace"]
    assert names("const|") == ["Constraints"]
    assert names(f"{TASK}sources|") == ["InputSources", "Resources"]
    assert names(f"{TASK}Enigne|: {{}}") == ["Engine"]
    found = offers(f"{TASK}Eng|ine: {{}}")
    assert (found.start, found.end) == (4, 10)


def test_what_is_taken_can_be_read() -> None:
    """Objects and lists open below; in flow style they do not; a colon that is there is not doubled."""
    by_name = {offer.name: offer.tail for offer in offers(f"{TASK}|").offers}

    assert by_name["Engine"] == ":↵"
    assert by_name["InputSources"] == ":↵- "
    assert tail_text("    Eng", 4, by_name["InputSources"]) == ":\n      - "
    assert tail_text("  - Eng", 4, by_name["Engine"]) == ":\n      "
    assert {offer.tail for offer in offers("Tasks: [{|").offers} == {": "}
    assert offers(f"{TASK}Engi|: {{}}").offers[0].tail == ""


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_templates_are_valid(template: Template) -> None:
    """Each can be submitted as it is, without a warning; the empty one is only a beginning."""
    assert template == find_template(template.name)
    if template.name != "empty":
        parsed = read_spec(template.text)
        assert parsed.warnings == ()
        assert msgspec.json.encode(parsed.job)


@pytest.mark.parametrize(
    ("line", "column", "indent"),
    [
        ("Tasks:", 6, 2),
        ("  - Name: a", 11, 4),
        ("  - Engine:", 11, 6),
        ("a: b", 4, 0),
        ("    ", 4, 4),
        ("a: # x", 6, 2),
        ("Tasks:", 0, 0),
    ],
)
def test_a_new_line_begins_under_what_is_above(line: str, column: int, indent: int) -> None:
    """Under the content behind a dash; deeper after a colon."""
    assert new_line(line, column) == "\n" + " " * indent
    if column == len(line) and line.strip():
        assert indent_of([line, ""], 1) == indent


def test_indentation_goes_in_steps() -> None:
    """A step back goes to the step before."""
    assert [outdent(" " * blanks + "x") for blanks in range(5)] == [0, 1, 2, 1, 2]
