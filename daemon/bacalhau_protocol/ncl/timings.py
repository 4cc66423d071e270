"""Every interval, deadline and limit of a session, in one place. Times are nanoseconds."""

from __future__ import annotations

from typing import Final

import msgspec

SECOND: Final = 1_000_000_000
NEVER: Final = 1 << 63  # later than any moment


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults are ours; `FOREIGN` is for Bacalhau 1.9 nodes."""

    heartbeat_ns: int = 5 * SECOND
    request_timeout_ns: int = 10 * SECOND  # a control request (handshake, heartbeat, …); 1.9 has the same
    missed_heartbeats_max: int = 5  # a node that got no answer for so many intervals shakes hands again
    unknown_after_ns: int = 20 * SECOND
    lost_after_ns: int = 60 * SECOND
    rehandshake_min_ns: int = SECOND // 10  # jitter after a reconnect, so that a cluster does not come back at once
    rehandshake_max_ns: int = 2 * SECOND
    reconnect_min_ns: int = SECOND  # back-off after a refused or unanswered handshake, doubled each time
    reconnect_max_ns: int = 30 * SECOND
    ack_timeout_ns: int = 30 * SECOND  # 1.9 has the same; it acknowledges within milliseconds
    resend_min_ns: int = SECOND  # back-off after a failed delivery, doubled each time
    resend_max_ns: int = 30 * SECOND
    leave_timeout_ns: int = 2 * SECOND  # how long a shutdown waits for the answer to its notice


OWN: Final = Timings()
FOREIGN: Final = Timings(heartbeat_ns=15 * SECOND, unknown_after_ns=60 * SECOND, lost_after_ns=120 * SECOND)
"""A 1.9 node beats every 15 s, so 60 s are four beats. After 75 s without an answer it gives up and shakes hands again
at about 90 s (seen): its work is given to others only when that, too, has not come for a while."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one session."""

    queued_max: int = 100_000  # unconfirmed messages; more means that the peer does not take them
    in_flight_max: int = 256  # fewer, and both ends wait for each other
    in_flight_max_bytes: int = 8 * 1024 * 1024  # a server cuts off who has 64 MiB pending
    unpersisted_max: int = 1000  # messages with the owner; more are left for the peer to repeat
    nacks_max: int = 3  # a message refused so often is given up


LIMITS: Final = Limits()
