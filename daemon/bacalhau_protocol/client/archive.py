"""Results that a node serves over HTTP (`urlDownload`): an archive, taken up where it broke off, unpacked safely."""

from __future__ import annotations

import asyncio
import posixpath
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.archives import CheckedTarInfo
from bacalhau_protocol.client.threads import in_thread
from bacalhau_protocol.client.tree import Part, Tree

if TYPE_CHECKING:
    import httpx

CONNECT_S, IDLE_S = 5.0, 60.0
TRIES_MAX = 5
PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 2.0  # between tries, doubled each time
MEMBERS_MAX = 1_000_000
UNPACKED_BYTES_MAX = 1024**4
COPY_BYTES = 1024 * 1024
ARCHIVES = (".tar.gz", ".tgz", ".tar")


class Unpacked(msgspec.Struct, frozen=True):
    """How many files came out, and what was left out."""

    files: int
    skipped: tuple[str, ...] = ()


async def fetch_archive(url: str, tree: Tree, on_bytes: Callable[[str, int], None], *, overwrite: bool) -> Unpacked:
    """Download what the URL serves into the tree and unpack it if it is an archive.

    Raises
    ------
    Unavailable
        when the address cannot be reached (from here).
    NotFound
        when the result is not there any more.
    NodeFailed
        when the archive is damaged or hostile.
    """
    name = unquote(posixpath.basename(urlsplit(url).path)) or "result"
    part = Part(tree.path_of(name), url)
    try:
        on_bytes(name, await in_thread(part.open, UNPACKED_BYTES_MAX))
        await _download(url, part, lambda more: on_bytes(name, more))
        if not name.endswith(ARCHIVES):
            await in_thread(part.finish, 0o644)
            return Unpacked(1)
        unpacked = await in_thread(unpack, part.path, tree, overwrite=overwrite)
        await in_thread(part.path.unlink)
        return unpacked
    finally:
        part.close()


async def _download(url: str, part: Part, on_bytes: Callable[[int], None]) -> None:
    import httpx  # noqa: PLC0415  heavy, and only needed here

    seen = _Seen()
    timeout = httpx.Timeout(IDLE_S, connect=CONNECT_S)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=True) as client:
        for tries in range(1, TRIES_MAX + 1):
            try:
                await _download_once(client, url, part, seen, on_bytes)
                return
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise errors.Unavailable(f"cannot reach {url}: {error}", hint=_HINT_ADDRESS) from error
            except httpx.HTTPError as error:
                if tries == TRIES_MAX:
                    raise errors.Unavailable(
                        f"{url} broke off {tries} times: {error!r}", hint="run the command again: it goes on from here"
                    ) from error
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(PAUSE_MAX_S, PAUSE_MIN_S * 2**tries))


_HINT_ADDRESS = "the publisher `local` needs a node that can be reached from here; the publisher `nats` does not"
_NO_MORE, _PARTIAL = 416, 206
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/(?:([0-9]{1,18})|\*)")


class _Seen:
    """What the server said of the content when it began to give it: blank and None while unknown."""

    etag = ""
    total_bytes: int | None = None

    def is_rest(self, answer: httpx.Response, have_bytes: int) -> bool:
        """Whether a 206 or 416 is about the content of which so many bytes are here, as far as one can tell."""
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        first, total = found.groups() if found else (None, None)
        known_bytes = have_bytes if answer.status_code == _NO_MORE else self.total_bytes
        return (
            (first is None or int(first) == have_bytes)
            and (total is None or known_bytes is None or int(total) == known_bytes)
            and (not self.etag or answer.headers.get("ETag", self.etag) == self.etag)
        )


async def _download_once(
    client: httpx.AsyncClient, url: str, part: Part, seen: _Seen, on_bytes: Callable[[int], None]
) -> None:
    import httpx  # noqa: PLC0415  heavy, and only needed here

    headers = {"Accept-Encoding": "identity"}
    if part.size_bytes:
        headers["Range"] = f"bytes={part.size_bytes}-"
        if seen.etag.startswith('"'):  # a weak one says nothing about bytes
            headers["If-Range"] = seen.etag
    async with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code in (404, 410):
            raise errors.NotFound(
                f"the result is not at {url} any more", hint="its time may be over; run the job again"
            )
        if answer.status_code in (_NO_MORE, _PARTIAL) and not seen.is_rest(answer, part.size_bytes):
            await _restart(part, on_bytes)
            raise httpx.RemoteProtocolError("the content changed while it was read")
        if answer.status_code == _NO_MORE:
            return  # all of it is here
        if answer.is_error:
            raise errors.NodeFailed(f"{url} answered {answer.status_code} {answer.reason_phrase}")
        if answer.status_code != _PARTIAL:
            await _restart(part, on_bytes)
            length = answer.headers.get("Content-Length", "")
            seen.etag, seen.total_bytes = answer.headers.get("ETag", ""), int(length) if length.isdecimal() else None
        async for data in answer.aiter_raw():
            if part.size_bytes + len(data) > UNPACKED_BYTES_MAX:
                raise errors.NodeFailed(f"{url} gives more than {UNPACKED_BYTES_MAX:,} bytes")
            await in_thread(part.append, data)
            on_bytes(len(data))


async def _restart(part: Part, on_bytes: Callable[[int], None]) -> None:
    if part.size_bytes:
        on_bytes(-part.size_bytes)
        await in_thread(part.restart)


def unpack(archive: Path, tree: Tree, *, overwrite: bool) -> Unpacked:
    """Unpack a tar archive. Blocks.

    Only files, directories and links that stay inside come out. Raises `NodeFailed` for a damaged archive, a path
    that leads out, or more than the limits.
    """
    skipped: list[str] = []
    links: list[tarfile.TarInfo] = []
    files = total_bytes = 0
    try:
        with tarfile.open(archive, tarinfo=CheckedTarInfo) as tar:
            for count, member in enumerate(tar, 1):
                total_bytes += member.size
                files += member.isreg()
                if count > MEMBERS_MAX or total_bytes > UNPACKED_BYTES_MAX:
                    raise errors.NodeFailed(f"the archive has more than {MEMBERS_MAX} members or 1 TiB")
                if member.issym():
                    links.append(member)
                elif not _unpack_member(tar, member, tree, overwrite):
                    skipped.append(member.name)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        archive.unlink(missing_ok=True)
        raise errors.NodeFailed(f"the archive is damaged: {error}", hint="run the command again") from error
    skipped.extend(f"{link.name} -> {link.linkname}" for link in links if not _link(tree, link, overwrite))
    return Unpacked(files, tuple(skipped))


def _plain(name: str) -> str:
    """Return a member's name as a relative path; tar writes `./a` and `a/`."""
    return name.removeprefix("./").rstrip("/")


def _link(tree: Tree, member: tarfile.TarInfo, overwrite: bool) -> bool:
    path = _plain(member.name)
    if overwrite:
        tree.remove_file(path)
    return tree.make_link(path, member.linkname)


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, tree: Tree, overwrite: bool) -> bool:
    path = _plain(member.name)
    if path in ("", "."):
        return True
    if member.isdir():
        tree.make_directory(path)
        return True
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:
        return False
    part = Part(tree.path_of(path), f"{path}\0{member.size}")
    try:
        part.open(0)
        while data := source.read(COPY_BYTES):
            part.append(data)
        if not overwrite and not tree.is_free(path) and not tree.has(path, part.size_bytes, part.sha256):
            part.path.unlink()
            raise errors.Conflict(
                f"{tree.root / path} is already there, with other content",
                hint="choose another directory, or --overwrite",
            )
        part.finish(member.mode)
    finally:
        part.close()
    return True
