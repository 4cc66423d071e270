"""Submission: what is stored is Bacalhau's normal form, with its defaults; what is ignored is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bacalhau_protocol.errors import SpecError
from bacalhau_protocol.models.job import Constraint, InputSource, Job, ResultPath, SpecConfig, Task, TimeoutConfig
from bacalhau_protocol.models.normalise import (
    BACALHAU_DEFAULTS,
    JobDefaults,
    TypeDefaults,
    apply_defaults,
    convert_legacy_wasm,
    normalise,
)
from bacalhau_protocol.models.problems import problems_of
from bacalhau_protocol.models.resources import ResourcesConfig
from bacalhau_protocol.models.spec import read_spec
from bacalhau_protocol.models.states import JobState, JobStateType
from bacalhau_protocol.models.submission import Prepared, prepare
from bacalhau_protocol.models.validate import COUNT_MAX, NAME_MAX, validate

DATA = Path(__file__).parents[1] / "data/jobs"
VALID = sorted((DATA / "valid").iterdir())
NOOP = SpecConfig(type="noop")


def job(**fields: Any) -> Job:
    """Return a job that is right, but for these fields."""
    return Job(**{"type": "batch", "tasks": (Task(name="main", engine=NOOP),), **fields})


def task(**fields: Any) -> Job:
    """Return a job whose task has these fields."""
    return job(tasks=(Task(**{"name": "main", "engine": NOOP, **fields}),))


def sample(name: str) -> Prepared:
    """Return an accepted sample as Bacalhau would store it."""
    path = next(path for path in VALID if path.name.startswith(name))
    return prepare(read_spec(path.read_bytes(), path.name, lenient=True).job, "j-1", defaults=BACALHAU_DEFAULTS)


def wire(prepared: Prepared) -> Any:
    """Return the stored job as plain JSON."""
    return msgspec.json.decode(prepared.encoded)


def paths(refused: Job) -> list[str]:
    """Return the paths of what is wrong with a job."""
    return [problem.path for problem in validate(refused)]


def test_a_minimal_job_comes_back_as_documented() -> None:
    """Every object and default that Bacalhau shows is there; a nameless job is named after its id."""
    assert wire(prepare(job(), "j-1", {"bacalhau.org/orchestrator.id": "n-1"})) == {
        "ID": "j-1",
        "Name": "j-1",
        "Namespace": "default",
        "Type": "batch",
        "Priority": 0,
        "Count": 1,
        "Constraints": [],
        "Meta": {"bacalhau.org/orchestrator.id": "n-1"},
        "Labels": {},
        "Tasks": [
            {
                "Name": "main",
                "Engine": {"Type": "noop"},
                "Publisher": {"Type": ""},
                "Resources": {"CPU": "500m", "Memory": "512mb"},
                "Network": {"Type": "Default"},
                "Timeouts": {},
            }
        ],
        "State": {"StateType": "Undefined"},
        "Version": 0,
        "Revision": 0,
        "CreateTime": 0,
        "ModifyTime": 0,
    }


def test_relaxed_spelling_becomes_normal() -> None:
    """Folded keys, trimmed types, lower-case amounts without blanks; parameters keep their spelling."""
    stored = wire(sample("25-"))["Tasks"][0]

    assert stored["Engine"]["Type"] == "Docker"
    assert stored["Engine"]["Params"]["image"] == "localhost:5000/busybox:latest"
    assert stored["Publisher"] == {"Type": "local"}
    assert stored["Network"] == {"Type": "Bridge"}
    assert stored["Resources"] == {"CPU": "100m", "Memory": "100mb"}


@pytest.mark.parametrize(
    ("name", "count"),
    [("01-", 1), ("03-", 0), ("02-", 2), ("11-ops", 0), ("12-daemon", 0), ("13-service", 1), ("14-", 1)],
)
def test_counts(name: str, count: int) -> None:
    """A missing count is 1 for batch and service, an explicit 0 stays, ops and daemon always have 0."""
    assert sample(name).job.count == count


def test_the_old_form_of_wasm_becomes_inputs() -> None:
    """An entry module given as an input source moves to the inputs; its parameter names the target."""
    stored = sample("19-").job.task

    assert stored.engine == SpecConfig(
        type="wasm",
        params={"EntryModule": "/wasm/entry.wasm", "Entrypoint": "_start", "Parameters": [], "ImportModules": []},
    )
    assert stored.input_sources == (
        InputSource(SpecConfig("local", {"SourcePath": "/data/wasm/exit_code.wasm"}), target="/wasm/entry.wasm"),
    )


def test_old_import_modules_are_numbered() -> None:
    """Import modules without a target get one each, beside those that are paths already."""
    module = {"Source": {"Type": "local", "Params": {"SourcePath": "/m"}}}
    params = {"EntryModule": "/app", "ImportModules": [module, "lib.wasm", {**module, "target": "/own"}], "Old": 1}
    converted = convert_legacy_wasm(task(engine=SpecConfig("wasm", params))).task

    assert converted.engine is not None
    assert converted.engine.values == {
        "EntryModule": "/app",
        "Entrypoint": "",
        "Parameters": [],
        "ImportModules": ["/wasm/imports/module_0.wasm", "lib.wasm", "/own"],
    }
    assert isinstance(converted.input_sources, tuple)
    assert [source.target for source in converted.input_sources] == ["/wasm/imports/module_0.wasm", "/own"]


def test_an_old_module_is_checked_like_an_input() -> None:
    """A module without a source, or with a target that is taken, is refused where it stands."""
    params = {"EntryModule": {"Target": "/x"}, "Entrypoint": "_start"}
    taken = (InputSource(SpecConfig("ipfs", {"CID": "q"}), target="/x"),)

    assert paths(task(engine=SpecConfig("wasm", params), input_sources=taken)) == [
        "Tasks[0].Engine.Params.EntryModule.Source",
        "Tasks[0].Engine.Params.EntryModule.Target",
    ]


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_normalising_twice_changes_nothing(path: Path) -> None:
    """The normal form of a normal form is itself; so is what `prepare` stores."""
    read = read_spec(path.read_bytes(), path.name, lenient=True).job
    stored = prepare(read, "j-1").job

    assert normalise(normalise(read)) == normalise(read)
    assert normalise(stored) == stored
    assert validate(stored) == []
    assert msgspec.json.decode(prepare(read, "j-1").encoded, type=Job) == stored


def test_what_a_submission_may_not_set_is_cleared_with_bacalhaus_words() -> None:
    """Server-set fields, further tasks and reserved metadata are dropped, each with a warning."""
    given_job = job(
        id="j-mine",
        state=JobState(JobStateType.RUNNING),
        revision=3,
        version=2,
        create_time=1,
        modify_time=1,
        tasks=(Task(name="a", engine=NOOP), Task(name="b", engine=NOOP)),
        meta={"bacalhau.org/requester.id": "x", "mine": "y"},
    )
    made = prepare(given_job, "j-new")

    assert made.warnings == (
        "job state is ignored when submitting a job",
        "job revision is ignored when submitting a job",
        "job version is ignored when submitting a job",
        "job create time is ignored when submitting a job",
        "job modify time is ignored when submitting a job",
        "job ID is ignored when submitting a batch job",
        "only one task is supported per job",
        'job meta key "bacalhau.org/requester.id" is reserved and will be ignored',
    )
    assert (made.job.id, made.job.name, len(made.job.tasks or ()), made.job.meta) == (
        "j-new",
        "j-mine",
        1,
        {"mine": "y"},
    )
    assert prepare(replace(made.job, id=""), "j-new").warnings == ()


def test_a_service_keeps_its_id() -> None:
    """Service and daemon may bring an id; it must be one token, since it becomes part of subjects."""
    assert prepare(job(type="service", id="web"), "j-new").job.id == "web"
    assert paths(job(type="daemon", id="a.b")) == ["ID"]
    assert paths(job(type="batch", id="a.b")) == []


def test_results_stay_on_the_node_by_default() -> None:
    """With our defaults a task with result paths and no publisher gets `nats`; with Bacalhau's it is refused."""
    with_results = task(result_paths=(ResultPath("out", "/out"),))

    assert prepare(with_results, "j-1").job.task.publisher == SpecConfig(type="nats")
    assert prepare(job(), "j-1").job.task.publisher == SpecConfig()
    with pytest.raises(SpecError, match="a publisher must be set if result paths are set"):
        prepare(with_results, "j-1", defaults=BACALHAU_DEFAULTS)


def test_defaults_of_a_type_fill_only_what_is_open() -> None:
    """Resources field by field, priority 0, timeouts 0, an empty publisher."""
    given_defaults = JobDefaults(
        ops=TypeDefaults(
            priority=7,
            resources=ResourcesConfig(cpu="2", memory="1Gi", gpu="1"),
            publisher=SpecConfig("s3", {"Bucket": "b"}),
            total_timeout_s=60,
        )
    )
    asked = replace(task(resources=ResourcesConfig(cpu="1"), timeouts=TimeoutConfig(execution=5)), type="ops")
    filled = apply_defaults(normalise(asked), given_defaults)

    assert filled.priority == 7
    assert filled.task.resources == ResourcesConfig(cpu="1", memory="1gi", gpu="1")
    assert filled.task.publisher == SpecConfig("s3", {"Bucket": "b"})
    assert filled.task.timeouts == TimeoutConfig(execution=5, total=60)


def test_default_timeouts_count_when_timeouts_are_added_up() -> None:
    """A queue timeout that is longer than the default total is refused, not stored."""
    defaults = JobDefaults(batch=TypeDefaults(total_timeout_s=60))

    assert [p.path for p in validate(task(timeouts=TimeoutConfig(queue=61)), defaults)] == ["Tasks[0].Timeouts"]


@pytest.mark.parametrize(
    ("refused", "path"),
    [
        (job(count=COUNT_MAX + 1), "Count"),
        (job(priority=2**63), "Priority"),
        (job(name="a\0b"), "Name"),
        (job(namespace="n" * (NAME_MAX + 1)), "Namespace"),
        (job(constraints=(Constraint("a", "near"),)), "Constraints[0].Operator"),
        (task(env={"1A": "x"}), "Tasks[0].Env.1A"),
        (task(env={"A-B": "x"}), "Tasks[0].Env.A-B"),
        (task(env={"": "x"}), 'Tasks[0].Env[""]'),
        (task(env={"A.": "x"}), 'Tasks[0].Env["A."]'),
        (task(env={"A": "x\0"}), "Tasks[0].Env.A"),
        (task(result_paths=(ResultPath("../up", "/out"),)), "Tasks[0].ResultPaths[0].Name"),
        (task(result_paths=(ResultPath("stdout", "/out"),)), "Tasks[0].ResultPaths[0].Name"),
        (task(timeouts=TimeoutConfig(queue=2**62)), "Tasks[0].Timeouts.QueueTimeout"),
    ],
)
def test_what_would_hurt_later_is_refused_now(refused: Job, path: str) -> None:
    """Unbounded numbers and names, outputs that leave their directory, operators that nothing matches."""
    assert paths(refused) == [path]


def test_environment_names_may_have_any_upper_case_letters() -> None:
    """Letters and digits are Unicode's, as in Bacalhau."""
    assert paths(task(env={"ÄRGER_1": "x", "Ω": "env:HOME"})) == []


def test_an_error_of_a_decoded_job_has_paths_but_no_places() -> None:
    """What came over the wire has no lines; each problem still names its field."""
    with pytest.raises(SpecError) as caught:
        prepare(job(type="weekly", count=-1), "j-1")

    assert str(caught.value) == (
        'Type: invalid job type "weekly"; allowed are batch, ops, daemon, service\n'
        "Count: job count must be >= 0, found -1"
    )
    assert [problem.line for problem in problems_of(caught.value)] == [0, 0]


def test_a_job_beyond_the_limit_is_refused_with_its_size() -> None:
    """The limit is checked on what would be stored."""
    with pytest.raises(SpecError, match=r"the job has 400,\d\d\d bytes, the limit is 393,216"):
        prepare(job(meta={"a": "x" * 400_000}), "j-1")


def test_warnings_of_parameters_reach_the_submitter() -> None:
    """A parameter that nobody reads is not silently dropped by the orchestrator either."""
    engine = SpecConfig("docker", {"Image": "x", "Imge": "y"})

    assert prepare(task(engine=engine), "j-1").warnings == (
        "Tasks[0].Engine.Params.Imge: unknown parameter is ignored; did you mean Image?",
    )


@pytest.mark.parametrize(
    "abuse",
    [
        task(engine=SpecConfig("docker", {"Image": "x", **{f"imag{n}": 0 for n in range(20_000)}})),
        task(env={f"a{n}": "x" for n in range(20_000)}),
        task(input_sources=tuple(InputSource(SpecConfig("locl"), target=str(n)) for n in range(5_000))),
        job(constraints=(Constraint("a", "on"),) * 9_000),
    ],
    ids=["parameters", "environment", "inputs", "constraints"],
)
def test_tens_of_thousands_of_mistakes_are_not_all_looked_at(abuse: Job) -> None:
    """Checking ends after a hundred, so that nobody keeps an orchestrator busy; the error says so."""
    with pytest.raises(SpecError) as caught:
        prepare(abuse, "j-1")

    assert len(problems_of(caught.value)) == 101
    assert "looking ended after 100" in str(caught.value)


def test_many_warnings_are_cut() -> None:
    """What a submitter is told stays readable and small."""
    made = prepare(job(meta={f"bacalhau.org/{n}": "" for n in range(500)}), "j-1")

    assert len(made.warnings) == 101
    assert made.warnings[-1] == "… and 400 more warnings"


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
NAMED = st.sampled_from(
    [
        "Image",
        "EntryModule",
        "ImportModules",
        "URL",
        "Bucket",
        "Partition",
        "Type",
        "SourcePath",
        "ReadWrite",
        "Parameters",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["docker", "wasm", "noop", "s3", "local", "inline", "urlDownload", "ipfs"]),
    st.dictionaries(NAMED, PLAIN, max_size=4),
    st.text(max_size=8),
)
def test_no_parameters_make_preparing_fail_otherwise(kind: str, params: dict[str, Any], text: str) -> None:
    """Whatever stands in parameters and names, the answer is a stored job or a SpecError."""
    config = SpecConfig(kind, params)
    asked = task(
        engine=config, publisher=config, input_sources=(InputSource(config, text, text),), env={text: text}, name=text
    )
    try:
        stored = prepare(replace(asked, name=text, namespace=text, labels={text: text}), "j-1")
    except SpecError:
        return
    assert normalise(stored.job) == stored.job
