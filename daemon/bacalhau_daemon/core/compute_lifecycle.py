"""An execution's lifecycle on its node, as a table: stage → move → next stage. A pair that is not here is impossible.

A cancellation of what never began, and of what is queued, ends at once; that of what was started waits until the runner
says that it has stopped, because until then its room is not free.
"""

from __future__ import annotations

import enum
from typing import Final

from bacalhau_daemon.core.compute_events import Stage
from bacalhau_daemon.core.lifecycle import Table


class Move(enum.StrEnum):
    """What can happen to an execution on its node."""

    BID = "bid"
    REFUSE = "refuse"
    APPROVE = "approve"  # there is room
    WAIT = "approve, no room"
    ADMIT = "room found"
    REPEAT = "run again"
    CANCEL = "cancel"
    FINISH = "finish"


EXECUTION: Final[Table[Stage, Move]] = {
    None: {
        Move.BID: Stage.BID,
        Move.REFUSE: Stage.FINISHED,
        Move.CANCEL: Stage.FINISHED,  # not known: never to begin
    },
    Stage.BID: {
        Move.APPROVE: Stage.STARTED,
        Move.WAIT: Stage.QUEUED,
        Move.CANCEL: Stage.FINISHED,
        Move.FINISH: Stage.FINISHED,  # nobody took the offer
    },
    Stage.QUEUED: {
        Move.ADMIT: Stage.STARTED,
        Move.CANCEL: Stage.FINISHED,
        Move.FINISH: Stage.FINISHED,  # it does not fit any more
    },
    Stage.STARTED: {
        Move.REPEAT: Stage.STARTED,
        Move.CANCEL: Stage.CANCELLING,
        Move.FINISH: Stage.FINISHED,
    },
    Stage.CANCELLING: {Move.FINISH: Stage.FINISHED},
    Stage.FINISHED: {},
}
