"""Short work on a disk is done on the loop for as long as that is quick."""

from __future__ import annotations

from bacalhau_daemon.log.pace import QUICK_S, SLOW_FOR_S, Pace


def test_after_slow_work_threads_do_it_for_a_while() -> None:
    """Quick work changes nothing; slow work does, and not for ever."""
    now = [100.0]
    pace = Pace(lambda: now[0])
    with pace:
        now[0] += QUICK_S / 2
    assert pace.quick
    with pace:
        now[0] += QUICK_S * 2
    assert not pace.quick
    now[0] += SLOW_FOR_S
    assert pace.quick
