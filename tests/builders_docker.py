"""Builders for tests of the docker engine: an image made on the spot, tasks of shell lines, engines that are swept."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from bacalhau_engines.docker import DockerEngine
from bacalhau_engines.docker.dockerd import Dockerd
from bacalhau_engines.docker.settings import Settings
from bacalhau_engines.testing import Program
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.plugins import PluginContext, PreparedInput

IMAGE = "bacalhau-test/busybox:1"
BUSYBOX = Path("/bin/busybox")


@functools.cache
def missing() -> str:
    """Return why there is no docker for tests here; blank when there is."""
    try:
        asyncio.run(Dockerd(Settings().socket).version())
    except NodeFailed as error:
        return error.message
    if not BUSYBOX.exists() or b"statically linked" not in _file_type(BUSYBOX):
        return f"there is no static {BUSYBOX} to make an image of (Debian: busybox-static)"
    return ""


def _file_type(path: Path) -> bytes:
    linked = subprocess.run(["ldd", str(path)], capture_output=True, check=False)
    return b"" if linked.returncode == 0 else b"statically linked"


def api(socket: str = "") -> Any:
    """Return the SDK's client."""
    import docker  # noqa: PLC0415

    return docker.APIClient(f"unix://{socket or Settings().socket}", version="auto", timeout=60)


@contextlib.contextmanager
def client(socket: str = "") -> Iterator[Any]:
    """Give the SDK's client and close it."""
    made = api(socket)
    try:
        yield made
    finally:
        made.close()


def busybox_root(extra: bytes = b"") -> bytes:
    """Return a tar of a root directory with busybox and a name for each of its programs; `extra` is /filler."""
    listed = subprocess.run([str(BUSYBOX), "--list"], capture_output=True, check=True, text=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "etc", "root", "tmp", "var"):
            made = tarfile.TarInfo(name)
            made.type, made.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(made)
        for path, data, mode in (
            ("bin/busybox", BUSYBOX.read_bytes(), 0o755),
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n", 0o644),
            *((("filler", extra, 0o644),) if extra else ()),
        ):
            file = tarfile.TarInfo(path)
            file.size, file.mode = len(data), mode
            tar.addfile(file, io.BytesIO(data))
        for program in listed.stdout.split():
            if program != "busybox":
                link = tarfile.TarInfo(f"bin/{program}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return buffer.getvalue()


def make_image(name: str = IMAGE, *, socket: str = "", extra: bytes = b"", changes: Sequence[str] = ()) -> str:
    """Make an image of busybox, if it is not there; return its name."""
    import docker.errors  # noqa: PLC0415

    repository, _, tag = name.rpartition(":")
    with client(socket) as made:
        try:
            made.inspect_image(name)
        except docker.errors.NotFound:
            data = busybox_root(extra)
            made.import_image_from_data(data, repository=repository, tag=tag, changes=list(changes) or None)
    return name


def load_image(name: str, *, architecture: str = "", filler: bytes = b"") -> str:
    """Load an image of one layer for this or another architecture; return its name."""
    layer = busybox_root(filler)
    config = {
        "architecture": architecture or {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, ""),
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in (
            ("config.json", json.dumps(config).encode()),
            ("layer.tar", layer),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            file = tarfile.TarInfo(path)
            file.size = len(data)
            tar.addfile(file, io.BytesIO(data))
    with client() as made:
        list(made.load_image(buffer.getvalue()))
    return name


def shell(*lines: str, image: str = IMAGE, inputs: Sequence[PreparedInput] = (), **params: Any) -> Program:
    """Return a task that runs these lines of shell in a busybox."""
    values = {"Image": image, "Entrypoint": ["/bin/sh", "-c"], "Parameters": ["\n".join(lines)], **params}
    return Program(SpecConfig(type="docker", params=values), tuple(inputs))


def context(directory: Path, node_id: str = "n-test", **settings: Any) -> PluginContext:
    """Return what an engine gets, with a directory of its own below this one."""
    data_dir = directory / "plugin"
    data_dir.mkdir(mode=0o700, exist_ok=True)
    return PluginContext(node_id=node_id, data_dir=data_dir, settings=settings)


@contextlib.asynccontextmanager
async def docker_engine(directory: Path, **settings: Any) -> AsyncIterator[DockerEngine]:
    """Give an engine; nothing of it is left in the end, nor of others with the same directory."""
    made = DockerEngine(context(directory, **settings))
    try:
        yield made
    finally:
        await made.close()
        await sweep(directory, **settings)


async def sweep(directory: Path, **settings: Any) -> int:
    """Remove all containers of engines with this directory; return how many there were."""
    sweeper = DockerEngine(context(directory, **settings))
    try:
        return await sweeper.sweep(frozenset())
    finally:
        await sweeper.close()


def containers(directory: Path, socket: str = "") -> list[dict[str, Any]]:
    """Return the containers of engines with this directory, in any state."""
    from bacalhau_engines.docker import create  # noqa: PLC0415

    owner = create.owner_of(context(directory))
    with client(socket) as made:
        found: list[dict[str, Any]] = made.containers(all=True, filters={"label": f"{create.OWNER}={owner}"})
        return found
