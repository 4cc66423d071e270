"""`nats`, the default: results stay on the node and are fetched from it over NATS, chunk by chunk.

Large results are hashed now, so that whoever fetches them does not wait; small ones when they are asked for, which is
soon done and mostly never. How long results are kept is the node's retention (`compute/retention.py`). The result names
node and execution, nothing else: the orchestrator gives out tickets for them.
"""

from __future__ import annotations

import asyncio

from bacalhau_daemon.compute import layout, manifest
from bacalhau_daemon.storage import params
from bacalhau_protocol.errors import NodeFailed
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.plugins import Ability, PluginContext, Progress, Published, RunRequest

HASH_AHEAD_BYTES = 64 * 1024 * 1024


class NatsPublisher:
    """Keeps results where they are."""

    def __init__(self, context: PluginContext) -> None:
        self._node_id = context.node_id

    async def ability(self) -> Ability:
        """Always available."""
        return Ability(available=True)

    def check(self, publisher: SpecConfig) -> list[str]:
        """There are no parameters."""
        return params.read(publisher, ())[1]

    async def publish(self, run: RunRequest, progress: Progress) -> Published:
        """Leave the results where they are. Raises `NodeFailed` when nobody could fetch them."""
        result = SpecConfig(type="nats", params={"NodeID": self._node_id, "ExecutionID": run.execution_id})
        if layout.is_absent(run.execution_dir):
            return Published(result=result)
        try:
            size = await _size(run)
            if size > HASH_AHEAD_BYTES:
                await asyncio.to_thread(manifest.make, run.execution_dir, progress)
        except OSError as error:
            raise NodeFailed(f"results cannot be read: {error}", place=run.execution_id) from error
        progress("results", size, size)
        return Published(result=result, size_bytes=size)

    async def close(self) -> None:
        """Nothing is held open."""


async def _size(run: RunRequest) -> int:
    if run.outputs:
        return await asyncio.to_thread(manifest.total_bytes, run.results_dir)
    return manifest.total_bytes(run.results_dir)  # three files, which have just been looked at
