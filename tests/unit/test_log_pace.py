"""Short work on a disk is done on the loop for as long as that is quick."""

from __future__ import annotations

from bacalhau_daemon.log.pace import QUICK_S, SLOW_FOR_S, Pace


def test_after_slow_work_threads_do_it_for_a_while() -> None:
    """Quick work changes nothing; slow work does, and not for ever."""
    now = [100.0]
    pace = Pace(lambda: now[0], lambda: int(now[0] * 1e6))
    with pace:
        now[0] += QUICK_S / 2
    assert pace.quick
    with pace:
        now[0] += QUICK_S * 2
    assert not pace.quick
    now[0] += SLOW_FOR_S
    assert pace.quick


def test_work_that_only_lacked_the_processor_is_not_slow() -> None:
    """It never waited for the disk."""
    now = [100.0]
    pace = Pace(lambda: now[0], lambda: 7)
    with pace:
        now[0] += QUICK_S * 2
    assert pace.quick
