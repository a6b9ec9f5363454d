"""The clock that is turned by hand."""

from __future__ import annotations

import pytest

from aios_core.testing import ManualClock


def test_time_passes_only_when_it_is_turned() -> None:
    clock = ManualClock(start=5.0)

    clock.advance(2.5)

    assert clock.now() == 7.5


def test_due_timers_run_in_order_each_at_its_instant() -> None:
    clock, rings = ManualClock(), []
    clock.call_at(3.0, lambda: rings.append(("c", clock.now())))
    clock.call_at(1.0, lambda: rings.append(("a", clock.now())))
    clock.call_at(1.0, lambda: rings.append(("b", clock.now())))
    clock.call_at(9.0, lambda: rings.append(("never", clock.now())))

    clock.advance(4.0)

    assert rings == [("a", 1.0), ("b", 1.0), ("c", 3.0)]
    assert (clock.now(), clock.num_timers) == (4.0, 1)


def test_a_timer_set_by_a_timer_runs_in_the_same_turn_if_it_is_due() -> None:
    clock, rings = ManualClock(), []
    clock.call_at(1.0, lambda: clock.call_at(2.0, lambda: rings.append(clock.now())))

    clock.advance(2.0)

    assert rings == [2.0]


def test_a_timer_for_the_past_runs_in_the_next_turn() -> None:
    clock, rings = ManualClock(start=10.0), []
    clock.call_at(1.0, lambda: rings.append(clock.now()))

    clock.advance(0.0)

    assert rings == [10.0]


def test_a_cancelled_timer_does_not_run() -> None:
    clock, rings = ManualClock(), []
    timer = clock.call_at(1.0, lambda: rings.append("rang"))

    timer.cancel()
    timer.cancel()
    clock.advance(2.0)

    assert (rings, clock.num_timers) == ([], 0)


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(ValueError, match="backwards"):
        ManualClock().advance(-1)
