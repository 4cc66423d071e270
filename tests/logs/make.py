"""Make the golden log of this release: `python -m tests.logs.make`, once, before the release; then never again.

`<release>.jsonl` is a backup (`log/backup.py`) of a log in which every event type stands with every field. `<release>.
sha256` is the digest of what it folds to. Both are kept for ever: a later release must read the one and get the other.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from bacalhau_daemon.core import events as ev
from bacalhau_daemon.core.events import CODEC, AnyEvent, Cause, End, Near, Submission, Why
from bacalhau_daemon.core.projection import Restored
from bacalhau_daemon.log.backup import BackupFile, backup
from bacalhau_daemon.log.records import Chain
from bacalhau_daemon.log.sqlite import create
from bacalhau_protocol.models.execution import RunOutput
from bacalhau_protocol.models.job import Constraint, InputSource, Job, ResultPath, SpecConfig, Task, TimeoutConfig
from bacalhau_protocol.models.node import ComputeNodeInfo, NodeInfo
from bacalhau_protocol.models.resources import Gpu, Resources, ResourcesConfig
from bacalhau_protocol.models.states import JobStateType

HERE = Path(__file__).parent
START, STEP = 1_750_000_000_000_000_000, 1_000_000_007
EXECUTION, JOB = "e-{:08x}-0000-4000-8000-000000000000", "j-{:08x}-0000-4000-8000-000000000000"


def spec(j: int, name: str, **changes: Any) -> Job:
    """Return a specification with everything in it that jobs usually have."""
    task = Task(
        name="main",
        engine=SpecConfig("wasm", {"EntryModule": "inline", "Parameters": ["a", 1, None]}),
        publisher=SpecConfig("local"),
        env={"A": "ü", "B": ""},
        input_sources=(InputSource(SpecConfig("urlDownload", {"URL": "http://x.example/"}), "in", "/in"),),
        result_paths=(ResultPath("out", "/out"),),
        resources=ResourcesConfig(cpu="500m", memory="1gb", gpu="1"),
        timeouts=TimeoutConfig(execution=10, queue=20, total=30),
    )
    job = Job(
        id=JOB.format(j),
        name=name,
        namespace="default",
        type="batch",
        priority=3,
        count=2,
        constraints=(Constraint("zone", "in", ("a", "b")),),
        meta={"note": "golden"},
        labels={"env": "prod"},
        tasks=(task,),
    )
    return msgspec.structs.replace(job, **changes)


WHY = Why(
    nodes=3,
    fit=1,
    sampled=True,
    scores=(("n-1", 40), ("n-2", 20)),
    dropped={"engine": 1, "capacity": 1},
    near=(Near("n-3", ("engine: needs wasm, has docker",), permanent=True),),
)
GIVEN = Resources(cpu=0.5, memory=2**30, disk=5, gpu=1, gpus=(Gpu(0, "T4", "NVIDIA", 16000, "0:0"),))
INFO = NodeInfo(
    node_id="n-1",
    labels={"zone": "a"},
    supported_protocols=("ncl/v1",),
    compute_node_info=ComputeNodeInfo(execution_engines=("wasm",), max_capacity=Resources(cpu=4, memory=2**33)),
)


def planned(x: int, j: int, node: str = "n-1", **changes: Any) -> ev.ExecutionPlanned:
    """Return a plan."""
    return ev.ExecutionPlanned(x=x, id=EXECUTION.format(x), j=j, node=node, resources=GIVEN, **changes)


ASKED: dict[str, Any] = {"by": "admin", "request": "r-1"}


def scenario() -> list[list[AnyEvent]]:
    """Return the events of each record."""
    return [*beginning(), *first_version(), *later()]


def beginning() -> list[list[AnyEvent]]:
    """Return how the cluster came to be, and its first job."""
    return [
        [ev.ClusterCreated(cluster="golden"), ev.LeaderStarted(term=1, node="n-0", version="0.1.0")],
        [
            ev.CredentialIssued(
                identity="n-1", role=ev.Role.COMPUTE, sha256="ab" * 32, expires=9, invite=True, foreign=True, **ASKED
            )
        ],
        [ev.NodeJoined(node="n-1", info=INFO)],
        [ev.NodeJoined(node="n-3", info=INFO, membership=ev.Membership.PENDING)],
        [ev.NodeJoined(node="n-2", info=msgspec.structs.replace(INFO, node_id="n-2"))],
        [
            ev.JobSubmitted(
                j=1,
                spec=spec(1, "train"),
                kind=Submission.NEW,
                version=1,
                revision=1,
                created=START,
                eval="v-1",
                warnings=("a warning",),
                by="alice",
                request="r-2",
            ),
            planned(1, 1, version=1, partition=0, attempt=1, why=WHY),
            planned(2, 1, "n-2", partition=1),
        ],
    ]


def first_version() -> list[list[AnyEvent]]:
    """Return the ends of that job's executions."""
    return [
        [
            ev.BidApproved(x=1),
            ev.JobStateChanged(j=1, version=1, to=JobStateType.RUNNING, cause=Cause.STARTED),
            ev.ExecutionEnded(x=2, to=End.REFUSED, message="no room"),
        ],
        [planned(3, 1, "n-2", partition=1, attempt=2, why=WHY)],
        [ev.BidApproved(x=3)],
        [ev.NodeConnectionChanged(node="n-2", to=ev.Connection.UNKNOWN, reason="silent")],
        [
            ev.NodeConnectionChanged(node="n-2", to=ev.Connection.LOST, reason="silent too long"),
            ev.ExecutionEnded(x=3, to=End.LOST, cause=Cause.NODE_LOST, message="its node is gone", owed=True),
        ],
        [ev.NodeConnectionChanged(node="n-2", to=ev.Connection.CONNECTED), ev.BidApproved(x=3, resumed=True)],
        [
            ev.ExecutionEnded(
                x=1,
                to=End.COMPLETED,
                message="done",
                topic="Publishing Results",
                details={"a": "b"},
                reported="2025-06-01T10:00:00Z",
                result=SpecConfig("local", {"Path": "/x"}),
                output=RunOutput("out", True, "err", False, 3, ""),
            )
        ],
        [
            ev.JobStopped(j=1, id=JOB.format(1), reason="enough", eval="v-2", by="bob", request="r-3"),
            ev.ExecutionEnded(x=3, to=End.CANCELLED, cause=Cause.JOB_STOPPED, message="stopped", owed=True),
        ],
        [ev.CancelConfirmed(x=3, given_up=True)],
    ]


def later() -> list[list[AnyEvent]]:
    """Return its second version, a second term, and another job."""
    return [
        [ev.JobSubmitted(j=1, spec=spec(1, "train", priority=9), kind=Submission.UPDATE, version=2, revision=8)],
        [
            ev.JobUnplaced(j=1, version=2, partitions=2, why=WHY, message="no node fits"),
            ev.JobStateChanged(
                j=1, version=2, to=JobStateType.QUEUED, cause=Cause.NO_NODE, message="queued", details={"n": "1"}
            ),
        ],
        [ev.LeaderStarted(term=2, node="n-0", version="0.1.0")],
        [ev.NodeConnectionChanged(node="n-1", to=ev.Connection.CONNECTED)],
        [planned(4, 1, partition=0, version=2)],
        [ev.ExecutionEnded(x=4, to=End.FAILED, cause=Cause.BID_TIMEOUT, message="no bid", owed=True)],
        [ev.JobStateChanged(j=1, version=2, to=JobStateType.FAILED, cause=Cause.RETRIES, message="too often")],
        [ev.JobSubmitted(j=2, spec=spec(2, JOB.format(2), count=1, namespace="other"), by="alice", request="r-4")],
        [planned(5, 2)],
        [ev.BidApproved(x=5), ev.JobStateChanged(j=2, to=JobStateType.RUNNING, cause=Cause.STARTED)],
        [ev.JobSubmitted(j=2, spec=spec(2, JOB.format(2), namespace="other"), kind=Submission.RERUN, version=2)],
        [
            ev.JobStopped(j=2, id=JOB.format(2), version=2, reason="no more"),
            ev.ExecutionEnded(x=5, to=End.CANCELLED, cause=Cause.JOB_UPDATED, message="updated"),
        ],
        [ev.NodeInfoChanged(node="n-1", info=msgspec.structs.replace(INFO, labels={"zone": "b"}))],
        [ev.NodeMembershipChanged(node="n-2", to=ev.Membership.REJECTED, reason="old", by="admin")],
        [ev.CredentialRevoked(identity="n-1", **ASKED)],
    ]


def records() -> Iterable[bytes]:
    """Yield the records of the golden log."""
    chain, term = Chain(), 1
    for number, events in enumerate(scenario()):
        if isinstance(events[0], ev.LeaderStarted):
            term = events[0].term
        _, data, chain = CODEC.seal(
            chain, events, cluster="golden", term=term, at=START + number * STEP, cause="golden", by="n-0"
        )
        yield data


def fold_digest(path: Path) -> str:
    """Return the digest of everything that a log folds to: every entity as it was last, also those that are over."""
    file, restored = BackupFile(path), Restored()
    entities: dict[str, dict[Any, Any]] = {"jobs": {}, "executions": {}, "nodes": {}, "credentials": {}}
    try:
        for data in file.records():
            project = restored.add(data)
            for kind, known in entities.items():
                known.update(getattr(project, kind))
    finally:
        file.close()
    folded = msgspec.to_builtins({"cluster": restored.state.cluster_state(), **entities}, str_keys=True)
    return hashlib.sha256(json.dumps(folded, sort_keys=True, indent=1).encode()).hexdigest()


def main() -> None:
    """Write the golden log of this release."""
    target = HERE / f"{importlib.metadata.version('bacalhau-tui')}.jsonl"
    target.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        create(Path(directory) / "log.db", records=records())
        backup(Path(directory) / "log.db", target, taken=START)
    target.with_suffix(".sha256").write_text(fold_digest(target) + "\n")


if __name__ == "__main__":
    main()
