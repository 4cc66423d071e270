"""The screens on a terminal (a pty): the first frame next to a bare Textual app's, keys in a long list, and the line.

Whatever is measured runs in a process of its own, as it does for a user. The cluster of the lists is one in memory.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol.api.tokens import Credential, decode_credential
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from tests.bench.floors import p
from tests.e2e.terminal import Terminal

ROUNDS = 9
RATIO_MAX = 1.6
JOBS, KEYS = 10_000, 150
ARRIVALS = 15
CHANGES_PER_S, BYTES_PER_S_MAX = 200, 5_000
WARM_UP_S, WATCHED_S = 3.0, 6.0
BARE = """
from textual.app import App
from textual.widgets import Static
class Bare(App[None]):
    def compose(self):
        yield Static("Jobs and a bare application")
Bare().run()
"""


def environment(config_dir: Path) -> dict[str, str]:
    """Return an environment whose only credential is for an address where nobody answers.

    Compiled modules are kept, as they are for every user who does not start the program for the first time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"nats://127.0.0.1:{free.getsockname()[1]}"
    credential = Credential(address=address, identity="bench", role="admin", secret="bench.nobody", cluster="c-bench")
    path = config_dir / "credentials" / "default.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.json.encode(credential))
    path.chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "BACALHAU_CONFIG_DIR": str(config_dir), "PYTHONPYCACHEPREFIX": str(config_dir / "compiled")}


async def first_frame_s(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Start a program; return the seconds until its first words are on the terminal, and the CPU seconds it took."""
    async with Terminal(command, environment) as terminal:
        seconds = await terminal.shows("Jobs")
        times = psutil.Process(terminal.process.pid).cpu_times()
        return seconds, times.user + times.system


async def first_frame(directory: Path) -> None:
    """Compare with a bare Textual app, taking turns so that a busy machine slows both."""
    settings = environment(directory)
    took: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
    await first_frame_s([sys.executable, "-m", "bacalhau_tui"], settings)  # compiles
    for _ in range(ROUNDS):
        took["bare"].append(await first_frame_s([sys.executable, "-c", BARE], settings))
        took["ours"].append(await first_frame_s([sys.executable, "-m", "bacalhau_tui"], settings))
    wall = {name: statistics.median(pair[0] for pair in pairs) for name, pairs in took.items()}
    cpu = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in took.items()}
    print(f"first frame, bare Textual app   p50 {wall['bare'] * 1e3:.0f} ms   CPU {cpu['bare'] * 1e3:.0f} ms")
    print(f"first frame, ours               p50 {wall['ours'] * 1e3:.0f} ms   CPU {cpu['ours'] * 1e3:.0f} ms")
    ratio, cpu_ratio = wall["ours"] / wall["bare"], cpu["ours"] / cpu["bare"]
    print(f"  ratio                         {ratio:.2f}   by CPU {cpu_ratio:.2f}   (target {RATIO_MAX})")


def crowd(jobs: int, changes_per_s: int, new_per_s: int = 0, *, size: tuple[int, int] = (80, 24)) -> Terminal:
    """Start the app on a cluster in memory."""
    numbers = [str(number) for number in (jobs, changes_per_s, new_per_s)]
    root = Path(__file__).resolve().parents[2]
    return Terminal([sys.executable, "-m", "tests.bench.crowd", *numbers], os.environ, size, str(root))


async def keys_of(terminal: Terminal, key: str) -> tuple[list[float], float]:
    """Type a key again and again; return the milliseconds until something was painted, and the bytes of each."""
    took: list[float] = []
    before = len(terminal.written)
    for _ in range(KEYS):
        start, seen = time.perf_counter(), len(terminal.written)
        terminal.type(key)
        await terminal.frame(seen)
        took.append((time.perf_counter() - start) * 1e3)
    await terminal.bytes_within(0.3)
    return took, (len(terminal.written) - before) / KEYS


async def scrolling() -> None:
    """Walk through a long list that nobody changes, then one that changes all the time."""
    for changes in (0, CHANGES_PER_S):
        async with crowd(JOBS, changes) as terminal:
            await terminal.shows("live", "10,000")
            if not changes:
                await terminal.quiet(1.0)
            process = psutil.Process(terminal.process.pid)
            for key, name in (("j", "one line"), ("\x04", "half a page")):
                before = process.cpu_times()
                took, size = await keys_of(terminal, key)
                after = process.cpu_times()
                cpu_ms = (after.user + after.system - before.user - before.system) / KEYS * 1e3
                print(
                    f"{JOBS} jobs, {changes:3} changes/s, {name:12} p50 {p(took, 50):5.1f} ms"
                    f"  p95 {p(took, 95):5.1f} ms  CPU {cpu_ms:4.1f} ms  {size:5.0f} bytes a key"
                )


async def arrival(directory: Path) -> None:
    """Submit jobs to a real cluster, and see when each is on the screen of somebody else."""
    with DevStack(directory) as stack:
        stack.hybrid()
        path = stack.config_dir / "credentials" / "default.json"
        client = await Client.connect(decode_credential(path.read_bytes(), str(path)))
        took: list[float] = []
        async with Terminal([sys.executable, "-m", "bacalhau_tui"], stack.environment) as terminal:
            await terminal.shows("live")
            for number in range(ARRIVALS):
                await terminal.quiet(1.0)
                job = Job(
                    name=f"arrives-{number}", type="batch", tasks=(Task(name="main", engine=SpecConfig(type="noop")),)
                )
                start = time.perf_counter()
                await client.submit_job(job)
                await terminal.shows(f"arrives-{number}")
                took.append((time.perf_counter() - start) * 1e3)
        await client.close()
    print(f"a job submitted elsewhere is seen after   p50 {p(took, 50):.0f} ms   max {max(took):.0f} ms   (target 500)")


async def line() -> None:
    """Count the bytes of an untouched screen."""
    for jobs, changes, new, size in (
        (JOBS, 0, 0, (80, 24)),
        (JOBS, CHANGES_PER_S, 0, (120, 40)),
        (40, CHANGES_PER_S, 0, (80, 24)),
        (1_000, CHANGES_PER_S // 2, CHANGES_PER_S // 2, (120, 40)),
    ):
        async with crowd(jobs, changes, new, size=size) as terminal:
            await terminal.shows("live")
            await terminal.bytes_within(WARM_UP_S)
            rate = await terminal.bytes_within(WATCHED_S) / WATCHED_S
            target = BYTES_PER_S_MAX if changes else 0
            what = f"{jobs} jobs, {changes} changes/s, {new} new/s, {size[0]}x{size[1]}"
            print(f"{what:52} {rate:6.0f} bytes/s   (target {target})")


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(first_frame(Path(directory) / "config"))
        asyncio.run(arrival(Path(directory) / "cluster"))
    asyncio.run(scrolling())
    asyncio.run(line())
