"""`--set` and templates: changes to a file before it is read, with errors that name what is wrong with them."""

from __future__ import annotations

import pytest

from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.problems import problems_of
from bacalhau_protocol.models.spec import read_spec
from bacalhau_protocol.models.template import render

TEXT = """\
Type: batch
Labels: {plain: a}
Tasks:
  - Name: main
    Engine: {Type: docker, Params: {image: old}}
"""


def changed(*settings: str) -> Job:
    """Return the job of the file with these settings."""
    return read_spec(TEXT, settings=settings).job


def test_values_take_the_kind_that_the_field_needs() -> None:
    """A number where a number is needed, a text where a text is; blank is a blank text."""
    job = changed("Count=3", "Tasks[0].Env.X=1", "Name=2025", "Tasks[0].Resources.CPU=2", "Labels.on=yes", "Namespace=")

    assert (job.count, job.name, job.namespace) == (3, "2025", "")
    assert job.task.env == {"X": "1"}
    assert job.labels == {"plain": "a", "on": "yes"}


def test_keys_of_structs_have_no_letter_case_and_keys_of_data_have() -> None:
    """`tasks[0].engine.params.IMAGE` is the file's `image`; labels that differ in case are two."""
    job = changed("tasks[0].engine.params.IMAGE=new", "labels.Plain=b")

    assert job.task.engine == SpecConfig("docker", {"image": "new"})
    assert job.labels == {"plain": "a", "Plain": "b"}


def test_lists_and_objects_are_yaml() -> None:
    """Whole branches can be set, and elements added at the end of a list."""
    job = changed(
        "Tasks[0].Engine.Params.Parameters=[a, 'b c']",
        'Labels={"x": "y"}',
        'Labels["a.b/c"]=z',
        "Constraints[0].Key=zone",
        "Constraints[0].Operator=exists",
        'Tasks[0].Meta.quoted="5"',
    )

    assert job.task.engine is not None
    assert job.task.engine.values["Parameters"] == ["a", "b c"]
    assert job.labels == {"x": "y", "a.b/c": "z"}
    assert [each.key for each in job.constraints or ()] == ["zone"]
    assert job.task.meta == {"quoted": "5"}


def test_the_later_setting_counts() -> None:
    """Settings are applied in their order, without a warning about repeated keys."""
    parsed = read_spec(TEXT, settings=["Count=1", "count=2"])

    assert parsed.job.count == 2
    assert parsed.warnings == ()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("Count", "--set Count: not a path and a value; write KEY=VALUE"),
        ("=5", "--set =5: not a path and a value"),
        ("Tasks[0]Name=x", "not a path and a value"),
        ("Tsks[0].Name=x", "--set Tsks[0].Name=x: Tsks: unknown key; did you mean Tasks?"),
        ("Tasks[0].Engne=x", "Tasks[0].Engne: unknown key; did you mean Engine?"),
        ("Tasks[2].Name=x", "Tasks[2]: beyond the end of the list, which has length 1"),
        ("Tasks.Name=x", "Tasks: found a list, not an object"),
        ("Labels[0]=x", "Labels: Labels is not a list"),
        ("Tasks[0].Name.First=x", 'Tasks[0].Name: found the text "main", not an object'),
        ("Priority.high=1", "Priority: Priority has no keys below it"),
        ("Tasks[0].Env=[A", "Tasks[0].Env: the value is not YAML"),
        ("Count=.inf", 'Count: ".inf" is not a number'),
        ("Count=many", '--set Count: Count: found the text "many", a whole number is needed'),
        ("Count=-1", "--set Count: Count: job count must be >= 0, found -1"),
        ("Tasks[0].Env.low=1", "--set Tasks[0].Env.low: Tasks[0].Env.low: environment variable"),
        ("ID=x", "--set ID: ID: is not allowed in a job file"),
        ("Name=\udc80", "not UTF-8 text"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, words: str) -> None:
    """The error names the setting, the path, and where there is one the nearest name."""
    with pytest.raises(SpecError) as caught:
        changed(setting)

    assert words in str(caught.value)


def test_settings_can_make_a_whole_job() -> None:
    """A file with nothing but a type can be completed from the command line."""
    job = read_spec("Type: batch", settings=["Tasks[0].Name=m", "Tasks[0].Engine.Type=noop"]).job

    assert job.task.engine == SpecConfig("noop")


def test_variables_are_filled_in() -> None:
    """Blanks inside the braces do not matter, dashes trim blanks outside, comments vanish."""
    text = "Name: {{.name}}-{{ .name }}\nCount: {{- .count -}}  # x\n{{/* a comment */}}Type: batch\n"

    assert render(text, {"name": "a", "count": "2"}) == "Name: a-a\nCount:2# x\nType: batch\n"
    assert render("no: braces", {}) == "no: braces"


def test_everything_else_between_braces_is_refused_at_its_place() -> None:
    """Unknown variables get the nearest name; functions, pipes and open braces are refused, all at once."""
    text = 'Name: {{.nmae}}\nType: {{ if .x }}\n{{ .a | upper }} {{ "x" }}\nCount: {{.a\n'
    with pytest.raises(SpecError) as caught:
        render(text, {"name": "a"}, "t.yaml")

    assert [(p.line, p.column, p.nearest) for p in problems_of(caught.value)] == [
        (1, 7, "name"),
        (2, 7, ""),
        (3, 1, ""),
        (3, 18, ""),
        (4, 8, ""),
    ]
    assert 't.yaml:1:7: template variable "nmae" is not given; given are name; did you mean name?' in str(caught.value)
    assert "t.yaml:4:8: {{ is not closed; only {{.name}} is supported" in str(caught.value)
