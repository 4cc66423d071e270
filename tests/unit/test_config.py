"""The daemon's settings: file, environment and flags in that order of strength; nothing unknown passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacalhau_daemon import config
from bacalhau_protocol import errors


def load(tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **flags: object) -> config.Settings:
    """Load settings from a file with this text, these variables and these flags."""
    file = tmp_path / "daemon.toml"
    file.write_text(text)
    return config.load(file, {"BACALHAU_CONFIG_DIR": str(tmp_path), **(environment or {})}, {"data_dir": "d", **flags})


def test_flags_are_stronger_than_the_environment_than_the_file(tmp_path: Path) -> None:
    """Each layer overrides the one before, key by key; the others keep what they have."""
    text = '[orchestrator]\nlisten = "a:1"\nadvertise = "f:9"\ntls_ca = "file"\n'
    environment = {"BACALHAU_DAEMON_ORCHESTRATOR_LISTEN": "b:2", "BACALHAU_DAEMON_ORCHESTRATOR_TLS_CA": "env"}

    found = load(tmp_path, text, environment, orchestrator={"listen": "c:3"}).orchestrator

    assert (found.listen, found.tls_ca, found.advertise) == ("c:3", "env", "f:9")


def test_a_file_in_the_config_directory_is_found(tmp_path: Path) -> None:
    """Without `--config`, `daemon.toml` of the config directory counts, and need not be there."""
    environment = {"BACALHAU_CONFIG_DIR": str(tmp_path)}
    assert config.load(None, environment, {"data_dir": "d"}).name == ""

    (tmp_path / "daemon.toml").write_text('name = "n-1"\n')

    assert config.load(None, environment, {"data_dir": "d"}).name == "n-1"


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """`--config` of a file that cannot be read is an error."""
    with pytest.raises(errors.UsageError, match="No such file"):
        config.load(tmp_path / "none.toml", {}, {})


def test_variables_are_read_by_type(tmp_path: Path) -> None:
    """Numbers, switches, lists and maps have a form in the environment."""
    found = load(
        tmp_path,
        environment={
            "BACALHAU_DAEMON_COMPUTE_ENABLED": "true",
            "BACALHAU_DAEMON_COMPUTE_CPU": "1.5",
            "BACALHAU_DAEMON_COMPUTE_ALLOW_PATHS": "/a/**:rw,/b",
            "BACALHAU_DAEMON_COMPUTE_LABELS": "a=1,b=x=y",
            "BACALHAU_DAEMON_ORCHESTRATOR_MIN_FREE_BYTES": "0",
            "BACALHAU_API_HOST": "somebody else's",
        },
    )

    assert found.compute.enabled
    assert found.compute.cpu == 1.5
    assert found.compute.allow_paths == ("/a/**:rw", "/b")
    assert found.compute.labels == {"a": "1", "b": "x=y"}
    assert found.orchestrator.min_free_bytes == 0


def test_plugins_get_their_tables(tmp_path: Path) -> None:
    """`[engines.NAME]` is handed on as it is."""
    assert load(tmp_path, "[engines.wasm]\nprocesses = 2\n").engines == {"wasm": {"processes": 2}}


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        ('nam = "x"', "daemon.toml, line 1", "unknown setting 'nam'", "do you mean name?"),
        (
            'name = "x"\n[orchestrator]\n listn = "a:1"',
            "daemon.toml, line 3",
            "unknown setting 'orchestrator.listn'",
            "orchestrator.listen",
        ),
        ("[orchestratr]\n", "daemon.toml, line 1", "unknown setting 'orchestratr'", "mean orchestrator?"),
        ("[orchestrator]\nenabled = 3\n", "daemon.toml, line 2: orchestrator.enabled", "Expected `bool`", ""),
        ('log_level = "loud"\n', "daemon.toml, line 1: log_level", "Invalid enum value 'loud'", ""),
        ('name = "a.b"\n', "daemon.toml: name", "not a node id", ""),
        ('[orchestrator]\nlisten = "x"\n', "daemon.toml: orchestrator.listen", "not HOST:PORT", ""),
        ('[orchestrator]\ntls_key = "x"\n', "orchestrator.tls_cert", "go together", ""),
        ("name = \n", "daemon.toml", "not TOML", ""),
    ],
)
def test_what_is_wrong_in_the_file_is_said_with_its_place(
    tmp_path: Path, text: str, place: str, message: str, hint: str
) -> None:
    """File, line, path of the setting, what was found, and the nearest name."""
    with pytest.raises(errors.UsageError) as caught:
        load(tmp_path, text)

    assert place in caught.value.place
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("BACALHAU_DAEMON_NAM", "x", "unknown variable BACALHAU_DAEMON_NAM", "BACALHAU_DAEMON_NAME"),
        ("BACALHAU_DAEMON_COMPUTE_CPU", "many", "'many'", ""),
        ("BACALHAU_DAEMON_COMPUTE_ENABLED", "perhaps", "'perhaps'", ""),
    ],
)
def test_what_is_wrong_in_the_environment_is_said(
    tmp_path: Path, name: str, text: str, message: str, hint: str
) -> None:
    """The variable is named, and the nearest one."""
    with pytest.raises(errors.UsageError) as caught:
        load(tmp_path, environment={name: text})

    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "parts"), [("h:0", ("h", 0)), ("[::1]:4222", ("::1", 4222)), ("0.0.0.0:1", ("0.0.0.0", 1))]
)
def test_listen_addresses(text: str, parts: tuple[str, int]) -> None:
    """Host and port, IPv6 in brackets."""
    assert config.split_listen(text) == parts


@pytest.mark.parametrize("text", ["", "h", "h:", ":1", "h:99999", "h:x", "::1:4222", "a b:1"])
def test_impossible_listen_addresses(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(errors.UsageError):
        config.split_listen(text)


def test_tls_needs_both_files(tmp_path: Path) -> None:
    """A certificate with its key is accepted."""
    assert load(tmp_path, orchestrator={"tls_cert": "c", "tls_key": "k"}).orchestrator.tls_key == "k"
