"""`urlDownload`: a file fetched over HTTP or HTTPS.

Bounded in every direction: attempts, redirects, time without a byte, size (`max_bytes`, also when the server names no
length). Each hop of a redirect is looked at again: HTTP and HTTPS only, never from HTTPS back to HTTP, and never to an
address in `deny` (by default the link-local ranges, where clouds keep their metadata services, the unspecified address,
which is this machine, and NAT64, which hides an IPv4 address). The address that was
checked is the one that is connected to, so a name cannot change its mind in between. Behind a proxy the proxy resolves
names, and it is the one to filter.

As Bacalhau does, the file lands in `<Target>/<name>`: the name of a `Content-Disposition` header if a redirect
happened, else the last element of the final URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import os
import random
import socket
import urllib.request
from collections.abc import AsyncGenerator, Awaitable, Callable
from email.message import Message as Headers
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from bacalhau_daemon.storage import params
from bacalhau_protocol.errors import InputFailed, SpecError, UsageError
from bacalhau_protocol.models.job import InputSource, Job, SpecConfig
from bacalhau_protocol.plugins import Ability, PluginContext, PreparedInput, Progress

if TYPE_CHECKING:
    import httpx

ATTEMPTS_DEFAULT = 4  # one and three repeats, as Bacalhau
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.2, 5.0
REDIRECTS_MAX = 10
CONNECT_TIMEOUT_S, SILENCE_TIMEOUT_S = 15.0, 60.0
BYTES_MAX_DEFAULT = 100 * 1024**3
NAME_BYTES_MAX = 255
DENY_DEFAULT = ("0.0.0.0/8", "169.254.0.0/16", "::/128", "64:ff9b::/96", "fe80::/10", "fd00:ec2::254/128")
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_HEAD = frozenset({400, 403, 405, 500, 501})
_CHUNK_BYTES = 256 * 1024

T = TypeVar("T")
_Once = Callable[["httpx.AsyncClient"], Awaitable[T]]


class _Retryable(InputFailed):
    """This attempt failed in a way that another may not."""


class UrlDownloadStorage:
    """Downloads a file per execution. Settings: `max_bytes`, `deny` (list of CIDR), `attempts`."""

    def __init__(self, context: PluginContext) -> None:
        self._bytes_max = int(context.settings.get("max_bytes", BYTES_MAX_DEFAULT))
        self._attempts = int(context.settings.get("attempts", ATTEMPTS_DEFAULT))
        try:
            self._deny = [ipaddress.ip_network(text) for text in context.settings.get("deny", DENY_DEFAULT)]
        except ValueError as error:
            raise UsageError(f"`deny` must be a list of networks: {error}", place="[storages.urldownload]") from error

    async def ability(self) -> Ability:
        """Always available: whether a server answers is each job's own matter."""
        return Ability(available=True)

    def check(self, source: SpecConfig) -> list[str]:
        """Look at the parameters."""
        return _read(source)[1]

    async def size(self, source: InputSource, job: Job, partition: int) -> int:
        """Ask with HEAD; 0 when the server has no answer to that. Raises `InputFailed` for a file that is not there."""
        url = _url(source)

        async def once(client: httpx.AsyncClient) -> int:
            async with self._open(client, "HEAD", url) as (response, _):
                if response.status_code in _NO_HEAD:
                    return 0
                _expect_success(response)
                return self._announced(response)

        return await self._retry(once)

    async def prepare(
        self, source: InputSource, job: Job, partition: int, into: Path, progress: Progress
    ) -> PreparedInput:
        """Download into `into`; the file gets its name when it is complete."""
        url, half = _url(source), into / ".half"
        await asyncio.to_thread(into.mkdir, mode=0o700, parents=True, exist_ok=True)

        async def once(client: httpx.AsyncClient) -> tuple[str, int]:
            async with self._open(client, "GET", url) as (response, redirected):
                _expect_success(response)
                return _file_name(response, redirected), await self._store(response, half, progress)

        try:
            name, size = await self._retry(once)
        except BaseException:
            half.unlink(missing_ok=True)
            raise
        path = half.rename(into / name)
        target = f"{source.target.rstrip('/')}/{name}"
        return PreparedInput(source=source, path=path, target=target, size_bytes=size)

    async def release(self, prepared: PreparedInput) -> None:
        """Remove the file."""
        await asyncio.to_thread(prepared.path.unlink, missing_ok=True)

    async def _retry(self, once: _Once[T]) -> T:
        import httpx  # noqa: PLC0415 (a compute node that downloads nothing does not load it)

        timeout = httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
        wait_s = BACKOFF_FIRST_S
        async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as client:
            for attempt in range(1, self._attempts + 1):
                try:
                    return await once(client)
                except httpx.HTTPError as error:
                    failure: InputFailed = _Retryable(f"{type(error).__name__}: {error}".rstrip(": "))
                    failure.__cause__ = error
                except _Retryable as error:
                    failure = error
                if attempt == self._attempts:
                    break
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, BACKOFF_MAX_S)
        raise InputFailed(
            f"{failure.message} (given up after {self._attempts} attempts)", place=failure.place
        ) from failure

    @contextlib.asynccontextmanager
    async def _open(
        self, client: httpx.AsyncClient, method: str, text: str
    ) -> AsyncGenerator[tuple[httpx.Response, bool]]:
        """Yield the response at the end of the redirects, and whether there were any."""
        import httpx  # noqa: PLC0415

        url = httpx.URL(text)
        for hop in range(REDIRECTS_MAX + 1):
            request = client.build_request(method, **await self._pinned(url))
            try:
                response = await client.send(request, stream=True)
            except httpx.InvalidURL as error:  # httpx reads the location of a redirect by itself
                raise InputFailed(f"redirect to an address that cannot be read: {error}", place=_shown(url)) from error
            try:
                location = response.headers.get("location") if response.is_redirect else None
                if location is None:
                    response.extensions["url"] = url
                    yield response, hop > 0
                    return
            finally:
                await response.aclose()
            url = _redirect(url, location)
        raise InputFailed(f"more than {REDIRECTS_MAX} redirects", place=_shown(url))

    async def _pinned(self, url: httpx.URL) -> dict[str, Any]:
        """Return arguments of a request to an address of this host that is allowed."""
        headers = {"Accept-Encoding": "identity", "Host": url.netloc.decode("ascii")}
        plain = {"url": url, "headers": headers}
        if url.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(url.host):
            return plain
        try:
            found = await asyncio.get_running_loop().getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise _Retryable(f"name cannot be resolved: {error}", place=_shown(url)) from error
        addresses = [str(entry[4][0]) for entry in found]
        for address in addresses:
            if self._denied(address):
                raise InputFailed(
                    f"address {address} may not be reached from jobs",
                    hint="`deny` in `[storages.urldownload]` lists the networks that are closed",
                    place=_shown(url),
                )
        extensions = {"sni_hostname": url.host} if url.scheme == "https" else {}
        return {**plain, "url": url.copy_with(host=addresses[0].partition("%")[0]), "extensions": extensions}

    def _denied(self, text: str) -> bool:
        address = ipaddress.ip_address(text.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._deny if network.version == address.version)

    def _announced(self, response: httpx.Response) -> int:
        length = response.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else 0
        if size > self._bytes_max:
            raise InputFailed(f"file has {size} bytes, more than the {self._bytes_max} allowed", place=_place(response))
        return size

    async def _store(self, response: httpx.Response, path: Path, progress: Progress) -> int:
        total, done = self._announced(response), 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            async for chunk in response.aiter_raw(_CHUNK_BYTES):
                done += len(chunk)
                if done > self._bytes_max:
                    words = f"file is larger than the {self._bytes_max} bytes allowed"
                    raise InputFailed(words, place=_place(response))
                await asyncio.to_thread(_write_all, descriptor, chunk)
                progress(_place(response), done, total)
        finally:
            os.close(descriptor)
        return done


def _write_all(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def _redirect(url: httpx.URL, location: str) -> httpx.URL:
    import httpx  # noqa: PLC0415

    try:
        following = url.join(location)
    except httpx.InvalidURL as error:
        raise InputFailed(f"redirect to an address that cannot be read: {error}", place=_shown(url)) from error
    if following.scheme not in ("http", "https") or not following.host:
        raise InputFailed(f"redirect to {following.scheme or 'no'}: is not followed", place=_shown(url))
    if url.scheme == "https" and following.scheme == "http":
        raise InputFailed("redirect from https to http is not followed", place=_shown(url))
    return following


def _expect_success(response: httpx.Response) -> None:
    if response.is_success:
        return
    kind = _Retryable if response.status_code in _RETRYABLE else InputFailed
    raise kind(f"server answered {response.status_code} {response.reason_phrase}".rstrip(), place=_place(response))


def _file_name(response: httpx.Response, redirected: bool) -> str:
    """Return one harmless path element."""
    url: httpx.URL = response.extensions["url"]
    candidates = [unquote(url.raw_path.decode("ascii").partition("?")[0].rpartition("/")[2])]
    if redirected and "content-disposition" in response.headers:
        header = Headers()
        header["content-disposition"] = response.headers["content-disposition"]
        candidates.insert(0, header.get_filename() or "")
    for candidate in candidates:
        name = candidate.replace("\\", "/").rpartition("/")[2].strip()
        if name and name.strip(".") and "\0" not in name and len(name.encode()) <= NAME_BYTES_MAX:
            return name
    return hashlib.sha256(str(url).encode()).hexdigest()[:32]


def _place(response: httpx.Response) -> str:
    return _shown(response.extensions["url"])


def _shown(url: httpx.URL) -> str:
    """Return the address without its secrets: user, password and query."""
    return str(url.copy_with(userinfo=b"", query=None, fragment=None))


def _url(source: InputSource) -> str:
    url, problems = _read(source.source or SpecConfig(type="urlDownload"))
    if problems:
        raise SpecError("; ".join(problems), place=source.target)
    return url


def _read(source: SpecConfig) -> tuple[str, list[str]]:
    import httpx  # noqa: PLC0415

    found, problems = params.read(source, ("URL",))
    text = params.text(source, found, "URL", problems).strip("\"' ")
    if not text:
        return "", problems
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        return "", [*problems, f"{source.type}: 'URL' cannot be read: {error}"]
    if url.scheme not in ("http", "https") or not url.host:
        problems.append(f"{source.type}: 'URL' must begin with http:// or https://, not {text[:40]!r}")
    elif not url.raw_path.partition(b"?")[0].startswith(b"/") or "/" not in text.partition("://")[2]:
        problems.append(f"{source.type}: 'URL' must end with a file name")
    return text, problems
