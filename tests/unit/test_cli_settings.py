"""Settings: file, environment, flags, in that order of strength; which credential; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bacalhau_protocol import errors
from bacalhau_tui.data.settings import Flags, Profile, credential_warning, find_credential, load_settings

FILE = """\
profile = "lab"
output = "json"
[profiles.lab]
nats = "nats://lab:4222"
namespace = "science"
read_only = true
[profiles.prod]
creds = "/prod.json"
[tui]
ascii = true
keys = { stop = "S" }
"""
SECRET = "me." + "A" * 43


def a_credential(path: Path, identity: str = "me", address: str = "nats://here:4222") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"address": address, "identity": identity, "role": "admin", "secret": "s", "cluster": "c", "ca": ""})
    )
    path.chmod(0o600)


@pytest.fixture
def where(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "client.toml").write_text(FILE)
    return {"BACALHAU_CONFIG_DIR": str(tmp_path)}


def test_without_anything_there_are_defaults(tmp_path: Path) -> None:
    """No file, no environment, no flags."""
    settings = load_settings(Flags(), {"BACALHAU_CONFIG_DIR": str(tmp_path)})

    assert (settings.profile_name, settings.output, settings.profile) == ("default", "table", Profile())


def test_the_file(where: dict[str, str]) -> None:
    """Its profile is used; the TUI's table is there."""
    settings = load_settings(Flags(), where)

    assert settings.profile == Profile(nats="nats://lab:4222", namespace="science", read_only=True)
    assert settings.output == "json"
    assert settings.tui.ascii
    assert settings.tui.keys == {"stop": "S"}


def test_environment_over_file_and_flags_over_both(where: dict[str, str]) -> None:
    """Each layer replaces single values."""
    environment = {**where, "BACALHAU_NATS": "nats://env:1", "BACALHAU_CREDS": "/env.json"}

    by_environment = load_settings(Flags(), environment).profile
    by_flag = load_settings(Flags(nats="nats://flag:1", output="yaml"), environment)

    assert (by_environment.nats, by_environment.creds) == ("nats://env:1", "/env.json")
    assert (by_flag.profile.nats, by_flag.profile.creds, by_flag.output) == ("nats://flag:1", "/env.json", "yaml")
    assert by_flag.profile.read_only


def test_a_profile_flag_is_stronger_than_an_address_of_the_environment(where: dict[str, str]) -> None:
    """Whoever names a profile wants that cluster."""
    environment = {**where, "BACALHAU_NATS": "nats://env:1", "BACALHAU_PROFILE": "lab"}

    settings = load_settings(Flags(profile="prod"), environment)

    assert settings.profile == Profile(creds="/prod.json")
    assert load_settings(Flags(), environment).profile_name == "lab"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("profil = 'x'", "unknown setting profil", "did you mean 'profile'?"),
        ("[profiles.lab]\nread_onli = true", "unknown setting profiles.lab.read_onli", "did you mean 'read_only'?"),
        ("[tui]\nzzz = 1", "unknown setting tui.zzz", "known: theme"),
        ("output = 'xml'", "Invalid enum value 'xml'", ""),
        ("output = ", "not TOML", ""),
        ("[profiles.lab]\nread_only = 'yes'", "Expected `bool`", ""),
    ],
)
def test_a_wrong_file_says_what_and_where(tmp_path: Path, text: str, message: str, hint: str) -> None:
    """The nearest name is offered, the file is named."""
    (tmp_path / "client.toml").write_text(text)

    with pytest.raises(errors.UsageError, match=message) as raised:
        load_settings(Flags(), {"BACALHAU_CONFIG_DIR": str(tmp_path)})

    assert raised.value.place == str(tmp_path / "client.toml")
    assert raised.value.hint.startswith(hint)


def test_an_unknown_profile(where: dict[str, str]) -> None:
    """The nearest one is offered."""
    with pytest.raises(errors.UsageError, match="no profile 'labb'") as raised:
        load_settings(Flags(profile="labb"), where)

    assert raised.value.hint == "did you mean 'lab'?"


def test_the_credential_is_found(tmp_path: Path) -> None:
    """The default one by itself; a profile's own before it; a named file before both; an address laid over."""
    where = {"BACALHAU_CONFIG_DIR": str(tmp_path)}
    a_credential(tmp_path / "credentials/default.json", "default-me")
    a_credential(tmp_path / "credentials/lab.json", "lab-me")
    a_credential(tmp_path / "other.json", "other-me")

    found = [
        find_credential(load_settings(flags, where))
        for flags in (
            Flags(),
            Flags(profile="lab"),
            Flags(creds=str(tmp_path / "other.json")),
            Flags(nats="nats://there:1"),
        )
    ]

    assert [credential.identity for credential in found] == ["default-me", "lab-me", "other-me", "default-me"]
    assert [credential.address for credential in found] == ["nats://here:4222"] * 3 + ["nats://there:1"]


def test_a_secret_in_the_address(tmp_path: Path) -> None:
    """Nothing else is needed."""
    where = {"BACALHAU_CONFIG_DIR": str(tmp_path)}

    credential = find_credential(load_settings(Flags(nats=f"nats://{SECRET}@there:1"), where))

    assert (credential.identity, credential.secret, credential.address) == ("me", SECRET, "nats://there:1")
    with pytest.raises(errors.UsageError):
        find_credential(load_settings(Flags(nats="nats://plain@there:1"), where))


def test_no_credential_says_what_to_do(tmp_path: Path) -> None:
    """For a new cluster and for another's; a file that was named and is not there is a wrong command."""
    where = {"BACALHAU_CONFIG_DIR": str(tmp_path)}

    with pytest.raises(errors.Unauthenticated, match="no credential") as raised:
        find_credential(load_settings(Flags(), where))
    assert "bacalhau-daemon --orchestrator" in raised.value.hint
    with pytest.raises(errors.UsageError, match="no such credential file"):
        find_credential(load_settings(Flags(creds="/nope.json"), where))


def test_a_credential_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    """It is used all the same."""
    where = {"BACALHAU_CONFIG_DIR": str(tmp_path)}
    path = tmp_path / "credentials/default.json"
    a_credential(path)
    assert credential_warning(load_settings(Flags(), where)) == ""

    path.chmod(0o644)

    assert "chmod 600" in credential_warning(load_settings(Flags(), where))
