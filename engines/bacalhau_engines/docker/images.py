"""Images: here, or pulled with byte progress and the credentials of their registry, once for all who wait for it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from bacalhau_engines.docker.dockerd import Dockerd, Gone, Refused, plain, platform_of, words_of
from bacalhau_engines.docker.settings import Pull
from bacalhau_engines.docker.spec import Reference, reference
from bacalhau_protocol.errors import BacalhauError, NodeFailed, SpecError
from bacalhau_protocol.plugins import Progress

PULLS_MAX = 3
PULL_TRIES = 3  # when the link to dockerd or to the registry breaks
LAYERS_MAX = 1024
_ABSENT = ("not found", "manifest unknown", "does not exist", "name unknown", "no such image")
_DENIED = ("unauthorized", "denied", "no basic auth", "authentication required", "forbidden")
_BROKEN_OFF = "context canceled"  # dockerd is being stopped
_PLATFORM = ("no matching manifest", "does not match the specified platform")


class Image(msgspec.Struct, frozen=True):
    """An image on this machine."""

    id: str
    digest: str = ""  # NAME@sha256:…, when a registry knows it
    stop_signal: str = ""


class _Pull:
    """A pull in flight, and who waits for it."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.waiting: list[Progress] = []
        self.task: asyncio.Task[None] | None = None

    def progress(self, what: str, done: int, total: int) -> None:
        for one in tuple(self.waiting):
            one(what, done, total)


class Images:
    """The images of one dockerd."""

    def __init__(self, dockerd: Dockerd, policy: Pull, short: ThreadPoolExecutor) -> None:
        self._dockerd, self._policy, self._short = dockerd, policy, short
        self._threads = ThreadPoolExecutor(PULLS_MAX, thread_name_prefix="docker-pull")
        self._pulls: dict[str, _Pull] = {}
        self.platform = ""  # of dockerd; blank: not known yet

    @property
    def pulling(self) -> int:
        """How many images are being pulled."""
        return len(self._pulls)

    async def have(self, name: str, progress: Progress) -> Image:
        """Return the image, after pulling it if the policy says so.

        Raises
        ------
        SpecError
            when there is no such image, or none for this platform.
        NodeFailed
            when it cannot be fetched now.
        """
        wanted = reference(name)
        if wanted is None:
            raise SpecError(f"{name!r} is not the name of an image", place="Engine.Params.Image")
        self.platform = self.platform or (await self._dockerd.back()).platform
        found = None
        if self._policy is not Pull.ALWAYS:
            found = await self._inspect(wanted)
            if found is not None and platform_of(found) == self.platform:
                return _image(found, wanted)
        if self._policy is Pull.NEVER:
            if found is not None:
                raise _wrong_platform(wanted, self.platform, f"it is for {platform_of(found)}")
            raise NodeFailed(
                f"the image {wanted.full} is not on this node, and its operator lets it pull none",
                hint='load it there with `docker load`, or set pull = "missing" under [engines.docker]',
            )
        await self._pull(wanted, progress)
        found = await self._inspect(wanted)
        if found is None:
            raise NodeFailed(f"the image {wanted.full} was pulled and is gone again")
        if platform_of(found) != self.platform:
            raise _wrong_platform(wanted, self.platform, f"it is for {platform_of(found)}")
        return _image(found, wanted)

    def close(self) -> None:
        """Give up what is being pulled."""
        for pull in self._pulls.values():
            pull.stop.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _inspect(self, wanted: Reference) -> dict[str, Any] | None:
        def inspect() -> dict[str, Any]:
            client = self._dockerd.client()
            found: dict[str, Any] = self._dockerd.call(lambda: client.inspect_image(wanted.full))
            return found

        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(self._short, inspect)
            except Refused as refused:
                if refused.status == 404:
                    return None
                raise NodeFailed(f"dockerd cannot look at the image {wanted.full}: {plain(refused.words)}") from refused
            except Gone:
                await self._dockerd.back()

    async def _pull(self, wanted: Reference, progress: Progress) -> None:
        while (pull := self._pulls.get(wanted.full)) and pull.stop.is_set() and pull.task is not None:
            await asyncio.wait([pull.task])  # it was given up just now
            await asyncio.sleep(0)  # its last callback takes it off the list
        if pull is None:
            pull = self._pulls[wanted.full] = _Pull()
            pull.task = asyncio.create_task(self._pulling(wanted, pull), name=f"pull {wanted.full}")
            pull.task.add_done_callback(lambda task: self._pulled(wanted, task))
        assert pull.task is not None, "made with it"
        pull.waiting.append(progress)
        progress(f"pull {wanted.full}", 0, 0)
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.waiting.remove(progress)
            if not pull.waiting:
                pull.stop.set()

    def _pulled(self, wanted: Reference, task: asyncio.Task[None]) -> None:
        del self._pulls[wanted.full]
        if not task.cancelled():
            task.exception()  # whoever waits has it; nobody may be left

    async def _pulling(self, wanted: Reference, pull: _Pull) -> None:
        loop = asyncio.get_running_loop()
        for tries_left in reversed(range(PULL_TRIES)):
            try:
                await loop.run_in_executor(self._threads, self._fetch, wanted, pull)
                break
            except Gone as gone:
                if not tries_left or pull.stop.is_set():
                    raise NodeFailed(f"the image {wanted.full} could not be pulled: {gone}") from gone
                await self._dockerd.back()

    def _fetch(self, wanted: Reference, pull: _Pull) -> None:
        """Pull in this thread; end soon after `stop` is set: dockerd gives up when nobody listens."""
        self._dockerd.reload_credentials()
        client = self._dockerd.client()
        layers = Layers()
        tag = wanted.tag

        def fetch() -> None:
            lines = client.pull(wanted.name, tag, stream=True, decode=True, platform=self.platform)
            for line in lines:
                if pull.stop.is_set():
                    lines.close()
                    raise NodeFailed(f"pulling {wanted.full} was given up")
                if words := words_of(line):
                    raise Gone(words) if _BROKEN_OFF in words else Refused(500, words)
                done, total = layers.add(line)
                pull.progress(f"pull {wanted.full}", done, total)

        try:
            self._dockerd.call(fetch)
        except Refused as refused:
            raise explain(wanted, plain(refused.words), self.platform) from refused


class Layers:
    """Adds up what a pull's lines say of its layers."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int]] = {}

    def add(self, line: dict[str, Any]) -> tuple[int, int]:
        """Take a line; return the bytes that are here, and all that are known of."""
        layer, status = str(line.get("id") or ""), str(line.get("status") or "")
        detail = line.get("progressDetail")
        if status == "Downloading" and isinstance(detail, dict) and len(self._layers) < LAYERS_MAX:
            self._layers[layer] = int(detail.get("current") or 0), int(detail.get("total") or 0)
        elif layer in self._layers and status in ("Download complete", "Verifying Checksum", "Pull complete"):
            total = self._layers[layer][1]
            self._layers[layer] = total, total
        return sum(done for done, _ in self._layers.values()), sum(total for _, total in self._layers.values())


def _image(found: dict[str, Any], wanted: Reference) -> Image:
    digests = [str(one) for one in found.get("RepoDigests") or ()]
    own = [one for one in digests if one.partition("@")[0] == wanted.name]
    config = found.get("Config") or {}
    return Image(str(found["Id"]), (own or [""])[0], str(config.get("StopSignal") or ""))


def explain(wanted: Reference, words: str, platform: str) -> BacalhauError:
    """Return why a pull failed, with what to do."""
    low = words.lower()
    registry = wanted.host or "Docker Hub"
    if any(part in low for part in _PLATFORM):
        return _wrong_platform(wanted, platform, words)
    if any(part in low for part in _DENIED):
        login = f"docker login {wanted.host}".strip()
        return NodeFailed(
            f"{registry} does not let this node have the image {wanted.full}: {words}",
            hint=f"check the name; if the image is private, `{login}` as the daemon's user on the node",
        )
    if any(part in low for part in _ABSENT):
        return SpecError(
            f"there is no image {wanted.full} at {registry}: {words}",
            place="Engine.Params.Image",
            hint="check name and tag; an image built on another machine has to be pushed to a registry first",
        )
    return NodeFailed(
        f"the image {wanted.full} could not be pulled from {registry}: {words}",
        hint="can the node reach the registry? `docker pull` there says more",
    )


def _wrong_platform(wanted: Reference, platform: str, words: str) -> BacalhauError:
    architecture = platform.rpartition("/")[2]
    return SpecError(
        f"the image {wanted.full} is not for this node's platform, {platform}: {words}",
        place="Engine.Params.Image",
        hint=f"build it for {platform}, or ask for other nodes with the constraint os_arch != {architecture}",
    )
