"""The client API as a NATS micro service: what `nats micro ls`, `info` and `stats` show of it.

nats-py's own implementation answers any reply subject that it is given and handles an endpoint's requests one after
another, so only the discovery protocol is spoken here; requests go another way (`endpoint`).
"""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from bacalhau_protocol.api.messages import VERBS
from bacalhau_protocol.api.subjects import API
from bacalhau_protocol.transport.base import Bus, Message

NAME = "bacalhau"
REPLY_PREFIXES = ("_R.", "_INBOX.")  # an answer to any other subject would speak for us
_TYPE = "io.nats.micro.v1."


class VerbStats(msgspec.Struct):
    """Counters of one verb."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    nanoseconds: int = 0

    def count(self, nanoseconds: int, error: str = "") -> None:
        """Count one request that has been answered."""
        self.requests += 1
        self.nanoseconds += nanoseconds
        if error:
            self.errors += 1
            self.last_error = error


class MicroService:
    """Answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`."""

    def __init__(self, bus: Bus, instance: str, version: str, cluster: str) -> None:
        self._bus = bus
        self._who: dict[str, Any] = {
            "name": NAME,
            "id": instance,
            "version": version,
            "metadata": {"cluster": cluster},
        }
        self._started = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.stats = {verb: VerbStats() for verb in VERBS}

    async def start(self) -> None:
        """Begin to answer."""
        for verb, answer in [("PING", self._ping), ("INFO", self._info), ("STATS", self._stats)]:
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{NAME}", f"$SRV.{verb}.{NAME}.{self._who['id']}"):
                await self._bus.subscribe(subject, _Answerer(self._bus, answer).answer)

    def _ping(self) -> dict[str, Any]:
        return {"type": _TYPE + "ping_response", **self._who}

    def _info(self) -> dict[str, Any]:
        endpoints = [
            {"name": verb.replace(".", "-"), "subject": f"{API}.*.{verb}", "queue_group": "", "metadata": {}}
            for verb in VERBS
        ]
        return {
            "type": _TYPE + "info_response",
            **self._who,
            "description": "The client API of a Bacalhau cluster",
            "endpoints": endpoints,
        }

    def _stats(self) -> dict[str, Any]:
        endpoints = [
            {
                "name": verb.replace(".", "-"),
                "subject": f"{API}.*.{verb}",
                "queue_group": "",
                "num_requests": stats.requests,
                "num_errors": stats.errors,
                "last_error": stats.last_error,
                "processing_time": stats.nanoseconds,
                "average_processing_time": stats.nanoseconds // max(stats.requests, 1),
            }
            for verb, stats in self.stats.items()
        ]
        return {"type": _TYPE + "stats_response", **self._who, "started": self._started, "endpoints": endpoints}


class _Answerer:
    """Answers one kind of question."""

    def __init__(self, bus: Bus, make: Any) -> None:
        self._bus, self._make = bus, make

    async def answer(self, message: Message) -> None:
        """Answer, if the answer goes to an inbox."""
        if message.reply.startswith(REPLY_PREFIXES):
            await self._bus.publish(message.reply, msgspec.json.encode(self._make()))
