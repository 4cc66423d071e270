"""What is wrong with a node's link is said once, not at each attempt."""

from __future__ import annotations

import structlog

from bacalhau_daemon.compute.service import COMPLAINTS_MAX, SAID_AGAIN_S, Complaints
from bacalhau_protocol import errors

REFUSED = errors.Unavailable("cannot connect: Connection refused", place="nats://h:1")


def test_trouble_is_said_once_and_again_when_it_lasts() -> None:
    """The same words only after a while; other words at once; its end is said too."""
    now = 0.0
    complaints = Complaints(lambda: now)
    with structlog.testing.capture_logs() as said:
        for _ in range(50):
            complaints.say(REFUSED)
        complaints.say(errors.Unavailable("no answer", place="nats://h:1", hint="look"))
        now = SAID_AGAIN_S
        complaints.say(REFUSED)
        complaints.over()
        complaints.over()
        complaints.say(REFUSED)

    assert [(one["event"], one.get("reason", "")) for one in said] == [
        ("link.trouble", str(REFUSED)),
        ("link.trouble", "nats://h:1: no answer"),
        ("link.trouble", str(REFUSED)),
        ("link.restored", ""),
        ("link.trouble", str(REFUSED)),
    ]
    assert [one["hint"] for one in said if "hint" in one][1] == "look"


def test_what_is_remembered_is_bounded() -> None:
    """Words that differ each time do not fill the memory."""
    complaints = Complaints(lambda: 0.0)
    for number in range(10 * COMPLAINTS_MAX):
        complaints.say(errors.Unavailable(f"reason {number}"))

    assert len(complaints._said) <= COMPLAINTS_MAX
