"""dockerd: the SDK, loaded when it is first needed; whether dockerd is there; its errors in words.

Calls block: make them in a thread. At most `HEAVY_MAX` of those that make dockerd work hard (create, start, remove) are
in flight at once; more of them only make each slower.
"""

from __future__ import annotations

import asyncio
import json
import socket as socket_
import threading
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from bacalhau_engines.docker.settings import HERE
from bacalhau_protocol.errors import NodeFailed

if TYPE_CHECKING:
    from docker import APIClient

HEAVY_MAX = 8
CALL_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 5.0
PATIENCE_S = 120.0  # for a dockerd that has gone away
LOOK_AGAIN_S = 0.25
ANSWER_BYTES_MAX = 1024 * 1024
HEAD_BYTES_MAX = 64 * 1024
ERROR_STATUS = 400
CONNECTIONS_MAX = 64
API_MIN = (1, 40)

T = TypeVar("T")


class Gone(Exception):
    """dockerd does not answer, or has hung up; what was asked may have been done."""


class Refused(Exception):
    """dockerd says no."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


class Version(msgspec.Struct, frozen=True):
    """What dockerd says of itself."""

    version: str = msgspec.field(default="", name="Version")
    api: str = msgspec.field(default="", name="ApiVersion")
    os: str = msgspec.field(default="", name="Os")
    architecture: str = msgspec.field(default="", name="Arch")

    @property
    def platform(self) -> str:
        """As images name it."""
        return f"{self.os}/{self.architecture}"


class Listed(msgspec.Struct, frozen=True):
    """A container, as dockerd lists it."""

    id: str = msgspec.field(name="Id")
    labels: dict[str, str] = msgspec.field(name="Labels")


class Dockerd:
    """One dockerd, behind its socket."""

    def __init__(self, socket: str, docker_config: str = "") -> None:
        self.socket = socket
        self._docker_config = docker_config
        self._client: APIClient | None = None
        self._lock = threading.Lock()
        self._heavy = threading.BoundedSemaphore(HEAVY_MAX)

    def client(self) -> APIClient:
        """Return the SDK's client; importing it takes a quarter of a second, so nobody does before it is needed."""
        with self._lock:
            if self._client is None:
                import docker  # noqa: PLC0415

                self._client = self.call(
                    lambda: docker.APIClient(
                        f"unix://{self.socket}", "auto", timeout=int(CALL_TIMEOUT_S), max_pool_size=CONNECTIONS_MAX
                    )
                )
            return self._client

    def call(self, function: Callable[[], T], *, heavy: bool = False) -> T:
        """Call the SDK.

        Raises
        ------
        Gone
            when dockerd does not answer.
        Refused
            when it says no.
        """
        import docker.errors  # noqa: PLC0415
        import requests.exceptions  # noqa: PLC0415
        import urllib3.exceptions  # noqa: PLC0415

        try:
            if not heavy:
                return function()
            with self._heavy:
                return function()
        except docker.errors.APIError as error:
            status = error.response.status_code if error.response is not None else 500
            raise Refused(status, str(error.explanation or error).strip()) from error
        except docker.errors.DockerException as error:  # of the SDK itself: its version check, a helper for credentials
            if "server API version" in str(error):
                raise Gone(f"dockerd does not answer at {self.socket}: {error}") from error
            raise Refused(500, str(error)) from error
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise Gone(f"dockerd does not answer at {self.socket}: {error}") from error

    def stream(self, method: str, path: str) -> socket_.socket:
        """Ask for something that is streamed, over a connection of its own; return it where the stream begins.

        HTTP/1.0: what comes has no chunks, and ends with the connection.

        Raises
        ------
        Gone, Refused
        """
        link = socket_.socket(socket_.AF_UNIX, socket_.SOCK_STREAM)
        try:
            link.settimeout(CALL_TIMEOUT_S)
            link.connect(self.socket)
            link.sendall(f"{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                byte = link.recv(1)  # one by one: what follows is the stream
                if not byte or len(head) > HEAD_BYTES_MAX:
                    raise Gone(f"dockerd does not answer at {self.socket}: it hung up")
                head += byte
            status = int(head.split(maxsplit=2)[1])
            if status >= ERROR_STATUS:
                raise Refused(status, link.recv(HEAD_BYTES_MAX).decode(errors="replace").strip())
            link.setblocking(False)
        except (OSError, ValueError, IndexError) as error:
            link.close()
            raise Gone(f"dockerd does not answer at {self.socket}: {error}") from error
        except BaseException:
            link.close()
            raise
        return link

    def reload_credentials(self) -> None:
        """Read the credentials of registries again: people log in while we run. Raises `NodeFailed`."""
        client = self.client()
        try:
            self.call(lambda: client.reload_config(self._docker_config or None))
        except (Refused, Gone) as error:
            raise NodeFailed(
                f"docker's own settings, with the credentials of registries, cannot be read: {error}"
            ) from error

    def close(self) -> None:
        """Close idle connections."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def version(self) -> Version:
        """Ask who is there, without the SDK, over a connection of its own.

        Raises
        ------
        NodeFailed
            when nobody answers, with what to do.
        """
        if not self.socket.startswith("/"):
            raise NodeFailed(f"the docker host {self.socket} is not a socket of this machine", hint=HERE)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                body = await _get(self.socket, "/version")
            found = msgspec.json.decode(body, type=Version)
        except TimeoutError:
            raise NodeFailed(f"dockerd at {self.socket} does not answer within {PROBE_TIMEOUT_S:g} s") from None
        except FileNotFoundError:
            raise NodeFailed(
                f"dockerd does not run: there is no {self.socket}", hint="start it, or install the package docker.io"
            ) from None
        except PermissionError:
            raise NodeFailed(
                f"the daemon's user may not use dockerd at {self.socket}", hint="add the user to the group docker"
            ) from None
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise NodeFailed(f"dockerd does not answer at {self.socket}: {error}", hint="is it running?") from error
        if tuple(int(part) for part in found.api.split(".") if part.isdecimal()) < API_MIN:
            raise NodeFailed(f"dockerd {found.version} is too old: it has API {found.api}, 1.40 is needed")
        return found

    async def labelled(self, label: str) -> list[Listed]:
        """Return the containers with a label, in any state; without the SDK, for who starts. Raises `Gone`."""
        filters = urllib.parse.quote(json.dumps({"label": [label]}))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                body = await _get(self.socket, f"/containers/json?all=1&filters={filters}")
            return msgspec.json.decode(body, type=list[Listed])
        except (OSError, ValueError, TimeoutError, msgspec.MsgspecError) as error:
            raise Gone(f"dockerd does not answer at {self.socket}: {error}") from error

    async def back(self) -> Version:
        """Wait for a dockerd that has gone away. Raises `NodeFailed` when it stays away."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            try:
                return await self.version()
            except NodeFailed:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(LOOK_AGAIN_S)

    async def answers(self) -> bool:
        """Whether somebody takes new connections now."""
        try:
            await self.version()
        except NodeFailed:
            return False
        return True


async def _get(socket: str, path: str) -> bytes:
    """Return the body of an answer without chunks, as `Connection: close` and HTTP/1.0 make it."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(f"GET {path} HTTP/1.0\r\nHost: docker\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read(ANSWER_BYTES_MAX)
        while more := await reader.read(ANSWER_BYTES_MAX):
            answer += more
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n", 1)[0]
    if b" 200 " not in status + b" ":
        raise ValueError(f"it says {status.decode(errors='replace')!r}")
    return body


def platform_of(image: dict[str, Any]) -> str:
    """Return the platform that an image is for."""
    return f"{image.get('Os') or 'linux'}/{image.get('Architecture') or ''}"


def words_of(line: dict[str, Any]) -> str:
    """Return the error in a line of a pull's progress; blank when there is none."""
    detail = line.get("errorDetail")
    return str((detail.get("message") if isinstance(detail, dict) else "") or line.get("error") or "")


def plain(words: str) -> str:
    """Return what dockerd said without the JSON around it."""
    try:
        return str(json.loads(words)["message"])
    except (ValueError, KeyError, TypeError):
        return words
