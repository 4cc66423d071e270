"""Clients' requests at the core: submissions, their repetition, look-ups, stops, credentials, reads."""

from __future__ import annotations

import msgspec
import pytest

from bacalhau_daemon.core import actions as act
from bacalhau_daemon.core.context import Disk
from bacalhau_daemon.core.events import JobSubmitted
from bacalhau_daemon.core.policy import COUNT_MAX
from bacalhau_daemon.core.requests import Found, Request
from bacalhau_daemon.testing import SECOND, USER, World, a_job
from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as api
from bacalhau_protocol.api.tokens import decode_join, hash_secret, identity_of
from bacalhau_protocol.models.job import Constraint, Job
from bacalhau_protocol.models.nesting import DEPTH_MAX
from bacalhau_protocol.models.states import JobStateType


@pytest.fixture
def world() -> World:
    """A world with one node."""
    world = World()
    world.join("n-1")
    return world


def submissions(world: World) -> list[JobSubmitted]:
    """Return every submission in the log."""
    return [event for event in world.rows.events if isinstance(event, JobSubmitted)]


def deep_job(levels: int) -> Job:
    """Return a job as a request brings it, with lists in lists among its engine's parameters."""
    body = msgspec.json.encode(a_job()).replace(b'"Engine":{', b'"Engine":{"Params":{"x":@},', 1)
    return msgspec.json.decode(body.replace(b"@", b"[" * levels + b"]" * levels), type=Job)


# ── submit ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["job.submit", "job.explain"])
def test_a_job_whose_parameters_nest_too_deep_is_refused_with_the_place(world: World, verb: str) -> None:
    """As the same job file is before it is sent."""
    body: api.Body = (
        api.JobSubmit(job=deep_job(DEPTH_MAX)) if verb == "job.submit" else api.JobExplain(spec=deep_job(DEPTH_MAX))
    )
    with pytest.raises(errors.SpecError, match="lists and objects are nested more than 64 deep") as refusal:
        world.ask(verb, body)
    assert refusal.value.place == "Tasks[0].Engine.Params"


def test_no_depth_of_a_job_harms_the_orchestrator(world: World) -> None:
    """Near the interpreter's own limit it could be read and not be written: the process ended."""
    world.submit(deep_job(DEPTH_MAX - 2))
    for levels in range(900, 1000):
        try:
            job = deep_job(levels)
        except RecursionError:  # such a request is refused unread
            break
        with pytest.raises(errors.SpecError):
            world.submit(job)
    assert not world.machine.loop.parked


def test_a_job_without_a_name_is_named_after_its_id(world: World) -> None:
    """And filled in with the defaults of its type."""
    job = world.job(world.submit(a_job(cpu="")))

    assert job.name == job.id
    assert (job.spec.task.resources.cpu, job.spec.task.resources.memory) == ("500m", "512mb")  # type: ignore[union-attr]
    assert (job.version, job.revision, job.by) == (1, job.revision, USER)


def test_a_wrong_job_is_refused_with_every_problem(world: World) -> None:
    """Nothing gets into the log."""
    before = world.log.last()
    bad = a_job(count=-1, constraints=(Constraint("zone", "inside", ("a",)),))
    with pytest.raises(errors.SpecError) as caught:
        world.submit(bad)

    assert "Count" in str(caught.value)
    assert "inside" in str(caught.value)
    assert world.log.last() == before


@pytest.mark.parametrize("kind", ["ops", "daemon", "service"])
def test_other_types_are_refused_in_words(world: World, kind: str) -> None:
    """Not half run."""
    with pytest.raises(errors.SpecError, match=f"jobs of type {kind} are not supported by this release yet; batch is"):
        world.submit(a_job(type=kind, count=1 if kind == "service" else 0))


def test_a_job_has_a_limit_of_partitions(world: World) -> None:
    """Said in the refusal."""
    with pytest.raises(errors.SpecError, match=f"the limit is {COUNT_MAX}"):
        world.submit(a_job(count=COUNT_MAX + 1))


def test_a_dry_run_says_what_would_be_stored_and_changes_nothing(world: World) -> None:
    """Also for a new version."""
    world.submit(a_job("train"))
    before = world.log.last()
    answer = world.ask("job.submit", api.JobSubmit(job=a_job("train", cpu="2"), dry_run=True))

    assert (answer.version, answer.job.task.resources.cpu) == (2, "2")
    assert world.log.last() == before


def test_submissions_are_refused_while_the_disk_is_low_and_the_rest_passes(world: World) -> None:
    """With path and figures; stops and reports go on."""
    job = world.submit(a_job())
    world.machine.disk(Disk("/data/log.db", 100_000_000, 256_000_000))
    with pytest.raises(errors.Unavailable, match=r"/data/log\.db has 100 MB free, 256 MB must stay free"):
        world.submit(a_job())

    info = world.ask("cluster.info", api.Empty())
    assert (info.accepting, info.reason) == (False, "/data/log.db has 100 MB free")
    world.bid(world.offered("n-1"))
    assert world.job(job).state is JobStateType.RUNNING
    world.stop(job)
    assert world.job(job).state is JobStateType.STOPPED


# ── once only ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_repeated_request_gets_the_first_answer(world: World) -> None:
    """Within one batch, after it, and when only the query side remembers."""
    body = api.JobSubmit(job=a_job())
    world.holding = True
    for _ in range(2):
        world.send("job.submit", body, request="r")
    world.release()
    first, second = (answer.result for answer in world.answers)
    third = world.ask("job.submit", body, request="r")

    assert first == second == third
    assert len(submissions(world)) == 1

    world.start()
    assert world.ask("job.submit", body, request="r") == first
    assert len(submissions(world)) == 1


def test_a_request_id_belongs_to_its_user(world: World) -> None:
    """Another user's request of the same id is another request."""
    world.submit(a_job(), request="r")
    world.submit(a_job(), request="r", user="bob")

    assert len(submissions(world)) == 2


def test_a_request_id_cannot_be_used_for_two_things(world: World) -> None:
    """It is refused rather than answered wrongly."""
    job = world.submit(a_job(), request="r")
    with pytest.raises(errors.Conflict, match="has been used for another request"):
        world.ask("job.stop", api.JobRef(job=job), request="r")


def test_a_request_after_its_deadline_is_refused(world: World) -> None:
    """Unless it was carried out in time: then its repetition is answered."""
    job = world.submit(a_job(), request="r")
    late = world.now - SECOND
    with pytest.raises(errors.TimedOut, match="nothing was done"):
        world.ask("job.submit", api.JobSubmit(job=a_job()), deadline=late)

    again = world.ask("job.submit", api.JobSubmit(job=a_job()), request="r", deadline=late)
    assert again.job_id == job


# ── versions and names ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_name_of_a_job_makes_a_new_version_of_it(world: World) -> None:
    """Running, finished, and after a restart when only the query side knows it."""
    job = world.submit(a_job("train"))
    assert world.submit(a_job("train", cpu="2")) == job
    world.run_to_end("n-1")
    assert world.job(job).state is JobStateType.COMPLETED

    assert world.submit(a_job("train", cpu="3")) == job
    world.run_to_end("n-1")
    world.start()
    world.join("n-1")
    assert world.submit(a_job("train", cpu="4")) == job
    assert (world.job(job).version, [event.version for event in submissions(world)]) == (4, [1, 2, 3, 4])


def test_a_new_version_that_changes_nothing_is_refused_unless_forced(world: World) -> None:
    """With Bacalhau's words and hint."""
    job = world.submit(a_job("train"))
    with pytest.raises(errors.Conflict) as caught:
        world.submit(a_job("train"))
    assert caught.value.message == f"no changes detected for new job spec. Job Name: 'train', Job Id: '{job}'"
    assert "--force" in caught.value.hint

    world.submit(a_job("train"), force=True)
    assert world.job(job).version == 2


def test_names_are_per_namespace(world: World) -> None:
    """The same name elsewhere is another job."""
    assert world.submit(a_job("train")) != world.submit(a_job("train", namespace="other"))


def test_two_first_submissions_of_one_name_in_one_batch_are_two_versions(world: World) -> None:
    """The second one does not fail, and no second job is made."""
    world.holding = True
    world.submit(a_job("x")) if False else world.send("job.submit", api.JobSubmit(job=a_job("train")))
    world.send("job.submit", api.JobSubmit(job=a_job("train", cpu="2")))
    world.release()

    assert [event.version for event in submissions(world)] == [1, 2]
    assert len({event.j for event in submissions(world)}) == 1


def test_a_finished_job_is_known_while_the_query_side_lags(world: World) -> None:
    """A name that finished a moment ago still makes a new version."""
    world.querying = False
    job = world.submit(a_job("train"))
    world.run_to_end("n-1")

    assert world.submit(a_job("train", cpu="2")) == job
    assert world.stop(job).job_id == job


def test_an_old_look_up_is_made_again(world: World) -> None:
    """When something has left memory since, the request goes back for another look-up instead of being decided."""
    job = world.submit(a_job("train"))
    world.run_to_end("n-1")
    stale = Request(
        user=USER,
        verb="job.submit",
        body=api.JobSubmit(job=a_job("train", cpu="2")),
        id="r",
        found=Found(as_of=1),
    )
    world.machine.request(stale, world.now)
    (action,) = world.machine.actions(world.now)

    assert isinstance(action, act.LookUp)
    assert (action.lookup.name, action.lookup.request) == ("train", "r")
    world.machine.request(msgspec.structs.replace(stale, found=world.rows.find(action.lookup)), world.now)
    world.run()
    assert world.last_answer().job_id == job


# ── stop ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_found_by_name_id_or_the_start_of_its_id(world: World) -> None:
    """Also one that the query side does not have yet."""
    world.querying = False
    for ref in ("name", "id", "start"):
        job = world.submit(a_job(f"job-{ref}"))
        answer = world.stop({"name": f"job-{ref}", "id": job, "start": job[:12]}[ref])
        assert answer.job_id == job


def test_an_ambiguous_start_stops_nothing(world: World) -> None:
    """It is refused with the ids."""
    jobs = [world.submit(a_job()) for _ in range(2)]
    with pytest.raises(errors.UsageError, match="multiple jobs found for id j-"):
        world.stop("j-")
    assert {world.job(job).state for job in jobs} == {JobStateType.PENDING}


def test_what_cannot_be_stopped_says_why(world: World) -> None:
    """Unknown, completed, failed; a stopped one stays stopped with its first reason."""
    with pytest.raises(errors.NotFound, match="job not found: nonsense"):
        world.stop("nonsense")
    done = world.submit(a_job())
    world.run_to_end("n-1")
    with pytest.raises(errors.Conflict, match="cannot stop job in state Completed"):
        world.stop(done)
    failed = world.submit(a_job(engine="docker"))
    with pytest.raises(errors.Conflict, match=f"job {failed} is in terminal state Failed and cannot"):
        world.stop(failed)
    stopped = world.submit(a_job())
    world.stop(stopped, "first")
    assert world.stop(stopped, "second").evaluation_id == ""
    assert world.job(stopped).message == "first"


# ── credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_invitation_is_a_join_token_whose_hash_the_state_knows(world: World) -> None:
    """The secret itself is nowhere but in the answer."""
    answer = world.ask("node.invite", api.NodeInvite(name="n-7", ttl_s=60))
    token = decode_join(answer.token)
    credential = world.machine.state.credentials[hash_secret(token.secret)]

    assert (token.identity, identity_of(token.secret), token.address) == ("n-7", "n-7", "nats://127.0.0.1:4222")
    assert (credential.identity, credential.role, credential.invite) == ("n-7", "compute", True)
    assert credential.expires == answer.expires == world.now + 60 * SECOND
    assert not any(token.secret.encode() in data for _, data in world.log.read(1))


def test_an_invitation_that_was_used_does_not_expire(world: World) -> None:
    """The node has joined by its handshake."""
    token = decode_join(world.ask("node.invite", api.NodeInvite()).token)
    world.join(token.identity)

    assert world.machine.state.credentials[hash_secret(token.secret)].used


def test_a_foreign_node_gets_an_address_with_its_token(world: World) -> None:
    """As an unmodified Bacalhau node takes it; it does not expire, for such a node cannot be told apart."""
    answer = world.ask("node.invite", api.NodeInvite(name="edge", foreign=True))

    assert answer.token.startswith("nats://edge.")
    assert answer.token.endswith("@127.0.0.1:4222")
    assert answer.expires == 0


def test_a_credentials_secret_is_repeated_only_while_it_is_in_memory(world: World) -> None:
    """Afterwards a repeated request is refused, and says what to do."""
    world.querying = False
    body = api.CredentialIssue(identity="bob", role="viewer", ttl_s=3600)
    first = world.ask("credential.issue", body, request="r")
    assert world.ask("credential.issue", body, request="r") == first

    world.start()
    with pytest.raises(errors.Conflict, match="shown only once"):
        world.ask("credential.issue", body, request="r")
    world.ask("node.invite", api.NodeInvite(), request="i")
    world.start()
    with pytest.raises(errors.Conflict, match="shown only once"):
        world.ask("node.invite", api.NodeInvite(), request="i")


def test_an_unknown_role_and_an_impossible_identity_are_refused(world: World) -> None:
    """With what is allowed."""
    with pytest.raises(errors.UsageError, match="there is no role 'king'"):
        world.ask("credential.issue", api.CredentialIssue(identity="bob", role="king"))
    with pytest.raises(errors.UsageError, match="cannot be an identity"):
        world.ask("credential.issue", api.CredentialIssue(identity="b.o.b", role="viewer"))


def test_the_last_admin_credential_cannot_be_revoked(world: World) -> None:
    """Or nobody could ever let anybody in again."""
    with pytest.raises(errors.Conflict, match="last admin credential"):
        world.ask("credential.revoke", api.CredentialRevoke(identity="admin"))
    world.ask("credential.issue", api.CredentialIssue(identity="root", role="admin"))
    world.ask("credential.revoke", api.CredentialRevoke(identity="admin"))

    page = world.ask("credential.list", api.Empty())
    assert [(row.identity, row.revoked) for row in page.credentials] == [("admin", True), ("root", False)]
    with pytest.raises(errors.NotFound):
        world.ask("credential.revoke", api.CredentialRevoke(identity="nobody"))


# ── reads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_specification_is_explained_before_it_is_submitted(world: World) -> None:
    """Every finding on every node, and a summary in words."""
    world.join("n-2", engines=("docker",))
    answer = world.ask("job.explain", api.JobExplain(spec=a_job()))

    assert (answer.matching, [node.node_id for node in answer.nodes]) == (1, ["n-1", "n-2"])
    miss = [found for found in answer.nodes[1].findings if not found.passed]
    assert [(found.check, found.required, found.actual, found.permanent) for found in miss] == [
        ("engine", "noop", "docker", True)
    ]


def test_a_job_is_explained_with_what_the_log_kept(world: World) -> None:
    """Why it runs where it does."""
    job = world.submit(a_job())
    answer = world.ask("job.explain", api.JobExplain(job=job))

    (why,) = answer.recorded["Executions"].values()
    assert (why["nodes"], why["fit"], why["scores"][0][0]) == (1, 1, "n-1")


def test_nodes_are_listed_by_id_in_pages_and_by_label(world: World) -> None:
    """With what is free on them."""
    world.join("n-2", labels={"zone": "eu"})
    world.submit(a_job(constraints=(Constraint("zone", "=", ("eu",)),)))
    first = world.ask("node.list", api.NodeQuery(limit=1))
    second = world.ask("node.list", api.NodeQuery(limit=1, page=first.next_page))
    only = world.ask("node.list", api.NodeQuery(labels="zone=eu"))

    assert [page.nodes[0].info.node_id for page in (first, second, only)] == ["n-1", "n-2", "n-2"]
    assert second.next_page == ""
    assert only.nodes[0].info.compute_node_info.available_capacity.cpu == 3.0
    assert only.nodes[0].info.compute_node_info.running_executions == 1


def test_one_node_is_shown_with_its_live_executions(world: World) -> None:
    """By its id or a unique start of it."""
    world.join("m-1")
    world.submit(a_job(constraints=(Constraint("name", "=", ("m-1",)),)))
    answer = world.ask("node.get", api.NodeRef(node="m"))

    assert answer.node.info.node_id == "m-1"
    assert [each.node_id for each in answer.executions] == ["m-1"]
    with pytest.raises(errors.NotFound, match="node not found: x"):
        world.ask("node.get", api.NodeRef(node="x"))


def test_the_cluster_says_how_it_is(world: World) -> None:
    """Term, position, nodes, active jobs."""
    world.submit(a_job())
    info = world.ask("cluster.info", api.Empty())

    assert (info.cluster, info.term, info.orchestrator) == ("test", 1, "n-orch")
    assert (info.nodes, info.jobs, info.accepting) == ({"connected": 1}, {"Pending": 1}, True)
    assert info.log_position == world.rows.position


def test_a_job_is_validated_without_being_submitted(world: World) -> None:
    """The answer is the job as it would be stored."""
    answer = world.ask("job.validate", api.JobSubmit(job=a_job(cpu="")))

    assert answer.job.task.resources.cpu == "500m"
    assert submissions(world) == []
