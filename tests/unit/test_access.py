"""Which executions' logs and results can be read, and where: on our nodes, on foreign ones, or nowhere any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from bacalhau_daemon.orchestrator.access import Accesses
from bacalhau_daemon.orchestrator.foreign_logs import ForeignLogs
from bacalhau_daemon.orchestrator.kept_logs import KeptLogs
from bacalhau_daemon.query.service import Query
from bacalhau_protocol import errors
from bacalhau_protocol.api.messages import (
    Access,
    ExecutionPage,
    JobFull,
    JobRef,
    KeptLog,
    KeptLogQuery,
    LogTail,
    TicketRequest,
)
from bacalhau_protocol.api.tokens import TicketSigner, check_ticket
from bacalhau_protocol.models.execution import Execution, RunOutput
from bacalhau_protocol.models.job import Job, SpecConfig, Task
from bacalhau_protocol.models.states import ComputeState, ComputeStateType
from bacalhau_protocol.transport.memory import MemoryBroker

SIGNER = TicketSigner(bytes(32))
NOW = 1_000


class Rows:
    """Stands in for the query side: one job and its execution."""

    def __init__(self, engine: str, execution: Execution) -> None:
        self._job = Job(id="j-1", name="a", tasks=(Task(name="main", engine=SpecConfig(type=engine)),))
        self._execution = execution

    async def job(self, _: JobRef) -> JobFull:
        """Return the job."""
        return JobFull(job=self._job)

    async def executions(self, _: JobRef) -> ExecutionPage:
        """Return the execution."""
        return ExecutionPage(executions=[self._execution])


class Place:
    """`n-own` is one of ours, `n-go` a Bacalhau 1.9 node; others are not known."""

    def __init__(self, tmp_path: Path) -> None:
        self.kept = KeptLogs(tmp_path / "kept.db", 1024 * 1024)
        self.broker = MemoryBroker()
        self.alice = self.broker.connect("alice")

    def accesses(self, node: str, engine: str, *, done: bool = True, output: RunOutput | None = None) -> Accesses:
        """Return accesses to an execution on a node."""
        state = ComputeStateType.COMPLETED if done else ComputeStateType.NEW
        execution = Execution(
            id="e-1", job_id="j-1", node_id=node, compute_state=ComputeState(state_type=state), run_output=output
        )
        return Accesses(
            cast("Query", Rows(engine, execution)),
            SIGNER,
            is_own=lambda name: name == "n-own",
            is_foreign=lambda name: name == "n-go",
            foreign_logs=ForeignLogs(self.broker.connect("orchestrator"), SIGNER.public_key, lambda _: False),
            kept_logs=self.kept,
        )

    async def ask(self, kind: str, node: str, engine: str, **more: Any) -> Access:
        """Ask for logs or results."""
        answer = await getattr(self.accesses(node, engine, **more), kind)("alice", TicketRequest(job="j-1"), NOW)
        (access,) = answer.executions
        return cast("Access", access)


def opens(access: Access) -> bool:
    """Whether the access has a ticket, and it is a good one."""
    if not access.ticket:
        return False
    check_ticket(access.ticket, [SIGNER.public_key], execution="e-1", path="", reply="_R.alice.x", now=NOW)
    return True


@pytest.mark.parametrize(
    ("node", "engine", "logs", "results"),
    [
        ("n-own", "docker", True, True),
        ("n-own", "wasm", True, True),
        ("n-go", "docker", True, False),
        ("n-go", "wasm", False, False),
        ("n-gone", "docker", False, False),
    ],
)
async def test_what_can_be_read_where(tmp_path: Path, node: str, engine: str, logs: bool, results: bool) -> None:
    """Our nodes serve both; of a foreign one the log of a container; where there is no ticket the reason is said."""
    place = Place(tmp_path)

    found = {kind: await place.ask(kind, node, engine) for kind in ("logs", "results")}

    assert {kind: opens(access) for kind, access in found.items()} == {"logs": logs, "results": results}
    assert all(bool(access.message) is not bool(access.ticket) for access in found.values())


async def test_nothing_can_be_read_before_it_has_begun(tmp_path: Path) -> None:
    """It says so."""
    access = await Place(tmp_path).ask("logs", "n-own", "wasm", done=False)

    assert (access.ticket, access.message) == ("", "it has not begun")


async def test_who_asks_for_a_foreign_log_is_answered_by_the_orchestrator(tmp_path: Path) -> None:
    """It listens in the node's place from then on, not before."""
    place = Place(tmp_path)
    subject = "bacalhau.x.v1.n-go.in.log.read"
    with pytest.raises(errors.Unavailable):
        await place.alice.request(subject, b"{", timeout_s=5)

    await place.ask("logs", "n-go", "docker")

    assert (await place.alice.request(subject, b"{", timeout_s=5)).headers is not None


async def test_what_a_node_reported_stands_for_a_log_that_was_not_kept(tmp_path: Path) -> None:
    """It is in the history. Of a foreign node it may be all that there is; what was kept goes before it."""
    place = Place(tmp_path)
    output = RunOutput(stdout="said", stdout_truncated=True, stderr="err", exit_code=-1)
    accesses = place.accesses("n-go", "wasm", output=output)
    found = await accesses.kept_log(KeptLogQuery(execution="e-1", job="j-1"))
    assert (found.stdout, found.stderr) == (b"said", b"err")

    place.kept.put(msgspec.json.encode(LogTail(execution_id="e-1", log=KeptLog(stdout=b"kept"))))
    assert (await accesses.kept_log(KeptLogQuery(execution="e-1", job="j-1"))).stdout == b"kept"


@pytest.mark.parametrize("node", ["n-own", "n-gone"])
async def test_what_our_own_node_reported_is_the_whole_log_unless_it_was_cut(tmp_path: Path, node: str) -> None:
    """Then the node has sent the end besides, and the beginning must not take its place."""
    place = Place(tmp_path)
    query = KeptLogQuery(execution="e-1", job="j-1")
    whole = place.accesses(node, "wasm", output=RunOutput(stdout="all"))
    assert (await whole.kept_log(query)).stdout == b"all"
    for other in (
        place.accesses(node, "wasm", output=RunOutput(stdout="begin", stdout_truncated=True)),
        place.accesses(node, "wasm"),
    ):
        with pytest.raises(errors.NotFound, match="no log of execution 'e-1' was kept"):
            await other.kept_log(query)
    with pytest.raises(errors.NotFound):
        await whole.kept_log(KeptLogQuery(execution="e-2", job="j-1"))
