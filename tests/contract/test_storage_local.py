"""`local`: what may be mounted is decided on the resolved path, whatever a job or another job's links say."""

from __future__ import annotations

from pathlib import Path

import pytest

from bacalhau_daemon.storage.local import LocalStorage, parse_allowed
from bacalhau_protocol.errors import InputFailed, UsageError
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig
from bacalhau_protocol.plugins import PluginContext, PreparedInput

JOB = Job()


def storage(tmp_path: Path, *allow: str) -> LocalStorage:
    return LocalStorage(PluginContext(node_id="n", data_dir=tmp_path, settings={"allow": list(allow)}))


async def prepare(local: LocalStorage, path: object, tmp_path: Path, **extra: object) -> PreparedInput:
    spec = SpecConfig(type="local", params={"SourcePath": str(path), **extra})
    return await local.prepare(InputSource(source=spec, target="/in"), JOB, 0, tmp_path, lambda *_: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tree: data/in/a.txt, and secret/key beside it."""
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "data" / "in" / "a.txt").write_text("a")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("k")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("pattern", "path", "allowed"),
    [
        ("data", "data", True),
        ("data/in/a.txt", "data/in/a.txt", True),
        ("data/*", "data/in", True),
        ("data/*", "data/in/a.txt", False),
        ("data/**", "data/in/a.txt", True),
        ("data/**", "data", True),
        ("dat?/**", "data/in", True),
        ("data/in/[ab].txt", "data/in/a.txt", True),
        ("data/in/[!a].txt", "data/in/a.txt", False),
        ("{data,other}/in", "data/in", True),
        ("data/i", "data/in", False),
        ("dat", "data", False),
        ("secret/**", "data/in", False),
    ],
)
async def test_patterns_match_whole_paths(data: Path, tmp_path: Path, pattern: str, path: str, allowed: bool) -> None:
    """Globs are anchored at both ends."""
    local = storage(tmp_path, f"{tmp_path}/{pattern}")
    if allowed:
        assert (await prepare(local, tmp_path / path, tmp_path)).path == tmp_path / path
    else:
        with pytest.raises(InputFailed, match="is not allowlisted"):
            await prepare(local, tmp_path / path, tmp_path)


@pytest.mark.parametrize("path", ["in/../../secret", "in/../../secret/key", "./in/../../../../../../etc/passwd"])
async def test_dots_do_not_escape(data: Path, tmp_path: Path, path: str) -> None:
    """`/data/in/../../etc` is `/etc`, and `/etc` is not allowed."""
    with pytest.raises(InputFailed, match="is not allowlisted"):
        await prepare(storage(tmp_path, f"{data}/**:rw"), f"{data}/{path}", tmp_path)


@pytest.mark.parametrize("target", ["../secret", "../secret/key", "/etc", "deep/link"])
async def test_links_do_not_escape(data: Path, tmp_path: Path, target: str) -> None:
    """A link under an allowed directory leads nowhere that is not itself allowed."""
    (data / "deep").mkdir()
    (data / "deep" / "link").symlink_to(tmp_path / "secret")
    (data / "link").symlink_to(target)
    local = storage(tmp_path, f"{data}/**:rw")
    for path in (data / "link", data / "link" / "key", data / "link" / "new"):
        with pytest.raises(InputFailed, match="is not allowlisted"):
            await prepare(local, path, tmp_path, ReadWrite=True, CreateAs="dir")
    assert not (tmp_path / "secret" / "new").exists()


async def test_the_real_path_is_mounted(data: Path, tmp_path: Path) -> None:
    """A link inside the allowed tree is replaced by what it means, so that it cannot be bent afterwards."""
    (data / "link").symlink_to("in")
    assert (await prepare(storage(tmp_path, f"{data}/**"), data / "link", tmp_path)).path == data / "in"


async def test_an_allowed_directory_may_itself_be_a_link(data: Path, tmp_path: Path) -> None:
    """The operator's pattern is resolved as well."""
    (tmp_path / "alias").symlink_to("data")
    local = storage(tmp_path, f"{tmp_path}/alias/**")
    assert (await prepare(local, tmp_path / "alias" / "in", tmp_path)).path == data / "in"


async def test_writing_needs_a_writable_entry(data: Path, tmp_path: Path) -> None:
    """Read-only is the default; any matching entry with `:rw` grants writing."""
    with pytest.raises(InputFailed, match="is not granted write access"):
        await prepare(storage(tmp_path, f"{data}/**", f"{data}/other:rw"), data / "in", tmp_path, ReadWrite="true")
    granted = await prepare(storage(tmp_path, f"{data}/**", f"{data}/i*:rw"), data / "in", tmp_path, ReadWrite=True)
    assert not granted.read_only


@pytest.mark.parametrize(("create", "check"), [("dir", Path.is_dir), ("FILE", Path.is_file)])
async def test_a_missing_path_is_created_when_asked(data: Path, tmp_path: Path, create: str, check: object) -> None:
    """Parents too, private; and it stays after the release."""
    local = storage(tmp_path, f"{data}/**:rw")
    path = data / "new" / "thing"
    prepared = await prepare(local, path, tmp_path, ReadWrite=True, CreateAs=create)
    await local.release(prepared)
    assert (path.is_dir(), path.is_file()) == ((True, False) if create == "dir" else (False, True))
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, "does not exist and creation is not allowed"),
        ({"ReadWrite": True}, "does not exist and creation is not allowed"),
        ({"CreateAs": "dir"}, "read-write access is not allowed"),
    ],
)
async def test_a_missing_path_fails_otherwise(data: Path, tmp_path: Path, extra: dict[str, object], words: str) -> None:
    """Creating needs both to be asked for and to be writable."""
    with pytest.raises(InputFailed, match=words):
        await prepare(storage(tmp_path, f"{data}/**:rw"), data / "absent", tmp_path, **extra)


def test_bad_parameters_are_named(tmp_path: Path) -> None:
    """Each problem is said, all at once."""
    problems = storage(tmp_path, "/x").check(
        SpecConfig(type="local", params={"SourcePath": "x", "CreateAs": "link", "ReadWrite": 3})
    )
    assert [part in " ".join(problems) for part in ("absolute", "CreateAs", "ReadWrite")] == [True, True, True]
    slash = SpecConfig(type="local", params={"SourcePath": "/x/", "CreateAs": "file"})
    assert "ends in a slash" in storage(tmp_path, "/x").check(slash)[0]


async def test_without_an_allow_list_it_is_not_available(tmp_path: Path) -> None:
    """Nothing is allowed unless the operator says so."""
    ability = await storage(tmp_path).ability()
    assert (ability.available, "--allow-path" in ability.reason) == (False, True)


@pytest.mark.parametrize("entry", ["relative/**", "/data/[a", "/data/{a", "**"])
def test_an_unreadable_pattern_stops_the_start(tmp_path: Path, entry: str) -> None:
    """A pattern that could never match is an operator's mistake, said at once."""
    with pytest.raises(UsageError):
        storage(tmp_path, entry)


async def test_a_hostile_path_is_refused_quickly(tmp_path: Path) -> None:
    """NUL bytes and endless paths end as refusals."""
    local = storage(tmp_path, "/**")
    for path in ("/a\0b", "/" + "a/" * 5000):
        with pytest.raises(InputFailed):
            await prepare(local, path, tmp_path)


def test_a_backwards_range_is_a_usage_error() -> None:
    """The pattern is named, rather than the words of the regular expression's parser alone."""
    with pytest.raises(UsageError) as caught:
        parse_allowed("/data/[z-a]")
    assert caught.value.place == "/data/[z-a]"
