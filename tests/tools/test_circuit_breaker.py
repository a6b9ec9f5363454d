"""Circuit breakers and rates, with the time as an argument."""

from __future__ import annotations

import pytest

from aios_core import Rate
from aios_core.queueing.token_bucket import TokenBucket
from aios_core.tools.circuit_breaker import CircuitBreaker

ALICE, BOB = 1, 2


def failing(breaker: CircuitBreaker, pid: int, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breaker.fail(pid, now)


def test_it_opens_after_failures_in_a_row_and_says_for_how_long() -> None:
    breaker = CircuitBreaker(3, 10.0)
    failing(breaker, ALICE, 2)
    assert breaker.refused_for(ALICE, 0.0) == 0

    assert breaker.fail(ALICE, 0.0)

    assert breaker.refused_for(ALICE, 4.0) == 6.0
    assert breaker.refused_for(ALICE, 10.0) == 0


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = CircuitBreaker(3, 10.0)
    failing(breaker, ALICE, 2)
    breaker.succeed(ALICE)
    failing(breaker, ALICE, 2)
    assert breaker.refused_for(ALICE, 0.0) == 0


def test_an_agent_that_fails_alone_is_refused_alone() -> None:
    breaker = CircuitBreaker(3, 10.0)
    failing(breaker, ALICE, 50)
    assert breaker.refused_for(ALICE, 0.0) > 0
    assert breaker.refused_for(BOB, 0.0) == 0


def test_failures_of_several_agents_are_the_tools() -> None:
    breaker = CircuitBreaker(3, 10.0)
    failing(breaker, ALICE, 2)
    failing(breaker, BOB, 1)
    assert breaker.refused_for(3, 0.0) == 10.0


def test_half_open_it_lets_one_call_through_whose_outcome_decides() -> None:
    breaker = CircuitBreaker(1, 10.0)
    breaker.fail(ALICE, 0.0)

    breaker.begin(ALICE, call=7)
    assert breaker.refused_for(ALICE, 10.0) > 0

    breaker.succeed(ALICE)
    assert breaker.refused_for(ALICE, 10.0) == 0


def test_a_failed_trial_opens_it_for_twice_as_long() -> None:
    breaker = CircuitBreaker(1, 10.0)
    breaker.fail(ALICE, 0.0)
    breaker.begin(ALICE, call=7)
    breaker.fail(ALICE, 10.0)
    assert breaker.refused_for(ALICE, 10.0) == 20.0


def test_a_trial_that_ended_without_a_verdict_makes_room_for_another() -> None:
    breaker = CircuitBreaker(1, 10.0)
    breaker.fail(ALICE, 0.0)
    breaker.begin(ALICE, call=7)
    breaker.withdraw(ALICE, call=7)
    assert breaker.refused_for(ALICE, 10.0) == 0


def test_zero_failures_means_that_it_never_opens() -> None:
    breaker = CircuitBreaker(0, 10.0)
    failing(breaker, ALICE, 100)
    assert breaker.refused_for(ALICE, 0.0) == 0


def test_a_rate_lets_a_burst_through_and_then_so_many_in_a_time() -> None:
    bucket = TokenBucket(Rate(2, per_s=1.0), now=0.0)
    bucket.take(0.0)
    bucket.take(0.0)
    assert bucket.ready_in(0.0) == pytest.approx(0.5)
    assert bucket.ready_in(0.5) == 0
    bucket.take(0.5)
    assert bucket.ready_in(0.5) == pytest.approx(0.5)


def test_an_idle_time_saves_up_no_more_than_one_burst() -> None:
    bucket = TokenBucket(Rate(1, per_s=1.0), now=0.0)
    assert bucket.ready_in(100.0) == 0
    bucket.take(100.0)
    assert bucket.ready_in(100.0) > 0
