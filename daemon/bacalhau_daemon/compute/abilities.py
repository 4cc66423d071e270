"""The plug-ins of this node: loaded once, asked again and again what they can do now.

A plug-in that cannot be loaded, raises or does not answer is "not available" with its reason; nothing of it takes the
daemon along. What is available is what the node advertises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec
import structlog

from bacalhau_daemon.core import compute_bid
from bacalhau_daemon.core.compute_bid import Measured
from bacalhau_protocol import errors, plugins
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.job import Job, SpecConfig
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import Ability, Engine, PluginContext, Publisher, Storage

POLL_S = 10.0  # so that a node says within 15 s what it gained or lost
ABILITY_TIMEOUT_S = 10.0
MEASURE_TIMEOUT_S = 10.0  # of all inputs of an offer: the acknowledgement waits for it
ALIASES = {"localdirectory": "local"}  # share settings
REASON_CHARACTERS_MAX = 300
_NO = Ability(available=False, reason="not asked yet")

T = TypeVar("T", bound=Engine | Storage | Publisher)
log = structlog.get_logger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Tables for plug-ins by name. `enabled = false` in one leaves the plug-in out; the rest is its own."""

    engines: Mapping[str, dict[str, Any]] = {}
    storages: Mapping[str, dict[str, Any]] = {}
    publishers: Mapping[str, dict[str, Any]] = {}


class Group(Generic[T]):
    """The plug-ins of one entry point group."""

    def __init__(self, name: str, members: dict[str, T], unusable: dict[str, str]) -> None:
        self.name = name
        self.members = members
        self.unusable = unusable  # could not be loaded, and why
        self.abilities: dict[str, Ability] = dict.fromkeys(members, _NO)

    @property
    def available(self) -> frozenset[str]:
        """Names of those that can work now."""
        return frozenset(name for name, ability in self.abilities.items() if ability.available)

    @property
    def unavailable(self) -> dict[str, str]:
        """Names of those that cannot work now, with the reason."""
        said = {name: ability.reason for name, ability in self.abilities.items() if not ability.available}
        return dict(sorted((said | self.unusable).items()))

    def get(self, config: SpecConfig | None) -> T:
        """Return the plug-in of this type. Raises `NodeFailed` when there is none."""
        kind = config.kind if config else ""
        member = self.members.get(kind)
        if member is None:
            raise errors.NodeFailed(f"this node has no {kind!r} in {self.name}")
        return member

    def ability(self, config: SpecConfig | None) -> Ability:
        """Return what the plug-in of this type said last."""
        return self.abilities.get(config.kind if config else "", _NO)

    async def poll(self) -> None:
        """Ask all of them."""
        names = list(self.members)
        answers = await asyncio.gather(*(_ask(self.members[name]) for name in names))
        for name, ability in zip(names, answers, strict=True):
            before = self.abilities[name]
            if (before.available, before.reason) != (ability.available, ability.reason):
                log.info(
                    "plugin.ability", group=self.name, plugin=name, available=ability.available, reason=ability.reason
                )
            self.abilities[name] = ability


class Plugins:
    """All three groups."""

    def __init__(self, node_id: str, data_dir: Path, settings: Settings) -> None:
        def load(name: str, tables: Mapping[str, dict[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
            return _load(name, node_id, data_dir, tables)

        self.engines: Group[Engine] = Group("engines", *load(plugins.ENGINES, settings.engines))
        self.storages: Group[Storage] = Group("storages", *load(plugins.STORAGES, settings.storages))
        self.publishers: Group[Publisher] = Group("publishers", *load(plugins.PUBLISHERS, settings.publishers))

    async def poll(self) -> bool:
        """Ask every plug-in; return whether something was gained or lost."""
        before = self._available()
        await asyncio.gather(self.engines.poll(), self.storages.poll(), self.publishers.poll())
        return before != self._available()

    @property
    def unavailable(self) -> dict[str, str]:
        """What is installed but cannot work now, as `engine docker`, with the reason."""
        groups: list[tuple[str, Group[Any]]] = [
            ("engine", self.engines),
            ("storage", self.storages),
            ("publisher", self.publishers),
        ]
        return {
            f"{kind} {name}": reason[:REASON_CHARACTERS_MAX]
            for kind, group in groups
            for name, reason in group.unavailable.items()
        }

    def _available(self) -> tuple[frozenset[str], ...]:
        return self.engines.available, self.storages.available, self.publishers.available

    def check(self, job: Job, resources: Resources) -> list[str]:
        """Return what the plug-ins find wrong with a job's parameters. No I/O, never raises."""
        try:
            return self._check(job, resources)
        except Exception as error:  # a bug of a plug-in refuses this job and no other
            log.warning("plugin.check_failed", job=job.id, error=repr(error))
            return [f"a plug-in could not check them: {error}"]

    def _check(self, job: Job, resources: Resources) -> list[str]:
        task = job.task
        problems = list(self.engines.get(task.engine).check(task, resources))
        if task.publisher is not None and task.publisher.kind:
            problems += self.publishers.get(task.publisher).check(task.publisher)
        for source in compute_bid.inputs(task):
            assert source.source is not None, "it was looked at"
            problems += self.storages.get(source.source).check(source.source)
        return problems

    async def measure(self, execution: Execution) -> Measured:
        """Look at the inputs of an execution: what they need on disk, or why they cannot be prepared here."""
        assert isinstance(execution.job, Job), "it was looked at"
        job, partition = execution.job, execution.partition_index or 0
        sizes = 0
        try:
            async with asyncio.timeout(MEASURE_TIMEOUT_S):
                for source in compute_bid.inputs(job.task):
                    sizes += await self.storages.get(source.source).size(source, job, partition)
        except TimeoutError:
            problem = f"know the size of its inputs within {MEASURE_TIMEOUT_S:g} s"
            return Measured(id=execution.id, problems=(problem,))
        except errors.BacalhauError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return Measured(id=execution.id, problems=(f"have its inputs: {error}{hint}",))
        return Measured(id=execution.id, disk_bytes=sizes)

    async def close(self) -> None:
        """Release what the plug-ins hold."""
        closing: list[tuple[str, Engine | Publisher]] = [*self.engines.members.items()]
        closing += self.publishers.members.items()
        for name, member in closing:
            try:
                await member.close()
            except Exception as error:
                log.warning("plugin.close_failed", plugin=name, error=repr(error))


def _load(
    group: str, node_id: str, data_dir: Path, tables: Mapping[str, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the plug-ins of a group by name, and why others could not be loaded."""
    loaded: dict[str, Any] = {}
    unusable: dict[str, str] = {}
    by_name = {name.lower(): dict(table) for name, table in tables.items()}
    for name in plugins.names(group):
        table = dict(by_name.get(name) or by_name.get(ALIASES.get(name, ""), {}))
        if not table.pop("enabled", True):
            continue
        directory = data_dir / group.rpartition(".")[2] / name
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            context = PluginContext(node_id=node_id, data_dir=directory, settings=table)
            loaded[name] = cast("Any", plugins.load(group, name, context))
        except errors.BacalhauError as error:
            if isinstance(error.__cause__, errors.UsageError):
                raise error.__cause__ from error  # a wrong setting stops the start, said as such
            log.warning("plugin.unusable", group=group, plugin=name, reason=str(error))
            unusable[name] = str(error)
    return loaded, unusable


async def _ask(member: Engine | Storage | Publisher) -> Ability:
    try:
        async with asyncio.timeout(ABILITY_TIMEOUT_S):
            return await member.ability()
    except TimeoutError:
        return Ability(available=False, reason=f"no answer within {ABILITY_TIMEOUT_S:g} s")
    except Exception as error:
        return Ability(available=False, reason=f"{type(error).__name__}: {error}")
