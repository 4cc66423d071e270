"""The daemon's settings: one typed, frozen object, read once at the edge.

They come from a TOML file, the environment and flags, each stronger than the one before. The variable of a setting is
its path in capitals behind `BACALHAU_DAEMON_`: `orchestrator.listen` is `BACALHAU_DAEMON_ORCHESTRATOR_LISTEN`; lists
and maps are written `a,b` and `k=v,k=v`. What is not known is refused, with the place and the nearest name.

Who reads what: the shells of both roles, and `cli`. Nothing in `core` does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api.subjects import TOKEN

ENVIRONMENT_PREFIX = "BACALHAU_DAEMON_"
CONFIG_DIR = "BACALHAU_CONFIG_DIR"
FILE_NAME = "daemon.toml"
LISTEN_DEFAULT = "127.0.0.1:4222"
STOP_GRACE_S = 10.0
KEPT_LOGS_BYTES_MAX = 256 * 1024 * 1024

Table = dict[str, Any]


class OrchestratorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[orchestrator]`: the cluster's side."""

    enabled: bool = False
    listen: str = LISTEN_DEFAULT  # host:port; port 0 picks a free one
    advertise: str = ""  # host:port that join tokens name; blank: where it listens
    tls_cert: str = ""  # PEM file; with `tls_key`, connections are encrypted
    tls_key: str = ""
    tls_ca: str = ""  # PEM file of the CA that signed it; blank: the certificate is its own
    min_free_bytes: int | None = None  # below it submissions are refused; default: 256 MB or 2 % of the disk
    kept_logs_bytes_max: int = KEPT_LOGS_BYTES_MAX  # ends of executions' logs, oldest out


class ComputeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[compute]`: the worker's side."""

    enabled: bool = False
    join: str = ""  # a join token, or nats://TOKEN@host:port; blank on a node with both roles
    labels: dict[str, str] = {}
    allow_paths: tuple[str, ...] = ()  # GLOB, GLOB:ro or GLOB:rw that jobs may use
    allow_env: tuple[str, ...] = ()  # globs of this process's variables that jobs may have as `env:NAME`
    cpu: float = 0.0  # cores; 0: as detected, and so below
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu: int = -1  # -1: as detected
    results_bytes_max: int = 0  # results kept on the node, oldest out; 0: a share of the disk
    results_keep_s: float = 7 * 24 * 3600.0  # and for how long


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of them."""

    name: str = ""  # the node's id; blank: kept in the data directory, made at the first start
    data_dir: str = ""
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    stop_grace_s: float = STOP_GRACE_S
    orchestrator: OrchestratorSettings = OrchestratorSettings()
    compute: ComputeSettings = ComputeSettings()
    engines: dict[str, Table] = {}  # [engines.NAME]: handed to the plug-in
    storages: dict[str, Table] = {}
    publishers: dict[str, Table] = {}

    @property
    def data_path(self) -> Path:
        """The data directory."""
        return Path(self.data_dir)


def config_dir(environment: Mapping[str, str]) -> Path:
    """Return the directory of the user's settings and credentials."""
    if named := environment.get(CONFIG_DIR):
        return Path(named)
    import platformdirs  # noqa: PLC0415  only where it is needed

    return platformdirs.user_config_path("bacalhau")


def load(file: Path | None, environment: Mapping[str, str], flags: Table) -> Settings:
    """Read the settings. `file` None means `daemon.toml` in the config directory, if it is there.

    Raises
    ------
    UsageError
        for the first setting that is wrong or not known, with file, place and the nearest name.
    """
    path = file or config_dir(environment) / FILE_NAME
    merged: Table = _read_file(path) if file is not None or path.exists() else {}
    source = {key: str(path) for key in _leaves(merged)}
    for layer, origin in [(_from_environment(environment), "environment"), (flags, "command line")]:
        merged = _merge(merged, layer)
        source.update(dict.fromkeys(_leaves(layer), origin))
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), source, path) from error
    return _checked(settings, source)


def _checked(settings: Settings, source: Mapping[str, str]) -> Settings:
    if settings.name and not TOKEN.fullmatch(settings.name):
        raise _wrong("name", f"{settings.name!r} is not a node id of letters, digits, - and _, at most 64", source)
    try:
        split_listen(settings.orchestrator.listen)
    except errors.UsageError as error:
        raise _wrong("orchestrator.listen", error.message, source) from error
    if bool(settings.orchestrator.tls_cert) != bool(settings.orchestrator.tls_key):
        raise _wrong("orchestrator.tls_cert", "tls_cert and tls_key go together", source)
    if not settings.data_dir:
        import platformdirs  # noqa: PLC0415  only where it is needed

        return msgspec.structs.replace(settings, data_dir=str(platformdirs.user_data_path("bacalhau")))
    return settings


def split_listen(text: str) -> tuple[str, int]:
    """Split `host:port`. Raises `UsageError`."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:\s]+):(\d{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise errors.UsageError(f"{text!r} is not HOST:PORT", hint=f"for instance {LISTEN_DEFAULT}")
    return match[1].strip("[]"), int(match[2])


# ── layers ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read_file(path: Path) -> Table:
    import tomli  # noqa: PLC0415  only when there is a file

    try:
        text = path.read_text()
        table = tomli.loads(text)
    except OSError as error:
        raise errors.UsageError(f"cannot read the settings: {error.strerror}", place=str(path)) from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise errors.UsageError(f"not TOML: {error}", place=str(path)) from error
    for key in _unknown(table, Settings):
        raise errors.UsageError(
            f"unknown setting {key!r}",
            place=f"{path}{_line_of(text, key)}",
            hint=_nearest(key, [*_known(Settings), *Settings.__struct_fields__]),
        )
    return table


def _from_environment(environment: Mapping[str, str]) -> Table:
    known = {ENVIRONMENT_PREFIX + key.replace(".", "_").upper(): (key, kind) for key, kind in _known(Settings).items()}
    table: Table = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        if name not in known:
            raise errors.UsageError(f"unknown variable {name}", place="environment", hint=_nearest(name, known))
        key, kind = known[name]
        table = _merge(table, _nested(key, _parse(name, text, kind)))
    return table


def _parse(name: str, text: str, kind: Any) -> Any:
    """Read a variable's text as a value of this type."""
    origin = get_origin(kind) or kind
    if origin is tuple:
        return [part for part in text.split(",") if part]
    if origin is dict:
        pairs = [part.partition("=") for part in text.split(",") if part]
        return {key: value for key, _, value in pairs}
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        raise errors.UsageError(f"{text!r}: {error}", place=name) from error


def _merge(under: Table, over: Mapping[str, Any]) -> Table:
    """Return one table with what the second says on top."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _nested(key: str, value: Any) -> Table:
    for part in reversed(key.split(".")):
        value = {part: value}
    table: Table = value
    return table


# ── names and places ──────────────────────────────────────────────────────────────────────────────────────────────


def _known(kind: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a struct by path, with their types; tables of plug-ins are left out."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            found |= _known(field.type, f"{prefix}{field.name}.")
        elif not _is_plugins(field.type):
            found[prefix + field.name] = field.type
    return found


def _is_plugins(kind: Any) -> bool:
    return get_origin(kind) is dict and get_args(kind)[1] is not str


def _unknown(table: Table, kind: type[msgspec.Struct], prefix: str = "") -> list[str]:
    """Return the paths in a table that no setting has."""
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: list[str] = []
    for key, value in table.items():
        inner = fields.get(key)
        if inner is None:
            found.append(prefix + key)
        elif isinstance(inner, type) and issubclass(inner, msgspec.Struct) and isinstance(value, dict):
            found += _unknown(value, inner, f"{prefix}{key}.")
    return found


def _leaves(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in table.items():
        found.append(prefix + key)
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
    return found


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"do you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def _line_of(text: str, key: str) -> str:
    """Return `, line N` of a key in a TOML text, blank when it cannot be told."""
    section, _, name = key.rpartition(".")
    here = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            here = header[1]
            if here == key or here.startswith(f"{key}."):
                return f", line {number}"
        elif here == section and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=", line):
            return f", line {number}"
    return ""


def _invalid(message: str, source: Mapping[str, str], path: Path) -> errors.UsageError:
    """Turn msgspec's words (`… - at `$.orchestrator.listen``) into ours."""
    what, _, where = message.partition(" - at `$")
    key = re.sub(r"\[\.\.\.\]|`$", "", where).lstrip(".")
    place = source.get(key, "")
    if place == str(path) and path.exists():
        place += _line_of(path.read_text(), key)
    return errors.UsageError(what, place=f"{place}: {key}" if key else str(path))


def _wrong(key: str, message: str, source: Mapping[str, str]) -> errors.UsageError:
    return errors.UsageError(message, place=f"{source.get(key, 'default')}: {key}")
