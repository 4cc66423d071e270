"""The container that is created for a run: closed by default, limited as allocated, devices as vendors want them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from bacalhau_daemon.compute import gpus
from bacalhau_engines.docker import create
from bacalhau_engines.docker.create import Choices, HostPort
from bacalhau_engines.docker.ports import Ports
from bacalhau_engines.docker.settings import Settings
from bacalhau_engines.docker.spec import DockerSpec
from bacalhau_engines.testing import Program, local_input, run_request
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.job import NetworkConfig, NetworkType, Port, SpecConfig
from bacalhau_protocol.models.resources import Gpu, Resources, ResourcesConfig
from bacalhau_protocol.plugins import PluginContext, RunRequest

MIB = 1024 * 1024


def request(tmp_path: Path, network: NetworkType = NetworkType.NONE, **more: Any) -> RunRequest:
    run = run_request(tmp_path, Program(SpecConfig(type="docker", params={"Image": "busybox"})), **more)
    task = msgspec.structs.replace(run.task, network=NetworkConfig(type=network))
    return msgspec.structs.replace(run, job=msgspec.structs.replace(run.job, tasks=(task,)))


def body(run: RunRequest, settings: Settings | None = None, **chosen: Any) -> dict[str, Any]:
    choices = Choices(**{"spec": DockerSpec(image="busybox"), "image": "sha256:1", **chosen})
    return create.container(run, choices, settings or Settings(), "owner", "n-1")


def test_a_container_is_closed(tmp_path: Path) -> None:
    """No network, no capabilities, no new privileges, no swap, a limit to everything."""
    run = msgspec.structs.replace(request(tmp_path), resources=Resources(cpu=0.25, memory=64 * MIB))
    made = body(run)
    host = made["HostConfig"]
    assert made["NetworkDisabled"]
    assert {key: host[key] for key in ("NetworkMode", "CapDrop", "CapAdd", "SecurityOpt", "PidsLimit")} == {
        "NetworkMode": "none", "CapDrop": ["ALL"], "CapAdd": [], "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": 1024,
    }  # fmt: skip
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (64 * MIB, 64 * MIB, 250_000_000)
    assert not {"Privileged", "Devices", "DeviceRequests", "PortBindings", "ExtraHosts"} & host.keys()


def test_what_the_operator_allows_is_given(tmp_path: Path) -> None:
    """Capabilities, another runtime, a read-only root."""
    settings = Settings(capabilities=frozenset({"CHOWN"}), runtime="runsc", read_only_root=True, init=False, user="7:7")
    made = body(request(tmp_path), settings)
    host = made["HostConfig"]
    assert (host["CapAdd"], host["Runtime"], host["ReadonlyRootfs"], host["Init"]) == (["CHOWN"], "runsc", True, False)
    assert made["User"] == "7:7"


def test_a_name_is_of_one_attempt_and_an_owner_of_one_directory(tmp_path: Path) -> None:
    """So that a conflict means found, and a sweep touches nobody else's."""
    assert len({create.name_of(owner, "e-1", attempt) for owner in ("a", "b") for attempt in (1, 2)}) == 4
    owners = {
        create.owner_of(PluginContext(node_id=node, data_dir=tmp_path / place))
        for node in ("a", "b")
        for place in ("x", "y")
    }
    assert len(owners) == 4


def test_variables_have_an_order_of_strength(tmp_path: Path) -> None:
    """The job's, then the engine's, then the ports'."""
    run = request(tmp_path, env={"A": "job", "B": "job", "BACALHAU_JOB_ID": "j"})
    spec = DockerSpec(image="x", variables=("B=engine", "C=x=y"))
    env = create.environment(run, spec, (HostPort("web", 20001, 80),))
    assert env == {
        "A": "job", "B": "engine", "C": "x=y", "BACALHAU_JOB_ID": "j",
        "BACALHAU_HOST_PORT_web": "20001", "BACALHAU_PORT_web": "80",
    }  # fmt: skip


def test_ports_are_published_where_it_was_asked(tmp_path: Path) -> None:
    """On a bridge; the host's name can be resolved there."""
    ports = (HostPort("web", 20001, 80, "127.0.0.1"), HostPort("admin", 23470, 9090, "0.0.0.0"))
    made = body(request(tmp_path, NetworkType.BRIDGE), ports=ports)
    assert made["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20001"}],
        "9090/tcp": [{"HostIp": "0.0.0.0", "HostPort": "23470"}],
    }
    assert made["HostConfig"]["ExtraHosts"] == ["host.docker.internal:host-gateway"]


def test_inputs_are_read_only_down_to_what_is_mounted_in_them(tmp_path: Path) -> None:
    """A file system below an input would be writable through it: each gets a read-only mount of its own."""
    data = tmp_path / "data"
    (data / "sub" / "deep").mkdir(parents=True)
    writable = msgspec.structs.replace(local_input(tmp_path / "data" / "sub", "/rw"), read_only=False)
    run = msgspec.structs.replace(request(tmp_path), inputs=(local_input(data, "/in/"), writable), outputs=())
    mounts = create.mounts(run, (str(data / "sub"), str(tmp_path / "database"), str(data / "sub" / "deep")))
    assert [(mount["Target"], mount["ReadOnly"], mount["BindOptions"]["NonRecursive"]) for mount in mounts] == [
        ("/in", True, True), ("/rw", False, False), ("/in/sub", True, True), ("/in/sub/deep", True, True),
    ]  # fmt: skip


def test_mounts_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a daemon whose data directory was named relatively."""
    monkeypatch.chdir(tmp_path)
    run = msgspec.structs.replace(request(tmp_path), execution_dir=Path("e-1"))
    run = msgspec.structs.replace(run, inputs=(local_input(Path("e-1"), "/in"),))
    sources = [mount["Source"] for mount in create.mounts(run, ())]
    assert sources == [str(tmp_path / "e-1"), str(tmp_path / "e-1" / "results" / "out")]


def test_mount_points_are_unescaped() -> None:
    """As the kernel writes them."""
    text = "22 1 8:1 / / rw - ext4 x rw\n23 22 8:2 / /a\\040b rw - ext4 x rw\nnonsense\n"
    assert create.mount_points_of(text) == ("/", "/a b")


@pytest.mark.parametrize(
    ("asked", "given", "limit"), [("", 0, 8 * 1024**3), ("10MB", 10**7, 10**7), (" ", 5, 8 * 1024**3)]
)
def test_disk_is_what_was_asked_for(tmp_path: Path, asked: str, given: int, limit: int) -> None:
    """Or the operator's limit, when the task says nothing."""
    run = request(tmp_path)
    task = msgspec.structs.replace(run.task, resources=ResourcesConfig(disk=asked))
    job = msgspec.structs.replace(run.job, tasks=(task,))
    run = msgspec.structs.replace(run, job=job, resources=Resources(disk=given))
    assert create.disk_bytes(run, Settings()) == limit


def test_a_quota_is_used_where_there_is_one(tmp_path: Path) -> None:
    """Of the container's own file system."""
    assert body(request(tmp_path), disk_quota=True, disk_bytes=10**7)["HostConfig"]["StorageOpt"] == {
        "size": "10000000"
    }


# ── GPUs, from what the vendors' tools print ──────────────────────────────────────────────────────────────────────────

NVIDIA = "0, Tesla T4, 15360\n1, Tesla T4, 15360\n"
AMD = (
    '{"card0": {"VRAM Total Memory (B)": "68702699520", "Card series": "Instinct MI210", "PCI Bus": "0000:E7:00.0"},'
    ' "system": {"Driver version": "6.2"}}'
)
INTEL = (
    '{"device_id": 0, "device_name": "Intel Corporation Device 56c1 (rev 05)",'
    ' "memory_physical_size_byte": "5314183168", "pci_bdf_address": "0000:e9:00.0"}'
)


def devices(tmp_path: Path, *addresses: str) -> Path:
    """Lay out /dev as udev does for these cards."""
    by_path = tmp_path / "dev" / "dri" / "by-path"
    by_path.mkdir(parents=True)
    for number, address in enumerate(addresses):
        for kind, node in (("card", f"card{number}"), ("render", f"renderD{128 + number}")):
            (by_path.parent / node).touch()
            (by_path / f"pci-{address}-{kind}").symlink_to(f"../{node}")
    return tmp_path / "dev"


def test_nvidia_cards_are_asked_for_by_their_numbers() -> None:
    """With the capability that its runtime knows."""
    found = tuple(gpus.parse_nvidia(NVIDIA))
    assert create.gpu_access(Resources(gpu=1, gpus=found[1:])) == {
        "DeviceRequests": [{"Driver": "", "DeviceIDs": ["1"], "Capabilities": [["gpu"]]}]
    }


def test_amd_and_intel_cards_are_devices(tmp_path: Path) -> None:
    """AMD's own control device, and the nodes that belong to the card's address; without the right to make nodes."""
    found = (*gpus.parse_amd(AMD), gpus.parse_intel_device(INTEL))
    dev = devices(tmp_path, "0000:e7:00.0", "0000:e9:00.0")
    given = create.gpu_access(Resources(gpu=2, gpus=found), dev)["Devices"]
    assert [Path(one["PathOnHost"]).relative_to(dev).as_posix() for one in given] == [
        "kfd", "dri/card0", "dri/renderD128", "dri/card1", "dri/renderD129",
    ]  # fmt: skip
    assert {one["CgroupPermissions"] for one in given} == {"rw"}


def test_a_device_that_is_gone_is_said(tmp_path: Path) -> None:
    """With its address."""
    with pytest.raises(NodeFailed, match=r"0000:01:00\.0"):
        create.gpu_access(Resources(gpu=1, gpus=(Gpu(vendor="Intel", pci_address="0000:01:00.0"),)), tmp_path)


# ── ports ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_ports_go_round_and_are_given_once() -> None:
    """One that somebody else has is passed over; one that was given back comes again."""
    ports = Ports(3000, 3003, lambda _, number: number != 3001)
    first = ports.take([Port(name="a", target=80), Port(name="b")], shared_with_host=False)
    assert [(port.host, port.target) for port in first] == [(3000, 80), (3002, 3002)]
    assert [port.target for port in ports.take([Port(name="c", target=80)], shared_with_host=True)] == [3003]
    with pytest.raises(NodeFailed, match="no port from 3000 to 3003 is free"):
        ports.take([Port(name="d")], shared_with_host=False)
    ports.give_back([3002])
    assert ports.take([Port(name="d")], shared_with_host=False)[0].host == 3002


def test_all_ports_or_none() -> None:
    """A run that cannot have them all holds none."""
    ports = Ports(3000, 3001, lambda _, number: number != 9000)
    with pytest.raises(NodeFailed, match="port 9000 of this node is in use"):
        ports.take([Port(name="a"), Port(name="b", static=9000)], shared_with_host=False)
    assert len(ports.take([Port(name="a"), Port(name="b")], shared_with_host=False)) == 2


def test_ports_of_found_runs_are_held() -> None:
    """Although nobody listens there yet."""
    ports = Ports(3000, 3001, lambda *_: True)
    ports.hold([3000])
    assert ports.take([Port(name="a")], shared_with_host=True)[0].host == 3001
