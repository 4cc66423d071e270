"""The client's settings: one typed, frozen object, read once at the edge; and which credential it connects with.

They come from `client.toml` in the configuration directory (`$BACALHAU_CONFIG_DIR`, else the platform's), from the
environment (`BACALHAU_PROFILE`, `BACALHAU_NATS`, `BACALHAU_CREDS`) and from flags, each stronger than the one before::

    profile = "lab"               # used when nothing else names one

    [profiles.lab]
    nats = "nats://10.0.0.5:4222" # blank: the address in the credential file
    creds = "~/lab.json"          # blank: credentials/lab.json, else credentials/default.json
    namespace = "default"
    read_only = false             # true: the client sends no writes

    [tui]
    theme = ""                    # dark, light, ansi, …
    ascii = false                 # marks in ASCII
    lite = false                  # for slow lines: paint less often
    mouse = true                  # false: the terminal keeps the mouse
    keys = { stop = "S" }         # by binding id

A `--profile` flag is stronger than an address or a credential of the environment.
"""

from __future__ import annotations

import difflib
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api.tokens import Credential, decode_credential, identity_of

FILE_NAME = "client.toml"
FILE_BYTES_MAX = 1024 * 1024
DEFAULT_PROFILE = "default"
CONFIG_DIR, PROFILE, NATS, CREDS = "BACALHAU_CONFIG_DIR", "BACALHAU_PROFILE", "BACALHAU_NATS", "BACALHAU_CREDS"

OutputFormat = Literal["table", "json", "yaml"]
OUTPUT_FORMATS: tuple[str, ...] = get_args(OutputFormat)


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cluster, or one way to look at it."""

    nats: str = ""
    creds: str = ""
    namespace: str = "default"
    read_only: bool = False


class TuiSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[tui]`: how the screens look and behave."""

    theme: str = ""  # dark, light, ansi, or a name of Textual's; blank: by what the terminal announces
    ascii: bool = False
    lite: bool = False
    mouse: bool = True
    keys: dict[str, str] = {}


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file may hold."""

    profile: str = ""
    output: OutputFormat = "table"
    profiles: dict[str, Profile] = {}
    tui: TuiSettings = TuiSettings()


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What was said on the command line; blank: nothing."""

    nats: str = ""
    creds: str = ""
    profile: str = ""
    namespace: str = ""
    output: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, after all layers. `profile` is the one in use, with the stronger layers laid over it."""

    config_dir: Path
    profile_name: str
    profile: Profile
    profiles: dict[str, Profile]
    output: OutputFormat = "table"
    tui: TuiSettings = TuiSettings()


def load_settings(flags: Flags, environment: Mapping[str, str]) -> Settings:
    """Read the file and lay environment and flags over it.

    Raises
    ------
    UsageError
        for a file that cannot be read, an unknown key (with the nearest name), or a profile that does not exist.
    """
    directory = find_config_dir(environment)
    file = _read_file(directory / FILE_NAME)
    name = flags.profile or environment.get(PROFILE, "") or file.profile or DEFAULT_PROFILE
    if name != DEFAULT_PROFILE and name not in file.profiles and not _credential_path(directory, name).exists():
        known = sorted({*file.profiles, *(path.stem for path in (directory / "credentials").glob("*.json"))})
        raise errors.UsageError(
            f"no profile {name!r}",
            hint=_near(name, known) or f"add [profiles.{name}] to the file",
            place=str(directory / FILE_NAME),
        )
    profile = file.profiles.get(name, Profile())
    if not flags.profile:
        profile = _laid_over(profile, nats=environment.get(NATS, ""), creds=environment.get(CREDS, ""))
    profile = _laid_over(profile, nats=flags.nats, creds=flags.creds, namespace=flags.namespace)
    return Settings(
        config_dir=directory,
        profile_name=name,
        profile=profile,
        profiles=file.profiles,
        output=msgspec.convert(flags.output, OutputFormat) if flags.output else file.output,
        tui=file.tui,
    )


def find_config_dir(environment: Mapping[str, str]) -> Path:
    """Return the configuration directory; it need not exist."""
    if environment.get(CONFIG_DIR):
        return Path(environment[CONFIG_DIR]).expanduser()
    from platformdirs import user_config_path  # noqa: PLC0415  not needed when the variable is set

    return user_config_path("bacalhau")


def find_credential(settings: Settings) -> Credential:
    """Return whom to connect as, and where.

    Raises
    ------
    Unauthenticated
        when there is no credential anywhere, with what to do next.
    UsageError
        when the file that was named cannot be read.
    """
    profile, directory = settings.profile, settings.config_dir
    if "@" in profile.nats and not profile.creds:
        return _from_address(profile.nats)
    if profile.creds:
        path = Path(profile.creds).expanduser()
    else:
        own, default = _credential_path(directory, settings.profile_name), _credential_path(directory, DEFAULT_PROFILE)
        path = own if own.exists() else default
    try:
        credential = decode_credential(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        if profile.creds:
            raise errors.UsageError("no such credential file", place=str(path)) from error
        raise errors.Unauthenticated(f"no credential: there is no {path}", hint=_HINT_NOTHING) from error
    except OSError as error:
        raise errors.UsageError(f"cannot read the credential: {error.strerror}", place=str(path)) from error
    return msgspec.structs.replace(credential, address=profile.nats) if profile.nats else credential


_HINT_NOTHING = (
    "for a cluster on this machine start `bacalhau-daemon --orchestrator --compute --data-dir DIR`, it writes one; "
    "for another cluster ask its admin for a file from `bacalhau-tui credential issue NAME`, and name it with --creds"
)


def credential_warning(settings: Settings) -> str:
    """Return a sentence when others on this machine can read the credential, else blank."""
    named = settings.profile.creds
    path = Path(named).expanduser() if named else _credential_path(settings.config_dir, settings.profile_name)
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    return f"others can read {path}; chmod 600 it" if mode & (stat.S_IRWXG | stat.S_IRWXO) else ""


def _credential_path(directory: Path, name: str) -> Path:
    return directory / "credentials" / f"{name}.json"


def _from_address(address: str) -> Credential:
    secret = address.partition("://")[2].partition("@")[0]
    identity = identity_of(secret)
    if not identity:
        raise errors.UsageError(
            "the token in the address is no secret of a credential", hint="nats://IDENTITY.SECRET@HOST:PORT"
        )
    return Credential(address=address.replace(f"{secret}@", "", 1), identity=identity, role="", secret=secret)


def _laid_over(profile: Profile, **values: str) -> Profile:
    return msgspec.structs.replace(profile, **{name: value for name, value in values.items() if value})


def _read_file(path: Path) -> _File:
    import tomli  # noqa: PLC0415  only when settings are needed

    try:
        text = path.read_bytes()[:FILE_BYTES_MAX].decode()
    except FileNotFoundError:
        return _File()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"cannot read the settings: {error}", place=str(path)) from error
    try:
        table = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise errors.UsageError(f"not TOML: {error}", place=str(path)) from error
    _refuse_unknown(table, path)
    try:
        return msgspec.convert(table, _File)
    except msgspec.ValidationError as error:
        raise errors.UsageError(str(error).replace(" - at `$.", " - at `"), place=str(path)) from error


def _refuse_unknown(table: dict[str, Any], path: Path) -> None:
    places: list[tuple[str, Any, type[msgspec.Struct]]] = [("", table, _File), ("tui.", table.get("tui"), TuiSettings)]
    profiles = table.get("profiles")
    if isinstance(profiles, dict):
        places += [(f"profiles.{name}.", profile, Profile) for name, profile in profiles.items()]
    for prefix, values, kind in places:
        known = [field.encode_name for field in msgspec.structs.fields(kind)]
        for key in values if isinstance(values, dict) else ():
            if key not in known:
                raise errors.UsageError(
                    f"unknown setting {prefix}{key}",
                    hint=_near(key, known) or f"known: {', '.join(known)}",
                    place=str(path),
                )


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""
