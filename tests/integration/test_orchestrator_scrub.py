"""The log is verified while the orchestrator serves: old damage ends it in words."""

from __future__ import annotations

import asyncio
from functools import partial

import msgspec
import pytest
import structlog

from bacalhau_daemon.log.records import LogDamaged
from bacalhau_daemon.orchestrator import service
from bacalhau_daemon.orchestrator.scrubbing import Scrubbing
from bacalhau_daemon.testing import wait_until

from .test_orchestrator_process import flip_a_bit
from .test_orchestrator_service import JOB, Cluster, cluster

__all__ = ["cluster"]


async def test_a_bit_that_flips_in_an_old_record_ends_the_process_with_its_place(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound log is passed; when a bit of it flips, the next round names the record and what to do."""
    monkeypatch.setattr(service, "Scrubbing", partial(Scrubbing, every_s=0.05))
    with structlog.testing.capture_logs() as said:
        await cluster.start()
        client = await cluster.client()
        for name in ("first", "second"):
            await client.submit_job(msgspec.structs.replace(JOB, name=name))
        await wait_until(lambda: any(entry["event"] == "log.verified" and entry["records"] > 2 for entry in said))
        assert not cluster.service._driver.failed.done()
        flip_a_bit(cluster.data_dir / "orchestrator/log.db")

        with pytest.raises(LogDamaged, match="record 2") as caught:
            await asyncio.wait_for(cluster.service.wait(asyncio.Event()), 20)

    assert caught.value.place.endswith("log.db, record 3")
    assert "restore" in caught.value.hint
    assert caught.value.exit_code == 8


async def test_a_long_scrub_ends_at_once_with_the_daemon(cluster: Cluster) -> None:
    """Closing does not wait for the rest of the log, nor for the pause between two rounds."""
    await cluster.start()
    async with asyncio.timeout(20):
        await cluster.service.close()
