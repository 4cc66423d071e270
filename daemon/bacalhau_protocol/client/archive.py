"""Results that a node serves over HTTP (`urlDownload`): an archive, taken up where it broke off, unpacked safely."""

from __future__ import annotations

import posixpath
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

    timeout = httpx.Timeout(IDLE_S, connect=CONNECT_S)
    async with httpx.AsyncClient(timeout=timeout, follow_redirects=True) as client:
        for tries in range(1, TRIES_MAX + 1):
            try:
                await _download_once(client, url, part, on_bytes)
                return
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise errors.Unavailable(f"cannot reach {url}: {error}", hint=_HINT_ADDRESS) from error
            except httpx.HTTPError as error:
                if tries == TRIES_MAX:
                    raise errors.Unavailable(
                        f"{url} broke off {tries} times: {error!r}", hint="run the command again: it goes on from here"
                    ) from error


_HINT_ADDRESS = "the publisher `local` needs a node that can be reached from here; the publisher `nats` does not"
_NO_MORE, _PARTIAL = 416, 206


async def _download_once(client: httpx.AsyncClient, url: str, part: Part, on_bytes: Callable[[int], None]) -> None:
    headers = {"Range": f"bytes={part.size_bytes}-", "Accept-Encoding": "identity"} if part.size_bytes else {}
    async with client.stream("GET", url, headers=headers) as answer:
        if answer.status_code == _NO_MORE:
            return  # all of it is here
        if answer.status_code in (404, 410):
            raise errors.NotFound(
                f"the result is not at {url} any more", hint="its time may be over; run the job again"
            )
        if answer.is_error:
            raise errors.NodeFailed(f"{url} answered {answer.status_code} {answer.reason_phrase}")
        if answer.status_code != _PARTIAL and part.size_bytes:
            on_bytes(-part.size_bytes)
            await in_thread(part.restart)
        async for data in answer.aiter_raw():
            await in_thread(part.append, data)
            on_bytes(len(data))


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
