"""Every installed storage keeps the contract of `plugins.Storage`. A new one adds a row to SAMPLES."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import msgspec
import pytest

from bacalhau_daemon.publishers.http_files import FileServer
from bacalhau_protocol import plugins
from bacalhau_protocol.errors import InputFailed, SpecError
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig

CONTENT = b"some data\n"
JOB = Job(id="j-1", name="job", namespace="default", type="batch", count=1)


class Sample(msgspec.Struct, frozen=True):
    good: SpecConfig
    bad: SpecConfig
    missing: SpecConfig | None
    settings: dict[str, object] = {}
    copies: bool = True


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    directory = tmp_path_factory.mktemp("served")
    (directory / "data.txt").write_bytes(CONTENT)
    files = FileServer(directory, re.compile(r"[a-z.]+"))
    port = await files.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}"
    await files.close()


@pytest.fixture(params=plugins.names(plugins.STORAGES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sample(kind: str, server: str, tmp_path: Path) -> Sample:
    here = tmp_path / "here"
    here.mkdir()
    (here / "data.txt").write_bytes(CONTENT)
    local = Sample(
        good=SpecConfig(type=kind, params={"SourcePath": str(here / "data.txt")}),
        bad=SpecConfig(type=kind, params={"SourcePath": "relative"}),
        missing=SpecConfig(type=kind, params={"SourcePath": str(here / "absent")}),
        settings={"allow": [f"{here}/**"]},
        copies=False,
    )
    url = "data:text/plain;base64," + base64.b64encode(CONTENT).decode()
    samples: dict[str, Callable[[], Sample]] = {
        "inline": lambda: Sample(
            SpecConfig(type=kind, params={"URL": url}), SpecConfig(type=kind, params={"URL": "http://x"}), None
        ),
        "local": lambda: local,
        "localdirectory": lambda: local,
        "urldownload": lambda: Sample(
            good=SpecConfig(type=kind, params={"URL": f"{server}/data.txt"}),
            bad=SpecConfig(type=kind, params={"URL": "ftp://somewhere/file"}),
            missing=SpecConfig(type=kind, params={"URL": f"{server}/absent.txt"}),
        ),
    }
    assert kind in samples, f"storage {kind!r} has no row in SAMPLES"
    return samples[kind]()


@pytest.fixture
def storage(kind: str, sample: Sample, tmp_path: Path) -> plugins.Storage:
    data_dir = tmp_path / "plugin"
    data_dir.mkdir(mode=0o700)
    context = plugins.PluginContext(node_id="n-1", data_dir=data_dir, settings=dict(sample.settings))
    return cast("plugins.Storage", plugins.load(plugins.STORAGES, kind, context))


@pytest.fixture
def into(tmp_path: Path) -> Path:
    directory = tmp_path / "into"
    directory.mkdir(mode=0o700)
    return directory


def source(spec: SpecConfig) -> InputSource:
    return InputSource(source=spec, target="/inputs")


def ignore(what: str, done: int, total: int) -> None:
    pass


async def test_it_is_a_storage_and_says_whether_it_can_work(storage: plugins.Storage) -> None:
    """Each class fits the protocol, and this set-up makes it available."""
    assert isinstance(storage, plugins.Storage)
    assert (await storage.ability()).available


def test_check_names_what_is_wrong(storage: plugins.Storage, sample: Sample) -> None:
    """Good parameters have no problem; bad and missing ones have at least one each; unknown ones are ignored."""
    assert storage.check(sample.good) == []
    assert storage.check(sample.bad)
    assert storage.check(SpecConfig(type=sample.good.type))
    unknown = SpecConfig(type=sample.good.type, params={**sample.good.values, "Nonsense": 1})
    assert storage.check(unknown) == []


def test_parameter_names_compare_without_case(storage: plugins.Storage, sample: Sample) -> None:
    """Go's decoders do not look at case, so neither do we."""
    lower = {key.lower(): value for key, value in sample.good.values.items()}
    assert storage.check(SpecConfig(type=sample.good.type, params=lower)) == []


async def test_prepared_input_holds_the_content(storage: plugins.Storage, sample: Sample, into: Path) -> None:
    """The file is there with its content, read-only for the task, and its size is what was announced."""
    size = await storage.size(source(sample.good), JOB, 0)
    prepared = await storage.prepare(source(sample.good), JOB, 0, into, ignore)

    assert prepared.path.read_bytes() == CONTENT
    assert prepared.target.startswith("/inputs")
    assert prepared.read_only
    assert (size, prepared.size_bytes) == ((len(CONTENT), len(CONTENT)) if sample.copies else (0, 0))


async def test_copies_lie_under_the_given_directory_and_are_released(
    storage: plugins.Storage, sample: Sample, into: Path
) -> None:
    """What is copied lies under `into` alone and is gone after release; what is not copied stays."""
    prepared = await storage.prepare(source(sample.good), JOB, 0, into, ignore)
    assert prepared.path.is_relative_to(into) == sample.copies
    assert len(list(into.iterdir())) == (1 if sample.copies else 0)

    await storage.release(prepared)
    assert prepared.path.exists() != sample.copies


async def test_wrong_parameters_are_a_spec_error(storage: plugins.Storage, sample: Sample, into: Path) -> None:
    """Preparing with what `check` refuses raises and leaves nothing."""
    with pytest.raises(SpecError):
        await storage.prepare(source(sample.bad), JOB, 0, into, ignore)
    assert list(into.iterdir()) == []


async def test_an_absent_input_fails_and_leaves_nothing(storage: plugins.Storage, sample: Sample, into: Path) -> None:
    """Both size and prepare say that the input is not there, and where."""
    if sample.missing is None:
        return
    with pytest.raises(InputFailed):
        await storage.size(source(sample.missing), JOB, 0)
    with pytest.raises(InputFailed) as caught:
        await storage.prepare(source(sample.missing), JOB, 0, into, ignore)
    assert "absent" in str(caught.value)
    assert list(into.iterdir()) == []
