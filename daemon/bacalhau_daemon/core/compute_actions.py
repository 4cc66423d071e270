"""What a compute node's machine asks of its shell. Carry them out in order.

A `Send` that fails because the link is down is dropped: the machine repeats what matters. The outcome of an `Append`
goes to `settled`, that of a `Reload` to `reloaded`, of `MeasureInputs` to `measured`, of `SayHello` to `welcomed`; each
`StartRun` and each `CancelRun` leads to one `run_ended` for that execution and attempt, whatever happens.
"""

from __future__ import annotations

import msgspec

from bacalhau_daemon.core.compute_events import Run
from bacalhau_daemon.core.loop import Append, Halt, Reload
from bacalhau_protocol.models.execution import Execution
from bacalhau_protocol.models.resources import Resources
from bacalhau_protocol.ncl.events import Send


class StartRun(msgspec.Struct, frozen=True, kw_only=True):
    """Prepare, run, publish. `resumed`: an earlier daemon may have begun it: look for what it left first."""

    execution: Execution
    resources: Resources
    attempt: int
    keep_results: bool  # when the job names no publisher: ours keep the results, Bacalhau's expect none
    resumed: bool = False

    @classmethod
    def of(cls, run: Run, *, keep_results: bool, resumed: bool) -> StartRun:
        """Return the start of a run."""
        return cls(
            execution=run.execution,
            resources=run.resources,
            attempt=run.attempt,
            keep_results=keep_results,
            resumed=resumed,
        )


class CancelRun(msgspec.Struct, frozen=True):
    """Stop it; also when it is about to begin, or unknown."""

    id: str
    attempt: int


class MeasureInputs(msgspec.Struct, frozen=True):
    """Look at the inputs of an execution that we are offered."""

    execution: Execution


class SayHello(msgspec.Struct, frozen=True):
    """A session has begun: ask `out.hello` with what we hold. Nobody listens there: the orchestrator is Bacalhau's."""

    live: tuple[str, ...]
    unsent: tuple[str, ...]


class Trim(msgspec.Struct, frozen=True):
    """The journal's records below this number are not needed any more."""

    before: int


class Note(msgspec.Struct, frozen=True):
    """For the daemon's log: an event's name and its words."""

    event: str
    words: str
    warning: bool = False


class Left(msgspec.Struct, frozen=True):
    """The session is closed after `leave`."""


Action = Send | Append | StartRun | CancelRun | MeasureInputs | SayHello | Trim | Note | Left | Reload | Halt
