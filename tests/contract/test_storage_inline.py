"""`inline`: files and archives out of the job file; archives are hostile until shown otherwise."""

from __future__ import annotations

import base64
import gzip
import io
import tarfile
from pathlib import Path

import pytest

from bacalhau_daemon.storage import inline
from bacalhau_protocol.errors import BacalhauError, InputFailed, SpecError
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig
from bacalhau_protocol.plugins import PluginContext, PreparedInput

Member = tuple[str, bytes | str | None]  # content, the target of a link, or None for a directory


def archive(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o644
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type = tarfile.DIRTYPE if content is None else tarfile.SYMTYPE
                info.linkname = content or ""
                tar.addfile(info)
    return buffer.getvalue()


def packed(content: bytes) -> InputSource:
    url = "data:application/gzip;base64," + base64.b64encode(content).decode()
    return InputSource(source=SpecConfig(type="inline", params={"URL": url}), target="/in")


async def prepare(source: InputSource, into: Path) -> PreparedInput:
    storage = inline.InlineStorage(PluginContext(node_id="n", data_dir=into))
    return await storage.prepare(source, Job(), 0, into, lambda *_: None)


async def test_an_archive_becomes_a_directory(tmp_path: Path) -> None:
    """Also without entries for its directories, which Bacalhau itself fails on."""
    prepared = await prepare(packed(archive(("data/a.txt", b"a"), ("data/deep/b", b"bb"), ("empty", None))), tmp_path)
    assert (prepared.path / "data/deep/b").read_bytes() == b"bb"
    assert (prepared.path / "empty").is_dir()
    assert prepared.size_bytes == 3


@pytest.mark.parametrize("text", ["hello%20world", ";base64,aGVsbG8gd29ybGQ=", "text/plain;charset=utf-8,hello world"])
async def test_anything_else_becomes_one_file(tmp_path: Path, text: str) -> None:
    """Percent-encoded or base64, with or without a type."""
    url = f"data:{text}" if "," in text else f"data:,{text}"
    source = InputSource(source=SpecConfig(type="inline", params={"URL": url}), target="/in")
    prepared = await prepare(source, tmp_path)
    assert prepared.path.read_bytes() == b"hello world"
    assert prepared.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", ".."])
async def test_names_may_not_leave_the_directory(tmp_path: Path, name: str) -> None:
    """Refused whole: nothing of the archive stays."""
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    with pytest.raises(InputFailed, match="leaves its directory"):
        await prepare(packed(archive(("fine", b"x"), (name, b"evil"))), into)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "into"]


async def test_links_are_left_out_and_nothing_is_written_through_them(tmp_path: Path) -> None:
    """A link followed by a file "in" it makes a directory instead."""
    outside = tmp_path / "outside"
    outside.mkdir()
    into = tmp_path / "into"
    into.mkdir()
    prepared = await prepare(packed(archive(("link", str(outside)), ("link/evil", b"x"), ("l2", "/etc/passwd"))), into)
    assert list(outside.iterdir()) == []
    assert (prepared.path / "link/evil").read_bytes() == b"x"
    assert not (prepared.path / "l2").exists()


async def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Per file and in all, counted while unpacking."""
    monkeypatch.setattr(inline, "FILE_BYTES_MAX", 1000)
    monkeypatch.setattr(inline, "ARCHIVE_BYTES_MAX", 2500)
    monkeypatch.setattr(inline, "ARCHIVE_ENTRIES_MAX", 5)
    for members, words in (
        ([("big", b"x" * 1001)], "larger than 1000"),
        ([(f"f{n}", b"x" * 900) for n in range(3)], "more than 2500"),
        ([(f"f{n}", b"") for n in range(6)], "more than 5 entries"),
    ):
        with pytest.raises(InputFailed, match=words):
            await prepare(packed(archive(*members)), tmp_path)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"not gzip", archive(("a", b"x" * 5000))[:-20], gzip.compress(b"not a tar file" * 100), b""],
    ids=["no gzip", "cut off", "no tar", "nothing"],  # gzip writes the time: as ids they would differ between workers
)
async def test_broken_archives_are_errors_in_words(tmp_path: Path, content: bytes) -> None:
    """Cut, garbled and empty."""
    with pytest.raises(BacalhauError):
        await prepare(packed(content), tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_broken_base64_is_the_job_files_fault(tmp_path: Path) -> None:
    """Said as such."""
    source = InputSource(source=SpecConfig(type="inline", params={"URL": "data:;base64,!!"}), target="/in")
    with pytest.raises(SpecError, match="base64"):
        await prepare(source, tmp_path)
