"""Makes the pictures of the README from a real cluster: `just screenshots`, or `python -m screenshots.make [NAME…]`.

The demo's cluster with the demo's jobs, some more that fail, run and wait, and the screens on it without a terminal.
Each view becomes `screenshots/<view>-<size>.svg`, and a PNG beside it for pages that show no SVG.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import msgspec
import resvg_py

from bacalhau_daemon.devstack import DevStack
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.client.testing import FakeOrchestrator
from bacalhau_protocol.transport.memory import MemoryBroker
from bacalhau_tui.app import ClusterApp
from bacalhau_tui.data.drafts import STATE_DIR
from bacalhau_tui.data.session import LinkState, Session
from bacalhau_tui.data.settings import Flags, find_credential, load_settings
from bacalhau_tui.launch import prepare_environment
from bacalhau_tui.look import DARK
from examples.demo import EXAMPLES, ZONES, Demo, spread_sources
from tests.tui.deck import Deck

HERE = Path(__file__).resolve().parent
SIZES = ((80, 24), (160, 45))
ZOOM = 1.5
FONT = "DejaVu Sans Mono"
RICH_BACKGROUND, RICH_FONT = "#292929", "Fira Code"  # of the pictures that Rich exports

INDEX = """
Name: nightly-index
Count: 2
Type: batch
Tasks: [{Name: main, Engine: {Type: noop, Params: {DelayMs: 900000}}, Resources: {CPU: "0.8", Memory: 6Gi}}]
"""
EMBED = """
Name: embed-photos
Type: batch
Constraints: [{Key: zone, Operator: "=", Values: [north]}]
Tasks: [{Name: main, Engine: {Type: noop}, Resources: {GPU: "1", Memory: 4Gi}, Timeouts: {QueueTimeout: 3600}}]
"""

VIEWS: dict[str, tuple[str, ...]] = {
    "jobs": ("j", "j", "shows:embed-photos"),
    "why": (":why embed-photos", "shows:of 2 nodes fit"),
    "executions": (":job nightly-index", "2", "shows:Running"),
    "logs": (":logs lines-north", "shows:ended", "home"),
    "results": (":results wordcount-south", "shows:identifiers.csv", "j", "j", "shows:csv"),
    "nodes": ("2", "shows:node-south"),
    "node": ("2", "shows:node-south", "enter", "shows:CAPACITY"),
    "compose": ("ctrl+n", "shows:type a part", "enter", "shows:best by score"),
    "help": ("?", "shows:THIS LIST"),
}
"""By name: what is typed on a fresh list of jobs, and the words that must then be there."""


def furnish(demo: Demo) -> None:
    """Run the jobs that the pictures show: the demo's, and some that fail, run and wait."""
    demo.start()
    for zone in ZONES:
        demo.run("wordcount", zone)
        demo.run("lines", zone)
    demo.run("sha256", "south")
    modules = f"modules={EXAMPLES / 'wasm'}"
    demo.show("job", "run", str(EXAMPLES / "jobs" / "exitcode.yaml"), "-V", modules, "-V", "code=3")
    demo.stack.command("job", "run", "-", stdin=INDEX)
    demo.stack.command("job", "run", "-", stdin=EMBED)


async def take(stack: DevStack, name: str, size: tuple[int, int]) -> None:
    """Open the screens, go to a view, and write its pictures."""
    environment = {**stack.environment, "COLORTERM": "truecolor", STATE_DIR: str(stack.directory / f"state-{size[0]}")}
    settings = load_settings(Flags(), environment)
    settings = msgspec.structs.replace(settings, profile_name="demo")

    async def connect(session: Session) -> Client:
        return await Client.connect(find_credential(settings), on_link=session.on_link)

    app = ClusterApp(settings, connect, environment=environment)
    async with app.run_test(size=size) as pilot:
        deck = Deck(app, FakeOrchestrator(MemoryBroker()), pilot)
        await deck.until(lambda: app.session.link.state is LinkState.LIVE)
        await deck.settle()
        for step in VIEWS[name]:
            if step.startswith("shows:"):
                await deck.shows(step.removeprefix("shows:"))
            elif step.startswith(":"):
                await deck.type(step)
                await deck.press("enter")
            else:
                await deck.press(step)
            await deck.settle()
        write(f"{name}-{size[0]}x{size[1]}", app.export_screenshot(title=f"bacalhau-tui: {name}"))


def write(name: str, svg: str) -> None:
    """Write a picture as SVG and as PNG."""
    svg = svg.replace(RICH_BACKGROUND, str(DARK.background))
    (HERE / f"{name}.svg").write_text(svg)
    png = resvg_py.svg_to_bytes(svg_string=svg.replace(RICH_FONT, FONT), zoom=ZOOM, monospace_family=FONT)
    (HERE / f"{name}.png").write_bytes(bytes(png))
    print(f"screenshots/{name}.svg, .png", flush=True)


def main() -> int:
    """Make all pictures, or those named."""
    names = sys.argv[1:] or list(VIEWS)
    with tempfile.TemporaryDirectory(prefix="bacalhau-pictures-") as directory:
        where = Path(directory)
        data = spread_sources(where / "data")
        with DevStack(where / "cluster") as stack:
            furnish(Demo(stack, data))
            settings = load_settings(Flags(), stack.environment)
            prepare_environment(settings)
            for name in names:
                for size in SIZES:
                    asyncio.run(take(stack, name, size))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
