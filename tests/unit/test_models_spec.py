"""Job files: what Bacalhau takes is taken, what it refuses is refused with all its problems in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_protocol.errors import SpecError, from_wire
from bacalhau_protocol.models.normalise import BACALHAU_DEFAULTS
from bacalhau_protocol.models.problems import Problem, problems_of
from bacalhau_protocol.models.spec import NOT_SETTABLE, ParsedSpec, read_spec
from bacalhau_protocol.models.submission import prepare
from bacalhau_protocol.models.yaml_nodes import resolve_plain

DATA = Path(__file__).parents[1] / "data/jobs"
VALID = sorted((DATA / "valid").iterdir())
API_ONLY = "25-lower-case-keys-unknown-fields.json"  # was sent to the API, which ignores an unknown key at the top
MINIMAL = "Type: batch\nTasks:\n  - Name: main\n    Engine: {Type: noop}\n"


def problems(text: str | bytes, name: str = "job.yaml", **options: Any) -> list[Problem]:
    """Return what a text is refused for."""
    with pytest.raises(SpecError) as caught:
        read_spec(text, name, **options)
    found = problems_of(caught.value)
    assert str(caught.value).splitlines()[: len(found)] == [str(problem) for problem in found]
    return found


def places(found: list[Problem]) -> list[str]:
    """Return line, column and path of each problem."""
    return [f"{problem.line}:{problem.column} {problem.path}" for problem in found]


def warnings(parsed: ParsedSpec) -> list[str]:
    """Return the warnings as lines."""
    return [str(warning) for warning in parsed.warnings]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_what_bacalhau_accepts_is_accepted(path: Path) -> None:
    """Bacalhau's accepted samples are accepted without a warning, also with Bacalhau's own defaults."""
    parsed = read_spec(path.read_bytes(), path.name, defaults=BACALHAU_DEFAULTS, lenient=path.name == API_ONLY)

    assert prepare(parsed.job, "j-1", defaults=BACALHAU_DEFAULTS).warnings == ()
    assert path.name == API_ONLY or parsed.warnings == ()


TASK = "Tasks[0]"
REFUSED: dict[str, list[tuple[str, str]]] = {
    "01-type-missing": [("1:1 Type", "missing job type")],
    "02-type-unknown": [("1:1 Type", 'invalid job type "cron"')],
    "03-type-upper-case": [("1:1 Type", "did you mean batch?")],
    "04-count-negative": [("2:1 Count", "job count must be >= 0")],
    "05-count-text": [("2:1 Count", 'found the text "3", a whole number is needed')],
    "06-ops-count": [("2:1 Count", "ops jobs run on all matching nodes and cannot have a count > 1")],
    "07-daemon-count": [("2:1 Count", "daemon jobs run on all matching nodes and cannot have a count > 1")],
    "08-no-tasks": [("2:1 Tasks", "missing job tasks")],
    "09-tasks-not-a-list": [("2:1 Tasks", "found an object, a list is needed")],
    "10-task-name-missing": [(f"3:5 {TASK}.Name", "missing task name")],
    "11-engine-missing": [(f"3:5 {TASK}.Engine", "missing engine")],
    "12-engine-type-blank": [(f"4:14 {TASK}.Engine.Type", "missing type of the engine")],
    "13-env-lower-case": [(f"5:11 {TASK}.Env.mode", "must be uppercase; did you mean MODE?")],
    "14-env-reserved": [(f"5:11 {TASK}.Env.BACALHAU_TOKEN", "cannot start with BACALHAU_")],
    "15-env-empty-value": [(f"5:11 {TASK}.Env.MODE", "cannot have an empty value")],
    "16-env-number": [(f"5:11 {TASK}.Env.MODE", 'found the number 5, a text is needed; put it in quotes: "5"')],
    "17-input-no-target": [(f"6:9 {TASK}.InputSources[0].Target", "input source is missing a target")],
    "18-input-no-source": [(f"6:9 {TASK}.InputSources[0].Source", "missing source")],
    "19-input-duplicate-alias": [(f"7:10 {TASK}.InputSources[1].Alias", 'alias "a" already exists')],
    "20-input-duplicate-target": [(f"7:10 {TASK}.InputSources[1].Target", 'target "/x" already exists')],
    "21-result-no-name": [(f"7:9 {TASK}.ResultPaths[0].Name", "missing name")],
    "22-result-relative-path": [(f"7:21 {TASK}.ResultPaths[0].Path", 'result path "out" must be absolute')],
    "23-result-duplicate-name": [(f"8:10 {TASK}.ResultPaths[1].Name", 'name "out" already exists')],
    "24-result-without-publisher": [(f"3:5 {TASK}.Publisher", "publisher must be set if result paths are set")],
    "25-network-unknown": [(f"5:15 {TASK}.Network.Type", 'unknown type "vpn"')],
    "26-network-empty-type": [(f"5:15 {TASK}.Network.Type", 'unknown type ""')],
    "27-domains-without-http": [(f"5:29 {TASK}.Network.Domains", "domains can only be set for HTTP network mode")],
    "28-domain-malformed": [(f"5:37 {TASK}.Network.Domains[0]", 'invalid domain "localhost"')],
    "29-ports-without-network": [(f"5:27 {TASK}.Network.Ports", "ports can only be set for Host or Bridge")],
    "30-port-name-malformed": [(f"5:38 {TASK}.Network.Ports[0].Name", "must be a valid environment variable name")],
    "31-port-privileged": [(f"5:49 {TASK}.Network.Ports[0].Static", "static port 443 is in the privileged port range")],
    "32-port-duplicate": [(f"5:63 {TASK}.Network.Ports[1].Name", "duplicate port mapping name web")],
    "33-timeout-negative": [(f"5:16 {TASK}.Timeouts.ExecutionTimeout", "invalid execution timeout value: -1")],
    "34-timeout-text": [(f"5:16 {TASK}.Timeouts.TotalTimeout", 'found the text "10m", a whole number is needed')],
    "35-timeouts-do-not-add-up": [(f"5:5 {TASK}.Timeouts", "execution timeout 50 s and queue timeout 30 s")],
    "36-cpu-malformed": [(f"5:17 {TASK}.Resources.CPU", "invalid CPU value: 'lots'")],
    "37-cpu-number": [(f"5:17 {TASK}.Resources.CPU", "found the number 1, a text is needed")],
    "38-memory-malformed": [(f"5:17 {TASK}.Resources.Memory", "unknown unit 'buckets'")],
    "39-memory-negative": [(f"5:17 {TASK}.Resources.Memory", "invalid memory value: '-5Mb' is negative")],
    "40-gpu-malformed": [(f"5:17 {TASK}.Resources.GPU", "invalid GPU value: 'all'")],
    "41-constraint-no-key": [("2:15 Constraints[0].Key", "the key of a label is missing")],
    "42-constraint-in-no-values": [("2:15 Constraints[0].Values", "operator in needs at least one value")],
    "43-constraint-equals-two-values": [("2:42 Constraints[0].Values", "operator = needs exactly one value, found 2")],
    "44-constraint-exists-with-value": [("2:45 Constraints[0].Values", "operator exists takes no values")],
    "45-label-number": [("2:10 Labels.year", "found the number 2025, a text is needed")],
    "46-name-number": [("2:1 Name", "found the number 2025, a text is needed")],
    "47-several-problems": [
        ("1:1 Type", 'invalid job type "weekly"'),
        ("2:1 Count", "job count must be >= 0"),
        ("3:15 Constraints[0].Values", "operator in needs at least one value"),
        ("4:1 Tasks", "missing job tasks"),
    ],
    "48-service-id-with-space": [("1:1 ID", "not allowed in a job file"), ("1:1 ID", "job ID contains a space")],
}


@pytest.mark.parametrize(("stem", "expected"), REFUSED.items(), ids=REFUSED.keys())
def test_what_bacalhau_refuses_is_refused_at_its_place(stem: str, expected: list[tuple[str, str]]) -> None:
    """Each refused sample gives exactly the problems that Bacalhau named, with line, column and path."""
    found = problems((DATA / f"invalid/{stem}.yaml").read_bytes(), defaults=BACALHAU_DEFAULTS)

    assert places(found) == [place for place, _ in expected]
    assert [words in str(problem) for problem, (_, words) in zip(found, expected, strict=True)] == [True] * len(found)


def test_every_refused_sample_has_an_expectation() -> None:
    """No sample is forgotten."""
    assert sorted(REFUSED) == sorted(path.stem for path in (DATA / "invalid").iterdir())


MALFORMED: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "the file is empty"),
    "only comments": ("# nothing\n---\n", "the file is empty"),
    "ten megabytes": ("Name: " + "x" * 10_000_000, "10,000,006 bytes, the limit is 393,216"),
    "deep flow": ("a: " + "[" * 100_000, "job.yaml:1:67: lists and objects are nested more than 64 deep"),
    "deep blocks": ("\n".join(" " * depth + "a:" for depth in range(200)), "nested more than 64 deep"),
    "deep JSON": ('{"a":' * 5_000, "nested more than 64 deep"),
    "alias bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{key}: &{key} [{','.join(['*' + last] * 10)}]\n" for last, key in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "with its aliases unfolded, the document is larger than 393,216 bytes",
    ),
    "merge bomb": (
        "m: &m {" + ",".join(f"k{key}: 1" for key in range(500)) + "}\nx:\n" + "  <<: *m\n" * 200,
        "job.yaml:118:7: with its aliases unfolded, the document is larger than 393,216 bytes",
    ),
    "alias of itself": ("a: &a [*a]", "job.yaml:1:8: alias *a stands inside of its own anchor"),
    "alias of nothing": ("a: *b", "job.yaml:1:4: alias *b has no anchor"),
    "null elements": (
        "Type: batch\nTasks: [null]\nConstraints: [~]\n",
        "job.yaml:2:9: Tasks[0]: found null, a value is needed",
    ),
    "tabs": ("Type: batch\nTasks:\n\t- Name: main\n", "job.yaml:3:1: not YAML: a tab cannot be used here"),
    "binary": (b"\x7fELF\x02\x01\xff\xfe", "job.yaml:1:7: not a text: byte 0xFF at offset 6 is not UTF-8"),
    "null byte": ("Type: \0batch", "job.yaml:1:7: the character U+0000 is not allowed"),
    "UTF-16": (MINIMAL.encode("utf-16"), "not a text"),
    "two documents": (f"{MINIMAL}---\n{MINIMAL}", "job.yaml:6:1: a second document begins here"),
    "a list": ("- Name: main", "job.yaml:1:1: found a list, an object is needed"),
    "a word": ("hello", 'found the text "hello", an object is needed'),
    "unclosed": ("Type: [batch", "job.yaml:1:13: not YAML: expected ',' or ']'"),
    "colon in a value": ("Type: a: b", "job.yaml:1:8: not YAML: mapping values are not allowed here"),
    "list as a key": ("? [a]\n: b", "a key must be a word"),
    "empty key": ("~: b", "job.yaml:1:1: a key is empty"),
    "foreign tag": ("Type: !batch yes", 'job.yaml:1:7: the tag "!batch" is not supported here'),
    "merge of a word": ("<<: word", "job.yaml:1:5: << takes over an object"),
    "not a number": ("Count: .nan", ".nan is not a number that a job can hold"),
    "endless number": ("Count: " + "9" * 5_000, "is not a number that a job can hold"),
    "number of 65 bits": (f"Count: {2**63}", "job.yaml:1:1: Count: found the number 9223372036854775808"),
    "body of a request": ('{"Job": {"Type": "batch"}}', "put what is below it at the top of the file"),
}


@pytest.mark.parametrize(("text", "words"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_files_get_a_clear_error(text: str | bytes, words: str) -> None:
    """Whatever the file is, the answer is words with a place; nothing else is ever raised."""
    assert words in "\n".join(map(str, problems(text)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"Type": "ba', "job.json:1:10: not JSON: Unterminated string"),
        ('{"Type": "batch"} x', "job.json:1:19: not JSON: found text after the document"),
        ('{"Count": 1e999}', "job.json:1:11: not JSON: the number is too large"),
        ('{"Name": "\\ud800"}', "job.json:1:10: not JSON: the text has half of a surrogate pair"),
        ('{"Count"\n: ]}', "job.json:2:3: not JSON: found ']', expected a value"),
        ('{"a":' + "[" * 100_000, "job.json:1:70: lists and objects are nested more than 64 deep"),
    ],
    ids=["unfinished", "text after", "large number", "surrogate", "no value", "deep"],
)
def test_malformed_json_is_reported_as_json(text: str, words: str) -> None:
    """A file named .json that is neither JSON nor YAML is told where it stops being JSON."""
    assert words in "\n".join(map(str, problems(text, "job.json")))


def test_all_problems_of_the_wrong_kinds_are_told_at_once() -> None:
    """Values of the wrong kind neither stop the reading nor cause follow-up problems."""
    text = (
        "Type: 5\nCount: [1]\nPriority: high\nLabels: [a]\nMeta: 5\nTasks:\n  - Name: {a: b}\n    Engine: docker\n"
        "    Env: [A=1]\n    Network: Bridge\n    Resources: lots\n    Timeouts: 5\n    InputSources: {a: b}\n"
    )

    assert places(problems(text)) == [
        "1:1 Type",
        "2:1 Count",
        "3:1 Priority",
        "4:1 Labels",
        "5:1 Meta",
        "7:5 Tasks[0].Name",
        "8:5 Tasks[0].Engine",
        "9:5 Tasks[0].Env",
        "10:5 Tasks[0].Network",
        "11:5 Tasks[0].Resources",
        "12:5 Tasks[0].Timeouts",
        "13:5 Tasks[0].InputSources",
    ]


def test_unknown_and_forbidden_keys_at_the_top_are_refused_with_the_nearest() -> None:
    """Bacalhau's command line refuses them too; here the error says what was probably meant."""
    text = "Typ: batch\n" + MINIMAL + "".join(f"{name}: 0\n" for name in NOT_SETTABLE if name not in ("ID", "State"))
    found = problems(text)

    assert str(found[0]) == "job.yaml:1:1: Typ: unknown key; did you mean Type?"
    assert [str(problem).partition(": ")[2] for problem in found[1:]] == [
        f"{name}: is not allowed in a job file: the orchestrator sets it"
        for name in NOT_SETTABLE
        if name not in ("ID", "State")
    ]


def test_unknown_keys_below_the_top_are_warnings() -> None:
    """What Bacalhau drops in silence is said, with the nearest name, and does not stop the job."""
    text = MINIMAL.replace("Engine:", "Enviroment: {A: b}\n    Engine:").replace(
        "{Type: noop}", "{Type: docker, Params: {Image: x, Imge: y}}"
    )

    assert warnings(read_spec(text)) == [
        "job.yaml:4:5: Tasks[0].Enviroment: unknown key is ignored; known are Name, Engine, Publisher, Env, Meta, "
        "InputSources, ResultPaths, Resources, Network, Timeouts",
        "job.yaml:5:47: Tasks[0].Engine.Params.Imge: unknown parameter is ignored; did you mean Image?",
    ]


def test_a_repeated_key_is_a_warning_and_the_later_one_counts() -> None:
    """Also when the two differ in letter case only, as Go's decoder has it."""
    parsed = read_spec(MINIMAL + "type: ops\nLabels: {a: b, a: c}\n")

    assert parsed.job.type == "ops"
    assert parsed.job.labels == {"a": "c"}
    assert warnings(parsed) == [
        "job.yaml:5:1: Type: the key is repeated, the one of line 1 is ignored",
        "job.yaml:6:16: Labels.a: the key is repeated, the one of line 6 is ignored",
    ]


def test_parameters_that_fail_only_on_a_node_are_refused_here() -> None:
    """Known engines, storages and publishers have their parameters checked: names, kinds, rules."""
    text = (
        "Type: batch\nTasks:\n- Name: m\n  Engine:\n    Type: Docker\n    Params:\n      Parameters: [1, ok]\n"
        "      WorkingDirectory: out\n      EnvironmentVariables: [BACALHAU_X=1]\n"
        "  Publisher: {Type: s3, Params: {bucket: b, Encoding: zip}}\n  InputSources:\n"
        "  - {Target: /a, Source: {Type: s3, Params: {Bucket: b, Partition: {Type: regx}}}}\n"
        "  - {Target: /b, Source: {Type: URLDownload, Params: {URL: 'ftp://x/y'}}}\n"
        "  - {Target: /c, Source: {Type: inline, Params: {URL: hello}}}\n"
        "  - {Target: /d, Source: {Type: local, Params: {SourcePath: 5, CreateAs: dirr}}}\n"
        "  - {Target: /e, Source: {Type: not-ours, Params: {What: ever}}}\n"
    )

    assert [str(problem).partition(": ")[2] for problem in problems(text)] == [
        "Tasks[0].Engine.Params.Image: missing or empty, a text is needed",
        'Tasks[0].Engine.Params.Parameters[0]: found the number 1, a text is needed; put it in quotes: "1"',
        'Tasks[0].Engine.Params.WorkingDirectory: "out" is not an absolute path',
        'Tasks[0].Engine.Params.EnvironmentVariables: "BACALHAU_X=1": names that begin with BACALHAU_ are reserved',
        "Tasks[0].Publisher.Params.Key: missing or empty, a text is needed",
        'Tasks[0].Publisher.Params.Encoding: "zip" is not one of gzip, plain; did you mean gzip?',
        'Tasks[0].InputSources[0].Source.Params.Partition: partition type "regx" is not one of none, object, regex, '
        "substring, date; did you mean regex?",
        'Tasks[0].InputSources[1].Source.Params.URL: "ftp://x/y" must begin with http:// or https://',
        'Tasks[0].InputSources[2].Source.Params.URL: "hello" is not a data: URL, for instance '
        "data:text/plain;base64,aGVsbG8K",
        "Tasks[0].InputSources[3].Source.Params.SourcePath: found the number 5, a text is needed; "
        'put it in quotes: "5"',
        'Tasks[0].InputSources[3].Source.Params.CreateAs: "dirr" is not one of dir, file, noCreate; did you mean dir?',
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, True) for word in ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE")),
        *((word, False) for word in ("n", "no", "off", "False", "NO")),
        *((word, None) for word in ("", "~", "null", "NULL")),
        ("017", 15),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b101", -5),
        ("1_000", 1000),
        ("08", 8.0),
        ("+5", 5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("22:22", "22:22"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("yEs", "yEs"),
        ("-", "-"),
        ("0o", "0o"),
    ],
)
def test_plain_scalars_mean_what_they_mean_to_go(text: str, value: object) -> None:
    """YAML 1.1's booleans and octals, but no base-60 numbers and no dates."""
    assert resolve_plain(text) == value
    assert type(resolve_plain(text)) is type(value)


def test_the_yaml_dialect_in_a_file() -> None:
    """Anchors, merges, numbers as keys, quoted texts, block texts and a trailing empty document work."""
    text = (
        "---\nType: &kind batch\nCount: 0x2\nLabels: {1.50: x, on: 'yes', plain: *kind, 4711: t}\nTasks:\n"
        "- <<: &base {Name: base, Env: {A: b}}\n  Name: main\n"
        "  Engine: {Type: docker, Params: {Image: host:5000/i:1}}\n"
        "  Meta:\n    note: |\n      two\n      lines\n---\n"
    )
    parsed = read_spec(text)

    assert parsed.job.count == 2
    assert parsed.job.labels == {"1.5": "x", "true": "yes", "plain": "batch", "4711": "t"}
    assert parsed.job.task.name == "main"
    assert parsed.job.task.env == {"A": "b"}
    assert parsed.job.task.meta == {"note": "two\nlines\n"}
    assert parsed.job.task.engine is not None
    assert parsed.job.task.engine.values == {"Image": "host:5000/i:1"}
    assert [warning.path for warning in parsed.warnings] == ['Labels["1.5"]', "Labels.true"]


def test_json_is_read_as_json() -> None:
    """Tabs, escapes and surrogate pairs of JSON files are understood, and problems have places."""
    text = (
        '{\n\t"type": "batch",\n\t"name": "a\\/b \\ud83d\\ude00",\n'
        '\t"tasks": [{"name": "m", "engine": {"type": "noop"}}]\n}'
    )

    assert read_spec(text, "job.json").job.name == "a/b \U0001f600"
    assert places(problems(text.replace('"m"', "5"), "job.json")) == ["4:13 Tasks[0].Name"]


def test_a_count_that_is_missing_is_not_zero() -> None:
    """Absent and null stay None until the defaults of the type are filled in."""
    assert [read_spec(MINIMAL + line).job.count for line in ("", "Count: null\n", "Count: 0\n", "Count: 2.0\n")] == [
        None,
        None,
        0,
        2,
    ]


def test_a_job_that_unfolds_beyond_the_limit_is_refused() -> None:
    """The limit holds for the encoded job, with its size in the message."""
    text = MINIMAL + "Meta: {a: '" + '"' * 300_000 + "'}\n"

    assert "bytes, the limit is 393,216" in str(problems(text)[0])


def test_an_error_keeps_its_problems_over_the_wire() -> None:
    """What a screen marks in the text is the same for an error of the orchestrator."""
    with pytest.raises(SpecError) as caught:
        read_spec("Type: cron\nTasks: []\n")

    received = from_wire(caught.value.to_wire())
    assert isinstance(received, SpecError)
    assert problems_of(received) == problems_of(caught.value)
    assert problems_of(SpecError("something", hint="else")) == [Problem("", "something", "else")]


def test_a_hundred_problems_are_enough() -> None:
    """The error is bounded, and says how many there are beside."""
    with pytest.raises(SpecError) as caught:
        read_spec(MINIMAL + "    Env: {" + ", ".join(f"a{number}: x" for number in range(250)) + "}\n")

    assert len(problems_of(caught.value)) == 101
    assert str(caught.value).endswith("… and more: looking ended after 100")


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab:-[]{}\"'\n ,&*!|>#%@?\\\t0é~<", max_size=60), st.sampled_from(["", MINIMAL]))
def test_no_text_makes_reading_fail_otherwise(text: str, before: str) -> None:
    """A text is a job or a SpecError with at least one problem, whatever it is."""
    for name in ("job.yaml", "job.json"):
        try:
            parsed = read_spec(before + text, name)
        except SpecError as refused:
            found = problems_of(refused)
            assert found
            assert all(problem.message for problem in found)
        else:
            assert parsed.job.tasks
