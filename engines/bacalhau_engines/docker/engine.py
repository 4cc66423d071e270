"""The engine that the daemon talks to."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from msgspec import structs

from bacalhau_engines.docker import create, files, outcomes, outputs, settings, spec, watch
from bacalhau_engines.docker.active import Active
from bacalhau_engines.docker.create import Choices, HostPort
from bacalhau_engines.docker.dockerd import Dockerd, Gone, Refused, plain
from bacalhau_engines.docker.images import Image, Images
from bacalhau_engines.docker.life import Abandoned, Ended, Life, NeverRan
from bacalhau_engines.docker.ports import Ports
from bacalhau_engines.docker.remover import Remover
from bacalhau_engines.docker.streams import Sinks
from bacalhau_protocol.errors import BacalhauError, NodeFailed, SpecError
from bacalhau_protocol.models.job import NetworkType, Task
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.plugins import Ability, Outcome, OutcomeKind, PluginContext, Progress, RunRequest

RUNS_MAX = 256  # at once; more wait for their turn
SHORT_MAX = 4  # threads for everything else
PLANS_MAX = 1024  # prepared and not yet run
WATCH_S = 1.0
KILL_AGAIN_S = 0.5

T = TypeVar("T")
_Key = tuple[str, int]  # execution id, attempt


class DockerEngine:
    """Runs tasks in containers of the machine's dockerd."""

    def __init__(self, context: PluginContext) -> None:
        self._settings = settings.read(context.settings)
        self._node_id = context.node_id
        self._owner = create.owner_of(context)
        self._dockerd = Dockerd(self._settings.socket, self._settings.docker_config)
        self._short = ThreadPoolExecutor(SHORT_MAX, thread_name_prefix="docker")
        self._lives = ThreadPoolExecutor(RUNS_MAX, thread_name_prefix="docker-run")
        self._images = Images(self._dockerd, self._settings.pull, self._short)
        self._ports = Ports(*self._settings.ports)
        self._plans: OrderedDict[_Key, Image] = OrderedDict()
        self._found: dict[_Key, tuple[int, ...]] = {}  # runs of earlier daemons, with their ports
        self._active: dict[_Key, Active] = {}
        self._remover = Remover(self._dockerd, self._owner, self._in_thread)
        self._watching: asyncio.Task[None] | None = None
        self._quota: bool | None = None  # whether dockerd can limit what a container writes
        self._closed = False

    # ── the contract ──────────────────────────────────────────────────────────────────────────────────────────────

    async def ability(self) -> Ability:
        """Ask dockerd, without the SDK."""
        try:
            version = await self._dockerd.version()
        except NodeFailed as error:
            words = f"{error.message}; {error.hint}" if error.hint else error.message
            return Ability(available=False, reason=words, reattaches=True, inputs_first=False)
        self._images.platform = version.platform
        details = {"api": version.api, "platform": version.platform, "socket": self._dockerd.socket}
        return Ability(available=True, version=version.version, details=details, reattaches=True, inputs_first=False)

    @property
    def pulling(self) -> int:
        """How many images are being pulled."""
        return self._images.pulling

    def check(self, task: Task, resources: Resources) -> list[str]:
        """Look at parameters, network, paths and GPUs."""
        return spec.check(task, resources, self._settings)

    async def prepare(self, run: RunRequest, progress: Progress) -> None:
        """Have the image."""
        image = await self._images.have(_spec_of(run).image, progress)
        while len(self._plans) >= PLANS_MAX:
            self._plans.popitem(last=False)
        self._plans[run.execution_id, run.attempt] = image

    async def run(self, run: RunRequest, started: Callable[[], None]) -> Outcome:
        """Run in a container; a second call for the same run waits for the first."""
        key = run.execution_id, run.attempt
        if other := self._active.get(key):
            return await self._join(other)
        active = self._active[key] = Active(run, self._name(*key))
        outcome = outcomes.stopped(OutcomeKind.CANCELLED)  # for those who wait along, if our caller is cancelled
        try:
            outcome = await self._run(active, started)
            return outcome
        finally:
            self._over(key, active, outcome)

    async def holds(self, execution_id: str, attempt: int) -> bool:
        """Look for the container; one that never began is removed, so that its run begins anew."""
        name = self._name(execution_id, attempt)
        while True:
            await self._dockerd.back()
            try:
                found = await self._in_thread(lambda: self._inspect(name))
                if found is not None and found["State"]["Status"] == "created":
                    await self._remover.now(name)
                    return False
                break
            except Gone:
                continue
            except Refused as refused:
                raise NodeFailed(f"dockerd cannot look at {name}: {plain(refused.words)}") from refused
        if found is None:
            return False
        labels = found["Config"]["Labels"]
        ports = tuple(int(port) for port in labels.get(create.PORTS, "").split(",") if port)
        self._ports.hold(ports)
        self._found[execution_id, attempt] = ports
        return True

    def _name(self, execution_id: str, attempt: int) -> str:
        return create.name_of(self._owner, execution_id, attempt)

    def _inspect(self, name: str) -> dict[str, Any] | None:
        """Return a container of ours; None when there is none."""
        client = self._dockerd.client()
        try:
            found: dict[str, Any] = self._dockerd.call(lambda: client.inspect_container(name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        return found if (found["Config"]["Labels"] or {}).get(create.OWNER) == self._owner else None

    async def forget(self, execution_id: str, attempt: int) -> None:
        """Remove the container, beside everything else."""
        self._ports.give_back(self._found.pop((execution_id, attempt), ()))
        self._remover.soon(self._name(execution_id, attempt))

    async def removed(self, execution_id: str, attempt: int) -> None:
        """Wait until what was forgotten is gone."""
        await self._remover.gone(self._name(execution_id, attempt))

    async def cancel(self, execution_id: str, grace_s: float) -> None:
        """Send the image's stop signal, and kill after the grace."""
        for (id_, _), active in list(self._active.items()):
            if id_ == execution_id:
                self._stop(active, outcomes.stopped(OutcomeKind.CANCELLED), grace_s)

    async def sweep(self, keep: frozenset[tuple[str, int]]) -> int:
        """Remove containers of this node and data directory that are neither kept nor in hand."""
        swept = 0
        for container in await self._dockerd.labelled(f"{create.OWNER}={self._owner}"):
            labels = container.labels
            key = labels.get(create.EXECUTION, ""), int(labels.get(create.ATTEMPT) or 0)
            name = self._name(*key)
            if key not in keep and key not in self._active and name not in self._remover:
                await self._remover.now(container.id)
                swept += 1
        return swept

    async def close(self) -> None:
        """Let go of containers that run: they are found again. What is being removed is waited for a little."""
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        for active in self._active.values():
            if active.stopper is not None:
                active.stopper.cancel()
            if active.life is not None:
                active.life.abandon()
        await self._remover.close()
        self._images.close()
        for pool in (self._lives, self._short):
            pool.shutdown(wait=False, cancel_futures=True)
        self._dockerd.close()

    # ── a run ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _join(self, other: Active) -> Outcome:
        try:
            return await asyncio.shield(other.done)
        except asyncio.CancelledError:
            self._stop(other, outcomes.stopped(OutcomeKind.CANCELLED), 0.0)
            raise

    async def _run(self, active: Active, started: Callable[[], None]) -> Outcome:
        asked_at = time.time_ns()
        try:
            life = await self._life(active, started)
        except BacalhauError as error:
            return outcomes.never_ran(str(error), error.hint, asked_at)
        active.life = life
        life.unwanted = active.reason is not None
        thread = asyncio.get_running_loop().run_in_executor(self._lives, self._live, life, active.run)
        self._watch()
        try:
            ended = await asyncio.shield(thread)
        except asyncio.CancelledError:
            life.abandon()
            if not self._closed:
                self._remover.soon(active.name, after=thread)
            raise
        except NeverRan as error:
            if active.reason is not None:
                return structs.replace(active.reason, started_at=asked_at, ended_at=time.time_ns())
            return outcomes.never_ran(error.words, error.hint, asked_at, error.exit_code)
        except Abandoned:
            raise asyncio.CancelledError from None
        except Gone as gone:
            self._remover.soon(active.name)
            return outcomes.never_ran(f"{gone}; it went away while the container ran", "", asked_at)
        if life.quota_refused:
            self._quota = False
        return await self._outcome(active, life, ended)

    async def _outcome(self, active: Active, life: Life, ended: Ended) -> Outcome:
        context = outcomes.Context(
            reason=active.reason,
            memory_bytes=active.run.resources.memory,
            usage=active.usage,
            image=active.digest or ended.image,
            init_error=await self._in_thread(lambda: self._init_error(active.run, ended)),
            interrupted_until=life.interrupted_until,
        )
        outcome = outcomes.outcome(ended, context)
        if outcome.kind is OutcomeKind.SIGNALLED and not await self._dockerd.answers():
            return outcomes.outcome(ended, structs.replace(context, interrupted_until=time.time_ns()))
        return outcome

    async def _life(self, active: Active, started: Callable[[], None]) -> Life:
        """Choose everything that a container is created with. Raises what makes that impossible."""
        run, key = active.run, (active.run.execution_id, active.run.attempt)
        loop = asyncio.get_running_loop()

        def began(at: int) -> None:
            loop.call_soon_threadsafe(self._began, active, started, at)

        def overflow(stream: str) -> None:
            reason = outcomes.too_much(stream, self._settings.stream_bytes)
            loop.call_soon_threadsafe(self._stop, active, reason, 0.0)

        def sinks(labels: dict[str, str]) -> Sinks:
            return Sinks(*files.sinks(run, labels, self._settings.stream_bytes), overflow)

        await self._remover.gone(active.name)  # an earlier run of the same name
        active.disk_bytes = create.disk_bytes(run, self._settings)
        body = None
        if key in self._found:
            active.ports = self._found.pop(key)
        else:
            body = await self._body(active)
        return Life(self._dockerd, active.name, owner=self._owner, body=body, sinks=sinks, began=began)

    async def _body(self, active: Active) -> dict[str, Any]:
        run = active.run
        image = self._plans.pop((run.execution_id, run.attempt), None)
        read = _spec_of(run)
        if image is None:
            image = await self._images.have(read.image, lambda what, done, total: None)
        active.digest, active.stop_signal = image.digest or image.id, image.stop_signal
        network = spec.network_of(run.task)
        on_host = network.type is NetworkType.HOST
        ports: tuple[HostPort, ...] = self._ports.take(spec.ports_of(network), shared_with_host=on_host)
        active.ports = tuple(port.host for port in ports)
        looked = await self._in_thread(lambda: self._look(run))
        chosen = structs.replace(
            looked, spec=read, image=image.id, digest=active.digest, ports=ports, disk_bytes=active.disk_bytes
        )
        return create.container(run, chosen, self._settings, self._owner, self._node_id)

    def _look(self, run: RunRequest) -> Choices:
        """Find out what has to be known of this machine, and let the container at its files."""
        if self._quota is None:
            with contextlib.suppress(Gone, Refused):  # then it is measured
                client = self._dockerd.client()
                self._quota = can_limit_disk(self._dockerd.call(client.info))
        files.open_up(run)
        return Choices(sizes=files.stream_sizes(run), mount_points=files.mount_points(), disk_quota=bool(self._quota))

    def _live(self, life: Life, run: RunRequest) -> Ended:
        """See a container to its end, and what it leaves made harmless: everything of a run that blocks."""
        try:
            ended = life.live()
            notes = outputs.settle(run.results_dir, [output.name for output in run.outputs])
            if life.sinks is not None:
                life.sinks.note(notes)
            return ended
        finally:
            life.close()

    def _began(self, active: Active, started: Callable[[], None], at: int) -> None:
        if active.done.done():
            return
        active.began = True
        started()
        if active.run.timeout_s:
            left_s = active.run.timeout_s - (time.time_ns() - at) / 1e9
            reason = outcomes.stopped(OutcomeKind.TIMED_OUT)
            loop = asyncio.get_running_loop()
            active.timer = loop.call_later(max(left_s, 0.0), self._stop, active, reason, 0.0)

    def _over(self, key: _Key, active: Active, outcome: Outcome) -> None:
        del self._active[key]
        active.done.set_result(outcome)
        self._ports.give_back(active.ports)
        if active.timer is not None:
            active.timer.cancel()
        if active.stopper is not None:
            active.stopper.cancel()

    # ── ending one ────────────────────────────────────────────────────────────────────────────────────────────────

    def _stop(self, active: Active, reason: Outcome, grace_s: float) -> None:
        if active.reason is None and not active.done.done():
            active.reason = reason
            if active.life is not None:
                active.life.unwanted = True
            active.stopper = asyncio.create_task(self._stopping(active, grace_s), name=f"stop {active.name}")

    async def _stopping(self, active: Active, grace_s: float) -> None:
        """Signal until it is over: it may be about to begin, and dockerd may be away."""
        if grace_s > 0:
            await self._signal(active.name, active.stop_signal or "SIGTERM")
            await asyncio.wait([active.done], timeout=grace_s)
        while not active.done.done():
            await self._signal(active.name, "SIGKILL")
            await asyncio.wait([active.done], timeout=KILL_AGAIN_S)

    async def _signal(self, name: str, signal: str) -> None:
        def kill() -> None:
            client = self._dockerd.client()
            self._dockerd.call(lambda: client.kill(name, signal))

        with contextlib.suppress(Refused, Gone):  # it does not run now; or dockerd is away, and we come again
            await self._in_thread(kill)

    # ── watching ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch_all(), name="watch containers")

    async def _watch_all(self) -> None:
        """Measure what runs while anything does; pause longer when measuring takes long."""
        took_s = 0.0
        while True:
            await asyncio.sleep(max(WATCH_S, 4 * took_s))
            if not self._active:
                return
            began = time.monotonic()
            with contextlib.suppress(Gone, Refused):
                await self._measure()
            took_s = time.monotonic() - began

    async def _measure(self) -> None:
        by_id = {one.life.id: one for one in self._active.values() if one.began and one.life is not None}
        watched = [
            watch.Watched(id_, tuple(str(one.run.results_dir / out.name) for out in one.run.outputs), one.places)
            for id_, one in by_id.items()
        ]
        if not watched:
            return
        for found in await self._in_thread(lambda: watch.measure(self._dockerd, self._owner, watched)):
            active = by_id[found.id]
            active.places = found.places
            active.usage = found.usage
            if found.disk_bytes > active.disk_bytes:
                self._stop(active, outcomes.too_much_disk(found.disk_bytes, active.disk_bytes), 0.0)

    # ── threads ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _in_thread(self, function: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._short, function)

    def _init_error(self, run: RunRequest, ended: Ended) -> str:
        if not self._settings.init or ended.exit_code not in outcomes.INIT_FAILED:
            return ""
        return outcomes.init_error(run.stderr_path)


def can_limit_disk(info: dict[str, Any]) -> bool:
    """Whether dockerd may be able to limit what a container writes; project quotas show only when one tries."""
    status = {str(pair[0]): str(pair[1]) for pair in info.get("DriverStatus") or ()}
    return info.get("Driver") in ("btrfs", "zfs") or (
        info.get("Driver") == "overlay2" and status.get("Backing Filesystem") == "xfs"
    )


def _spec_of(run: RunRequest) -> spec.DockerSpec:
    read, problems = spec.read(run.task.engine.values if run.task.engine else {})
    if problems:
        raise SpecError("; ".join(problems), place="Engine.Params")
    return read
