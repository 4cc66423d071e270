"""`urlDownload`: bounded in attempts, redirects, bytes and reach."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from bacalhau_daemon.storage import url_download
from bacalhau_protocol.errors import InputFailed
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig
from bacalhau_protocol.plugins import PluginContext, PreparedInput


class Reply(msgspec.Struct, frozen=True):
    status: int = 200
    body: bytes = b"content"
    headers: dict[str, str] = {}
    length: int | None = -1  # -1: the true one; None: not said


Serve = Callable[..., Awaitable[str]]


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serve]:
    """Start a server that answers path P with the replies listed for P, the last one for ever; return its address."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(url_download, "BACKOFF_FIRST_S", 0.0)
    async with contextlib.AsyncExitStack() as stack:

        async def start(replies: dict[str, list[Reply]], seen: list[str] | None = None) -> str:
            async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, path, _ = head.split(" ", 2)
                waiting = replies.get(path, [Reply(404)])
                reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                if seen is not None:
                    seen.append(f"{method} {path}")
                length = len(reply.body) if reply.length == -1 else reply.length
                lines = [f"HTTP/1.1 {reply.status} Said", "Connection: close"]
                lines += [f"{key}: {value}" for key, value in reply.headers.items()]
                lines += [] if length is None else [f"Content-Length: {length}"]
                writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else reply.body))
                await writer.drain()
                writer.close()

            server = await asyncio.start_server(handle, "127.0.0.1", 0)
            await stack.enter_async_context(server)
            return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        yield start


def storage(tmp_path: Path, **settings: object) -> url_download.UrlDownloadStorage:
    return url_download.UrlDownloadStorage(PluginContext(node_id="n", data_dir=tmp_path, settings=settings))


def source(url: str) -> InputSource:
    return InputSource(source=SpecConfig(type="urlDownload", params={"URL": url}), target="/in")


async def fetch(url: str, tmp_path: Path, **settings: object) -> PreparedInput:
    return await storage(tmp_path, **settings).prepare(source(url), Job(), 0, tmp_path, lambda *_: None)


async def size(url: str, tmp_path: Path, **settings: object) -> int:
    return await storage(tmp_path, **settings).size(source(url), Job(), 0)


async def test_the_last_element_of_the_address_names_the_file(serve: Serve, tmp_path: Path) -> None:
    """Decoded, without the query; the target is a directory."""
    host = await serve({"/d/my%20data.csv?token=x": [Reply()]})
    prepared = await fetch(f' "{host}/d/my%20data.csv?token=x" ', tmp_path)
    assert (prepared.path.name, prepared.target) == ("my data.csv", "/in/my data.csv")
    assert prepared.path.read_bytes() == b"content"


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="report.csv"', "report.csv"),
        ("attachment; filename*=UTF-8''na%C3%AFve.csv", "naïve.csv"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="..\\\\..\\\\evil.exe"', "evil.exe"),
        ('attachment; filename=".."', "final.bin"),
        ("attachment", "final.bin"),
    ],
)
async def test_after_a_redirect_the_header_names_it(serve: Serve, tmp_path: Path, header: str, name: str) -> None:
    """Its base name only, whatever it says."""
    reply = Reply(headers={"Content-Disposition": header})
    host = await serve({"/a": [Reply(302, headers={"Location": "/b/final.bin"})], "/b/final.bin": [reply]})
    assert (await fetch(f"{host}/a", tmp_path)).path == tmp_path / name


async def test_without_a_redirect_the_header_is_ignored(serve: Serve, tmp_path: Path) -> None:
    """As Bacalhau does."""
    host = await serve({"/a.csv": [Reply(headers={"Content-Disposition": 'attachment; filename="b"'})]})
    assert (await fetch(f"{host}/a.csv", tmp_path)).path.name == "a.csv"


async def test_an_address_without_a_name_gets_one(serve: Serve, tmp_path: Path) -> None:
    """A lone slash passes."""
    host = await serve({"/": [Reply(body=b"")]})
    prepared = await fetch(f"{host}/", tmp_path)
    assert (len(prepared.path.name), prepared.size_bytes) == (32, 0)


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1:1/", "data:,x", "//"]
)
async def test_redirects_stay_with_http(serve: Serve, tmp_path: Path, location: str) -> None:
    """No other scheme, no address that cannot be read."""
    host = await serve({"/a": [Reply(302, headers={"Location": location})]})
    with pytest.raises(InputFailed, match="redirect"):
        await fetch(f"{host}/a", tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_redirects_end(serve: Serve, tmp_path: Path) -> None:
    """A loop is cut after ten."""
    seen: list[str] = []
    host = await serve({"/a": [Reply(302, headers={"Location": "/a"})]}, seen)
    with pytest.raises(InputFailed, match="more than 10 redirects"):
        await fetch(f"{host}/a", tmp_path)
    assert len(seen) == 11


async def test_closed_networks_are_not_reached_not_even_by_redirect(serve: Serve, tmp_path: Path) -> None:
    """Link-local addresses by default; any the operator lists; each hop is looked at."""
    target = "http://169.254.169.254/latest/meta-data/iam"
    host = await serve({"/a": [Reply(302, headers={"Location": target})]})
    for url in (f"{host}/a", target, "http://[::ffff:169.254.169.254]/x"):
        with pytest.raises(InputFailed, match=r"169\.254\.169\.254 may not be reached"):
            await fetch(url, tmp_path)
    with pytest.raises(InputFailed, match="may not be reached"):
        await fetch(f"{host}/a", tmp_path, deny=["127.0.0.0/8"])


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "[::ffff:0.0.0.0]", "[64:ff9b::a9fe:a9fe]"])
async def test_other_names_of_closed_places_are_closed(tmp_path: Path, host: str) -> None:
    """The unspecified address is this machine; NAT64 leads to any IPv4 address."""
    with pytest.raises(InputFailed, match="may not be reached"):
        await fetch(f"http://{host}:1/x", tmp_path, attempts=1)


async def test_passing_trouble_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    """5xx, and a body that breaks off; then the whole file is there."""
    host = await serve({"/f": [Reply(503), Reply(body=b"con", length=7), Reply()]})
    assert (await fetch(f"{host}/f", tmp_path)).path.read_bytes() == b"content"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (500, 4), (429, 4)])
async def test_attempts_are_bounded_and_not_wasted(serve: Serve, tmp_path: Path, status: int, attempts: int) -> None:
    """What cannot get better is asked for once."""
    seen: list[str] = []
    host = await serve({"/f": [Reply(status)]}, seen)
    with pytest.raises(InputFailed, match=str(status)):
        await fetch(f"{host}/f", tmp_path)
    assert len(seen) == attempts
    assert list(tmp_path.iterdir()) == []


async def test_nobody_listening_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number of attempts."""
    monkeypatch.setattr(url_download, "BACKOFF_FIRST_S", 0.0)
    monkeypatch.delenv("http_proxy", raising=False)
    with pytest.raises(InputFailed, match="given up after 2 attempts"):
        await fetch("http://127.0.0.1:1/f", tmp_path, attempts=2)


@pytest.mark.parametrize("length", [-1, None])
async def test_size_is_capped_whatever_the_server_says(serve: Serve, tmp_path: Path, length: int | None) -> None:
    """By the announced length, and by what arrives when none is announced."""
    host = await serve({"/f": [Reply(body=b"x" * 1000, length=length)]})
    with pytest.raises(InputFailed, match="999"):
        await fetch(f"{host}/f", tmp_path, max_bytes=999)
    assert list(tmp_path.iterdir()) == []
    assert (await fetch(f"{host}/f", tmp_path, max_bytes=1000)).size_bytes == 1000


async def test_size_is_what_head_says_or_unknown(serve: Serve, tmp_path: Path) -> None:
    """A server without HEAD or without lengths can be used; one without the file cannot."""
    host = await serve({"/f": [Reply()], "/nohead": [Reply(405)], "/nolength": [Reply(length=None)]})
    assert [await size(f"{host}/{name}", tmp_path) for name in ("f", "nohead", "nolength")] == [7, 0, 0]
    with pytest.raises(InputFailed, match="404"):
        await size(f"{host}/absent", tmp_path)


async def test_secrets_in_addresses_are_not_shown(serve: Serve, tmp_path: Path) -> None:
    """User, password and query stay out of errors."""
    host = await serve({})
    with pytest.raises(InputFailed) as caught:
        await fetch(host.replace("//", "//me:hunter2@") + "/f?sig=topsecret", tmp_path)
    assert "hunter2" not in str(caught.value)
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://x/y", "http"),
        ("http://host", "must end with a file name"),
        ("http:///x", "http"),
        ("", "missing"),
        ("http://[::1/x", "cannot be read"),
    ],
)
def test_bad_addresses_are_named(tmp_path: Path, url: str, words: str) -> None:
    """Before anything is fetched."""
    assert words in storage(tmp_path).check(SpecConfig(type="urlDownload", params={"URL": url}))[0]
