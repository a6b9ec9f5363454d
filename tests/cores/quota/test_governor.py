"""A call leaves when the quota has room for it: reported, configured, or learned."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_core.cores.quota.configured import QuotaOptions
from aios_core.cores.quota.costs import LEAST, CallSize, CostEstimator, cost_of
from aios_core.cores.quota.governor import Governor, Lease
from aios_core.cores.quota.headers import Dimension, Reading

CALL = cost_of(80, 20)


def governor(*, starts_slowly: bool = False, **limits: float) -> Governor:
    return Governor(QuotaOptions(**limits), now=0.0, starts_slowly=starts_slowly)  # type: ignore[arg-type]


def reading(
    remaining: float, limit: float | None = 60, reset_s: float | None = None
) -> tuple[Reading, ...]:
    return (Reading(Dimension.REQUESTS, remaining, limit, reset_s),)


def send_all(one: Governor, now: float, most: int = 1_000) -> list[Lease]:
    leases: list[Lease] = []
    while one.wait_s(now, CALL) == 0 and len(leases) < most:
        leases.append(one.reserve(now, CALL))
    return leases


def test_at_an_unknown_endpoint_one_call_goes_first_and_each_answer_lets_two_follow() -> None:
    one = governor(starts_slowly=True)
    (first,) = send_all(one, 0.0)

    one.accepted(first, 0.1)
    following = send_all(one, 0.1)
    for lease in following:
        one.accepted(lease, 0.2)

    assert (len(following), len(send_all(one, 0.2))) == (2, 4)
    one.check()


def test_an_own_server_gets_all_calls_at_once() -> None:
    assert len(send_all(governor(), 0.0, most=500)) == 500


def test_calls_that_left_since_are_subtracted_from_what_was_reported() -> None:
    one = governor(starts_slowly=True)
    (first,) = send_all(one, 0.0)

    one.accepted(first, 0.1, reading(10, reset_s=10))
    leases = send_all(one, 0.1)

    assert len(leases) == 9  # one is kept in reserve
    assert 0 < one.wait_s(0.1, CALL) <= 1.0  # 60 in a minute


def test_a_late_response_does_not_bring_an_old_amount_back() -> None:
    one = governor()
    early, late = one.reserve(0.0, CALL), one.reserve(0.0, CALL)

    one.accepted(late, 0.1, reading(0, reset_s=60))
    one.accepted(early, 0.2, reading(1, reset_s=59))

    assert one.wait_s(0.2, CALL) > 0


def test_a_daily_limit_is_not_taken_for_one_of_a_minute() -> None:
    one = governor()
    lease = one.reserve(0.0, CALL)

    one.accepted(lease, 0.1, reading(0, limit=200, reset_s=86_400))

    assert one.wait_s(0.2, CALL) > 400


def test_after_a_refusal_one_call_goes_first_when_the_pause_ends() -> None:
    one = governor()
    leases = send_all(one, 0.0, most=8)
    for lease in leases[:6]:
        one.accepted(lease, 0.1)
    one.refused(leases[6], 0.1, pause_s=2.0)
    one.refused(leases[7], 0.1, pause_s=2.0)

    assert one.wait_s(1.0, CALL) == pytest.approx(1.1)
    (canary,) = send_all(one, 2.2)
    one.accepted(canary, 2.3)
    assert one.learned[Dimension.REQUESTS].rate > 0


def test_a_canary_that_never_ends_hinders_nobody_for_long() -> None:
    one = governor()
    one.refused(one.reserve(0.0, CALL), 0.1, pause_s=1.0)
    one.reserve(1.1, CALL)

    assert one.wait_s(1.2, CALL) > 0
    assert one.wait_s(7.0, CALL) == 0


def test_a_withdrawn_canary_makes_room_for_the_next() -> None:
    one = governor()
    one.refused(one.reserve(0.0, CALL), 0.1, pause_s=1.0)
    canary = one.reserve(1.1, CALL)

    one.end(canary)

    assert one.wait_s(1.2, CALL) == 0
    one.check()


def test_pauses_without_a_time_double_while_nothing_is_accepted() -> None:
    one, now, pauses = governor(), 0.0, []
    for _ in range(8):
        pauses.append(one.refused(one.reserve(now, CALL), now))
        now += pauses[-1]

    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])


def test_refusals_of_one_round_trip_cut_the_pace_once() -> None:
    one = governor()
    for lease in send_all(one, 0.0, most=10):
        one.accepted(lease, 0.1)
    leases = send_all(one, 1.0, most=5)
    one.refused(leases[0], 1.1, pause_s=0.1)
    rate = one.learned[Dimension.REQUESTS].rate

    for lease in leases[1:]:
        one.refused(lease, 1.2, pause_s=0.1)

    assert one.learned[Dimension.REQUESTS].rate == rate


def test_a_configured_limit_paces_calls() -> None:
    one, now, sent = governor(requests_per_minute=120), 0.0, 0
    while now <= 60.0:
        sent += len(send_all(one, now))
        now += one.wait_s(now, CALL) + 1e-6

    assert 119 <= sent <= 122


def test_no_more_calls_are_in_flight_than_configured() -> None:
    one = governor(max_concurrent=3)
    leases = send_all(one, 0.0)

    one.accepted(leases[0], 0.1)
    assert one.wait_s(0.1, CALL) > 0
    one.end(leases[0])
    assert one.wait_s(0.1, CALL) == 0


def test_a_call_larger_than_the_bucket_leaves_when_it_is_full() -> None:
    one = governor(tokens_per_minute=60)

    assert one.wait_s(0.0, cost_of(5_000, 100)) == 0
    one.reserve(0.0, cost_of(5_000, 100))
    assert one.wait_s(0.0, LEAST) > 5_000


def test_tokens_that_were_estimated_too_high_come_back() -> None:
    one = governor(tokens_per_minute=600)
    lease = one.reserve(0.0, cost_of(900, 100))
    waits = one.wait_s(0.0, LEAST)

    one.settle(lease, 0.0, cost_of(50, 50))

    assert one.wait_s(0.0, LEAST) < waits / 5


def test_the_size_of_prompts_and_answers_is_learned() -> None:
    estimator = CostEstimator()
    size = CallSize(1_000)
    for _ in range(100):
        estimator.learn(size, 250, 40)

    cost = estimator.estimate(size)

    assert cost[Dimension.INPUT_TOKENS] == pytest.approx(250, rel=0.05)
    assert cost[Dimension.OUTPUT_TOKENS] == pytest.approx(40, rel=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"requests_per_minute": 0}, {"tokens_per_minute": -1.0}, {"max_concurrent": 0}, {"quota": ""}],
)
def test_an_impossible_limit_is_refused_with_its_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QuotaOptions(**wrong)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    rate=st.floats(0.2, 50.0),
    burst_s=st.floats(1.0, 20.0),
    delays=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=20),
)
def test_with_exact_headers_no_call_is_sent_that_the_server_does_not_hold(
    rate: float, burst_s: float, delays: list[float]
) -> None:
    """The calls arrive at once; their responses come late, and in any order."""
    one = governor(starts_slowly=True)
    most = max(2.0, rate * burst_s)
    level, at, now = most, 0.0, 0.0
    under_way: list[tuple[float, Lease, Reading]] = []
    for step in range(150):
        now = round(now + min(5.0, max(1e-3, one.wait_s(now, CALL))), 6)
        for due, lease, seen in [entry for entry in under_way if entry[0] <= now]:
            one.accepted(lease, due, (seen,))
        under_way = [entry for entry in under_way if entry[0] > now]
        if one.wait_s(now, CALL) > 0:
            continue
        level, at = min(most, level + rate * (now - at)), now
        assert level >= 1, f"call {step} would have been refused"
        level -= 1
        seen = Reading(Dimension.REQUESTS, float(int(level)), rate * 60, (most - level) / rate)
        under_way.append((now + delays[step % len(delays)], one.reserve(now, CALL), seen))
        one.check()


def test_a_limit_that_was_reported_only_when_it_was_used_up_is_refilled() -> None:
    one = governor(starts_slowly=False)
    lease = one.reserve(0.0, CALL)
    one.accepted(lease, 0.1, reading(0.0, 1.0, None))
    one.end(lease)

    wait_s = one.wait_s(0.1, CALL)

    assert 0 < wait_s <= 60.0
    assert one.wait_s(0.1 + wait_s + 1e-6, CALL) == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whatever_the_endpoint_says_no_call_waits_forever(data: st.DataObject) -> None:
    one, now = governor(starts_slowly=True), 0.0
    amounts = st.floats(0, 1e9)
    for _ in range(12):
        lease = one.reserve(now, CALL)
        now += 0.1
        seen = reading(
            data.draw(amounts),
            data.draw(st.none() | st.floats(1, 1e9)),
            data.draw(st.none() | st.floats(0, 3_600)),
        )
        if data.draw(st.booleans()):
            one.accepted(lease, now, seen)
        else:
            one.refused(lease, now, pause_s=data.draw(st.none() | st.floats(0, 60)), readings=seen)
        one.end(lease)
    for _ in range(400):
        if (wait_s := one.wait_s(now, CALL)) == 0:
            break
        now += wait_s + 1e-6

    assert one.wait_s(now, CALL) == 0
