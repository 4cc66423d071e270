"""A cluster on this machine that does real work: `just demo`.

One orchestrator and two compute nodes, as processes. Each node has its own half of the Python standard library's
sources. Jobs in WebAssembly go to the half that they ask for, count and hash what lies there, and their results come
back over NATS and are checked. On a terminal the TUI then opens on that cluster. Nothing is left running.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol import errors

EXAMPLES = Path(__file__).resolve().parent
ZONES = ("north", "south")
SKIPPED = frozenset({"test", "tests", "site-packages", "dist-packages", "__pycache__", "idlelib", "lib2to3"})


def say(words: str) -> None:
    """Print a headline."""
    print(f"\n\033[1m{words}\033[0m" if sys.stdout.isatty() else f"\n{words}", flush=True)


def spread_sources(where: Path) -> dict[str, Path]:
    """Give each zone its own half of the standard library; return the directories by zone."""
    library = Path(sysconfig.get_paths()["stdlib"])
    directories = {zone: where / zone for zone in ZONES}
    for source in sorted(library.rglob("*.py")):
        relative = source.relative_to(library)
        if SKIPPED.isdisjoint(relative.parts):
            zone = ZONES[relative.parts[0].lower() >= "i"]
            target = directories[zone] / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return directories


class Demo:
    """The cluster and what is done on it."""

    def __init__(self, stack: DevStack, data: dict[str, Path]) -> None:
        self.stack, self.data = stack, data

    def start(self) -> None:
        """Start the daemons."""
        self.stack.orchestrator()
        for zone in ZONES:
            allowed = [f"{self.data[zone]}/**:ro", str(self.data[zone]), f"{EXAMPLES}/wasm/*:ro"]
            paths = [word for path in allowed for word in ("--allow-path", path)]
            self.stack.compute(f"node-{zone}", "--label", f"zone={zone}", *paths)
        self.show("node", "list")

    def show(self, *command: str, expect: int = 0) -> str:
        """Run a command as a user would, print it and what it says."""
        print("$ bacalhau-tui " + " ".join(_shorter(word) for word in command), flush=True)
        done = self.stack.command(*command, check=False)
        print(done.stdout, end="", flush=True)
        if done.returncode != expect:
            raise errors.NodeFailed(f"that ended with {done.returncode}, not with {expect}", hint=done.stderr)
        return done.stdout

    def run(self, job: str, zone: str, *more: str) -> str:
        """Submit one of the examples for a zone and wait; return its id."""
        values = {"zone": zone, "data": str(self.data[zone]), "modules": str(EXAMPLES / "wasm")}
        options = [word for name, value in values.items() for word in ("-V", f"{name}={value}")]
        self.show("job", "run", str(EXAMPLES / "jobs" / f"{job}.yaml"), *options, *more, "--wait")
        return self.id_of(f"{job}-{zone}")

    def id_of(self, name: str) -> str:
        """Return a job's id."""
        found = json.loads(self.stack.command("job", "get", name, "-o", "json").stdout)
        return str(found.get("Job", found)["ID"])

    def check_hashes(self, job_id: str, zone: str, into: Path) -> int:
        """Fetch the hashes that the job made and compare them with the files here; return how many."""
        self.show("job", "results", job_id, "-d", str(into))
        lines = (into / "out" / "SHA256SUMS").read_text().splitlines()
        for line in lines:
            expected, _, name = line.partition("  ")
            path = self.data[zone] / name.removeprefix("/data/").removeprefix("./")
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
                raise errors.NodeFailed(f"the job hashed {name} as {expected}, which it is not")
        return len(lines)


def _shorter(word: str) -> str:
    return word.replace(f"{EXAMPLES}/", "examples/").replace(f"{Path(tempfile.gettempdir())}/", "")


def play(demo: Demo, where: Path) -> None:
    """Do everything that the demo shows."""
    say("Two compute nodes, each with its own half of the Python standard library")
    demo.start()
    for zone in ZONES:
        say(f"Count identifiers where the {zone} half lies")
        demo.run("wordcount", zone)
    say("Why did it run there? Every node, and what it lacked")
    demo.show("job", "explain", demo.id_of("wordcount-north"))
    say("Hash the south half, fetch the result over NATS, check it here")
    count = demo.check_hashes(demo.run("sha256", "south"), "south", where / "hashes")
    print(f"{count} files hashed on node-south are what they are here")
    say("A job that fits nowhere waits, and says why")
    demo.show("job", "run", str(EXAMPLES / "jobs" / "nowhere.yaml"))
    demo.show("job", "explain", demo.id_of("nowhere"))
    demo.show("job", "stop", demo.id_of("nowhere"))
    say("The log of a job, after it has ended")
    demo.show("job", "logs", demo.id_of("wordcount-south"))
    say("All of them")
    demo.show("job", "list")


def main() -> int:
    """Run the demo; then the TUI, if somebody is there to see it."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bacalhau-demo-") as directory:
        where = Path(directory)
        data = spread_sources(where / "data")
        with DevStack(where / "cluster") as stack:
            try:
                play(Demo(stack, data), where)
            except errors.BacalhauError as error:
                print(f"\ndemo: {error}\n{error.hint}", file=sys.stderr)
                return error.exit_code
            say(f"All of that took {time.monotonic() - began:.0f} s.")
            if sys.stdin.isatty() and sys.stdout.isatty():
                subprocess.run([sys.executable, "-m", "bacalhau_tui"], env=stack.environment, check=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
