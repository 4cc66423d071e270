"""Parameters of the engines, storages and publishers that Bacalhau and we have: names, types, rules.

Bacalhau finds a wrong parameter only on the node, after bids and retries; what can be known from the text alone is
said at submission. A name that nobody reads is a warning, as Bacalhau ignores it. Types that are not in these tables
belong to other people's plug-ins and are not looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bacalhau_protocol.models.problems import Problem, join, nearest, quote


class Kind(msgspec.Struct, frozen=True, eq=False):
    """What a parameter may be, in words, and whether a value is that. `null` is accepted everywhere: it is not set."""

    words: str
    fits: Callable[[Any], bool]


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


def _is_modules(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str | dict) for item in value)


TEXT = Kind("a text", lambda value: isinstance(value, str))
TEXTS = Kind("a list of texts", _is_texts)
FLAG = Kind("true or false", lambda value: isinstance(value, bool) or value in ("true", "false"))
NUMBER = Kind("a whole number", _is_number)
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
MODULE = Kind("a path, or an input source (the old form)", lambda value: isinstance(value, str | dict))
MODULES = Kind("a list of paths, or of input sources (the old form)", _is_modules)
ANY = Kind("anything", lambda _: True)

Check = Callable[[Any], str]
"""Return what is wrong with a value of the right kind, or blank."""


class Param(msgspec.Struct, frozen=True):
    """One parameter. `required` texts may not be blank."""

    kind: Kind
    required: bool = False
    check: Check | None = None
    advise: Check | None = None  # like `check`, but what it says is a warning
    absent: str = ""  # warning when it is missing or blank
    table: Mapping[str, Param] = {}  # of an OBJECT

    @property
    def plain(self) -> bool:
        """Whether any value of the right kind that is not blank is right."""
        return self.check is None and self.advise is None and self.kind is not OBJECT


Table = Mapping[str, Param]


def describe(value: Any) -> str:
    """Say what a value is, for messages: `the number 5`, `the text "x"`, `a list`."""
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return f"the number {value}"
        case str():
            return f"the text {quote(value)}"
        case list() | tuple():
            return "a list"
        case _:
            return "an object"


def check_params(params: Mapping[str, Any], table: Table, path: str) -> Iterator[Problem]:
    """Yield problems and warnings of one bag of parameters; `path` is the bag's."""
    seen: set[str] = set()
    for key, value in params.items():
        name = key if key in table else _unfold(key, table)
        if not name:
            near = nearest(key, table)
            hint = "" if near else f"known are {', '.join(table)}" if table else "it takes no parameters"
            yield Problem(join(path, key), "unknown parameter is ignored", hint, near, warning=True)
        elif value is not None:
            if value != "":
                seen.add(name)
            param = table[name]
            if not (param.plain and param.kind.fits(value)) or param.required:
                yield from _check_param(value, param, join(path, key))
    for name, param in table.items():
        if name in seen:
            continue
        if param.required:
            yield Problem(join(path, name), f"missing or empty, {param.kind.words} is needed")
        elif param.absent:
            yield Problem(join(path, name), param.absent, warning=True)


def _unfold(key: str, table: Table) -> str:
    return next((name for name in table if name.lower() == key.lower()), "")


def _check_param(value: Any, param: Param, path: str) -> Iterator[Problem]:
    if not param.kind.fits(value):
        if isinstance(value, list) and param.kind in (TEXTS, MODULES):
            for index, item in enumerate(value):
                if not isinstance(item, str):
                    yield Problem(f"{path}[{index}]", f"found {describe(item)}, a text is needed", _quoting(item))
            return
        hint = _quoting(value) if param.kind is TEXT else ""
        yield Problem(path, f"found {describe(value)}, {param.kind.words} is needed", hint)
    elif param.required and isinstance(value, str) and value.isspace():
        yield Problem(path, "cannot be blank")
    else:
        if param.kind is OBJECT:
            yield from check_params(value, param.table, path)
        if param.check and (words := param.check(value)):
            yield Problem(path, words)
        if param.advise and (words := param.advise(value)):
            yield Problem(path, words, warning=True)


def _quoting(value: Any) -> str:
    if isinstance(value, bool):
        return 'put it in quotes, for instance "true" or "yes"'
    return f'put it in quotes: "{value}"' if isinstance(value, (int, float)) else ""


# ── rules ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _absolute(value: str) -> str:
    return "" if not value or value.startswith("/") else f"{quote(value)} is not an absolute path"


def _docker_env(value: list[str]) -> str:
    reserved = [item for item in value if item.upper().startswith("BACALHAU_")]
    return f"{quote(reserved[0])}: names that begin with BACALHAU_ are reserved" if reserved else ""


def _docker_env_bare(value: list[str]) -> str:
    bare = [item for item in value if "=" not in item]
    return f"{quote(bare[0])} is not of the form KEY=VALUE and is ignored" if bare else ""


def _data_url(value: str) -> str:
    if value[:5].lower() != "data:":
        return f"{quote(value)} is not a data: URL, for instance data:text/plain;base64,aGVsbG8K"
    return "" if "," in value else "the data: URL has no comma before its data"


def _http_url(value: str) -> str:
    try:
        parts = urlsplit(value.strip(" '\""))
    except ValueError as error:
        return f"{quote(value)} is not a URL: {error}"
    if parts.scheme not in ("http", "https"):
        return f"{quote(value)} must begin with http:// or https://"
    if not parts.hostname:
        return f"{quote(value)} names no host"
    return "" if parts.path else f"{quote(value)} must end with a file name"


def _create_as(value: str) -> str:
    allowed = ("dir", "file", "noCreate")
    return "" if value.lower() in {"", "dir", "file", "nocreate"} else _not_in(value, allowed)


def _encoding(value: str) -> str:
    return "" if value.lower() in {"", "gzip", "plain"} else _not_in(value, ("gzip", "plain"))


def _not_in(value: str, allowed: tuple[str, ...]) -> str:
    guess = nearest(value, allowed)
    return f"{quote(value)} is not one of {', '.join(allowed)}" + (f"; did you mean {guess}?" if guess else "")


_PARTITIONS = ("none", "object", "regex", "substring", "date")


def _partition(value: dict[str, Any]) -> str:
    folded = {key.lower(): item for key, item in value.items()}
    kind = folded.get("type") or ""
    start, end = folded.get("startindex") or 0, folded.get("endindex") or 0
    if not isinstance(kind, str) or not isinstance(start, (int, float)) or not isinstance(end, (int, float)):
        return ""  # said already, with the parameter's own path
    match kind:
        case "" | "none" | "object":
            return ""
        case "regex":
            return "" if folded.get("pattern") else "a partition by regex needs a Pattern"
        case "substring":
            return "" if 0 <= start < end else "a partition by substring needs 0 <= StartIndex < EndIndex"
        case "date":
            return "" if folded.get("dateformat") else "a partition by date needs a DateFormat, for instance 2006-01-02"
        case _:
            return f"partition type {_not_in(kind, _PARTITIONS)}"


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────────────

_TEXT, _NUMBER = Param(TEXT), Param(NUMBER)
_REQUIRED = Param(TEXT, required=True)

ENGINES: dict[str, Table] = {
    "docker": {
        "Image": _REQUIRED,
        "Entrypoint": Param(TEXTS),
        "Parameters": Param(TEXTS),
        "EnvironmentVariables": Param(TEXTS, check=_docker_env, advise=_docker_env_bare),
        "WorkingDirectory": Param(TEXT, check=_absolute),
    },
    "wasm": {
        "EntryModule": Param(MODULE, required=True),
        "Entrypoint": Param(TEXT, absent="not set: nodes of Bacalhau 1.9 need it, usually _start"),
        "Parameters": Param(TEXTS),
        "ImportModules": Param(MODULES),
    },
    "noop": {
        "DelayMs": _NUMBER,
        "PrepareMs": _NUMBER,
        "ExitCode": _NUMBER,
        "Stdout": _TEXT,
        "Stderr": _TEXT,
        "OutputBytes": _NUMBER,
        "Files": Param(ANY),
        "Fail": _TEXT,
        "FailAt": _TEXT,
        "Outcome": _TEXT,
    },
}
STORAGES: dict[str, Table] = {
    "inline": {"URL": Param(TEXT, required=True, check=_data_url)},
    "local": {
        "SourcePath": _REQUIRED,
        "ReadWrite": Param(FLAG),
        "CreateAs": Param(TEXT, check=_create_as),
    },
    "urldownload": {"URL": Param(TEXT, required=True, check=_http_url)},
    "ipfs": {"CID": _REQUIRED},
    "noop": {},
    "s3": {
        "Bucket": _REQUIRED,
        "Key": _TEXT,
        "Filter": _TEXT,
        "Region": _TEXT,
        "Endpoint": _TEXT,
        "VersionID": _TEXT,
        "ChecksumSHA256": _TEXT,
        "Partition": Param(
            OBJECT,
            check=_partition,
            table={
                "Type": _TEXT,
                "Pattern": _TEXT,
                "StartIndex": _NUMBER,
                "EndIndex": _NUMBER,
                "DateFormat": _TEXT,
            },
        ),
    },
}
STORAGES["localdirectory"] = STORAGES["local"]
PUBLISHERS: dict[str, Table] = {
    "local": {},
    "nats": {},
    "noop": {},
    "ipfs": {},
    "s3managed": {},
    "s3": {
        "Bucket": _REQUIRED,
        "Key": _REQUIRED,
        "Endpoint": _TEXT,
        "Region": _TEXT,
        "Encoding": Param(TEXT, check=_encoding),
    },
}
ENGINE_NAMES = ("docker", "wasm", "noop")
STORAGE_NAMES = ("ipfs", "inline", "localDirectory", "local", "s3", "s3PreSigned", "urlDownload", "s3managed", "noop")
PUBLISHER_NAMES = ("nats", "local", "s3", "s3managed", "ipfs", "noop")
