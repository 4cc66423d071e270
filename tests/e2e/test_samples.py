"""Job files that were run on a real Bacalhau, with how they ended there, end the same here.

Left out are those that need S3, IPFS or job types that are not there yet. Differences on purpose stand in `EXPECTED`.
"""

from __future__ import annotations

import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.spec import read_spec
from bacalhau_protocol.models.states import ComputeStateType, JobStateType
from tests.builders_docker import make_image
from tests.builders_wasm import wat
from tests.e2e.cluster import client_of, ended, wait_for

pytestmark = [pytest.mark.needs_docker, pytest.mark.timeout(180)]

SAMPLES = Path(__file__).parents[1] / "data" / "jobs" / "valid"
IMAGE = "localhost:5000/busybox:latest"
SETTINGS = """
[engines.docker]
networks = ["bridge", "host"]
[engines.noop]
enabled = false
[publishers.local]
port = 0
[compute]
allow_env = ["GREET_*"]
"""


class End(NamedTuple):
    """How a job ends: its state, and of each completed execution the exit code and the beginning of what it printed."""

    state: str
    exit_code: int = 0
    printed: tuple[str, ...] = ()
    said: str = ""  # somewhere in the reasons, when it fails
    results: str = ""
    retried: bool = False  # again and again, which takes its time: to the end only with SOAK=1


_REPORT = "good morning part {} of 2, mode fast in /report\nten bottles\nhello from host"
EXPECTED = {
    "01-batch-minimal.yaml": End("Completed", 0, ("minimal",)),
    "02-batch-everything-docker.yaml": End(
        "Completed", 3, (_REPORT.format(0), _REPORT.format(1)), results="urlDownload"
    ),
    "03-batch-count-zero.yaml": End("Completed"),
    "10-batch-url-input.yaml": End("Completed", 0, ("web content",)),
    "15-batch-http-network.yaml": End("Failed", said="networks of type HTTP"),
    "16-batch-wasm.yaml": End("Completed", 0, ("Hello, world!",)),
    "17-batch-wasm-args-env-files.yaml": End("Completed", 0, ("hello from host",), results="urlDownload"),
    "18-batch-wasm-imports.yaml": End("Completed", 0, ("17",)),  # Bacalhau says exit code -1 of a normal return
    "19-batch-wasm-legacy.json": End("Completed", 7, ("Exiting with 7",)),
    "20-batch-gpu.yaml": End("Failed", said="GPU"),
    "21-batch-soft-constraints.yaml": End("Completed", 0, ("here",)),
    "22-batch-numeric-constraints-queued.yaml": End("Queued", said="cores"),
    "24-batch-timeout.yaml": End("Failed", said="Execution timed out after 1s", retried=True),
    "25-lower-case-keys-unknown-fields.json": End("Completed", 0, ("relaxed",), results="urlDownload"),
    "26-batch-noop-engine.yaml": End("Failed", said="noop"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DevStack, Path, str]]:
    """Give a cluster of two nodes, the directory that stands for /data, and the address of a web page."""
    data = tmp_path_factory.mktemp("data")
    _lay_out(data)
    make_image(IMAGE)
    handler = functools.partial(_Quiet, directory=str(data / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        with DevStack(tmp_path_factory.mktemp("samples") / "cluster") as stack:
            stack.config_dir.mkdir(parents=True)
            (stack.config_dir / "daemon.toml").write_text(SETTINGS)
            stack.environment["GREET_NAME"] = "world"
            stack.orchestrator()
            for name, zone, tier in (("n-a", "a", "gold"), ("n-b", "b", "silver")):
                allowed = ["--allow-path", f"{data}/**", "--allow-path", f"{data}/rw/**:rw"]
                stack.compute(name, "--label", f"zone={zone}", "--label", f"tier={tier}", *allowed)
            yield stack, data, f"127.0.0.1:{web.server_port}"
        web.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _lay_out(data: Path) -> None:
    for name in ("in", "wasm", "web", "rw"):
        (data / name).mkdir()
    (data / "in" / "hello.txt").write_text("hello from host")
    (data / "web" / "page.txt").write_text("web content")
    for name, text in (
        ("noop", HELLO),
        ("cat", CAT),
        ("dynamic", DYNAMIC),
        ("easter", EASTER),
        ("exit_code", EXIT_CODE),
    ):
        wat(data / "wasm", text, name)


def sample(name: str, data: Path, web: str) -> Job:
    """Read a sample; paths and addresses of its machine become those of this test."""
    text = (SAMPLES / name).read_text().replace("/data/", f"{data}/").replace("127.0.0.1:28000", web)
    text = text.replace('SourcePath": "/data', f'SourcePath": "{data}').replace(
        "SourcePath: /data", f"SourcePath: {data}"
    )
    return read_spec(text, name, lenient=True).job


@pytest.mark.parametrize("name", sorted(EXPECTED))
async def test_it_ends_as_on_the_real_thing(world: tuple[DevStack, Path, str], name: str) -> None:
    """State, exit code, output and kind of results."""
    stack, data, web = world
    expected = EXPECTED[name]
    async with client_of(stack.daemons[0]) as client:
        job_id = (await client.submit_job(sample(name, data, web))).job_id
        if expected.state == "Queued":

            async def waits() -> bool:
                return (await client.get_job(job_id)).job.state.state_type is JobStateType.QUEUED

            await wait_for(waits, "it waits")
            full = await client.get_job(job_id)
            await client.stop_job(job_id)
        elif expected.retried and not os.environ.get("SOAK"):

            async def failed() -> bool:
                return any(
                    expected.said in str(one.compute_state.message) for one in (await client.get_job(job_id)).executions
                )

            await wait_for(failed, "the first try has failed")
            await client.stop_job(job_id)
            return
        else:
            full = await ended(client, job_id, 120)
    assert full.job.state.state_type.name.title() == expected.state, full.job.state
    if expected.said:
        reasons = [str(full.job.state.message), *(str(one.compute_state.message) for one in full.executions)]
        assert any(expected.said in reason for reason in reasons), reasons
    if expected.state == "Completed":
        _check(full.executions, expected)


def _check(executions: list[Execution], expected: End) -> None:
    done = [one for one in executions if one.compute_state.state_type is ComputeStateType.COMPLETED]
    by_partition = sorted(done, key=lambda one: one.partition_index or 0)
    assert len(by_partition) == len(expected.printed)
    for one, printed in zip(by_partition, expected.printed, strict=True):
        assert one.run_output is not None
        assert one.run_output.stdout.strip().startswith(printed)
        assert one.run_output.exit_code == expected.exit_code
        if expected.results:
            assert one.published_result is not None
            assert one.published_result.kind == expected.results.lower()


# ── modules, in the place of those that the samples were run with ─────────────────────────────────────────────────────

_WRITE = '(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
HELLO = f"""(module {_WRITE} (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\0e\\00\\00\\00") (data (i32.const 16) "Hello, world!\\0a")
  (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
DYNAMIC = f"""(module {_WRITE} (import "input.wasm" "easter" (func $easter (result i32))) (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\03\\00\\00\\00") (data (i32.const 16) "00\\0a")
  (func (export "_start") (local $n i32) (local.set $n (call $easter))
    (i32.store8 (i32.const 16) (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 10))))
    (i32.store8 (i32.const 17) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"""
EASTER = '(module (func (export "easter") (result i32) (i32.const 17)))'
CAT = f"""(module {_WRITE}
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "hello.txt")
  (func (export "_start") (local $fd i32)
    (local.set $fd (i32.const 3))
    (block $done (loop $next
      (br_if $done (i32.ne (call $prestat (local.get $fd) (i32.const 48)) (i32.const 0)))
      (if (i32.eqz (call $open (local.get $fd) (i32.const 0) (i32.const 64) (i32.const 9) (i32.const 0)
                    (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 40)))
        (then
          (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
          (drop (call $read (i32.load (i32.const 40)) (i32.const 0) (i32.const 1) (i32.const 8)))
          (i32.store (i32.const 4) (i32.load (i32.const 8)))
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
          (br $done)))
      (local.set $fd (i32.add (local.get $fd) (i32.const 1)))
      (br $next)))))"""
EXIT_CODE = f"""(module {_WRITE}
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\\10\\00\\00\\00\\0f\\00\\00\\00") (data (i32.const 16) "Exiting with 0\\0a")
  (func (export "_start") (local $n i32) (local $entry i32)
    (drop (call $sizes (i32.const 40) (i32.const 44)))
    (drop (call $environ (i32.const 4096) (i32.const 65536)))
    (loop $next
      (local.set $entry (i32.load (i32.add (i32.const 4096) (i32.mul (local.get $n) (i32.const 4)))))
      (if (i32.eq (i32.load (local.get $entry)) (i32.const 0x54495845))
        (then (i32.store8 (i32.const 29) (i32.load8_u (i32.add (local.get $entry) (i32.const 10))))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $n) (i32.load (i32.const 40)))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $exit (i32.sub (i32.load8_u (i32.const 29)) (i32.const 48)))))"""
