"""Short work on a disk is done on the loop for as long as that is quick."""

from __future__ import annotations

from bacalhau_daemon.log.pace import HELD_UP_S, HELD_UP_SHARE, QUICK_S, SLOW_FOR_S, Pace


def pace_at(now: list[float]) -> Pace:
    """A pace of this clock; all that takes time has waited for the disk."""
    return Pace(lambda: now[0], lambda: int(now[0] * 1e6))


def test_after_slow_work_threads_do_it_for_a_while() -> None:
    """Quick work changes nothing; slow work does, and not for ever."""
    now = [100.0]
    pace = pace_at(now)
    with pace:
        now[0] += QUICK_S / 2
    assert pace.quick
    with pace:
        now[0] += HELD_UP_S * 1.1
    assert not pace.quick
    now[0] += SLOW_FOR_S
    assert pace.quick


def test_a_little_slow_work_now_and_then_is_borne() -> None:
    """A change of threads for all the other work would cost more; but when it comes often it is not borne."""
    for wait_s, borne in ((QUICK_S * 2 / HELD_UP_SHARE, True), (QUICK_S, False)):
        now = [100.0]
        pace = pace_at(now)
        quick = []
        for _ in range(10):
            with pace:
                now[0] += QUICK_S * 1.5
            quick.append(pace.quick)
            now[0] += wait_s
        assert all(quick) is borne


def test_work_that_only_lacked_the_processor_is_not_slow() -> None:
    """It never waited for the disk."""
    now = [100.0]
    pace = Pace(lambda: now[0], lambda: 7)
    with pace:
        now[0] += HELD_UP_S * 2
    assert pace.quick
