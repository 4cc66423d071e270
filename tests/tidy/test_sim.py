"""The simulator drives production code; it must not grow a cluster of its own."""

from __future__ import annotations

import ast
from pathlib import Path

from bacalhau_daemon.core.compute import Compute
from bacalhau_daemon.core.loop import Loop
from bacalhau_daemon.core.orchestrator import Orchestrator
from bacalhau_protocol.ncl.compute import ComputeSession
from bacalhau_protocol.ncl.orchestrator import OrchestratorSessions
from tests.sim.world import World

SIM = Path(__file__).resolve().parents[1] / "sim"
DECIDING = {"decide", "fold", "follow", "seal", "place", "reconcile", "decide_bid", "envelope", "persisted"}


def test_the_simulator_runs_the_production_machines() -> None:
    """Machines, loop and sessions are exactly the production classes, not subclasses or look-alikes."""
    world = World(0, nodes_count=1)
    orchestrator, node = world.orchestrator.machine, world.nodes["n-0"].machine

    assert type(orchestrator) is Orchestrator
    assert type(node) is Compute
    assert type(orchestrator.loop) is Loop
    assert type(node.loop) is Loop
    assert type(orchestrator.link.sessions) is OrchestratorSessions
    assert type(node.session) is ComputeSession


def test_the_simulator_decides_nothing() -> None:
    """No module of the simulator defines, or calls by itself, what decides, folds, seals records or places work."""
    found = []
    for path in SIM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in DECIDING:
                found.append(f"{path.name}:{node.lineno} defines {node.name}")
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DECIDING:
                found.append(f"{path.name}:{node.lineno} calls {node.func.attr}")

    assert found == []
