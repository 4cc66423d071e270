"""Archives over HTTP: taken up where they broke off, unpacked without leaving the directory."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from bacalhau_protocol import errors
from bacalhau_protocol.client import archive
from bacalhau_protocol.client.archive import Unpacked, fetch_archive, unpack
from bacalhau_protocol.client.tree import PART_SUFFIX, Part, Tree


def archive_of(*members: tuple[str, bytes, str]) -> bytes:
    """Build a tar.gz of (name, content, link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data, link in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4755
            if link:
                info.type, info.linkname, info.size = tarfile.SYMTYPE, link, 0
            elif name.endswith("/"):
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


GOOD = archive_of(("./", b"", ""), ("./stdout", b"hello", ""), ("./out/", b"", ""), ("./out/a", b"x" * 5000, ""))


class Server:
    """Serves one archive; breaks off the first `breaks` answers at half, if asked."""

    def __init__(self, data: bytes, breaks: int = 0, ranges: bool = True) -> None:
        self.data, self.breaks, self.ranges = data, breaks, ranges
        self.asked: list[str | None] = []
        self.etag, self.then = "", b""  # `then`: what is served after the answer that breaks off
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/e-1.tar.gz"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.ranges else 0
        if "gone" in request.path:
            request.send_error(404)
            return
        body = self.data[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        if self.etag:
            request.send_header("ETag", self.etag)
        request.end_headers()
        if self.breaks:
            self.breaks -= 1
            body = body[: len(body) // 2]
            self.data, self.etag = self.then or self.data, '"2"' if self.then and self.etag else self.etag
        request.wfile.write(body)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(GOOD)
    yield server
    server.close()


def ignore(path: str, more: int) -> None:
    """Take no notice of progress."""


async def test_an_archive_is_unpacked(server: Server, tmp_path: Path) -> None:
    """Its members lie in the directory; the archive itself is gone; no set-user-id bit comes along."""
    unpacked = await fetch_archive(server.url, Tree(tmp_path), ignore, overwrite=False)

    assert unpacked == Unpacked(2)
    assert (tmp_path / "stdout").read_bytes() == b"hello"
    assert (tmp_path / "out/a").stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "stdout"]


@pytest.mark.parametrize("ranges", [True, False])
async def test_a_broken_download_goes_on(server: Server, tmp_path: Path, ranges: bool) -> None:
    """The second request asks for the rest; a server that knows no ranges is read from the start."""
    server.breaks, server.ranges = 1, ranges

    await fetch_archive(server.url, Tree(tmp_path), ignore, overwrite=False)

    assert server.asked == [None, f"bytes={len(GOOD) // 2}-"]
    assert (tmp_path / "out/a").read_bytes() == b"x" * 5000


@pytest.mark.parametrize(("etag", "more"), [("", b"!"), ('"1"', b"")], ids=["another length", "another ETag"])
async def test_two_contents_are_not_joined(server: Server, tmp_path: Path, etag: str, more: bytes) -> None:
    """What is served changes between two tries: it is read from the start, all of the new."""
    server.url = server.url.replace("e-1.tar.gz", "file")
    server.data, server.then, server.etag, server.breaks = b"a" * 1000, b"b" * 1000 + more, etag, 1

    await fetch_archive(server.url, Tree(tmp_path), ignore, overwrite=False)

    assert (tmp_path / "file").read_bytes() == server.then


async def test_an_endless_answer_is_cut(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of size holds while it is read, not only when it is unpacked."""
    monkeypatch.setattr(archive, "UNPACKED_BYTES_MAX", 10)

    with pytest.raises(errors.NodeFailed, match="more than 10 bytes"):
        await fetch_archive(server.url, Tree(tmp_path), ignore, overwrite=False)


async def test_unreachable_and_gone(server: Server, tmp_path: Path) -> None:
    """Nobody listens: Unavailable. The server has it no more: NotFound."""
    with pytest.raises(errors.Unavailable, match="cannot reach"):
        await fetch_archive("http://127.0.0.1:1/e.tar.gz", Tree(tmp_path), ignore, overwrite=False)
    with pytest.raises(errors.NotFound, match="not at"):
        await fetch_archive(server.url + "/gone", Tree(tmp_path), ignore, overwrite=False)


async def test_a_damaged_archive_is_thrown_away(server: Server, tmp_path: Path) -> None:
    """It says so, and the next run begins anew."""
    server.data = GOOD[:-20] + b"?" * 20

    with pytest.raises(errors.NodeFailed, match="damaged"):
        await fetch_archive(server.url, Tree(tmp_path), ignore, overwrite=False)

    assert not list(tmp_path.glob(f".*{PART_SUFFIX}"))


@pytest.mark.parametrize(
    "member", [("../evil", b"x", ""), ("/tmp/evil", b"x", ""), ("a/../../evil", b"x", "")], ids=lambda m: m[0]
)
def test_members_that_lead_out_are_refused(tmp_path: Path, member: tuple[str, bytes, str]) -> None:
    """A hostile archive writes nowhere else."""
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(archive_of(member))

    with pytest.raises(errors.NodeFailed, match="not plain"):
        unpack(archive, Tree(tmp_path / "in"), overwrite=False)

    assert not (tmp_path / "evil").exists()


def test_links_and_devices(tmp_path: Path) -> None:
    """Links inside are made after all files; links that point out, devices and hard links are left out."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, link in [
            ("door", tarfile.SYMTYPE, "../outside"),
            ("in", tarfile.SYMTYPE, "file"),
            ("dev", tarfile.CHRTYPE, ""),
            ("hard", tarfile.LNKTYPE, "/etc/passwd"),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
        info = tarfile.TarInfo("file")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(buffer.getvalue())

    unpacked = unpack(archive, Tree(tmp_path / "tree"), overwrite=False)

    assert unpacked == Unpacked(1, ("dev", "hard", "door -> ../outside"))
    assert (tmp_path / "tree/in").read_bytes() == b"x"


def test_a_part_is_only_taken_up_for_the_same_content(tmp_path: Path) -> None:
    """Another identity is another part; the running hash is that of what is there."""
    part = Part(tmp_path / "f", "one")
    part.open(100)
    part.append(b"abc")
    part.close()

    again, other = Part(tmp_path / "f", "one"), Part(tmp_path / "f", "two")

    assert again.open(100) == 3
    assert other.open(100) == 0
    assert again.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    again.close()
    other.close()
