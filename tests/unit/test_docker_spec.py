"""Parameters of docker tasks, and settings of the engine: what is wrong is named, all of it at once."""

from __future__ import annotations

from typing import Any

import pytest

from bacalhau_engines.docker import settings, spec
from bacalhau_engines.docker.settings import Allowed, Pull, Settings
from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.job import InputSource, NetworkConfig, NetworkType, ResultPath, SpecConfig, Task
from bacalhau_protocol.models.resources import Gpu, Resources

ID = "sha256:" + "a" * 64


def task(params: dict[str, Any] | None = None, **more: Any) -> Task:
    return Task(name="main", engine=SpecConfig(type="docker", params=params or {"Image": "busybox"}), **more)


def problems(of: Task, resources: Resources | None = None, **given: Any) -> str:
    return "\n".join(spec.check(of, resources or Resources(), settings.read(given)))


@pytest.mark.parametrize(
    ("image", "name", "host", "tag"),
    [
        ("busybox", "busybox", "", "latest"),
        ("busybox:1.37", "busybox", "", "1.37"),
        ("team/app:v1", "team/app", "", "v1"),
        ("localhost/app", "localhost/app", "localhost", "latest"),
        ("localhost:5000/team/app:v1", "localhost:5000/team/app", "localhost:5000", "v1"),
        ("registry.example/app", "registry.example/app", "registry.example", "latest"),
        ("host:5000/app", "host:5000/app", "host:5000", "latest"),
        (f"busybox@{ID}", "busybox", "", ID),
        (f"registry.example/a/b/c:tag@{ID}", "registry.example/a/b/c", "registry.example", ID),
    ],
)
def test_images_are_taken_apart(image: str, name: str, host: str, tag: str) -> None:
    """Registry, name, and tag or digest; a digest is stronger than a tag."""
    found = spec.reference(image)
    assert found is not None
    assert (found.name, found.host, found.tag) == (name, host, tag)


@pytest.mark.parametrize(
    "image", ["Busybox", "a b", "busybox:", "-x", "registry.example/", "a//b", "x:y:z", "busy\nbox"]
)
def test_what_is_no_image_is_said(image: str) -> None:
    """With the form that it should have."""
    assert "is not the name of an image" in problems(task({"Image": image}))


def test_everything_that_is_wrong_is_said_at_once() -> None:
    """With the nearest name, the place in a list, and what was found."""
    said = problems(
        task(
            {
                "Imag": "x",
                "Image": "busybox",
                "Entrypoint": "echo",
                "Parameters": ["ok", 5],
                "WorkingDirectory": "here",
                "EnvironmentVariables": ["A=b", "C", "bacalhau_x=1", "=v"],
            }
        )
    )
    for words in (
        "unknown parameter 'Imag'; did you mean 'Image'?", "Entrypoint must be a list of texts",
        "Parameters[1] must be text",
        "WorkingDirectory 'here' must begin with '/'", "EnvironmentVariables[1] 'C' is not NAME=VALUE",
        "EnvironmentVariables[2] 'bacalhau_x'", "EnvironmentVariables[3]",
    ):  # fmt: skip
        assert words in said


def test_an_image_has_to_be_named() -> None:
    """Missing and empty are the same."""
    assert "Image is missing" in problems(task({"Entrypoint": ["x"]}))
    assert "Image is missing" in problems(task({"Image": " "}))


def test_names_compare_without_case_and_nulls_are_nothing() -> None:
    """As in files that Bacalhau takes."""
    read, wrong = spec.read(
        {"image": "busybox", "ENTRYPOINT": ["a"], "environmentvariables": None, "workingDirectory": ""}
    )
    assert wrong == []
    assert (read.image, read.entrypoint, read.variables) == ("busybox", ("a",), ())


@pytest.mark.parametrize(
    ("asked", "allowed", "said"),
    [
        (NetworkType.DEFAULT, (), ""),
        (NetworkType.NONE, (), ""),
        (NetworkType.BRIDGE, (), 'networks = ["bridge"]'),
        (NetworkType.BRIDGE, ("host",), 'networks = ["bridge"]'),
        (NetworkType.BRIDGE, ("bridge",), ""),
        (NetworkType.FULL, ("bridge",), 'networks = ["host"]'),
        (NetworkType.FULL, ("host",), ""),
        (NetworkType.HOST, ("host",), ""),
        (NetworkType.HTTP, ("host", "bridge"), "not there yet"),
    ],
)
def test_networks_are_the_operators(asked: NetworkType, allowed: tuple[str, ...], said: str) -> None:
    """None without being allowed; the words tell the operator what to set."""
    found = problems(task(network=NetworkConfig(type=asked)), networks=list(allowed))
    assert said in found if said else not found


def test_places_in_the_container_are_not_shared() -> None:
    """Two that are written differently may be one."""
    both = task(
        input_sources=(InputSource(target="/a/b"), InputSource(target="/a/./x/../b/")),
        result_paths=(ResultPath(name="o", path="/"), ResultPath(name="p", path="/a/b")),
    )
    said = problems(both)
    assert "both want /a/b" in said
    assert "output 'o' cannot take the place of the container's root" in said


def test_only_known_gpus() -> None:
    """A vendor without a mapping is refused by name."""
    gpus = (Gpu(vendor="NVIDIA"), Gpu(vendor="Other"))
    assert "'Other'" in problems(task(), Resources(gpu=2, gpus=gpus))


def test_settings_are_read_from_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults are closed; TOML's lists become sets."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    plain = settings.read({})
    assert (plain.networks, plain.capabilities, plain.pull, plain.socket) == (
        frozenset(), frozenset(), Pull.MISSING, "/var/run/docker.sock",
    )  # fmt: skip
    read = settings.read({"networks": ["host"], "ports": [3000, 3001], "pull": "never", "host": "unix:///x/y.sock"})
    assert read == Settings(
        networks=frozenset({Allowed.HOST}), ports=(3000, 3001), pull=Pull.NEVER, host="unix:///x/y.sock"
    )
    monkeypatch.setenv("DOCKER_HOST", "unix:///z.sock")
    assert settings.read({}).socket == "/z.sock"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"network": ["host"]}, "did you mean 'networks'?"),
        ({"networks": ["lan"]}, "networks"),
        ({"ports": [5, 6]}, "ports must be two numbers"),
        ({"processes_max": 0}, "larger than 0"),
        ({"host": "tcp://10.0.0.1:2375"}, "has to run on it"),
        ({"pull": "sometimes"}, "pull"),
    ],
)
def test_wrong_settings_are_named(table: dict[str, Any], words: str) -> None:
    """Each with what is allowed, or the nearest name."""
    with pytest.raises(UsageError) as caught:
        settings.read(table)
    assert words in f"{caught.value.message} {caught.value.hint}"
