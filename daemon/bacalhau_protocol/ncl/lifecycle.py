"""The two lifecycles of NCL as literal tables: state → signal → next state.

A pair that is not here is our bug and raises. Everything that decides which state follows is in this file; when and
why a signal is given is in `compute` and `orchestrator`. Nothing in here knows time or messages.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

from bacalhau_protocol.errors import Internal


class ComputeState(enum.StrEnum):
    """Where a compute node's session is."""

    OFFLINE = "offline"  # no link
    WAITING = "waiting"  # linked; the next handshake is due at a known time
    HANDSHAKING = "handshaking"  # asked, not answered yet
    CONNECTED = "connected"
    LEAVING = "leaving"  # the shutdown notice is out
    CLOSED = "closed"


class ComputeSignal(enum.StrEnum):
    """What moves a compute node's session."""

    LINK_UP = "link up"
    LINK_DOWN = "link down"
    DUE = "handshake due"
    ACCEPTED = "handshake accepted"
    FAILED = "handshake refused, failed or unanswered"
    LOST = "orchestrator forgot us or is silent"
    LEAVE = "owner shuts down"
    ENDED = "notice answered or given up"


class NodeState(enum.StrEnum):
    """What an orchestrator knows of a node that has a session."""

    LIVE = "live"
    SILENT = "silent"  # nothing heard for `unknown_after_ns`
    GONE = "gone"  # the session has ended


class NodeSignal(enum.StrEnum):
    """What moves it."""

    HEARD = "any message of the node"
    SILENCE = "unknown_after passed"
    EXPIRY = "lost_after passed, or its queue is full"
    ENDED = "shutdown notice, new handshake, refusal"


_C, _CS, _N, _NS = ComputeState, ComputeSignal, NodeState, NodeSignal

COMPUTE: Final[dict[ComputeState, dict[ComputeSignal, ComputeState]]] = {
    _C.OFFLINE: {_CS.LINK_UP: _C.WAITING, _CS.LINK_DOWN: _C.OFFLINE, _CS.LEAVE: _C.CLOSED},
    _C.WAITING: {
        _CS.LINK_UP: _C.WAITING,
        _CS.LINK_DOWN: _C.OFFLINE,
        _CS.DUE: _C.HANDSHAKING,
        _CS.LEAVE: _C.CLOSED,
    },
    _C.HANDSHAKING: {
        _CS.LINK_UP: _C.WAITING,
        _CS.LINK_DOWN: _C.OFFLINE,
        _CS.ACCEPTED: _C.CONNECTED,
        _CS.FAILED: _C.WAITING,
        _CS.LEAVE: _C.CLOSED,
    },
    _C.CONNECTED: {
        _CS.LINK_UP: _C.WAITING,
        _CS.LINK_DOWN: _C.OFFLINE,
        _CS.LOST: _C.WAITING,
        _CS.LEAVE: _C.LEAVING,
    },
    _C.LEAVING: {
        _CS.LINK_UP: _C.LEAVING,
        _CS.LINK_DOWN: _C.CLOSED,
        _CS.LEAVE: _C.LEAVING,
        _CS.ENDED: _C.CLOSED,
    },
    _C.CLOSED: {_CS.LINK_UP: _C.CLOSED, _CS.LINK_DOWN: _C.CLOSED, _CS.LEAVE: _C.CLOSED},
}

NODE: Final[dict[NodeState, dict[NodeSignal, NodeState]]] = {
    _N.LIVE: {
        _NS.HEARD: _N.LIVE,
        _NS.SILENCE: _N.SILENT,
        _NS.EXPIRY: _N.GONE,
        _NS.ENDED: _N.GONE,
    },
    _N.SILENT: {_NS.HEARD: _N.LIVE, _NS.EXPIRY: _N.GONE, _NS.ENDED: _N.GONE},
    _N.GONE: {},
}

State = TypeVar("State", bound=enum.StrEnum)
Signal = TypeVar("Signal", bound=enum.StrEnum)


class IllegalTransition(Internal):
    """A state machine was given a signal that its state does not know. The state is unchanged."""


def step(table: Mapping[State, Mapping[Signal, State]], state: State, signal: Signal) -> State:
    """Return the next state. Raises `IllegalTransition`."""
    following = table[state].get(signal)
    if following is None:
        raise IllegalTransition(f"signal {signal.name} ({signal.value}) is not legal in state {state.name}")
    return following
